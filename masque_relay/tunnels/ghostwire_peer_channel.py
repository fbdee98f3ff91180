"""Owns a channel as a peer sees it: datagrams, or bytes under credit, to the other end."""

from collections.abc import Sequence
from typing import Protocol

from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    ChannelKind,
    Close,
    Credit,
    Data,
    End,
    ErrorCode,
    Frame,
    Opened,
)
from masque_relay.wire.varint import encode_varint

MAX_DATA_BYTES = 16_384
"""Of one DATA frame: small enough that another channel's turn comes soon."""


class ChannelHandler(Protocol):
    """Whom a channel tells; must neither block nor raise."""

    def channel_opened(self) -> None:
        """The other end took the call."""
        ...

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Datagrams, in the order of arrival."""
        ...

    def data_received(self, data: bytes) -> None:
        """Stream bytes; whoever is done with them calls ``consume``."""
        ...

    def end_received(self) -> None:
        """No more stream bytes come."""
        ...

    def channel_writable(self) -> None:
        """The other end gave credit."""
        ...

    def channel_closed(self, code: int, reason: str) -> None:
        """The channel is over; once, the last call, unless we closed it ourselves."""
        ...


class SessionSide(Protocol):
    """The session of a channel, as the channel uses it."""

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame."""
        ...

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Send datagrams; return how many were queued."""
        ...

    def forget(self, channel: "PeerChannel") -> None:
        """The channel is over."""
        ...


class PeerChannel:
    """One end of a channel.

    Attributes:
        channel_id: on this session.
        kind: what it carries.
        peer_id: of the other peer; empty for hosts.
        service: what the caller wants.
        window_bytes: how much we take before we consume.
    """

    __slots__ = (
        "_consumed_bytes",
        "_granted_bytes",
        "_handler",
        "_is_over",
        "_limit_bytes",
        "_prefix",
        "_received_bytes",
        "_sent_bytes",
        "_sent_end",
        "_side",
        "_took_end",
        "channel_id",
        "kind",
        "peer_id",
        "service",
        "window_bytes",
    )

    def __init__(
        self,
        side: SessionSide,
        channel_id: int,
        kind: ChannelKind,
        *,
        peer_id: bytes,
        service: bytes,
        window_bytes: int,
        handler: ChannelHandler | None,
    ) -> None:
        self._side = side
        self.channel_id = channel_id
        self.kind = kind
        self.peer_id = peer_id
        self.service = service
        self.window_bytes = window_bytes
        self._handler = handler
        self._prefix = encode_varint(channel_id)
        self._limit_bytes = 0
        self._sent_bytes = 0
        self._granted_bytes = window_bytes if kind.is_stream else 0
        self._received_bytes = 0
        self._consumed_bytes = 0
        self._sent_end = False
        self._took_end = False
        self._is_over = False

    # For the user.

    @property
    def is_over(self) -> bool:
        """Nothing can be sent any more."""
        return self._is_over

    @property
    def room_bytes(self) -> int:
        """How many stream bytes the other end takes now."""
        return 0 if self._is_over else self._limit_bytes - self._sent_bytes

    def accept(self, handler: ChannelHandler) -> None:
        """Take a call."""
        self._handler = handler
        self._side.send_frame(Opened(channel=self.channel_id, credit_bytes=self._granted_bytes))

    def send_datagrams(self, payloads: Sequence[bytes]) -> int:
        """Send datagrams; return how many were queued. Never blocks or raises."""
        return 0 if self._is_over else self._side.send_datagrams(self._prefix, payloads)

    def send(self, data: bytes) -> int:
        """Send what the credit has room for; return how many bytes that was."""
        data = data[: self.room_bytes]
        for start in range(0, len(data), MAX_DATA_BYTES):
            piece = data[start : start + MAX_DATA_BYTES]
            self._side.send_frame(Data(channel=self.channel_id, data=piece))
        self._sent_bytes += len(data)
        return len(data)

    def end(self) -> None:
        """Say that no more bytes follow; idempotent."""
        if not self._sent_end and not self._is_over:
            self._sent_end = True
            self._side.send_frame(End(channel=self.channel_id))
            self._leave_when_over()

    def consume(self, byte_count: int) -> None:
        """Grant credit for bytes that are done with; a frame for every half of the window."""
        self._consumed_bytes += byte_count
        limit_bytes = self._consumed_bytes + self.window_bytes
        if limit_bytes - self._granted_bytes >= self.window_bytes // 2 and not self._is_over:
            self._granted_bytes = limit_bytes
            self._side.send_frame(Credit(channel=self.channel_id, limit_bytes=limit_bytes))

    def close(self, code: ErrorCode = ErrorCode.NONE, reason: str = "") -> None:
        """End the channel, both ways; idempotent."""
        if not self._is_over:
            self._is_over = True
            self._side.send_frame(Close(channel=self.channel_id, code=code, reason=reason))
            self._side.forget(self)

    # For the session.

    def opened(self, credit_bytes: int) -> None:
        """Take OPENED."""
        self._limit_bytes = max(self._limit_bytes, credit_bytes)
        if self._handler is not None:
            self._handler.channel_opened()
            if self.kind.is_stream and self.room_bytes:
                self._handler.channel_writable()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take datagrams; those before the call was taken are lost."""
        if self._handler is not None and not self._is_over:
            self._handler.datagrams_received(payloads)

    def data_received(self, data: bytes) -> None:
        """Take DATA.

        Raises:
            WireError: more than the credit, or after END.
        """
        self._received_bytes += len(data)
        if self._took_end or self._received_bytes > self._granted_bytes:
            raise WireError("DATA beyond the credit", section="ghostwire: Channels")
        if self._handler is not None:
            self._handler.data_received(data)

    def end_received(self) -> None:
        """Take END."""
        if self._took_end:
            return
        self._took_end = True
        if self._handler is not None:
            self._handler.end_received()
        self._leave_when_over()

    def credit_received(self, limit_bytes: int) -> None:
        """Take CREDIT."""
        if limit_bytes > self._limit_bytes:
            self._limit_bytes = limit_bytes
            if self._handler is not None:
                self._handler.channel_writable()

    def closed(self, code: int, reason: str) -> None:
        """Take CLOSE, or the end of the session."""
        if self._is_over:
            return
        self._is_over = True
        self._side.forget(self)
        if self._handler is not None:
            self._handler.channel_closed(code, reason)

    def _leave_when_over(self) -> None:
        if self._sent_end and self._took_end and not self._is_over:
            self._is_over = True
            self._side.forget(self)
            if self._handler is not None:
                self._handler.channel_closed(ErrorCode.NONE, "")
