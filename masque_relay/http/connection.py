"""Owns one HTTP connection of the front end: streams, early datagrams, abuse rates."""

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import uuid4

import structlog
from starlette.types import Scope

from masque_relay.contract.counters import HttpCounters
from masque_relay.contract.ports import Clock
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.datagram_queue import EarlyDatagrams
from masque_relay.http.limits import HttpLimits
from masque_relay.http.rate import EventRate
from masque_relay.http.request_head import RequestHead, parse_request_head
from masque_relay.http.request_stream import RequestStream
from masque_relay.http.response_head import count_status, encode_response_head
from masque_relay.http.scope import build_scope, build_websocket_scope
from masque_relay.http.services import StreamServices
from masque_relay.http.stream import HttpStream
from masque_relay.http.transport import ClientLink, HttpTransport, HttpVersion
from masque_relay.http.websocket_handshake import (
    PROTOCOL,
    HandshakeRefusedError,
    check_handshake,
)
from masque_relay.http.websocket_stream import WebSocketStream
from masque_relay.quic.application import Headers
from masque_relay.wire.errors import WireError

_log = structlog.get_logger(__name__)


class ConnectionOwner(Protocol):
    """What a connection needs of the front end that owns it."""

    @property
    def is_draining(self) -> bool:
        """New requests are refused."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """The lifespan state."""
        ...

    def start_request(
        self, connection: "HttpConnection", stream: RequestStream, scope: Scope
    ) -> bool:
        """Run the application for a request; False when the front end is shutting down."""
        ...

    def connection_over(self, connection: "HttpConnection") -> None:
        """The connection is lost."""
        ...


class HttpConnection:
    """Feeds the requests of one connection of any HTTP version (an H3Application).

    A fault of one request is a reset of its stream; only a flood of cancelled requests closes the
    connection.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        *,
        limits: HttpLimits,
        counters: HttpCounters,
        clock: Clock,
        http_version: HttpVersion = HttpVersion.HTTP3,
    ) -> None:
        self._owner = owner
        self._http_version = http_version
        self._link: ClientLink | None = None
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._streams: dict[int, RequestStream] = {}
        self._next_stream_id = 0
        """The lowest request stream that was never seen."""
        self._skipped_ids: set[int] = set()
        """Below it, but not begun yet: QUIC delivers streams in any order. Bounded by the
        transport's stream limit."""
        self._to_stop: set[int] = set()
        """Streams that we finished and the peer did not; stopped once our bytes have arrived.
        Bounded like the above."""
        self._early = EarlyDatagrams(limits, clock)
        self._request_rate = EventRate(
            rate_per_s=limits.request_rate_per_s,
            burst_count=limits.request_burst_count,
            clock=clock,
        )
        self._reset_rate = EventRate(
            rate_per_s=limits.reset_rate_per_s, burst_count=limits.reset_burst_count, clock=clock
        )
        self._services: StreamServices | None = None

    def bind(self, transport: HttpTransport, link: ClientLink) -> None:
        """Learn the transport and who is at its end; once, before anything is received."""
        self._link = link
        self._services = StreamServices(
            transport=transport,
            limits=self._limits,
            counters=self._counters,
            clock=self._clock,
            stop_when_sent=self._to_stop.add,
            http_version=self._http_version,
        )

    @property
    def transport(self) -> HttpTransport:
        """The connection below."""
        return self._bound.transport

    @property
    def streams(self) -> tuple[RequestStream, ...]:
        """The requests that are running."""
        return tuple(self._streams.values())

    # H3Application.

    def settings_received(self, settings: Mapping[int, int]) -> None:
        """Nothing to do: carriers ask the transport when they need to know."""

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """Begin a request, or take its trailers."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.trailers_received(headers)
        elif self._begin(stream_id):
            self._request_received(stream_id, headers, end_stream=end_stream)

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Take body bytes; what comes after the response is given back unread."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.data_received(data, end_stream=end_stream)
            return
        if data:
            self.transport.consume(stream_id, len(data))
        if end_stream:
            self._to_stop.discard(stream_id)

    def malformed_received(self, stream_id: int, detail: str) -> None:
        """The transport has reset a malformed stream."""
        self._begin(stream_id)
        self._early.take(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.disconnected(EndReason.PROTOCOL_ERROR, H3Error.MESSAGE_ERROR)
        self._malformed(detail)

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        """Hand datagrams to their stream; the packet path."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.datagrams_received(payloads)
        elif stream_id >= self._next_stream_id or stream_id in self._skipped_ids:
            self._counters.early_datagrams_dropped += self._early.push(stream_id, payloads)
        else:
            self._counters.unknown_stream_datagrams += len(payloads)

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """The peer gave up a request: RESET_STREAM or STOP_SENDING."""
        self._counters.streams_reset += 1
        self._begin(stream_id)
        self._early.take(stream_id)
        self._to_stop.discard(stream_id)
        if not self._spend_patience():
            return
        stream = self._streams.get(stream_id)
        if stream is not None:
            self.transport.reset(stream_id, H3Error.REQUEST_CANCELLED)
            stream.disconnected(EndReason.PEER_RESET, error_code)

    def goaway_received(self, stream_id: int) -> None:
        """Nothing to do: a server that pushes nothing has nothing to stop."""

    def streams_writable(self) -> None:
        """Wake every sender that waits."""
        for stream in self._streams.values():
            stream.writable()
        if self._to_stop:
            transport = self.transport
            sent = [id_ for id_ in self._to_stop if not transport.unsent_bytes(id_)]
            self._to_stop.difference_update(sent)
            for stream_id in sent:
                transport.stop_receiving(stream_id, H3Error.NO_ERROR)

    def connection_lost(self, error_code: int, reason: str) -> None:
        """End every request."""
        for stream in self.streams:
            stream.disconnected(EndReason.CONNECTION_LOST, error_code)
        self._owner.connection_over(self)

    # What the front end calls.

    def forget(self, stream: RequestStream) -> None:
        """The application of a request is done."""
        self._streams.pop(stream.stream_id, None)

    def goaway(self) -> None:
        """Tell the peer to open no new request here, and what it is to tell its own clients."""
        self.transport.send_goaway()
        for stream in self.streams:
            stream.wrap_up()

    def end_streams(self, reason: EndReason) -> None:
        """End what is still running from our side."""
        for stream in self.streams:
            stream.abort(reason, H3Error.REQUEST_CANCELLED)

    def close(self) -> None:
        """Close the connection cleanly."""
        self.transport.close(H3Error.NO_ERROR, "")

    @property
    def _bound(self) -> StreamServices:
        if self._services is None:
            raise RuntimeError("the connection has no transport yet")
        return self._services

    @property
    def _client(self) -> ClientLink:
        if self._link is None:
            raise RuntimeError("the connection has no transport yet")
        return self._link

    @property
    def _connection_id(self) -> str:
        return self._client.connection_id

    def _begin(self, stream_id: int) -> bool:
        """Remember that a stream was seen; False if it had been already."""
        if stream_id in self._skipped_ids:
            self._skipped_ids.remove(stream_id)
            return True
        if stream_id < self._next_stream_id:
            return False
        self._skipped_ids.update(range(self._next_stream_id, stream_id, 4))
        self._next_stream_id = stream_id + 4
        return True

    def _malformed(self, detail: str) -> None:
        """Count a malformed request; it costs us as much as a cancelled one."""
        self._counters.requests_malformed += 1
        _log.debug("malformed request", connection_id=self._connection_id, detail=detail)
        self._spend_patience()

    def _spend_patience(self) -> bool:
        """Allow one more useless request; else close the connection and return False."""
        if self._reset_rate.allow():
            return True
        _log.warning("too many useless requests", connection_id=self._connection_id)
        self.transport.close(H3Error.EXCESSIVE_LOAD, "too many cancelled or malformed requests")
        return False

    def _request_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        early = self._early.take(stream_id)
        self._counters.requests += 1
        if (
            self._owner.is_draining
            or len(self._streams) >= self._limits.max_requests_per_connection
            or not self._request_rate.allow()
        ):
            self.transport.reset(stream_id, H3Error.REQUEST_REJECTED)
            return
        try:
            head = parse_request_head(
                headers, end_stream=end_stream, http_version=self._http_version
            )
        except WireError as error:
            self.transport.reset(stream_id, H3Error.MESSAGE_ERROR)
            self._malformed(str(error))
            return
        try:
            stream, scope = self._make_request(stream_id, head)
        except HandshakeRefusedError as refusal:
            self._refuse_handshake(stream_id, refusal)
            return
        self._start(stream_id, stream, scope, early, end_stream=end_stream)

    def _make_request(self, stream_id: int, head: RequestHead) -> tuple[RequestStream, Scope]:
        """Return what answers a request, and its scope.

        Raises:
            HandshakeRefusedError: it asks for a WebSocket, but not properly.
        """
        request_id = uuid4().hex[:16]
        who, state, version = self._client, self._owner.state, self._http_version
        if head.protocol != PROTOCOL:
            stream = HttpStream(self._bound, stream_id, head, request_id=request_id)
            return stream, build_scope(stream, who, state, http_version=version)
        handshake = check_handshake(head, self._limits.websocket)
        websocket = WebSocketStream(
            self._bound,
            stream_id,
            head,
            request_id=request_id,
            handshake=handshake,
            settings=self._limits.websocket,
        )
        return websocket, build_websocket_scope(websocket, who, state, http_version=version)

    def _refuse_handshake(self, stream_id: int, refusal: HandshakeRefusedError) -> None:
        fields = [*refusal.fields, (b"content-length", b"0")]
        head = encode_response_head(refusal.status, fields)
        self.transport.send_headers(stream_id, head, end_stream=True)
        self._to_stop.add(stream_id)
        count_status(self._counters, refusal.status)

    def _start(
        self,
        stream_id: int,
        stream: RequestStream,
        scope: Scope,
        early: list[bytes],
        *,
        end_stream: bool,
    ) -> None:
        if not self._owner.start_request(self, stream, scope):
            stream.abort(EndReason.DRAINED, H3Error.REQUEST_REJECTED)
            return
        self._streams[stream_id] = stream
        if early:
            stream.datagrams_received(early)
        if end_stream:
            stream.data_received(b"", end_stream=True)
