"""Owns Roster: which DERP clients are here, for those who hold the mesh key."""

from collections.abc import Sequence
from typing import Protocol

from fallbacks.derp.wire import GoneReason, PresentFlag, encode_peer_gone, encode_peer_present
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ghostwire import Member


class Listed(Member, Protocol):
    """A session as the roster knows it."""

    @property
    def source(self) -> Endpoint:
        """Where it comes from."""
        ...

    @property
    def present_flags(self) -> PresentFlag:
        """What watchers are told of it."""
        ...

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        ...

    def receive(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Send packets of somebody else to its client."""
        ...

    def kicked_by_mesh(self) -> None:
        """A server of the mesh wants its client elsewhere."""
        ...


class Roster:
    """Key -> session, the newest of each; and the sessions that watch them come and go."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, Listed] = {}
        self._watchers: dict[int, Listed] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: bytes) -> Listed | None:
        """Return the session of a key."""
        return self._sessions.get(key)

    def add(self, session: Listed) -> None:
        """List a session; watchers hear of it, also when it takes another one's place."""
        self._sessions[session.peer_id] = session
        frame = _present(session)
        for watcher in tuple(self._watchers.values()):
            watcher.send(frame)

    def remove(self, session: Listed) -> None:
        """Forget a session; watchers hear of it unless a newer one has its place. Idempotent."""
        self._watchers.pop(id(session), None)
        if self._sessions.get(session.peer_id) is session:
            del self._sessions[session.peer_id]
            frame = encode_peer_gone(session.peer_id, GoneReason.DISCONNECTED)
            for watcher in tuple(self._watchers.values()):
                watcher.send(frame)

    def watch(self, watcher: Listed) -> None:
        """Tell a session who is here, and from now on who comes and goes. Idempotent."""
        if id(watcher) in self._watchers:
            return
        self._watchers[id(watcher)] = watcher
        for session in tuple(self._sessions.values()):
            watcher.send(_present(session))


def _present(session: Listed) -> bytes:
    return encode_peer_present(session.peer_id, session.source, session.present_flags)
