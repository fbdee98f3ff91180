"""Owns HTTP/2 framing of one connection (RFC 9113): an HttpTransport above, a Wire below."""

from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError, StreamClosedError

from masque_relay.http.codes import H3Error, h2_code
from masque_relay.http.h2_frame_guard import FrameError, FrameGuard
from masque_relay.http.h2_outbox import H2Outbox
from masque_relay.http.h2_protocol import TrailersMalformed, encode_goaway, make_server, shown
from masque_relay.http.rate import EventRate
from masque_relay.http.tcp_wire import TcpServices, Wire
from masque_relay.quic.application import H3Application, Headers

_log = structlog.get_logger(__name__)


class _Stream:
    """One stream that is open in at least one direction."""

    __slots__ = ("credit_bytes", "h2_id", "is_over_here", "is_over_there", "stream_id")

    def __init__(self, stream_id: int, h2_id: int) -> None:
        self.stream_id = stream_id
        self.h2_id = h2_id
        self.is_over_here = False
        self.is_over_there = False
        self.credit_bytes = 0
        """Consumed, not yet granted anew."""


class H2Session:
    """Cuts one connection into requests; the same H3Application above as for HTTP/3.

    A stuck request holds only its own window: the connection's window is opened again as bytes
    arrive, up to ``max_unread_bytes``, a stream's when its bytes have been read. What cannot leave
    waits per stream, and streams take turns.
    """

    def __init__(
        self,
        application: H3Application,
        wire: Wire,
        services: TcpServices,
        *,
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self._application = application
        self._wire = wire
        self._limits = services.limits
        self._counters = services.counters
        self._clock = services.clock
        self._alt_svc = services.alt_svc
        self._call_soon = call_soon
        self._connection_id = services.connection_id
        self._h2 = make_server(services.limits)
        self._guard = FrameGuard(
            max_block_bytes=services.limits.max_head_bytes,
            rate=EventRate(
                rate_per_s=services.limits.control_frames_per_s,
                burst_count=services.limits.control_frames_burst_count,
                clock=services.clock,
            ),
        )
        self._streams: dict[int, _Stream] = {}
        self._by_h2_id: dict[int, _Stream] = {}
        self._outbox = H2Outbox(self._h2, ended=self._end_sent)
        self._next_stream_id = 0
        self._unread_bytes = 0
        self._withheld_bytes = 0
        """Credit of the connection that waits until enough was read."""
        self._credit_bytes = 0
        """Credit of the connection that is due, but too little for a frame of its own."""
        self._is_receiving = False
        self._flush_is_due = False
        self._goaway_is_sent = False
        self._is_closed = False
        self._is_lost = False
        self._quiet_since_s = services.clock.monotonic_s()
        self._head_since_s: float | None = self._quiet_since_s

    # TcpSession.

    def start(self) -> None:
        """Send SETTINGS."""
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take bytes; everything that they cause leaves in one write."""
        if self._is_closed:
            return
        self._is_receiving = True
        try:
            self._guard.feed(data)
            for event in self._h2.receive_data(data):
                self._handle(event)
        except FrameError as fault:
            self._counters.floods_stopped += 1
            self._fail(fault.code, str(fault))
        except ProtocolError as error:
            # h2 has queued the GOAWAY itself.
            self._counters.protocol_errors += 1
            self._goaway_is_sent = True
            self._fail(error.error_code, str(error))
        finally:
            self._is_receiving = False
        self._note_head()
        self._flush()

    def end_received(self) -> None:
        """TLS cannot be half-closed: the connection is over."""
        self._wire.close()

    def writable(self) -> None:
        """Go on with what waited for the socket."""
        self._flush()

    def wire_lost(self) -> None:
        """End every request."""
        self._is_closed = True
        if not self._is_lost:
            self._is_lost = True  # from here nothing reaches h2, which may have ended its own state
            self._streams.clear()
            self._by_h2_id.clear()
            self._outbox.clear()
            self._application.connection_lost(H3Error.NO_ERROR, "the TCP connection ended")

    def overdue(self, now_s: float) -> bool:
        """Whether preface, a header block or the next request is too late."""
        if self._is_closed:
            return False
        if self._head_since_s is not None:
            return now_s - self._head_since_s > self._limits.head_timeout_s
        return not self._streams and now_s - self._quiet_since_s > self._limits.idle_timeout_s

    def expire(self) -> None:
        """Close without an error; nothing is lost that had begun."""
        self.close(H3Error.NO_ERROR, "deadline")

    # HttpTransport.

    @property
    def datagrams_negotiated(self) -> bool:
        """HTTP/2 has none."""
        return False

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """HTTP/2 has none."""
        return 0

    @property
    def queued_datagrams(self) -> int:
        """None ever waits."""
        return 0

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """HTTP/2 has none."""
        return 0

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """Send a response head at once, trailers after what is queued."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_over_here or self._outbox.ends(stream.h2_id):
            return
        if not headers or headers[0][0] != b":status":
            self._outbox.send_trailers(stream.h2_id, headers)
            self._flush_soon()
            return
        if self._alt_svc is not None and headers[0][1] >= b"2" and not _has_alt_svc(headers):
            headers = [*headers, (b"alt-svc", self._alt_svc)]
        self._h2.send_headers(stream.h2_id, headers, end_stream=end_stream)
        if end_stream:
            self._over_here(stream)
        self._flush_soon()

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue bytes; they leave as window and socket allow."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_over_here or self._outbox.ends(stream.h2_id):
            return
        self._outbox.send_data(stream.h2_id, data, end_stream=end_stream)
        self._flush_soon()

    def unsent_bytes(self, stream_id: int) -> int:
        """Bytes that wait for window or socket; an end that waits counts as one."""
        stream = self._streams.get(stream_id)
        return 0 if stream is None else self._outbox.unsent_bytes(stream.h2_id)

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Open the stream's window again, and the connection's where it was held back."""
        self._unread_bytes -= byte_count
        if self._withheld_bytes:
            released = min(self._withheld_bytes, byte_count)
            self._withheld_bytes -= released
            self._credit_connection(released)
        stream = self._streams.get(stream_id)
        if stream is None or stream.is_over_there:
            return
        stream.credit_bytes += byte_count
        if stream.credit_bytes >= self._limits.stream_window_bytes // 2:
            with suppress(StreamClosedError):  # reset in bytes that h2 has seen and we have not
                self._h2.increment_flow_control_window(stream.credit_bytes, stream.h2_id)
            stream.credit_bytes = 0
            self._flush_soon()

    def reset(self, stream_id: int, error_code: int) -> None:
        """RST_STREAM."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._reset(stream, h2_code(error_code))
            self._flush_soon()

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        """RFC 9113 section 8.1: RST_STREAM after a complete response; it says NO_ERROR."""
        self.reset(stream_id, error_code)

    def send_goaway(self) -> None:
        """Announce the end; an idle connection ends at once."""
        self._goaway(ErrorCodes.NO_ERROR)
        if not self._streams:
            self._close_wire()

    def close(self, error_code: int, reason: str) -> None:
        """GOAWAY, then the end of the connection."""
        if not self._is_closed:
            self._goaway(h2_code(error_code))
            self._close_wire()

    # Events.

    def _handle(self, event: Event) -> None:
        if self._is_closed:  # an event before this one ended the connection
            return
        match event:
            case DataReceived():
                self._data(event)
            case RequestReceived():
                self._request(event)
            case TrailersReceived() if (stream := self._by_h2_id.get(event.stream_id)) is not None:
                headers = shown(event.headers)
                self._application.headers_received(stream.stream_id, headers, end_stream=True)
                self._over_there(stream)
            case TrailersMalformed() if (stream := self._by_h2_id.get(event.stream_id)) is not None:
                self._reset(stream, ErrorCodes.PROTOCOL_ERROR)
                self._application.malformed_received(stream.stream_id, "trailers without an end")
            case StreamEnded() if (stream := self._by_h2_id.get(event.stream_id)) is not None:
                # Unless it came with the head or with trailers, which said so.
                if not stream.is_over_there:
                    self._application.data_received(stream.stream_id, b"", end_stream=True)
                    self._over_there(stream)
            case StreamReset() if (stream := self._by_h2_id.get(event.stream_id)) is not None:
                self._forget(stream)
                self._application.stream_reset_received(stream.stream_id, event.error_code)
            case _:
                pass  # windows and settings: the flush that follows uses them

    def _request(self, event: RequestReceived) -> None:
        stream = _Stream(self._next_stream_id, event.stream_id)
        self._next_stream_id += 4
        self._streams[stream.stream_id] = self._by_h2_id[stream.h2_id] = stream
        ends = event.stream_ended is not None
        stream.is_over_there = ends
        self._application.headers_received(stream.stream_id, shown(event.headers), end_stream=ends)

    def _data(self, event: DataReceived) -> None:
        size, data = event.flow_controlled_length, event.data
        self._unread_bytes += size
        if self._unread_bytes > self._limits.max_unread_bytes:
            self._withheld_bytes += size
        else:
            self._credit_connection(size)
        stream = self._by_h2_id.get(event.stream_id)
        stream_id = -1 if stream is None else stream.stream_id
        if len(data) < size:
            self.consume(stream_id, size - len(data))  # padding
        if stream is None:
            self.consume(stream_id, len(data))
        elif data:
            self._application.data_received(stream_id, data, end_stream=False)

    def _credit_connection(self, byte_count: int) -> None:
        self._credit_bytes += byte_count
        if self._credit_bytes >= self._limits.connection_window_bytes // 4:
            self._h2.increment_flow_control_window(self._credit_bytes)
            self._credit_bytes = 0
            self._flush_soon()

    # The life of streams.

    def _over_here(self, stream: _Stream) -> None:
        stream.is_over_here = True
        self._outbox.drop(stream.h2_id)
        if stream.is_over_there:
            self._forget(stream)

    def _over_there(self, stream: _Stream) -> None:
        stream.is_over_there = True
        if stream.is_over_here:
            self._forget(stream)

    def _reset(self, stream: _Stream, code: ErrorCodes) -> None:
        with suppress(StreamClosedError):
            self._h2.reset_stream(stream.h2_id, code)
        self._forget(stream)

    def _forget(self, stream: _Stream) -> None:
        self._streams.pop(stream.stream_id, None)
        self._by_h2_id.pop(stream.h2_id, None)
        self._outbox.drop(stream.h2_id)
        stream.is_over_here = stream.is_over_there = True
        if not self._streams:
            self._quiet_since_s = self._clock.monotonic_s()

    def _note_head(self) -> None:
        """Remember since when a header block (or the preface) is unfinished."""
        if self._guard.has_begun and not self._guard.is_inside_head:
            self._head_since_s = None
        elif self._head_since_s is None:
            self._head_since_s = self._clock.monotonic_s()

    # The way out.

    def _end_sent(self, h2_id: int) -> None:
        stream = self._by_h2_id.get(h2_id)
        if stream is not None:
            self._over_here(stream)

    def _flush_soon(self) -> None:
        """Send at the end of the loop's turn: what one batch makes leaves in one write."""
        if not self._is_receiving and not self._flush_is_due and not self._is_lost:
            self._flush_is_due = True
            self._call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._flush_is_due = False
        self._flush()

    def _flush(self) -> None:
        if self._is_lost:
            return
        sent = False
        while True:
            progressed = not self._wire.is_congested and self._outbox.fill()
            sent = sent or progressed
            data = self._h2.data_to_send()
            if data:
                self._wire.write(data)
            if not progressed:
                break
        if sent:
            self._application.streams_writable()
        if self._goaway_is_sent and not self._streams and not self._is_closed:
            self._close_wire()

    # The end of the connection.

    def _goaway(self, code: ErrorCodes) -> None:
        if self._goaway_is_sent or self._is_lost:
            return
        self._goaway_is_sent = True
        pending = self._h2.data_to_send()
        self._wire.write(pending + encode_goaway(self._h2.highest_inbound_stream_id, code))

    def _fail(self, code: int, detail: str) -> None:
        _log.debug("connection error", connection_id=self._connection_id, detail=detail)
        self._goaway(ErrorCodes(code))
        self._close_wire()
        self.wire_lost()

    def _close_wire(self) -> None:
        data = self._h2.data_to_send()
        if data:
            self._wire.write(data)
        self._is_closed = True
        self._wire.close()


def _has_alt_svc(headers: Headers) -> bool:
    return any(name == b"alt-svc" for name, _ in headers)
