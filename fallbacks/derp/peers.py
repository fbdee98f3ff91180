"""Owns PeerTable: the members with which one DERP client exchanges packets."""

from collections.abc import Sequence
from typing import Protocol

from fallbacks.derp.ends import DerpEnd
from fallbacks.derp.ports import DerpPorts
from fallbacks.derp.wire import GoneReason, encode_peer_gone
from masque_relay.contract.ghostwire import Call, ChannelEnd
from masque_relay.contract.lease import Lease
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode

SERVICE = b"derp"
"""What a Ghostwire peer hears is called, when a DERP client calls it."""

MAX_ABSENT = 256
"""Keys about which a client hears PeerGone per second at most."""

_SILENT_ENDS = frozenset({ErrorCode.NONE, ErrorCode.IDLE, ErrorCode.REPLACED})
"""Ends of a channel that do not mean that the peer has gone; the next packet opens another one."""


class PeerOwner(Protocol):
    """The session of a table."""

    @property
    def peer_id(self) -> bytes:
        """Its client's key."""
        ...

    @property
    def lease(self) -> Lease:
        """Its permission to be here."""
        ...

    def send(self, frame: bytes) -> None:
        """Send a frame to the client."""
        ...

    def receive(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Send packets of another member to the client."""
        ...


class PeerTable:
    """Opens a channel with the first packet to a peer; bounded, the oldest is forgotten first.

    A peer that is not here, but at another server of the mesh, is reached there. "Not here" and
    "not allowed" are one answer, PeerGone, so that nobody learns who is here by asking.
    """

    __slots__ = (
        "_absent",
        "_counters",
        "_elsewhere",
        "_ends",
        "_generation",
        "_limits",
        "_owner",
        "_ports",
    )

    def __init__(self, owner: PeerOwner, ports: DerpPorts) -> None:
        self._owner = owner
        self._ports = ports
        self._limits = ports.limits
        self._counters = ports.counters
        self._ends: dict[bytes, DerpEnd] = {}
        self._absent: dict[bytes, bool] = {}
        """Keys of which the client has heard within this tick that there is no way to them; True
        where policy or the peer refused: it is not asked again within the tick."""
        self._elsewhere: dict[bytes, bool] = {}
        """Keys at other servers to which the client has sent; True where policy has allowed it
        within this tick."""
        self._generation = ports.generation()

    def send(self, key: bytes, packets: Sequence[bytes]) -> None:
        """Pass packets of the client on."""
        end = self._ends.get(key) or self._call(key)
        if end is not None:
            end.send(packets)
        elif not self._send_elsewhere(key, packets):
            self._counters.unknown_dropped += len(packets)
            self._tell_absent(key)

    def forward(self, source: bytes, key: bytes, packets: Sequence[bytes]) -> None:
        """Pass packets on that another server of the mesh brings, where policy lets that server.

        One hop: they go to a DERP client of this relay or nowhere.
        """
        member, listed = self._ports.switchboard.find(key), self._ports.roster.find(key)
        if (
            listed is None
            or member is None
            or listed is not member
            or not self._ports.may_reach(self._owner.lease, member)
        ):
            self._counters.unknown_dropped += len(packets)
            self._tell_absent(key)
            return
        self._counters.forwarded_packets += len(packets)
        listed.receive(source, packets)

    def take(self, caller: ChannelEnd, call: Call) -> ChannelEnd | int:
        """Take every call of datagrams at once: DERP has no way to ask the client."""
        if call.kind is not ChannelKind.DATAGRAMS:
            return ErrorCode.PEER_UNAVAILABLE
        self._drop(call.caller_id)
        if len(self._ends) >= self._limits.max_peers:
            return ErrorCode.PEER_UNAVAILABLE
        end = self._new_end(call.caller_id, is_ours=False)
        end.far = caller
        caller.opened(0)
        return end

    def tick(self) -> None:
        """Forget who was absent; ask the policy again where it has changed."""
        self._absent.clear()
        for key in tuple(self._elsewhere):
            self._elsewhere[key] = False
            if self._ports.switchboard.find(key) is not None:
                del self._elsewhere[key]
            elif self._ports.elsewhere.find(key) is None:
                del self._elsewhere[key]
                self._owner.send(encode_peer_gone(key, GoneReason.DISCONNECTED))
        if self._generation != self._ports.generation():
            self._generation = self._ports.generation()
            for key, end in tuple(self._ends.items()):
                if end.is_ours and not self._may_reach(key):
                    self._drop(key)

    def leave_all(self, code: int) -> None:
        """Close every channel: the client is gone."""
        ends, self._ends = self._ends, {}
        for end in ends.values():
            end.leave(code)

    # EndOwner: what the channels call.

    def receive(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Send packets of another member to the client."""
        self._owner.receive(source, packets)

    def end_closed(self, end: DerpEnd, code: int) -> None:
        """Forget a peer that is gone or refused; the client hears of it."""
        if self._ends.get(end.peer_id) is end:
            del self._ends[end.peer_id]
        if not end.is_open:
            self._tell_absent(end.peer_id, is_refused=True)
        elif code not in _SILENT_ENDS:
            self._owner.send(encode_peer_gone(end.peer_id, GoneReason.DISCONNECTED))

    def held_dropped(self, count: int) -> None:
        """Count packets to a peer that has not taken the call."""
        self._counters.held_dropped += count

    def _call(self, key: bytes) -> DerpEnd | None:
        if self._absent.get(key) or key == self._owner.peer_id:
            return None
        member = self._ports.switchboard.find(key)
        if member is None:
            return None
        if not self._ports.may_reach(self._owner.lease, member):
            self._tell_absent(key, is_refused=True)
            return None
        if len(self._ends) >= self._limits.max_peers:
            self._drop(next(iter(self._ends)))
        end = self._new_end(key, is_ours=True)
        call = Call(
            caller_id=self._owner.peer_id,
            kind=ChannelKind.DATAGRAMS,
            priority=0,
            credit_bytes=0,
            service=SERVICE,
        )
        answer = member.call(end, call)
        if isinstance(answer, int):
            self._ends.pop(key, None)
            self._tell_absent(key, is_refused=True)
            return None
        end.connect(answer)
        return end

    def _send_elsewhere(self, key: bytes, packets: Sequence[bytes]) -> bool:
        """Pass packets on to another server of the mesh; False where there is no way."""
        if (
            self._absent.get(key)
            or key == self._owner.peer_id
            or self._ports.switchboard.find(key) is not None
        ):
            return False
        place = self._ports.elsewhere.find(key)
        if place is None:
            return False
        if not self._elsewhere.get(key):
            if not self._ports.may_reach_elsewhere(self._owner.lease, key):
                self._elsewhere.pop(key, None)
                self._tell_absent(key, is_refused=True)
                return False
            if key not in self._elsewhere and len(self._elsewhere) >= self._limits.max_peers:
                del self._elsewhere[next(iter(self._elsewhere))]
            self._elsewhere[key] = True
        place.forward(self._owner.peer_id, key, packets)
        return True

    def _new_end(self, key: bytes, *, is_ours: bool) -> DerpEnd:
        end = DerpEnd(self, key, is_ours=is_ours, max_held=self._limits.held_datagrams)
        self._ends[key] = end
        return end

    def _may_reach(self, key: bytes) -> bool:
        member = self._ports.switchboard.find(key)
        return member is not None and self._ports.may_reach(self._owner.lease, member)

    def _drop(self, key: bytes) -> None:
        """Close a channel without a word to the clients."""
        end = self._ends.pop(key, None)
        if end is not None:
            end.leave(ErrorCode.NONE)

    def _tell_absent(self, key: bytes, *, is_refused: bool = False) -> None:
        if key not in self._absent and len(self._absent) < MAX_ABSENT:
            self._absent[key] = is_refused
            self._owner.send(encode_peer_gone(key, GoneReason.NOT_HERE))
