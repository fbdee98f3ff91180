"""Owns one WebSocket on a stream: the ASGI ``receive`` and ``send`` of its application."""

import asyncio
from collections.abc import Callable, Sequence
from enum import Enum, auto

import structlog
from starlette.types import Message

from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.request_head import RequestHead
from masque_relay.http.response_head import count_status, encode_fields, encode_response_head
from masque_relay.http.send_room import ClientDisconnectedError, SendRoom
from masque_relay.http.services import StreamServices
from masque_relay.http.websocket_handshake import Handshake, accept_fields, agree_deflate
from masque_relay.http.websocket_session import CloseCode, WebSocketSession
from masque_relay.http.websocket_settings import WebSocketSettings
from masque_relay.quic.application import Headers

_log = structlog.get_logger(__name__)

_ABNORMAL = 1006
_GOING_AWAY = 1001
_INTERNAL_ERROR = 1011
_NORMAL = 1000


class _State(Enum):
    CONNECTING = auto()
    """The application has not answered."""
    REFUSING = auto()
    """It answers with an ordinary response."""
    OPEN = auto()
    CLOSING = auto()
    """We have closed, the client has not."""
    OVER = auto()


class WebSocketStream:
    """One WebSocket: pushed into by the connection, pulled from by its application.

    Attributes:
        stream_id: of the request stream.
        head: the checked request head.
        handshake: what the client asked for.
        request_id: in logs and the audit trail.
    """

    __slots__ = (
        "_closing",
        "_counters",
        "_early",
        "_end",
        "_has_ended",
        "_has_told_connect",
        "_heard_s",
        "_readable",
        "_room",
        "_services",
        "_session",
        "_settings",
        "_state",
        "_timer",
        "_transport",
        "handshake",
        "head",
        "request_id",
        "stream_id",
    )

    def __init__(
        self,
        services: StreamServices,
        stream_id: int,
        head: RequestHead,
        *,
        request_id: str,
        handshake: Handshake,
        settings: WebSocketSettings,
    ) -> None:
        self._services = services
        self._transport = services.transport
        self._counters = services.counters
        self._settings = settings
        self.stream_id = stream_id
        self.head = head
        self.handshake = handshake
        self.request_id = request_id
        self._state = _State.CONNECTING
        self._session: WebSocketSession | None = None
        self._early: list[bytes] = []
        """Frames before our answer; bounded by the stream's flow control."""
        self._end: CloseCode | None = None
        """What the application hears last."""
        self._has_ended = False
        """The client ended its side of the stream."""
        self._has_told_connect = False
        self._readable = asyncio.Event()
        self._closing: asyncio.Event | None = None
        self._room = SendRoom(services, stream_id, is_gone=self._is_over, abort=self.abort)
        self._heard_s = services.clock.monotonic_s()
        self._timer = asyncio.get_running_loop().call_later(
            settings.handshake_timeout_s, self._handshake_overdue
        )

    # What the connection calls. Nothing here raises or blocks.

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes."""
        self._heard_s = self._services.clock.monotonic_s()
        self._has_ended = self._has_ended or end_stream
        if self._state is _State.CONNECTING:
            self._early.append(data)
        elif self._session is not None and self._state is not _State.OVER:
            self._session.feed(data)
            self._after_reading(self._session)
        else:
            self._transport.consume(self.stream_id, len(data))
            if end_stream:
                self._timer.cancel()

    def trailers_received(self, headers: Headers) -> None:
        """RFC 9114 section 4.4: after CONNECT only DATA frames."""
        self.abort(EndReason.PROTOCOL_ERROR, H3Error.MESSAGE_ERROR)

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """RFC 9297 section 2: WebSocket knows no datagrams."""
        self.abort(EndReason.PROTOCOL_ERROR, H3Error.DATAGRAM_ERROR)

    def writable(self) -> None:
        """Bytes have left; a waiting ``send`` may go on."""
        self._room.wake()
        if self._session is not None:
            self._session.answer_ping()

    def disconnected(self, reason: EndReason, code: int | None = None) -> None:
        """The stream is over: reset by the peer, lost with the connection, or shut down."""
        self._over(CloseCode(code=_ABNORMAL, reason=str(reason)))

    def abort(self, reason: EndReason, code: int) -> None:
        """End the stream from our side: with 1001 when the relay goes away, else a reset."""
        if self._state is _State.OVER:
            return
        if reason is EndReason.DRAINED and self._session is not None:
            self.end(_GOING_AWAY, "the relay is going away")
            return
        self._transport.reset(self.stream_id, code)
        self.disconnected(reason)

    @property
    def is_disconnected(self) -> bool:
        """The client is gone, or was thrown out."""
        return self._end is not None

    def wrap_up(self) -> None:
        """WebSocket has no capsules."""

    # How the application ends.

    def application_returned(self) -> None:
        """Finish what the application left open."""
        self._finish(500, _NORMAL)

    def application_failed(self) -> None:
        """Answer 500, or close with 1011."""
        self._finish(500, _INTERNAL_ERROR)

    def end(self, code: int, reason: str = "") -> None:
        """Close from outside the application, which hears ``websocket.disconnect``; idempotent.

        For whoever supervises the connection: it waits neither for the application nor for the
        client. Before the handshake is answered it refuses with 403.
        """
        if self._session is not None and self._state in {_State.OPEN, _State.CLOSING}:
            self._session.close(code, reason)
            self._end_stream(CloseCode(code=code, reason=reason))
        elif self._state is _State.CONNECTING:
            self._refuse(403, [])
            self._over(CloseCode(code=_ABNORMAL, reason=reason))

    # ASGI.

    def outlives(self, on_over: Callable[[], None]) -> bool:
        """Return False: nothing goes on without the application."""
        del on_over
        return False

    async def receive(self) -> Message:
        """Return the next event for the application."""
        if not self._has_told_connect:
            self._has_told_connect = True
            return {"type": "websocket.connect"}
        while True:
            message = self._take()
            if message is not None:
                return message
            if self._end is not None:
                end = self._end
                return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}
            self._readable.clear()
            await self._readable.wait()

    async def send(self, message: Message) -> None:
        """Take an event from the application.

        Raises:
            ClientDisconnectedError: the client is gone.
            RuntimeError: the event does not exist or does not fit the state.
            ValueError: bad content, such as a control character in a header.
        """
        kind = message["type"]
        if self._end is not None:
            if kind == "websocket.close":
                return  # both sides close: nothing is wrong
            raise ClientDisconnectedError("the client is gone")
        match kind, self._state:
            case "websocket.accept", _State.CONNECTING:
                self._accept(message)
            case "websocket.close", _State.CONNECTING:
                self._refuse(403, [])
            case "websocket.http.response.start", _State.CONNECTING:
                self._refuse(int(message["status"]), message.get("headers", ()), has_body=True)
            case "websocket.http.response.body", _State.REFUSING:
                await self._send_refusal_body(message)
            case "websocket.send", _State.OPEN:
                await self._send_message(message)
            case "websocket.close", _State.OPEN:
                await self._close(int(message.get("code", _NORMAL)), message.get("reason") or "")
            case _:
                raise RuntimeError(f"{kind!r} does not exist or does not fit here")

    # The handshake.

    def _accept(self, message: Message) -> None:
        deflate, agreed = agree_deflate(self.handshake)
        fields = accept_fields(
            self.handshake,
            subprotocol=message.get("subprotocol"),
            headers=list(message.get("headers", ())),
            http_version=self._services.http_version,
        )
        self._transport.send_headers(
            self.stream_id, encode_response_head(200, fields + agreed), end_stream=False
        )
        count_status(self._counters, 200)
        self._counters.websockets_opened += 1
        session = WebSocketSession(
            self._settings, write=self._write, has_room=self._has_room, deflate=deflate
        )
        self._session = session
        self._state = _State.OPEN
        self._watch(self._settings.ping_interval_s, self._check_life)
        for data in self._early:
            session.feed(data)
        self._early.clear()
        self._after_reading(session)

    def _refuse(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], *, has_body: bool = False
    ) -> None:
        if status < 200 or 200 <= status < 300:
            raise ValueError("a refusal is a final response that is no success")
        fields = encode_fields(headers, http_version=self._services.http_version)
        if not has_body:
            fields.append((b"content-length", b"0"))
        head = encode_response_head(status, fields)
        self._transport.send_headers(self.stream_id, head, end_stream=not has_body)
        count_status(self._counters, status)
        self._state = _State.REFUSING if has_body else _State.OVER
        if not has_body:
            self._over(CloseCode(code=_ABNORMAL, reason="refused"))
            self._services.stop_when_sent(self.stream_id)

    async def _send_refusal_body(self, message: Message) -> None:
        ends = not message.get("more_body", False)
        self._transport.send_data(self.stream_id, bytes(message.get("body", b"")), end_stream=ends)
        if not ends:
            await self._room.wait()
            return
        self._over(CloseCode(code=_ABNORMAL, reason="refused"))
        self._services.stop_when_sent(self.stream_id)

    def _handshake_overdue(self) -> None:
        if self._state is _State.CONNECTING:
            _log.warning("a WebSocket was not answered in time", request_id=self.request_id)
            self._refuse(504, [])
        else:  # a refusal that never ends
            self.abort(EndReason.IDLE, H3Error.REQUEST_CANCELLED)

    # Messages.

    def _take(self) -> Message | None:
        session = self._session
        data = None if session is None else session.take()
        if session is None or data is None:
            return None
        if self._state is not _State.OVER:
            self._after_reading(session)
        if isinstance(data, str):
            return {"type": "websocket.receive", "text": data}
        return {"type": "websocket.receive", "bytes": data}

    def _after_reading(self, session: WebSocketSession) -> None:
        """Do what the frames asked for, and wake the application."""
        credit = session.take_credit()
        if credit:
            self._transport.consume(self.stream_id, credit)
        if session.closed is not None:
            if session.has_failed:
                self._counters.websockets_failed += 1
            self._end_stream(session.closed)
        elif self._has_ended and not session.is_full:
            # Over HTTP/2 and 3 an end without a close frame is what a lost TCP connection is.
            self._end_stream(CloseCode(code=_ABNORMAL, reason="no close frame"))
        self._readable.set()

    async def _send_message(self, message: Message) -> None:
        session = self._open_session()
        data = message.get("bytes")
        if data is None:
            data = message.get("text")
        if not isinstance(data, bytes | bytearray | str):
            raise ValueError("websocket.send has neither bytes nor text")
        session.send(data if isinstance(data, str) else bytes(data))
        await self._room.wait()

    async def _close(self, code: int, reason: str) -> None:
        """Close, and wait a moment for the client to do the same."""
        if not 1000 <= code <= 4999:
            raise ValueError("a close code is between 1000 and 4999")
        self._state = _State.CLOSING
        self._open_session().close(code, reason)
        self._closing = asyncio.Event()
        try:
            async with asyncio.timeout(self._settings.close_timeout_s):
                await self._closing.wait()
        except TimeoutError:
            self._end_stream(CloseCode(code=code, reason=reason))

    def _open_session(self) -> WebSocketSession:
        if self._session is None:
            raise RuntimeError("the handshake is not complete")
        return self._session

    def _write(self, data: bytes) -> None:
        if self._state is not _State.OVER:
            self._transport.send_data(self.stream_id, bytes(data), end_stream=False)

    def _has_room(self) -> bool:
        unsent_bytes = self._transport.unsent_bytes(self.stream_id)
        return unsent_bytes <= self._services.limits.send_high_water_bytes

    # Life and end.

    def _watch(self, delay_s: float, check: Callable[[], None]) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, check)

    def _check_life(self) -> None:
        """Ping a silent client, give up one that stays silent."""
        session, settings = self._open_session(), self._settings
        quiet_s = self._services.clock.monotonic_s() - self._heard_s
        if session.is_full:
            pass  # it is our application that keeps the client from being heard
        elif quiet_s >= settings.idle_timeout_s:
            self._counters.websockets_silent += 1
            self.abort(EndReason.IDLE, H3Error.REQUEST_CANCELLED)
            return
        elif quiet_s >= settings.ping_interval_s and self._has_room():
            session.ping()
        self._watch(settings.ping_interval_s, self._check_life)

    def _finish(self, status: int, code: int) -> None:
        match self._state:
            case _State.CONNECTING:
                self._refuse(status, [])
            case _State.REFUSING:
                self.abort(EndReason.BUG, H3Error.INTERNAL_ERROR)
            case _State.OPEN | _State.CLOSING:
                self.end(code)
            case _State.OVER:
                pass

    def _end_stream(self, end: CloseCode) -> None:
        """Both close frames are there, or will never be: end the stream in order."""
        if self._state is _State.OVER:
            return
        self._transport.send_data(self.stream_id, b"", end_stream=True)
        self._over(end)
        session = self._session
        if session is None or session.closed is None or session.has_failed:
            self._services.stop_when_sent(self.stream_id)
        elif not self._has_ended:
            # It closes its stream when it has read our close frame: give it the time.
            self._watch(self._settings.close_timeout_s, self._stop)

    def _stop(self) -> None:
        self._transport.stop_receiving(self.stream_id, H3Error.NO_ERROR)

    def _is_over(self) -> bool:
        return self._end is not None

    def _over(self, end: CloseCode) -> None:
        self._state = _State.OVER
        self._timer.cancel()
        if self._end is None:
            self._end = end
        unread_bytes = sum(map(len, self._early))
        self._early.clear()
        if self._session is not None:
            unread_bytes += self._session.release_credit()
        if unread_bytes:  # what still waits is read, but from the connection's credit no more
            self._transport.consume(self.stream_id, unread_bytes)
        self._readable.set()
        self._room.wake()
        if self._closing is not None:
            self._closing.set()
