"""Owns the channels of a session at the relay: one end each, and the table of all."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.ghostwire import ChannelEnd
from masque_relay.contract.lease import Meter
from masque_relay.tunnels.session import admit_batch
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    ChannelKind,
    Close,
    Credit,
    End,
    ErrorCode,
    Frame,
    Opened,
)
from masque_relay.wire.varint import encode_varint

_SECTION = "ghostwire: Channels"


class ChannelOwner(Protocol):
    """The session of a channel, as the channel uses it."""

    @property
    def stream_room_bytes(self) -> int:
        """How much more stream data one channel's far end may have under way to our peer."""
        ...

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame."""
        ...

    def take_uplink(self, channel: "RelayChannel", byte_count: int) -> bool:
        """Meter stream bytes of our peer; False while its rate has no room for them."""
        ...

    def send_stream_data(self, channel: "RelayChannel", data: bytes) -> bool:
        """Send stream bytes to our peer; False while its rate has no room for them."""
        ...

    def send_channel_datagrams(self, channel: "RelayChannel", payloads: Sequence[bytes]) -> None:
        """Send datagrams to the session's peer, or queue them fairly."""
        ...

    def forget_channel(self, channel: "RelayChannel") -> None:
        """The channel is over."""
        ...


class RelayChannel:
    """The owner's peer on one side, ``far`` on the other; it is the ChannelEnd for ``far``.

    Credit is absolute, as on the wire. The far end is offered what the owner's peer takes, but
    never more than the owner has room for beyond what was delivered: so a peer that gives much
    credit and reads nothing costs the relay one window and no more.

    Attributes:
        channel_id: as the owner's peer numbers it.
        kind: what it carries.
        priority: of its datagrams on their way to the owner's peer.
        prefix: the encoded id, in front of every datagram.
        sender_id: who the datagrams to the owner's peer come from, for fairness.
        far: the other end; None until it is there and after it is gone.
        is_closed: it has left its session's table; nothing may be bound to it any more.
    """

    __slots__ = (
        "_allowed_bytes",
        "_delivered_bytes",
        "_far_ended",
        "_has_passed_end",
        "_held",
        "_is_head_paid",
        "_offered_bytes",
        "_owner",
        "_peer_ended",
        "_received_bytes",
        "_taken_bytes",
        "channel_id",
        "far",
        "is_closed",
        "kind",
        "prefix",
        "priority",
        "sender_id",
    )

    def __init__(
        self,
        owner: ChannelOwner,
        channel_id: int,
        kind: ChannelKind,
        *,
        priority: int,
        sender_id: bytes,
        taken_bytes: int = 0,
        allowed_bytes: int = 0,
    ) -> None:
        """Make one end.

        Args:
            owner: the session.
            channel_id: as its peer numbers the channel.
            kind: what it carries.
            priority: 0 (first) to 7.
            sender_id: of the far side.
            taken_bytes: the credit that the owner's peer gave with OPEN.
            allowed_bytes: the credit that the owner's peer got with OPEN.
        """
        self._owner = owner
        self.channel_id = channel_id
        self.kind = kind
        self.priority = priority
        self.prefix = encode_varint(channel_id)
        self.sender_id = sender_id
        self.far: ChannelEnd | None = None
        self.is_closed = False
        self._taken_bytes = taken_bytes
        self._offered_bytes = 0
        self._delivered_bytes = 0
        self._allowed_bytes = allowed_bytes
        self._received_bytes = 0
        self._held: deque[bytes] = deque()
        self._is_head_paid = False
        """The uplink meter has taken the first of what is held."""
        self._peer_ended = False
        self._has_passed_end = False
        self._far_ended = False

    @property
    def is_over(self) -> bool:
        """Both ways have ended."""
        return self._has_passed_end and self._far_ended

    # From the owner's peer.

    def data_from_peer(self, data: bytes) -> bool:
        """Pass stream bytes on; False when they exceed the credit or come after END."""
        self._received_bytes += len(data)
        if self._peer_ended or self._received_bytes > self._allowed_bytes:
            return False
        self._held.append(data)
        self.send_held()
        return True

    def end_from_peer(self) -> None:
        """Pass END on, after the bytes that a rate still holds."""
        self._peer_ended = True
        self.send_held()

    def send_held(self) -> None:
        """Pass on what the rates of both sides have room for. The credit bounds what waits."""
        while self._held and self._send_head():
            self._held.popleft()
            self._is_head_paid = False
        if self._held:
            return
        if self._peer_ended and not self._has_passed_end and self.far is not None:
            self._has_passed_end = True
            self.far.deliver_end()
            self._leave_when_over()

    def _send_head(self) -> bool:
        data = self._held[0]
        if not self._is_head_paid and not self._owner.take_uplink(self, len(data)):
            return False
        self._is_head_paid = True
        return self.far is not None and self.far.deliver_data(data)

    def credit_from_peer(self, limit_bytes: int) -> None:
        """Take CREDIT: it concerns what the far end sends."""
        self._taken_bytes = max(self._taken_bytes, limit_bytes)
        self.offer_credit()

    def opened_by_peer(self, credit_bytes: int) -> None:
        """The owner's peer takes the call."""
        self._taken_bytes = max(self._taken_bytes, credit_bytes)
        if self.far is not None:
            self.far.opened(self.next_offer_bytes())

    def closed_by_peer(self, code: int, reason: str) -> None:
        """The owner's peer closed it, or the session is over."""
        far, self.far = self.far, None
        self._leave()
        if far is not None:
            far.closed(code, reason)

    # Credit for the far end.

    def next_offer_bytes(self) -> int:
        """Return the limit to tell the far end now, and remember that it was told."""
        room_bytes = self._delivered_bytes + self._owner.stream_room_bytes
        self._offered_bytes = max(self._offered_bytes, min(self._taken_bytes, room_bytes))
        return self._offered_bytes

    def offer_credit(self) -> None:
        """Tell the far end if it may send more than it knows."""
        before = self._offered_bytes
        if self.far is not None and self.next_offer_bytes() > before:
            self.far.grant(self._offered_bytes)

    # From the far end: ChannelEnd.

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Send datagrams to the owner's peer."""
        self._owner.send_channel_datagrams(self, payloads)

    def deliver_data(self, data: bytes) -> bool:
        """Send stream bytes to the owner's peer, if its rate has room."""
        if not self._owner.send_stream_data(self, data):
            return False
        self._delivered_bytes += len(data)
        return True

    def deliver_end(self) -> None:
        """Send END to the owner's peer."""
        self._far_ended = True
        self._owner.send_frame(End(channel=self.channel_id))
        self._leave_when_over()

    def opened(self, credit_bytes: int) -> None:
        """Tell the owner's peer that its call was taken."""
        self._allowed_bytes = max(self._allowed_bytes, credit_bytes)
        self._owner.send_frame(Opened(channel=self.channel_id, credit_bytes=self._allowed_bytes))

    def grant(self, limit_bytes: int) -> None:
        """Tell the owner's peer how far it may send."""
        if limit_bytes > self._allowed_bytes:
            self._allowed_bytes = limit_bytes
            self._owner.send_frame(Credit(channel=self.channel_id, limit_bytes=limit_bytes))

    def closed(self, code: int, reason: str) -> None:
        """Tell the owner's peer that the channel is over."""
        if self.is_closed:
            return  # while its host was being reached
        self.far = None
        self._owner.send_frame(Close(channel=self.channel_id, code=code, reason=reason))
        self._leave()

    def _leave_when_over(self) -> None:
        if self.is_over:
            self.far = None
            self._leave()

    def _leave(self) -> None:
        self.is_closed = True
        self._owner.forget_channel(self)


def admit_datagrams(
    channel: RelayChannel, meter: Meter, payloads: Sequence[bytes], counters: MeshCounters
) -> Sequence[bytes]:
    """Return what a session's meter admits. Channels to hosts have leases of their own."""
    if not channel.kind.is_to_peer:
        return payloads
    admitted = admit_batch(meter, payloads)
    counters.rate_dropped += len(payloads) - len(admitted)
    return admitted


class ChannelTable:
    """The open channels of one session, and which ids have been used: even ones are the peer's.

    Attributes:
        stream_count: how many of them carry bytes.
    """

    __slots__ = ("_channels", "_generation", "_next_even", "_next_odd", "stream_count")

    def __init__(self) -> None:
        self._channels: dict[int, RelayChannel] = {}
        self._generation = 0
        self._next_even = 0
        self._next_odd = 1
        self.stream_count = 0

    def __len__(self) -> int:
        return len(self._channels)

    def __iter__(self) -> Iterator[RelayChannel]:
        """Go over a copy: whoever iterates may close channels."""
        return iter(tuple(self._channels.values()))

    def count_called_by(self, caller_id: bytes) -> int:
        """Return how many of the open channels another peer has called into being."""
        return sum(
            channel.channel_id % 2 == 1 and channel.sender_id == caller_id
            for channel in self._channels.values()
        )

    def take_odd_id(self) -> int:
        """Return the id of the next channel that we open."""
        channel_id = self._next_odd
        self._next_odd += 2
        return channel_id

    def take_even_id(self, channel_id: int) -> None:
        """Use up an id that the peer chose.

        Raises:
            WireError: the id is ours, or was used before.
        """
        if channel_id % 2 or channel_id < self._next_even:
            raise WireError(f"OPEN of channel {channel_id}", section=_SECTION)
        self._next_even = channel_id + 2

    def keep(self, channel: RelayChannel) -> None:
        """Add a channel."""
        self._channels[channel.channel_id] = channel
        self.stream_count += channel.kind.is_stream

    def forget(self, channel: RelayChannel) -> None:
        """Remove it; idempotent."""
        if self._channels.pop(channel.channel_id, None) is not None:
            self.stream_count -= channel.kind.is_stream

    def get(self, channel_id: int) -> RelayChannel | None:
        """Return an open channel."""
        return self._channels.get(channel_id)

    def recheck(
        self, generation: int, reachable: Callable[[bytes, ChannelKind], object | None]
    ) -> None:
        """Close the channels to peers that our peer called and may not reach any more.

        Args:
            generation: of the policy; nothing is asked while it stays the same.
            reachable: None for a peer that may not be reached by that kind of channel.
        """
        if generation == self._generation:
            return
        self._generation = generation
        for channel in self:
            is_our_call = channel.channel_id % 2 == 0 and channel.kind.is_to_peer
            if is_our_call and reachable(channel.sender_id, channel.kind) is None:
                far = channel.far
                channel.closed(ErrorCode.PEER_UNAVAILABLE, "")
                if far is not None:
                    far.closed(ErrorCode.PEER_UNAVAILABLE, "")

    def far_of(self, channel_id: int) -> ChannelEnd | None:
        """Return the other end of an open channel."""
        channel = self._channels.get(channel_id)
        return None if channel is None else channel.far

    def expect(self, channel_id: int) -> RelayChannel | None:
        """Return a channel; None for one that is over, because frames may cross a CLOSE.

        Raises:
            WireError: it was never open.
        """
        channel = self._channels.get(channel_id)
        is_unused = channel_id >= (self._next_odd if channel_id % 2 else self._next_even)
        if channel is None and is_unused:
            raise WireError(f"channel {channel_id} was never open", section=_SECTION)
        return channel
