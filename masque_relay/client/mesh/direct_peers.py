"""Owns the search for direct paths: what is published, who is watched, and which links use one."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

from masque_relay.client.clock import SystemClock
from masque_relay.client.mesh.direct import Address, DirectLink, DirectPaths
from masque_relay.client.mesh.link import PeerLink
from masque_relay.client.mesh.network import TOWARDS
from masque_relay.client.mesh.uplink import MeshUplink
from masque_relay.wire.ghostwire import Observed
from masque_relay.wire.ghostwire_proof import CANDIDATE_LIFETIME_S, CandidateRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class PathChange:
    """A peer is reached directly from now on, or through the relay."""

    peer_id: bytes
    address: Address | None
    """Where the peer answers; None stands for the relay."""


class DirectPeers:
    """Publishes our candidates while somebody needs them, and moves links to direct paths."""

    def __init__(
        self, uplink: MeshUplink, *, on_change: Callable[[PathChange], None] = lambda _: None
    ) -> None:
        self._uplink = uplink
        self._on_change = on_change
        self._links: dict[bytes, tuple[PeerLink, DirectLink]] = {}
        self._observer_port = 0
        self._sequence = int(time.time() * 1_000)
        self._paths = DirectPaths(
            clock=SystemClock(), on_path=self._path_changed, on_candidates=self._publish
        )

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._paths.close()

    def add(self, link: PeerLink, key: bytes) -> None:
        """Look for a direct path of a link whose two ends share this key."""
        direct = DirectLink(link.link_id, key, link.received)
        self._links[link.link_id] = (link, direct)
        self._paths.add(direct)
        self._watch()
        self._publish()

    def forget(self, link: PeerLink) -> None:
        """Give a link up; idempotent."""
        if self._links.pop(link.link_id, None) is not None:
            link.direct_send = None
            self._paths.forget(link.link_id)

    def session_changed(self) -> None:
        """Say to the new session what the old one knew."""
        self._observe()
        if self._links:
            self._watch()
            self._publish()

    def observed(self, frame: Observed) -> None:
        """The relay says where its observer is: on its own address, another port."""
        # It comes with WELCOME, when the race is not decided: the way may be known only later.
        self._observer_port = frame.observer_port
        self._observe()

    def _observe(self) -> None:
        way = self._uplink.way
        if way is not None and self._observer_port:
            host = way.remote.rpartition(":")[0].strip("[]")
            self._paths.observe_at((host, self._observer_port) if host else None)

    def candidates_received(self, record: CandidateRecord) -> None:
        """Look for the peer there."""
        addresses = [(str(ip_address(one.address)), one.port) for one in record.candidates]
        for link, direct in self._links.values():
            if link.peer_id == record.peer_id:
                direct.add_candidates(addresses)

    def _watch(self) -> None:
        session = self._uplink.session
        if session is not None and session.is_open:
            peers = dict.fromkeys(link.peer_id for link, _ in self._links.values())
            session.watch(list(peers))

    def _publish(self) -> None:
        session = self._uplink.session
        if session is None or not session.is_open or not self._links:
            return
        self._sequence += 1
        session.publish(
            CandidateRecord(
                peer_id=self._uplink.identity.peer_id,
                sequence=self._sequence,
                expires_s=int(time.time()) + CANDIDATE_LIFETIME_S,
                candidates=self._paths.candidates(self._towards()),
            )
        )

    def _towards(self) -> Sequence[str]:
        way = self._uplink.way
        relay = "" if way is None else way.remote.rpartition(":")[0].strip("[]")
        return (*((relay,) if relay else ()), *TOWARDS)

    def _path_changed(self, direct: DirectLink) -> None:
        found = self._links.get(direct.link_id)
        if found is None:
            return
        link, _ = found
        has_path = direct.address is not None
        link.direct_send = partial(self._paths.send, direct) if has_path else None
        self._on_change(PathChange(peer_id=link.peer_id, address=direct.address))
