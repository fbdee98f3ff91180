"""Owns direct paths: one UDP socket, how it is seen, and which peers answer at which address."""

import asyncio
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from masque_relay.client.mesh.path_probe import (
    NONCE_BYTES,
    PING,
    PONG,
    Probe,
    decode_probe,
    is_authentic,
)
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.ports import Clock, DatagramSocket
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.stun.binding import (
    TRANSACTION_BYTES,
    decode_binding_answer,
    encode_binding_request,
)
from masque_relay.stun.message import is_stun
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_proof import MAX_CANDIDATES, Candidate

Address = tuple[str, int]

PING_S = 5.0
"""On a path that works: below the 30 s after which NATs forget."""
LOST_AFTER_S = 12.0
"""Two pings without a pong: back to the relay."""
SEARCH_S = 0.3
"""Between pings to all candidates while no path is known."""
SEARCHES = 20
"""Then the peers are behind NATs that do not open; new candidates begin anew."""
OBSERVE_S = 20.0
"""Between questions to the relay how we are seen; they keep the NAT's mapping too."""
DATA_MARK = b"\x08"
DATA_HEAD_BYTES = 9
"""The mark and the link's id: several links may lead to one address."""
RECEIVE_DATAGRAMS = 256

OWN, OBSERVED = 0, 1


class DirectLink:
    """The direct side of one link.

    Attributes:
        link_id: known to both peers.
        address: where the peer answers; None while only the relay leads there.
    """

    def __init__(
        self, link_id: bytes, key: bytes, receive: Callable[[Sequence[bytes]], None]
    ) -> None:
        self.link_id = link_id
        self.key = key
        self.address: Address | None = None
        self.receive = receive
        self.candidates: dict[Address, None] = {}
        self.searches_left = 0
        self.pinged: OrderedDict[bytes, Address] = OrderedDict()
        """Nonces of pings under way, and where they went."""
        self.heard_s = 0.0
        self.pinged_s = 0.0

    def add_candidates(self, addresses: Sequence[Address]) -> None:
        """Learn where the peer might be, and look there."""
        for address in addresses[:MAX_CANDIDATES]:
            self.candidates[address] = None
        while len(self.candidates) > 2 * MAX_CANDIDATES:
            del self.candidates[next(iter(self.candidates))]
        self.searches_left = SEARCHES


class DirectPaths:
    """One socket for the direct paths of all links; lives in one event loop.

    Attributes:
        observed: how the relay sees this socket; None while it is not known.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        on_path: Callable[[DirectLink], None],
        on_candidates: Callable[[], None],
    ) -> None:
        """Bind a socket.

        Args:
            clock: time.
            on_path: a link's address came, changed or went.
            on_candidates: our own candidates have changed.

        Raises:
            FlowError: no socket to be had.
        """
        self.observed: Address | None = None
        self._clock = clock
        self._on_path = on_path
        self._on_candidates = on_candidates
        bind = socket_factory(SocketLimits(), FlowCounters())
        self._socket: DatagramSocket = bind(Endpoint(address=IPv6Address(0), port=0))
        self._links: dict[bytes, DirectLink] = {}
        self._observer: Address | None = None
        self._transaction = b""
        self._observed_s = -OBSERVE_S
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._on_readable)
        self._tick()

    def close(self) -> None:
        """Close the socket; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def candidates(self, towards: Sequence[str]) -> tuple[Candidate, ...]:
        """Return where this socket might be reached: own addresses, and how the relay sees it.

        Args:
            towards: addresses of the relay: the routing table says which of our own face it.
        """
        port = self._socket.local.port
        found = [(OWN, (address, port)) for address in own_addresses(towards)]
        if self.observed is not None:
            found.append((OBSERVED, self.observed))
        return tuple(
            Candidate(kind=kind, address=ip_address(address).packed, port=at)
            for kind, (address, at) in dict.fromkeys(found)
        )[:MAX_CANDIDATES]

    def observe_at(self, observer: Address | None) -> None:
        """Ask this STUN server from now on; None asks nobody."""
        if observer != self._observer:
            self._observer = observer
            self._observed_s = -OBSERVE_S

    def add(self, link: DirectLink) -> None:
        """Look for a direct path of a link from now on."""
        self._links[link.link_id] = link

    def forget(self, link_id: bytes) -> None:
        """Give a link up; idempotent."""
        link = self._links.pop(link_id, None)
        if link is not None:
            self._set_address(link, None)

    def send(self, link: DirectLink, payloads: Sequence[bytes]) -> int:
        """Send on a link's direct path; the link must have one."""
        if link.address is None:
            return 0
        head = DATA_MARK + link.link_id
        return self._socket.send_batch([head + payload for payload in payloads], link.address)

    # Turns of the loop.

    def _on_readable(self) -> None:
        for batch in self._socket.receive_batches(RECEIVE_DATAGRAMS):
            link: DirectLink | None = None
            payloads: list[bytes] = []
            for packet in batch.payloads:
                if packet[:1] != DATA_MARK:
                    self._other_packet(packet, batch.source)
                    continue
                of_link = self._links.get(packet[1:DATA_HEAD_BYTES])
                if of_link is not link and link is not None:
                    link.receive(payloads)
                    payloads = []
                link = of_link
                payloads.append(packet[DATA_HEAD_BYTES:])
            if link is not None:
                # From whatever address: QUIC's own keys say whether it is the peer.
                link.receive(payloads)

    def _other_packet(self, packet: bytes, source: Address) -> None:
        if is_stun(packet):
            self._answered(packet, source)
            return
        probe = decode_probe(packet)
        link = None if probe is None else self._links.get(probe.link_id)
        if probe is None or link is None or not is_authentic(packet, link.key):
            return
        if probe.kind == PING:
            pong = Probe(kind=PONG, link_id=link.link_id, nonce=probe.nonce)
            self._socket.send_batch([pong.encode(link.key)], source)
            if source not in link.candidates:
                link.add_candidates([source])
        elif link.pinged.pop(probe.nonce, None) is not None:
            link.heard_s = self._clock.monotonic_s()
            if link.address is None:
                self._set_address(link, source)

    def _answered(self, packet: bytes, source: Address) -> None:
        if source != self._observer:
            return
        try:
            seen = decode_binding_answer(packet, self._transaction)
        except WireError:
            return
        if seen is not None and seen != self.observed:
            self.observed = seen
            self._on_candidates()

    def _tick(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._observer is not None and now_s - self._observed_s >= OBSERVE_S:
            self._observed_s = now_s
            self._transaction = secrets.token_bytes(TRANSACTION_BYTES)
            self._socket.send_batch([encode_binding_request(self._transaction)], self._observer)
        for link in tuple(self._links.values()):
            self._keep(link, now_s)
        self._timer = self._loop.call_later(SEARCH_S, self._tick)

    def _keep(self, link: DirectLink, now_s: float) -> None:
        if link.address is not None:
            if now_s - link.heard_s >= LOST_AFTER_S:
                self._set_address(link, None)
                link.searches_left = SEARCHES
            elif now_s - link.pinged_s >= PING_S:
                link.pinged_s = now_s
                self._ping(link, link.address)
        elif link.searches_left:
            link.searches_left -= 1
            for address in link.candidates:
                self._ping(link, address)

    def _ping(self, link: DirectLink, address: Address) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        link.pinged[nonce] = address
        while len(link.pinged) > 4 * MAX_CANDIDATES:
            link.pinged.popitem(last=False)
        probe = Probe(kind=PING, link_id=link.link_id, nonce=nonce)
        self._socket.send_batch([probe.encode(link.key)], address)

    def _set_address(self, link: DirectLink, address: Address | None) -> None:
        if link.address != address:
            link.address = address
            self._on_path(link)


def own_addresses(towards: Sequence[str]) -> list[str]:
    """Return the local addresses that the routing table uses towards these, without a packet."""
    found: list[str] = []
    for text in towards:
        address = ip_address(text)
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect((text, 9))
                found.append(str(asking.getsockname()[0]))
        except OSError:
            continue
    return list(dict.fromkeys(found))
