"""Owns WebSocketSession: frames of one WebSocket <-> whole messages, sans I/O (RFC 6455)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from masque_relay.http.websocket_settings import WebSocketSettings

FRAME_CHUNK_BYTES = 4_096
"""What is inflated at once: deflate makes at most 1,032 bytes of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseCode:
    """How a WebSocket ended (RFC 6455 section 7.1.5)."""

    code: int
    reason: str = ""


class WebSocketSession:
    """The server's side after the handshake.

    Messages wait in a bounded queue: while it is full no frame is parsed. What has been fed counts
    as unread until its message is taken, so that the owner grants credit for the rest alone
    (:meth:`take_credit`). A message that is not complete is bounded by ``max_message_bytes``.

    Attributes:
        closed: how it ended, once the client closed it or broke its rules.
        has_failed: the client broke the rules; nothing more is to be expected from it.
    """

    __slots__ = (
        "_connection",
        "_has_room",
        "_inflates",
        "_message_bytes",
        "_messages",
        "_owed_bytes",
        "_parts",
        "_pong",
        "_queued_bytes",
        "_settings",
        "_waiting",
        "_write",
        "closed",
        "has_failed",
    )

    def __init__(
        self,
        settings: WebSocketSettings,
        *,
        write: Callable[[bytes], None],
        has_room: Callable[[], bool],
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        self._settings = settings
        self._write = write
        self._has_room = has_room
        self._connection = Connection(ConnectionType.SERVER, [] if deflate is None else [deflate])
        self._inflates = deflate is not None
        self._waiting: deque[bytes] = deque()
        """Fed, but not yet shown to the parser: the queue is full, or it inflates."""
        self._messages: deque[str | bytes] = deque()
        self._queued_bytes = 0
        self._parts: list[str | bytes] = []
        self._message_bytes = 0
        self._owed_bytes = 0
        self._pong: bytes | None = None
        """Payload of a ping whose answer waits for room: the latest one suffices (section 5.5.3)"""
        self.closed: CloseCode | None = None
        self.has_failed = False

    @property
    def is_open(self) -> bool:
        """Messages can be sent."""
        return self._connection.state is ConnectionState.OPEN and not self.has_failed

    @property
    def is_full(self) -> bool:
        """The application has enough to read; more is not looked at."""
        settings = self._settings
        return (
            self._queued_bytes >= settings.queue_bytes
            or len(self._messages) >= settings.queue_count
        )

    def feed(self, data: bytes) -> None:
        """Take stream bytes."""
        self._owed_bytes += len(data)
        if self._inflates:
            starts = range(0, len(data), FRAME_CHUNK_BYTES)
            self._waiting.extend(data[start : start + FRAME_CHUNK_BYTES] for start in starts)
        else:
            self._waiting.append(data)
        self._parse()

    def take(self) -> str | bytes | None:
        """Return the next message; None when there is none."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._queued_bytes -= _size(message)
        self._parse()
        return message

    def take_credit(self) -> int:
        """Return how many bytes that were fed are done with since the last time."""
        if self.is_full:  # the parser was stopped, and does not say how much it holds
            return 0
        held = min(self._owed_bytes, self._queued_bytes)
        credit, self._owed_bytes = self._owed_bytes - held, held
        return credit

    def release_credit(self) -> int:
        """Return all that is still owed: the stream is over."""
        credit, self._owed_bytes = self._owed_bytes, 0
        return credit

    def send(self, data: str | bytes) -> None:
        """Send one message in one frame."""
        event: Event = TextMessage(data=data) if isinstance(data, str) else BytesMessage(data=data)
        self._write(self._connection.send(event))

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self.is_open:
            self._write(self._connection.send(Ping()))

    def answer_ping(self) -> None:
        """Send the pong that waits, where there is room for it."""
        if self._pong is not None and self.is_open and self._has_room():
            payload, self._pong = self._pong, None
            self._write(self._connection.send(Pong(payload=payload)))

    def close(self, code: int, reason: str = "") -> None:
        """Begin or complete the closing handshake; idempotent."""
        state = self._connection.state
        if state in {ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING}:
            # RFC 6455 section 7.4.1: 1005 is never sent; an empty frame is.
            event = CloseConnection(code=code, reason=reason or None)
            self._write(self._connection.send(event))

    def _parse(self) -> None:
        while not self.is_full and self.closed is None:
            event = next(self._connection.events(), None)
            if event is not None:
                self._handle(event)
            elif self._waiting:
                self._connection.receive_data(self._waiting.popleft())
            else:
                return
        if self.closed is not None:
            self._waiting.clear()

    def _handle(self, event: Event) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._part(event)
            case Ping():
                self._pong = bytes(event.payload)
                self.answer_ping()
            case CloseConnection():
                self._peer_closed(event)
            case _:
                pass  # a pong: that bytes came at all is what counts

    def _part(self, event: TextMessage | BytesMessage) -> None:
        if self._connection.state is not ConnectionState.OPEN:
            return  # we have closed: nobody reads on
        data = event.data if isinstance(event, TextMessage) else bytes(event.data)
        if data:
            self._message_bytes += _size(data)
            if self._message_bytes > self._settings.max_message_bytes:
                self._fail(CloseReason.MESSAGE_TOO_BIG, "message too big")
                return
            self._parts.append(data)
        if event.message_finished:
            parts = self._parts
            self._messages.append(parts[0] if len(parts) == 1 else _join(event, parts))
            self._queued_bytes += self._message_bytes
            self._parts, self._message_bytes = [], 0

    def _peer_closed(self, event: CloseConnection) -> None:
        if self._connection.state in {ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED}:
            self.closed = CloseCode(code=int(event.code), reason=event.reason or "")
            # As it came: wsproto tells 1005 by identity, and browsers show the reason of the echo.
            self.close(event.code, event.reason or "")
        else:
            self._fail(event.code, event.reason or "")

    def _fail(self, code: int, reason: str) -> None:
        """RFC 6455 section 7.1.7: say why, expect nothing more."""
        self.close(code, reason)
        self.has_failed = True
        self._parts, self._message_bytes = [], 0
        self.closed = CloseCode(code=int(code), reason=reason)


def _size(message: str | bytes) -> int:
    """Return the bytes of a message on the wire."""
    if isinstance(message, str) and not message.isascii():
        return len(message.encode())
    return len(message)


def _join(event: TextMessage | BytesMessage, parts: list[str | bytes]) -> str | bytes:
    if isinstance(event, TextMessage):
        return "".join(part for part in parts if isinstance(part, str))
    return b"".join(part for part in parts if isinstance(part, bytes))
