"""Owns DerpEnd: a DERP client's end of the channel to one other member."""

from collections.abc import Sequence
from typing import Protocol

from masque_relay.contract.ghostwire import ChannelEnd


class EndOwner(Protocol):
    """The session of an end."""

    def receive(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Send packets of another member to our client."""
        ...

    def end_closed(self, end: "DerpEnd", code: int) -> None:
        """The other side is gone, or refused."""
        ...

    def held_dropped(self, count: int) -> None:
        """Packets found no room while the call was not taken."""
        ...


class DerpEnd:
    """Implements ChannelEnd for the other side. DERP has no channels: one pair of keys has one.

    Attributes:
        peer_id: who is at the other side.
        far: its end; None until it is there and after it is gone.
        is_ours: our client opened it, so policy is asked about it again after a reload.
        is_open: the other side has taken the call.
    """

    __slots__ = ("_held", "_max_held", "_owner", "far", "is_open", "is_ours", "peer_id")

    def __init__(self, owner: EndOwner, peer_id: bytes, *, is_ours: bool, max_held: int) -> None:
        self._owner = owner
        self._held: list[bytes] = []
        self._max_held = max_held
        self.peer_id = peer_id
        self.far: ChannelEnd | None = None
        self.is_ours = is_ours
        self.is_open = not is_ours

    # From our client.

    def send(self, packets: Sequence[bytes]) -> None:
        """Pass packets on, or hold a few until the call is taken."""
        if self.is_open and self.far is not None:
            self.far.deliver(packets)
            return
        room = max(0, self._max_held - len(self._held))
        self._held += packets[:room]
        if len(packets) > room:
            self._owner.held_dropped(len(packets) - room)

    def connect(self, far: ChannelEnd) -> None:
        """Learn the other side of our own call."""
        self.far = far
        self._send_held()

    def leave(self, code: int) -> None:
        """Close it from our side; the owner knows."""
        far, self.far = self.far, None
        if far is not None:
            far.closed(code, "")

    # From the other side: ChannelEnd.

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Send packets to our client."""
        self._owner.receive(self.peer_id, payloads)

    def deliver_data(self, data: bytes) -> bool:
        """Drop stream bytes: a channel of datagrams has none."""
        del data
        return True

    def deliver_end(self) -> None:
        """Nothing: see :meth:`deliver_data`."""

    def opened(self, credit_bytes: int) -> None:
        """The other side took our call."""
        del credit_bytes
        self.is_open = True
        self._send_held()

    def grant(self, limit_bytes: int) -> None:
        """Nothing: datagrams need no credit."""

    def closed(self, code: int, reason: str) -> None:
        """The other side is gone, or refused our call."""
        del reason
        self.far = None
        self._owner.end_closed(self, code)

    def _send_held(self) -> None:
        if self.is_open and self.far is not None and self._held:
            held, self._held = self._held, []
            self.far.deliver(held)
