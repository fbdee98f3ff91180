"""Owns the relay's side of sessions over plain requests (ghostwire, "HTTPS requests")."""

import asyncio
import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fallbacks.websocket.server import Admitted
from masque_relay.contract.ghostwire import Arrival, FrameSession, SessionFactory
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.frame_stream import FrameStream
from masque_relay.tunnels.outbox_carrier import OutboxCarrier
from masque_relay.tunnels.resumable import OffsetReceiver, ReplayBuffer, pad
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_names import MODE_FIELD, OFFSET_FIELD, POLL_MODE, SESSION_FIELD

SECRET_BYTES = 32
MAX_OFFSET_DIGITS = 15

_SESSION, _OFFSET, _MODE, _POLL = (
    name.lower().encode("ascii") for name in (SESSION_FIELD, OFFSET_FIELD, MODE_FIELD, POLL_MODE)
)
_CHUNK_BYTES = 65_536
_OK, _CREATED, _NO_CONTENT = 200, 201, 204
_BAD_REQUEST, _NOT_FOUND, _CONFLICT, _TOO_LARGE = 400, 404, 409, 413

_log = structlog.get_logger(__name__)

_Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsLimits:
    """What one session over requests may hold, and how long."""

    idle_timeout_s: float = 30.0
    """Without a request the client is gone."""
    max_body_bytes: int = 1_048_576
    """Of one uplink request: four times what our client sends."""
    uploads: int = 8
    """At once: each may hold a body. Our client has one under way, and those that a network lost
    without a word; it comes again with what is refused."""
    gap_bytes: int = 1_048_576
    """Behind gaps, where requests overtook one another."""
    replay_bytes: int = 524_288
    """Sent and not acknowledged; then one response ends, and the next request acknowledges."""
    backlog_bytes: int = 262_144
    """Beyond it datagrams are dropped: they would arrive too late to be worth anything."""
    stream_s: float = 25.0
    """One streamed response: below the 30 s and more after which proxies give a response up."""
    poll_s: float = 20.0
    """How long a polling request waits for something to come."""


class HttpsSessions:
    """The ASGI endpoints of all sessions over requests, by what the request's last word is.

    The opening request passes the gate. Its lease is the session's, which outlives it: the gate's
    middleware runs in a task of the mesh. All others show the session's secret, which only
    whoever opened it knows.
    """

    def __init__(
        self,
        new_session: SessionFactory,
        *,
        start: Callable[[Coroutine[object, object, None]], None],
        limits: HttpsLimits = HttpsLimits(),
    ) -> None:
        self._new_session = new_session
        self._start = start
        self._limits = limits
        self._sessions: dict[bytes, _Conversation] = {}
        """By the hash of the secret: the time of a look-up tells nothing about it."""

    def opening(self, gated: ASGIApp) -> ASGIApp:
        """Return the endpoint of ``open``; ``gated`` is :meth:`hold` behind the gate."""

        async def open_session(scope: Scope, receive: Receive, send: Send) -> None:
            answered = asyncio.Event()

            async def answer(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    answered.set()

            async def hold() -> None:
                try:
                    await gated(scope, receive, answer)
                except Exception:  # noqa: BLE001  (STYLE 17: a bug in one session ends that session)
                    _log.exception("a session over requests raised")
                finally:
                    answered.set()

            self._start(hold())
            await answered.wait()

        return open_session

    async def hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin a session for an admitted request, answer it, and stay until the session ends."""
        admission: Admitted = scope["state"]["admission"]
        session = self._new_session(_arrival_of(scope, admission))
        admission.on_end(session.close)
        conversation = _Conversation(session, self._limits)
        secret = urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=")
        key = hashlib.sha256(secret).digest()
        self._sessions[key] = conversation
        try:
            session.attach(conversation.outbox)
            await _respond(send, _CREATED, [(_SESSION, secret)])
            await conversation.until_over()
        finally:
            del self._sessions[key]
            session.ended(EndReason.CONNECTION_LOST)
            conversation.leave()
            admission.close(session.end_reason or EndReason.BUG)

    async def up(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take frame-stream bytes."""
        conversation = self._find(scope)
        offset = _offset_of(scope)
        if conversation is None or offset is None:
            await _respond(send, _NOT_FOUND if conversation is None else _BAD_REQUEST)
            return
        async with conversation.request():
            if not conversation.begin_upload():
                await _respond(send, _CONFLICT, conversation.wanted())
                return
            try:
                body = await _read_body(receive, self._limits.max_body_bytes)
            finally:
                conversation.end_upload()
            if body is None:
                await _respond(send, _TOO_LARGE)
                return
            await _respond(send, conversation.take(offset, body), conversation.wanted())

    async def down(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Give frame-stream bytes, streamed or at once."""
        conversation = self._find(scope)
        offset = _offset_of(scope)
        if conversation is None or offset is None:
            await _respond(send, _NOT_FOUND if conversation is None else _BAD_REQUEST)
            return
        async with conversation.request():
            try:
                conversation.acknowledge(offset)
            except WireError:
                await _respond(send, _CONFLICT, [(_OFFSET, b"%d" % conversation.base)])
                return
            if _field(scope, _MODE) == _POLL:
                await conversation.poll(send)
            else:
                await conversation.stream(send)

    async def close(self, scope: Scope, receive: Receive, send: Send) -> None:
        """End a session."""
        conversation = self._find(scope)
        if conversation is not None:
            conversation.end(EndReason.PEER_CLOSED)
        await _respond(send, _NOT_FOUND if conversation is None else _NO_CONTENT)

    def _find(self, scope: Scope) -> "_Conversation | None":
        secret = _field(scope, _SESSION)
        return self._sessions.get(hashlib.sha256(secret).digest())


class _Conversation:
    """One session: bytes in by offset, frames out with a memory of what may be lost."""

    def __init__(self, session: FrameSession, limits: HttpsLimits) -> None:
        self._session = session
        self._limits = limits
        self._receiver = OffsetReceiver(
            FrameStream(session).feed, max_waiting_bytes=limits.gap_bytes
        )
        self._replay = ReplayBuffer()
        self._changed = asyncio.Event()
        self._requests = 0
        self._uploads = 0
        self._heard_s = asyncio.get_running_loop().time()
        self._turn = 0
        """Of the downlink request that is served; an older one ends."""
        self._sent_offset = 0
        self._is_over = False
        self.outbox = OutboxCarrier(wake=self._wake, backlog_bytes=limits.backlog_bytes)

    @property
    def base(self) -> int:
        """The first downlink byte that is still there."""
        return self._replay.base

    def wanted(self) -> list[_Header]:
        """Which uplink byte comes next, for a response."""
        return [(_OFFSET, b"%d" % self._receiver.next_offset)]

    @asynccontextmanager
    async def request(self) -> AsyncGenerator[None]:
        """Count one request as a sign of life, from its beginning to its end."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._heard_s = asyncio.get_running_loop().time()

    def begin_upload(self) -> bool:
        """Count a body that is being read; False where too many are."""
        if self._uploads >= self._limits.uploads:
            return False
        self._uploads += 1
        return True

    def end_upload(self) -> None:
        """Count it no more."""
        self._uploads -= 1

    async def until_over(self) -> None:
        """Return when the client has closed, is gone, or has been given the last frame.

        Once the session has ended, a request that is still open keeps it no longer: the lease of
        a peer that was kicked is given back though it never finishes one.
        """
        loop = asyncio.get_running_loop()
        ended_s: float | None = None
        while not (self._is_over or self.outbox.is_aborted or self._is_delivered):
            if ended_s is None and self.outbox.end_reason is not None:
                ended_s = loop.time()
            idle_s = 0.0 if self._requests else loop.time() - self._heard_s
            if ended_s is not None:
                idle_s = loop.time() - ended_s
            if idle_s >= self._limits.idle_timeout_s:
                return
            await self._change(self._limits.idle_timeout_s - idle_s)

    def leave(self) -> None:
        """End the requests that are served."""
        self._is_over = True
        self._wake()

    def end(self, reason: EndReason) -> None:
        """End the session from the client's side; idempotent."""
        self._session.ended(reason)
        self.leave()

    def take(self, offset: int, body: bytes) -> int:
        """Take uplink bytes; return the status of the answer."""
        try:
            return _OK if self._receiver.take(offset, body) else _CONFLICT
        except WireError:
            self._session.ended(EndReason.PROTOCOL_ERROR)
            self.outbox.finish()
            return _BAD_REQUEST

    def acknowledge(self, offset: int) -> None:
        """Forget what the client has, and end an older downlink request.

        Raises:
            WireError: the offset is none that it could want.
        """
        self._replay.acknowledge(offset)
        self._sent_offset = offset
        self._turn += 1
        self._wake()

    async def poll(self, send: Send) -> None:
        """Answer with what is there, or as soon as something is."""
        turn, offset = self._turn, self._replay.base
        deadline_s = asyncio.get_running_loop().time() + self._limits.poll_s
        while not (data := self._next(offset, self._limits.replay_bytes)):
            left_s = deadline_s - asyncio.get_running_loop().time()
            if left_s <= 0 or self._has_ended(turn):
                break
            await self._change(left_s)
        await _respond(send, _OK, body=data)
        self._sent(offset + len(data))

    async def stream(self, send: Send) -> None:
        """Answer with a body that goes on as frames come.

        Its first bytes leave at once, if need be as padding: a client that does not get them knows
        that somebody on the way holds responses back, and polls.
        """
        turn, offset = self._turn, self._replay.base
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._limits.stream_s
        end = offset + self._limits.replay_bytes
        await send({"type": "http.response.start", "status": _OK, "headers": _headers()})
        if not self._next(offset, 1):
            self._replay.append(pad(b""))
        while offset < end and turn == self._turn:
            data = self._next(offset, min(_CHUNK_BYTES, end - offset))
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                offset += len(data)
                continue
            left_s = deadline_s - loop.time()
            if left_s <= 0 or self._has_ended(turn):
                break
            await self._change(left_s)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if turn == self._turn:
            self._sent(offset)

    @property
    def _is_delivered(self) -> bool:
        outbox = self.outbox
        is_empty = not outbox.unsent_bytes and self._sent_offset == self._replay.end
        return outbox.end_reason is not None and is_empty

    def _has_ended(self, turn: int) -> bool:
        return self._is_over or turn != self._turn or self.outbox.end_reason is not None

    def _next(self, offset: int, max_bytes: int) -> bytes:
        """Return what follows an offset, taken from the session while there is room for it."""
        if offset < self._replay.base:
            return b""  # a newer request has acknowledged it
        replay, limit_bytes = self._replay, self._limits.replay_bytes
        while len(replay) < limit_bytes and (frames := self.outbox.take(_CHUNK_BYTES)):
            replay.append(pad(frames))
            self._session.on_writable()
        return replay.since(offset, max_bytes)

    def _sent(self, offset: int) -> None:
        self._sent_offset = max(self._sent_offset, offset)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self, timeout_s: float) -> None:
        """Wait until something has changed since the caller looked, or for a while."""
        changed = self._changed
        try:
            async with asyncio.timeout(timeout_s):
                await changed.wait()
        except TimeoutError:
            pass


def _arrival_of(scope: Scope, admission: Admitted) -> Arrival:
    request = admission.lease.request
    server: tuple[str, int] | None = scope.get("server")
    return Arrival(
        transport=request.transport,
        source=request.source,
        credentials=(),
        lease=admission.lease,
        exporter=None,  # requests of one session come on many connections
        relay_name="" if server is None else server[0],
        request_id=request.request_id,
    )


async def _read_body(receive: Receive, max_bytes: int) -> bytes | None:
    """Return a request's whole body; None where it is larger. An aborted one is what came."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > max_bytes:
            return None
        if not message.get("more_body", False):
            return bytes(body)


async def _respond(
    send: Send, status: int, headers: Sequence[_Header] = (), *, body: bytes = b""
) -> None:
    length = (b"content-length", b"%d" % len(body))
    fields = [*_headers(), *headers, *(() if status == _NO_CONTENT else (length,))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _headers() -> list[_Header]:
    return [
        (b"cache-control", b"no-store, no-transform"),
        (b"content-type", b"application/octet-stream"),
        (b"x-accel-buffering", b"no"),  # nginx then passes a response on as it comes
    ]


def _field(scope: Scope, name: bytes) -> bytes:
    headers: list[_Header] = scope["headers"]
    return next((value for field, value in headers if field == name), b"")


def _offset_of(scope: Scope) -> int | None:
    text = _field(scope, _OFFSET)
    return int(text) if text.isdigit() and len(text) <= MAX_OFFSET_DIGITS else None
