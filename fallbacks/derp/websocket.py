"""Owns the way into DERP over WebSocket: an ASGI endpoint; messages are pieces of the stream."""

import asyncio
from collections import deque

from starlette.types import Receive, Scope, Send

from fallbacks.derp.server import DerpServer
from fallbacks.derp.session import DerpSession
from fallbacks.derp.upgrade import arrive, send_full
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.errors import WireError

SUBPROTOCOL = "derp"
MAX_MESSAGE_BYTES = 16_384
"""Frames may be cut: it is a byte stream. Tailscale's client takes no message over 32 KiB."""

_NORMAL, _PROTOCOL_ERROR, _UNACCEPTABLE = 1000, 1002, 1003
"""RFC 6455 section 7.4.1."""


class DerpWebSocket:
    """Browsers have no Upgrade of their own; DERP over WebSocket is the same byte stream."""

    def __init__(self, server: DerpServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold one session until it ends."""
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        if SUBPROTOCOL not in scope["subprotocols"]:
            await send({"type": "websocket.close", "code": _UNACCEPTABLE})
            return
        session = arrive(self._server, scope)
        if session is None:
            await send_full(send, "websocket.")
            return
        try:
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
            await _Conversation(session).run(receive, send)
        finally:
            session.ended(EndReason.CONNECTION_LOST)


class _Conversation:
    """Two loops; a StreamCarrier whose bytes leave as messages."""

    def __init__(self, session: DerpSession) -> None:
        self._session = session
        self._pieces: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._has_ended = False
        self._code = _NORMAL
        self.unsent_bytes = 0

    async def run(self, receive: Receive, send: Send) -> None:
        self._session.attach(self)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(receive))
            await self._write(send)
            reading.cancel()
        if self._code:
            await send({"type": "websocket.close", "code": self._code})

    # StreamCarrier.

    def send(self, data: bytes) -> None:
        if not self._has_ended:
            self._pieces.append(data)
            self.unsent_bytes += len(data)
            self._wake.set()

    def end_sending(self) -> None:
        self.finish()

    def consume(self, byte_count: int) -> None:
        """Nothing: a message that was taken is paid for."""

    def wake_later(self) -> None:
        """Nothing: DERP never asks for it."""

    def abort(self, reason: EndReason) -> None:
        del reason
        self._pieces.clear()
        self.unsent_bytes = 0
        self.finish()

    def finish(self) -> None:
        self._has_ended = True
        self._wake.set()

    async def _read(self, receive: Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._code = 0
                self.abort(EndReason.PEER_CLOSED)
                self._session.ended(EndReason.PEER_CLOSED)
                return
            data: bytes | None = message.get("bytes")
            try:
                if data is None:
                    raise WireError("a text message", section="DERP: WebSocket")
                self._session.on_stream_data(data)
            except WireError:
                self._code = _PROTOCOL_ERROR
                self._session.ended(EndReason.PROTOCOL_ERROR)
                self.finish()
                return

    async def _write(self, send: Send) -> None:
        """Send what is queued until the end; ``send`` waits while the client is slow."""
        while True:
            if self._pieces:
                await send({"type": "websocket.send", "bytes": self._take()})
                self._session.on_stream_writable()
            elif self._has_ended:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _take(self) -> bytes:
        piece = self._pieces.popleft()
        if len(piece) > MAX_MESSAGE_BYTES:
            self._pieces.appendleft(piece[MAX_MESSAGE_BYTES:])
            piece = piece[:MAX_MESSAGE_BYTES]
        taken, size = [piece], len(piece)
        while self._pieces and size + len(self._pieces[0]) <= MAX_MESSAGE_BYTES:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        self.unsent_bytes -= size
        return b"".join(taken)
