"""Owns one request on a stream: the ASGI ``receive`` and ``send`` of its application."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum, auto
from typing import Any

import structlog
from starlette.types import Message

from masque_relay.contract.verdict import EndReason
from masque_relay.http.carrier import HttpCarrier
from masque_relay.http.codes import H3Error
from masque_relay.http.inbox import Inbox
from masque_relay.http.request_head import RequestHead, check_trailers
from masque_relay.http.response_head import (
    count_status,
    encode_early_hint,
    encode_fields,
    encode_response_head,
)
from masque_relay.http.send_room import ClientDisconnectedError, SendRoom
from masque_relay.http.services import StreamServices
from masque_relay.http.socket_flow import splice_socket
from masque_relay.http.splice import Splice
from masque_relay.http.splice_limits import SpliceLimits
from masque_relay.http.stream_splice import StreamSplice
from masque_relay.quic.application import Headers
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP

_log = structlog.get_logger(__name__)


class _Response(Enum):
    NOT_STARTED = auto()
    OPEN = auto()
    ENDED = auto()


class HttpStream:
    """One request: pushed into by the connection, pulled from by its application.

    Attributes:
        stream_id: of the request stream.
        head: the checked request head.
        request_id: in logs, the audit trail and ``proxy-status``.
    """

    __slots__ = (
        "_counters",
        "_expects_trailers",
        "_inbox",
        "_is_tunnel",
        "_limits",
        "_on_over",
        "_on_splice_done",
        "_readable",
        "_response",
        "_room",
        "_sends_body",
        "_services",
        "_splice",
        "_transport",
        "_wraps_up",
        "carrier",
        "head",
        "request_id",
        "stream_id",
    )

    def __init__(
        self, services: StreamServices, stream_id: int, head: RequestHead, request_id: str
    ) -> None:
        self._services = services
        self._transport = services.transport
        self._limits = services.limits
        self._counters = services.counters
        self.stream_id = stream_id
        self.head = head
        self.request_id = request_id
        self._is_tunnel = head.form is not None
        self._inbox = Inbox(
            limits=services.limits,
            counters=services.counters,
            consume=self._consume,
            content_length=head.content_length,
            is_tunnel=self._is_tunnel,
        )
        self.carrier = HttpCarrier(
            services,
            stream_id,
            on_over=self._carrier_over,
        )
        self._readable = asyncio.Event()
        self._room = SendRoom(
            services, stream_id, is_gone=lambda: self._inbox.is_disconnected, abort=self.abort
        )
        self._response = _Response.NOT_STARTED
        self._sends_body = head.method != "HEAD"
        self._expects_trailers = False
        self._splice: Splice | StreamSplice | None = None
        self._on_splice_done: Callable[[Message], None] | None = None
        self._on_over: Callable[[], None] | None = None
        self._wraps_up = False

    # What the connection calls. Nothing here raises or blocks.

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take stream bytes."""
        try:
            if self._splice is not None:
                if data:
                    self._splice.on_stream_data(data)
                    if not self._splice.consumes:
                        self._consume(len(data))
                if end_stream:
                    self._splice.on_stream_end()
                return  # whatever concerns the application has woken it
            self._inbox.push_data(data)
            if end_stream:
                self._inbox.push_end()
        except WireError as error:
            self._malformed(error)
        self._readable.set()

    def trailers_received(self, headers: Headers) -> None:
        """Take the trailer section, which ends the request."""
        try:
            check_trailers(headers)
            if self._is_tunnel:
                # RFC 9114 section 4.4: after CONNECT only DATA frames.
                raise WireError("trailers on CONNECT", section="RFC 9114 section 4.4")
            self._inbox.push_end(headers)
        except WireError as error:
            self._malformed(error)
        self._readable.set()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagrams; the packet path of a splice."""
        if self.head.protocol is None:
            # RFC 9297 section 2: GET, POST and classic CONNECT know no datagrams.
            if not self._inbox.is_disconnected:
                self.abort(EndReason.PROTOCOL_ERROR, H3Error.DATAGRAM_ERROR)
            return
        if self._splice is not None:
            self._splice.on_datagrams(payloads)
            return
        self.carrier.quic_datagram_seen()
        self._inbox.push_datagrams(payloads)
        self._readable.set()

    def writable(self) -> None:
        """Bytes have left; a waiting ``send`` or splice may go on."""
        if self._splice is not None:
            self._splice.on_writable()
        self._room.wake()

    def disconnected(self, reason: EndReason, code: int | None = None) -> None:
        """The stream is over: reset by the peer, lost with the connection, or shut down."""
        self.carrier.stream_over()
        self._inbox.disconnect(code=code, reason=str(reason))
        if self._splice is not None:
            self._splice.end(reason)
        self._response = _Response.ENDED
        self._readable.set()
        self.writable()

    def abort(self, reason: EndReason, code: int) -> None:
        """Reset the stream from our side and tell the application."""
        self._transport.reset(self.stream_id, code)
        self.disconnected(reason, code)

    @property
    def is_disconnected(self) -> bool:
        """The client is gone, or was thrown out."""
        return self._inbox.is_disconnected

    def want_wrap_up(self) -> None:
        """Have :meth:`wrap_up` tell this client; for the gate, which knows who it is."""
        self._wraps_up = self.head.uses_capsules

    def wrap_up(self) -> None:
        """Tell a client that understands it to begin nothing new; the tunnel goes on."""
        if self._wraps_up and self._response is _Response.OPEN:
            self._wraps_up = False
            self.carrier.send_capsule(WRAP_UP, b"")

    # How the application ends.

    def application_returned(self) -> None:
        """Finish what the application left open (asgi-extension rule 3)."""
        if self._on_splice_done is not None:
            return  # it left that to the splice
        if self._response is _Response.NOT_STARTED:
            self._send_plain_status(500)
        elif self._response is _Response.OPEN:
            self._end_response()
        self._close_receiving()

    def application_failed(self) -> None:
        """Answer 500, or reset a response that has begun: it must not look complete."""
        if self._response is _Response.NOT_STARTED:
            self._send_plain_status(500)
        elif self._response is _Response.OPEN:
            self.abort(EndReason.BUG, H3Error.INTERNAL_ERROR)
        self._close_receiving()

    def outlives(self, on_over: Callable[[], None]) -> bool:
        """Return whether a splice goes on without its application, which has returned."""
        if self._on_splice_done is None:
            return False
        self._on_over = on_over
        # Nobody reads these any more, and there are many tunnels and few requests. It is also the
        # last place where the client's credential would be kept.
        self.head = replace(self.head, fields=[])
        return True

    # ASGI.

    async def receive(self) -> Message:
        """Return the next event for the application."""
        while True:
            try:
                message = self._inbox.take()
            except WireError as error:
                self._malformed(error)
                continue
            if message is not None:
                return message
            if self._response is _Response.ENDED and not self._is_tunnel:
                return {"type": "http.disconnect", "code": None, "reason": "response complete"}
            self._readable.clear()
            await self._wait_readable()

    async def send(self, message: Message) -> None:
        """Take an event from the application.

        Raises:
            ClientDisconnectedError: the client is gone.
            RuntimeError: the event does not exist or does not fit the state.
            ValueError: bad content, such as a control character in a header.
        """
        kind = message["type"]
        if kind == "http.datagram.send":
            self._send_datagrams(message)
            return
        if kind == "http.abort":
            self._abort_by_application(message.get("code", H3Error.REQUEST_CANCELLED))
            return
        if self._inbox.is_disconnected:
            raise ClientDisconnectedError("the client is gone")
        match kind:
            case "http.response.start":
                self._start_response(message)
            case "http.response.body":
                await self._send_body(message)
            case "http.response.trailers":
                self._send_trailers(message)
            case "http.response.early_hint":
                self._send_interim(103, encode_early_hint(message.get("links", ())))
            case "http.capsule.send":
                self._require_tunnel(kind)
                self.carrier.send_capsule(message["capsule_type"], bytes(message["data"]))
                await self._room.wait()
            case "http.splice":
                self._start_splice(message)
            case _:
                raise RuntimeError(f"unknown ASGI message {kind!r}")

    # Responses.

    def _start_response(self, message: Message) -> None:
        if self._response is not _Response.NOT_STARTED:
            raise RuntimeError("http.response.start twice")
        status = int(message["status"])
        fields: Headers = encode_fields(
            message.get("headers", ()), http_version=self._services.http_version
        )
        if status < 200:
            self._send_interim(status, fields)
            return
        self._send_head(status, fields)
        if self._is_tunnel and status < 300:
            capsules: dict[str, Any] = message.get("http.capsule") or {}
            datagrams: dict[str, Any] = message.get("http.datagram") or {}
            self._inbox.open_tunnel(
                capsule_types=capsules.get("types", ()) if self.head.uses_capsules else None,
                batches=bool(datagrams.get("batch", False)),
            )
            self._readable.set()
            return
        self._expects_trailers = bool(message.get("trailers", False))
        if status in {204, 304}:
            self._sends_body = False

    def _send_interim(self, status: int, fields: Headers) -> None:
        if self._response is not _Response.NOT_STARTED:
            raise RuntimeError("interim response after the final one")
        head = encode_response_head(status, fields)
        self._transport.send_headers(self.stream_id, head, end_stream=False)
        count_status(self._counters, status)

    def _send_head(self, status: int, fields: Headers) -> None:
        head = encode_response_head(status, fields)
        self._transport.send_headers(self.stream_id, head, end_stream=False)
        self._response = _Response.OPEN
        count_status(self._counters, status)

    def _send_plain_status(self, status: int) -> None:
        self._send_head(status, [(b"content-length", b"0")])
        self._end_response()

    async def _send_body(self, message: Message) -> None:
        if self._response is not _Response.OPEN:
            raise RuntimeError("http.response.body outside a response")
        if self._splice is not None:
            raise RuntimeError("http.response.body during a splice")
        body = bytes(message.get("body", b""))
        ends = not message.get("more_body", False)
        if not self._sends_body and not self._is_tunnel:
            body = b""
        if ends and not self._expects_trailers:
            self._end_response(body)
        elif body:
            self._transport.send_data(self.stream_id, body, end_stream=False)
        await self._room.wait()

    def _send_trailers(self, message: Message) -> None:
        if self._response is not _Response.OPEN or not self._expects_trailers:
            raise RuntimeError("http.response.trailers that were not announced")
        if message.get("more_trailers", False):
            raise RuntimeError("trailers in several messages are not supported")
        fields: Headers = encode_fields(message.get("headers", ()))
        self._transport.send_headers(self.stream_id, fields, end_stream=True)
        self._response = _Response.ENDED
        self._readable.set()

    def _end_response(self, body: bytes = b"") -> None:
        self._transport.send_data(self.stream_id, body, end_stream=True)
        self._response = _Response.ENDED
        self.carrier.stream_over()
        if self._splice is not None:
            self._splice.end(None)
        self._readable.set()

    def _close_receiving(self) -> None:
        """RFC 9114 section 4.1: a complete response may leave the rest of the request unread."""
        if not self._inbox.has_ended and not self._inbox.is_disconnected:
            self._services.stop_when_sent(self.stream_id)
        self._inbox.discard()

    # Tunnels.

    def _send_datagrams(self, message: Message) -> None:
        """Never blocks; what cannot go is a counted drop."""
        if self._inbox.is_disconnected:
            return
        self._require_tunnel("http.datagram.send")
        batch = message.get("batch")
        self.carrier.send_datagrams(b"", [message["data"]] if batch is None else batch)

    def _abort_by_application(self, code: int) -> None:
        if not self._inbox.is_disconnected:
            self.abort(EndReason.DENIED, code)

    def _start_splice(self, message: Message) -> None:
        self._require_tunnel("http.splice")
        if self._splice is not None:
            raise RuntimeError("http.splice twice")
        splice = self._make_splice(message)
        chunks, payloads = self._inbox.empty_into_splice()
        self._splice = splice
        self._on_splice_done = message.get("on_done")
        splice.start()
        if payloads:
            splice.on_datagrams(payloads)
        ended = self._inbox.has_ended
        for chunk in chunks:
            self.data_received(chunk, end_stream=False)
        if ended:
            self.data_received(b"", end_stream=True)

    def _make_splice(self, message: Message) -> Splice | StreamSplice:
        kind, session, hook = message["kind"], message.get("sink"), message.get("on_payload")
        limits = SpliceLimits.parse(message.get("limits") or {})
        if kind == "tcp" and session is not None:
            if limits.filters or hook is not None:
                raise RuntimeError("http.splice of kind 'tcp' knows no limit but idle, and no hook")
            return StreamSplice(
                session,
                self.carrier,
                self._services,
                stream_id=self.stream_id,
                idle_timeout_s=limits.idle_timeout_s,
                request_id=self.request_id,
                on_done=self._splice_done,
            )
        if kind == "udp":
            session = splice_socket(message["sock"], int(message.get("context_id", 0)))
        if session is None or kind not in {"udp", "flow"} or self.head.protocol is None:
            raise RuntimeError(
                "http.splice needs kind 'flow' or 'tcp' with sink, or 'udp' with sock;"
                " classic CONNECT takes 'tcp' only"
            )
        return Splice(
            session,
            self.carrier,
            self._services,
            limits=limits,
            hook=hook,
            request_id=self.request_id,
            on_done=self._splice_done,
        )

    def _splice_done(self, message: Message) -> None:
        on_done, self._on_splice_done = self._on_splice_done, None
        if on_done is None:
            self._inbox.push_splice_done(message)
            self._readable.set()
            return
        try:
            on_done(message)
        except Exception:  # noqa: BLE001  (STYLE 17: one tunnel's bug is its own)
            self._counters.application_errors += 1
            _log.exception("on_done of a splice raised", request_id=self.request_id)
        if self._on_over is not None:
            # Whoever ended the splice has more to do with the stream in this turn of the loop.
            asyncio.get_running_loop().call_soon(self._on_over)

    def _carrier_over(self, reason: EndReason | None) -> None:
        """The session ended the stream through its carrier."""
        self._response = _Response.ENDED
        if self._splice is not None:
            self._splice.end(reason)
        code = None if reason is None else H3Error.REQUEST_CANCELLED
        self._inbox.disconnect(code=code, reason=str(reason or "finished"))
        self._readable.set()

    def _require_tunnel(self, kind: str) -> None:
        if not self._is_tunnel or self._response is not _Response.OPEN:
            raise RuntimeError(f"{kind} outside an open tunnel")

    # Faults and waiting.

    def _malformed(self, error: WireError) -> None:
        """The peer broke a rule of this stream: reset it, nothing else."""
        if self._inbox.is_disconnected:
            return
        if self._is_tunnel:
            self._counters.capsules_malformed += 1
        else:
            self._counters.requests_malformed += 1
        _log.debug("stream error", request_id=self.request_id, error=str(error))
        self.abort(EndReason.PROTOCOL_ERROR, H3Error.MESSAGE_ERROR)

    def _consume(self, byte_count: int) -> None:
        self._transport.consume(self.stream_id, byte_count)

    async def _wait_readable(self) -> None:
        """Wait for the peer; an ordinary body has a deadline, a tunnel's idleness is its own."""
        if self._is_tunnel or self._inbox.has_ended:
            await self._readable.wait()
            return
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                await self._readable.wait()
        except TimeoutError:
            self.abort(EndReason.IDLE, H3Error.REQUEST_CANCELLED)
