"""Owns the relay's side of WebSocket sessions: an ASGI endpoint, binary messages of frames."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ghostwire import Arrival, FrameSession, SessionFactory
from masque_relay.contract.lease import Lease
from masque_relay.contract.request import Transport
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.frame_stream import FrameStream
from masque_relay.tunnels.outbox_carrier import OutboxCarrier
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_names import MAX_MESSAGE_BYTES, SUBPROTOCOL

_NORMAL, _PROTOCOL_ERROR, _UNACCEPTABLE, _INTERNAL = 1000, 1002, 1003, 1011
"""RFC 6455 section 7.4.1."""
_UNKNOWN_SOURCE = ip_address("0.0.0.0")  # noqa: S104  (a Unix socket has no peer address)


class Admitted(Protocol):
    """What the gate's middleware leaves in the scope's state; here only its lease is of use."""

    @property
    def lease(self) -> Lease:
        """The permission; the middleware releases it."""
        ...

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        """Set what ends the session from outside."""
        ...

    def close(self, reason: EndReason, detail: str = "") -> None:
        """Say how it ended."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketLimits:
    """What one WebSocket session may hold."""

    backlog_bytes: int = 262_144
    """Beyond it datagrams are dropped: on TCP they would arrive too late to be worth anything."""


class GhostwireWebSocket:
    """An ASGI endpoint for ``websocket`` scopes.

    Where the request brought a credential, the gate has been passed before (``state.admission``).
    A browser can bring none: then AUTH has to, and the gate is asked at that moment.
    """

    def __init__(
        self, new_session: SessionFactory, *, limits: WebSocketLimits = WebSocketLimits()
    ) -> None:
        self._new_session = new_session
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold one session until it ends."""
        message = await receive()
        if message["type"] != "websocket.connect":
            return
        if SUBPROTOCOL not in scope["subprotocols"]:
            await send({"type": "websocket.close", "code": _UNACCEPTABLE})
            return
        admission: Admitted | None = scope["state"].get("admission")
        session = self._new_session(_arrival_of(scope, admission))
        if admission is not None:
            admission.on_end(session.close)
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        try:
            await _Conversation(session, self._limits).run(receive, send)
        finally:
            session.ended(EndReason.CONNECTION_LOST)
            if admission is not None:
                admission.close(session.end_reason or EndReason.BUG)


class _Conversation:
    """Two loops: messages in, frames out."""

    def __init__(self, session: FrameSession, limits: WebSocketLimits) -> None:
        self._session = session
        self._something_to_send = asyncio.Event()
        self._outbox = OutboxCarrier(
            wake=self._something_to_send.set, backlog_bytes=limits.backlog_bytes
        )
        self._code = _NORMAL

    async def run(self, receive: Receive, send: Send) -> None:
        self._session.attach(self._outbox)
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(receive))
            await self._write(send)
            reading.cancel()
        if self._code:
            await send({"type": "websocket.close", "code": self._code})

    async def _read(self, receive: Receive) -> None:
        frames = FrameStream(self._session)
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                self._end(EndReason.PEER_CLOSED, code=0)
                return
            data: bytes | None = message.get("bytes")
            try:
                if data is None:
                    raise WireError("a text message", section="ghostwire: Carriers")
                frames.feed(data)
                frames.finish()  # a message holds whole frames
            except WireError:
                self._end(EndReason.PROTOCOL_ERROR, code=_PROTOCOL_ERROR)
                return

    async def _write(self, send: Send) -> None:
        """Send what is queued until an end was told; ``send`` waits while the peer is slow."""
        outbox = self._outbox
        while not outbox.is_aborted:
            data = outbox.take(MAX_MESSAGE_BYTES)
            if data:
                await send({"type": "websocket.send", "bytes": data})
                self._session.on_writable()
            elif outbox.end_reason is not None:
                return
            else:
                self._something_to_send.clear()
                await self._something_to_send.wait()
        if self._code == _NORMAL:
            self._code = _INTERNAL

    def _end(self, reason: EndReason, *, code: int) -> None:
        self._code = code
        self._session.ended(reason)
        if code:
            self._outbox.finish()
        else:
            self._outbox.abort(reason)


def _arrival_of(scope: Scope, admission: Admitted | None) -> Arrival:
    client: tuple[str, int] | None = scope.get("client")
    server: tuple[str, int] | None = scope.get("server")
    tls: dict[str, Any] = scope.get("extensions", {}).get("tls") or {}
    return Arrival(
        transport=Transport.WEBSOCKET,
        source=Endpoint(
            address=_UNKNOWN_SOURCE if client is None else ip_address(client[0]),
            port=0 if client is None else client[1],
        ),
        credentials=(),
        lease=None if admission is None else admission.lease,
        exporter=tls.get("exporter"),
        relay_name="" if server is None else server[0],
        request_id=scope["state"].get("request_id", ""),
    )
