"""Owns HTTP/1.1 framing of one connection (RFC 9112): an HttpTransport above, a Wire below."""

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

import h11
import structlog

from masque_relay.http.codes import H3Error
from masque_relay.http.h1_head import HEAD_END, H1Head, has_lone_lf, parse_h1_head
from masque_relay.http.tcp_wire import TcpServices, Wire
from masque_relay.quic.application import H3Application, Headers
from masque_relay.wire.errors import WireError

_log = structlog.get_logger(__name__)
_REFUSALS = {H3Error.MESSAGE_ERROR: 400, H3Error.REQUEST_REJECTED: 503}


class _Phase(Enum):
    HEAD = auto()
    """Between requests, or inside a head."""
    BODY = auto()
    ANSWER = auto()
    """The request is complete, its response is not."""
    TUNNEL = auto()
    """All bytes belong to the tunnel; before the 101 they are optimistic (RFC 9931)."""
    OVER = auto()
    """Nothing more is read: the connection is about to close."""


class H1Session:
    """Serves one request after the other; the same H3Application above as for HTTP/3.

    h11 frames bodies and decides on keep-alive; heads are checked before (h1_head.py). An Upgrade
    that is answered 2xx becomes a 101, after which the bytes are the tunnel's. After a refused
    Upgrade or CONNECT the connection closes: what follows it may be optimistic data and must not
    become a request (RFC 9931 section 6). TLS cannot be half-closed here: the end of either side is
    the end of both.
    """

    def __init__(
        self,
        application: H3Application,
        wire: Wire,
        services: TcpServices,
    ) -> None:
        self._application = application
        self._wire = wire
        self._limits = services.limits
        self._counters = services.counters
        self._clock = services.clock
        self._alt_svc = services.alt_svc
        self._connection_id = services.connection_id
        self._h11 = self._new_h11()
        self._phase = _Phase.HEAD
        self._buffer = bytearray()
        """What is no part of the running request: the next head."""
        self._stream_id = -4
        self._upgrade: bytes | None = None
        """The Upgrade token of the running request."""
        self._is_tunnel = False
        self._has_switched = False
        """The client expects no 101."""
        self._has_answered = False
        self._must_close = False
        self._unread_bytes = 0
        self._out: deque[bytes] = deque()
        """What the socket does not take yet; bounded like an HTTP/2 stream's queue."""
        self._out_bytes = 0
        self._closes_when_sent = False
        self._is_lost = False
        self._since_s = services.clock.monotonic_s()
        """When the wait for the running head, or for the next one, began."""
        self._has_begun = False
        """Something of the running head is there; empty lines in front of it do not count."""
        self._served_any = False

    # TcpSession.

    def start(self) -> None:
        """Nothing: the client speaks first."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        match self._phase:
            case _Phase.OVER:
                return
            case _Phase.TUNNEL:
                self._stream_bytes(data)
            case _Phase.BODY:
                self._h11.receive_data(data)
                self._read_body()
            case _Phase.ANSWER | _Phase.HEAD:
                self._buffer += data
                if self._phase is _Phase.HEAD:
                    self._read_heads()
                elif len(self._buffer) > self._limits.max_head_bytes:
                    self._wire.pause_reading()  # a pipeline waits for its turn

    def end_received(self) -> None:
        """The client sends no more."""
        if self._phase is _Phase.TUNNEL:
            self._application.data_received(self._stream_id, b"", end_stream=True)
        self._wire.close()

    def writable(self) -> None:
        """Go on with what waited for the socket."""
        while self._out and not self._wire.is_congested:
            data = self._out.popleft()
            self._out_bytes -= len(data)
            self._wire.write(data)
        if not self._out and self._closes_when_sent:
            self._wire.close()
        self._application.streams_writable()

    def wire_lost(self) -> None:
        """End the running request."""
        self._phase = _Phase.OVER
        if not self._is_lost:
            self._is_lost = True
            self._application.connection_lost(H3Error.NO_ERROR, "the TCP connection ended")

    def overdue(self, now_s: float) -> bool:
        """Whether a head, or the next request, is too late."""
        if self._phase is not _Phase.HEAD:
            return False
        is_idle = self._served_any and not self._buffer
        limits = self._limits
        return now_s - self._since_s > (limits.idle_timeout_s if is_idle else limits.head_timeout_s)

    def expire(self) -> None:
        """RFC 9110 section 15.5.9: 408 where a request had begun."""
        if self._phase is _Phase.HEAD and self._buffer:
            self._refuse(408)
        else:
            self.close(H3Error.NO_ERROR, "deadline")

    # HttpTransport.

    @property
    def datagrams_negotiated(self) -> bool:
        """HTTP/1.1 has none."""
        return False

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """HTTP/1.1 has none."""
        return 0

    @property
    def queued_datagrams(self) -> int:
        """None ever waits."""
        return 0

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """HTTP/1.1 has none."""
        return 0

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """Send a response head or trailers."""
        if not self._is_current(stream_id):
            return
        name, value = headers[0] if headers else (b"", b"")
        if name != b":status":
            self._send(h11.EndOfMessage(headers=headers))
            self._response_complete()
            return
        status, fields = int(value), headers[1:]
        if status < 200:
            self._send(h11.InformationalResponse(status_code=status, headers=fields))
            return
        self._has_answered = True
        if self._upgrade is not None and status < 300:
            switch = [(b"connection", b"Upgrade"), (b"upgrade", self._upgrade)]
            fields = [field for field in fields if field[0] not in {b"connection", b"upgrade"}]
            if not self._has_switched:
                self._send(h11.InformationalResponse(status_code=101, headers=switch + fields))
            return
        if self._is_tunnel and status >= 300:
            self._phase = _Phase.OVER
            self._must_close = True
        self._send(h11.Response(status_code=status, headers=self._final_fields(fields)))
        if end_stream:
            self.send_data(stream_id, b"", end_stream=True)

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Send body or tunnel bytes."""
        if not self._is_current(stream_id):
            return
        if self._phase is _Phase.TUNNEL:
            if data:
                self._write(data)
            if end_stream:
                self._close_when_sent()
            return
        if data:
            self._send(h11.Data(data=data))
        if end_stream:
            self._send(h11.EndOfMessage())
            self._response_complete()

    def unsent_bytes(self, stream_id: int) -> int:
        """Bytes that the socket does not take yet."""
        return self._out_bytes if stream_id == self._stream_id else 0

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Read on once enough was read."""
        self._unread_bytes -= byte_count
        if self._unread_bytes <= self._limits.stream_window_bytes // 2:
            self._wire.resume_reading()

    def reset(self, stream_id: int, error_code: int) -> None:
        """Refuse a request that was not answered; cut off one that was."""
        if stream_id != self._stream_id or self._closes_when_sent or self._is_lost:
            return
        status = None
        if not self._has_answered:
            status = next((s for code, s in _REFUSALS.items() if code == error_code), None)
        if status is not None:
            self._refuse(status)
        else:
            self._phase = _Phase.OVER
            self._wire.abort()

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        """Nothing: a response that outruns its request ends the connection by itself."""

    def send_goaway(self) -> None:
        """Close after the running response; at once where there is none."""
        self._must_close = True
        if self._phase is _Phase.HEAD and not self._buffer:
            self._close_when_sent()

    def close(self, error_code: int, reason: str) -> None:
        """Close once what is queued has left."""
        self._close_when_sent()

    # Reading.

    def _new_h11(self) -> h11.Connection:
        limit_bytes = self._limits.max_head_bytes
        return h11.Connection(h11.SERVER, max_incomplete_event_size=limit_bytes)

    def _read_heads(self) -> None:
        while self._phase is _Phase.HEAD and self._buffer:
            while self._buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2
                del self._buffer[:2]
            if self._buffer and not self._has_begun:
                self._has_begun = True
                self._since_s = self._clock.monotonic_s()
            end = self._buffer.find(HEAD_END)
            if end < 0:
                self._check_partial_head()
                return
            if end > self._limits.max_head_bytes:
                self._refuse(431)
                return
            head = bytes(self._buffer[: end + len(HEAD_END)])
            del self._buffer[: len(head)]
            try:
                parsed = parse_h1_head(head)
                self._h11.receive_data(parsed.h11_head)
                self._h11.next_event()
            except (WireError, h11.RemoteProtocolError) as error:
                _log.debug("bad head", connection_id=self._connection_id, detail=str(error))
                self._refuse(400)
                return
            self._begin(parsed)

    def _check_partial_head(self) -> None:
        if has_lone_lf(self._buffer):
            self._refuse(400)
        elif len(self._buffer) > self._limits.max_head_bytes:
            self._refuse(431)

    def _begin(self, head: H1Head) -> None:
        self._stream_id += 4
        self._has_begun = False
        self._served_any = True
        self._has_answered = False
        self._is_tunnel = head.is_tunnel
        self._has_switched = head.has_switched
        self._upgrade = next((value for name, value in head.headers if name == b":protocol"), None)
        stream_id = self._stream_id
        if head.is_tunnel:
            self._phase = _Phase.TUNNEL
            rest = bytes(self._buffer)
            self._buffer.clear()
            self._application.headers_received(stream_id, head.headers, end_stream=False)
            if rest and self._phase is _Phase.TUNNEL:
                self._stream_bytes(rest)
            return
        ends = isinstance(self._h11.next_event(), h11.EndOfMessage)
        self._phase = _Phase.ANSWER if ends else _Phase.BODY
        self._application.headers_received(stream_id, head.headers, end_stream=ends)
        if self._phase is _Phase.BODY:
            if self._h11.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            if self._buffer:  # no bytes at all would tell h11 that the client is gone
                self._h11.receive_data(bytes(self._buffer))
                self._buffer.clear()
            self._read_body()

    def _read_body(self) -> None:
        while self._phase is _Phase.BODY:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._application.malformed_received(self._stream_id, str(error))
                self.reset(self._stream_id, H3Error.MESSAGE_ERROR)
                return
            if isinstance(event, h11.Data):
                self._stream_bytes(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._phase = _Phase.ANSWER
                self._buffer += self._h11.trailing_data[0]
                self._body_complete(list(event.headers))
            else:
                return

    def _body_complete(self, trailers: Headers) -> None:
        if trailers:
            self._application.headers_received(self._stream_id, trailers, end_stream=True)
        else:
            self._application.data_received(self._stream_id, b"", end_stream=True)

    def _stream_bytes(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        self._application.data_received(self._stream_id, data, end_stream=False)
        if self._unread_bytes > self._limits.stream_window_bytes:
            self._wire.pause_reading()

    # Answering.

    def _is_current(self, stream_id: int) -> bool:
        return (
            stream_id == self._stream_id
            and not self._closes_when_sent
            and not self._is_lost
            and (self._phase is not _Phase.OVER or self._must_close)
        )

    def _final_fields(self, fields: Headers) -> Headers:
        """Add what the connection has to say."""
        names = {name for name, _ in fields}
        if self._alt_svc is not None and b"alt-svc" not in names:
            fields = [*fields, (b"alt-svc", self._alt_svc)]
        if self._must_close and b"connection" not in names:
            fields = [*fields, (b"connection", b"close")]
        return fields

    def _send(self, event: h11.Event) -> None:
        """Frame an event of the response; one that does not fit it is the application's bug."""
        try:
            data = self._h11.send(event)
        except h11.LocalProtocolError as error:
            _log.warning("bad response", connection_id=self._connection_id, detail=str(error))
            self._phase = _Phase.OVER
            self._wire.abort()
            return
        if data:
            self._write(data)

    def _response_complete(self) -> None:
        """Go on to the next request where the connection can be used again."""
        if (
            self._phase is not _Phase.ANSWER
            or self._must_close
            or self._h11.our_state is not h11.DONE
        ):
            self._close_when_sent()
            return
        self._phase = _Phase.HEAD
        self._h11 = self._new_h11()
        self._since_s = self._clock.monotonic_s()
        self._wire.resume_reading()
        self._read_heads()

    def _refuse(self, status: int) -> None:
        """Answer for the server itself, and close."""
        self._counters.protocol_errors += 1
        self._write(b"HTTP/1.1 %d \r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % status)
        self._close_when_sent()

    def _write(self, data: bytes) -> None:
        if self._out or self._wire.is_congested:
            self._out.append(data)
            self._out_bytes += len(data)
        else:
            self._wire.write(data)

    def _close_when_sent(self) -> None:
        self._phase = _Phase.OVER
        self._closes_when_sent = True
        if not self._out:
            self._wire.close()
