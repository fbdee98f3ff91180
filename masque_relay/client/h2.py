"""Owns HTTP/2 below the client (RFC 9113, RFC 8441): an HttpTransport above a TLS connection."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError, StreamClosedError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import Frame, GoAwayFrame

from masque_relay.client.errors import RelayLeaving
from masque_relay.client.limits import TcpWayLimits
from masque_relay.contract.ports import Clock
from masque_relay.http.codes import H3Error, h2_code
from masque_relay.http.h2_frame_guard import FrameError, FrameGuard
from masque_relay.http.h2_outbox import H2Outbox
from masque_relay.http.h2_protocol import HidingDecoder, shown
from masque_relay.http.rate import EventRate
from masque_relay.http.tcp_wire import Wire
from masque_relay.quic.application import H3Application, Headers

SETTINGS_ENABLE_CONNECT_PROTOCOL = 0x8  # RFC 8441 section 3
_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_STATUS = re.compile(rb"[1-9][0-9]{2}")


@dataclass(slots=True)
class _GoawayReceived(Event):
    """The relay takes no new streams; what is open goes on."""

    last_stream_id: int = 0


class _ClientH2(H2Connection):
    """h2 closes its state with the first GOAWAY; streams that are open must live on."""

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        return [], [_GoawayReceived(frame.last_stream_id)]


class H2ClientTransport:
    """One HTTP/2 connection to a relay; also the TcpSession that its wire feeds.

    Args:
        application: told of what arrives.
        wire: the TLS connection.
        limits: windows and bounds.
        clock: time.
        call_soon: calls at the end of the loop's turn.

    Attributes:
        written_count: writes so far.
        read_count: reads so far; with the former they show whether the relay lives.
    """

    http_version = "2"
    datagrams_negotiated = False
    queued_datagrams = 0
    exporter = None  # Python's ssl has none

    def __init__(
        self,
        application: H3Application,
        wire: Wire,
        *,
        limits: TcpWayLimits,
        clock: Clock,
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self.written_count = 0
        self.read_count = 0
        self._application = application
        self._wire = wire
        self._limits = limits
        self._call_soon = call_soon
        self._h2 = _connection(limits)
        self._guard = FrameGuard(
            max_block_bytes=limits.head_bytes,
            rate=EventRate(
                rate_per_s=limits.control_frames_per_s,
                burst_count=limits.control_frames_burst_count,
                clock=clock,
            ),
            preface_bytes=0,
        )
        self._outbox = H2Outbox(self._h2, ended=self._end_sent)
        self._open: dict[int, set[str]] = {}
        """Streams, and which of their directions (``in``, ``out``) are open."""
        self._credit_bytes: dict[int, int] = {}
        """Consumed per stream, not yet granted anew."""
        self._connection_credit_bytes = 0
        self._is_receiving = False
        self._flush_is_due = False
        self._is_lost = False

    # -- TcpSession ------------------------------------------------------------------------------

    def start(self) -> None:
        """Send the preface and SETTINGS."""
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take bytes; everything that they cause leaves in one write."""
        if self._is_lost:
            return
        self.read_count += 1
        self._is_receiving = True
        try:
            self._guard.feed(data)
            for event in self._h2.receive_data(data):
                self._handle(event)
        except (FrameError, ProtocolError) as error:
            self._fail(f"the relay breaks HTTP/2: {error}")
        finally:
            self._is_receiving = False
        self._flush()

    def end_received(self) -> None:
        """TLS cannot be half-closed: the connection is over."""
        self._wire.close()

    def writable(self) -> None:
        """Go on with what waited for the socket."""
        self._flush()

    def wire_lost(self) -> None:
        """The connection is gone."""
        self._lose("the TCP connection ended")

    def overdue(self, now_s: float) -> bool:
        """A client's deadlines are those of its requests."""
        del now_s
        return False

    def expire(self) -> None:
        """Nothing expires here."""

    # -- HttpTransport ---------------------------------------------------------------------------

    @property
    def request_limit(self) -> int:
        """How many requests the relay takes at once."""
        return self._h2.remote_settings.max_concurrent_streams

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """HTTP/2 has no datagrams."""
        del stream_id
        return 0

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """HTTP/2 has no datagrams."""
        del stream_id, prefix, payloads
        return 0

    async def prepare(self) -> None:
        """Check that one more request may be opened.

        Raises:
            RelayLeaving: the relay takes no more at once.
        """
        if self._h2.open_outbound_streams >= self.request_limit:
            raise RelayLeaving(
                f"the relay takes no more than {self.request_limit} requests at once",
                hint="close some tunnels first",
            )

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        """Send a request; return its stream id."""
        stream_id = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream_id, headers, end_stream=end_stream)
        self._open[stream_id] = {"in"} if end_stream else {"in", "out"}
        self._flush_soon()
        return stream_id

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue bytes; they leave as window and socket allow."""
        if "out" in self._open.get(stream_id, ()) and not self._outbox.ends(stream_id):
            self._outbox.send_data(stream_id, data, end_stream=end_stream)
            self._flush_soon()

    def unsent_bytes(self, stream_id: int) -> int:
        """Bytes that wait for window or socket."""
        return self._outbox.unsent_bytes(stream_id)

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Open the stream's window again once half of it was read."""
        if "in" not in self._open.get(stream_id, ()):
            return
        due = self._credit_bytes.get(stream_id, 0) + byte_count
        if due >= self._limits.stream_window_bytes // 2:
            with suppress(StreamClosedError):  # reset in bytes that h2 has seen and we have not
                self._h2.increment_flow_control_window(due, stream_id)
            due = 0
            self._flush_soon()
        self._credit_bytes[stream_id] = due

    def reset(self, stream_id: int, error_code: int) -> None:
        """RST_STREAM; ignored where the stream is over."""
        if stream_id in self._open:
            self._forget(stream_id)
            with suppress(StreamClosedError):
                self._h2.reset_stream(stream_id, h2_code(error_code))
            self._flush_soon()

    def ping(self) -> None:
        """Send a PING."""
        if not self._is_lost:
            self._h2.ping(b"ghostctl")
            self._flush_soon()

    def close(self, error_code: int, reason: str) -> None:
        """GOAWAY, then the end of the connection."""
        del reason
        if self._is_lost:
            return
        self._is_lost = True
        self._h2.close_connection(h2_code(error_code))
        self._wire.write(self._h2.data_to_send())
        self._wire.close()

    # -- events ----------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        if self._is_lost:  # an event before this one ended the connection
            return
        application = self._application
        match event:
            case DataReceived():
                self._data(event)
            case ResponseReceived() | InformationalResponseReceived() | TrailersReceived():
                self._head(event)
            case StreamEnded() if event.stream_id in self._open:
                application.data_received(event.stream_id, b"", end_stream=True)
                self._over(event.stream_id, "in")
            case StreamReset() if event.stream_id in self._open:
                self._forget(event.stream_id)
                application.stream_reset_received(event.stream_id, event.error_code)
            case RemoteSettingsChanged():
                value = self._h2.remote_settings.enable_connect_protocol
                application.settings_received({SETTINGS_ENABLE_CONNECT_PROTOCOL: value})
            case _GoawayReceived():
                # HTTP/3 names the first stream that it will not process, HTTP/2 the last it has
                application.goaway_received(event.last_stream_id + 1)
            case _:
                pass  # windows, PINGs: the flush that follows uses them

    def _head(
        self, event: ResponseReceived | InformationalResponseReceived | TrailersReceived
    ) -> None:
        if event.stream_id not in self._open:
            return
        headers = shown(event.headers)
        if not _is_well_formed(headers, is_trailers=isinstance(event, TrailersReceived)):
            self.reset(event.stream_id, H3Error.MESSAGE_ERROR)
            self._application.malformed_received(event.stream_id, "a bad field in its head")
            return
        # an end that came with it is told by StreamEnded
        self._application.headers_received(event.stream_id, headers, end_stream=False)

    def _data(self, event: DataReceived) -> None:
        size, data = event.flow_controlled_length, event.data
        self._connection_credit_bytes += size
        if self._connection_credit_bytes >= self._limits.connection_window_bytes // 4:
            self._h2.increment_flow_control_window(self._connection_credit_bytes)
            self._connection_credit_bytes = 0
        if event.stream_id in self._open:
            self.consume(event.stream_id, size - len(data))  # padding
            if data:
                self._application.data_received(event.stream_id, data, end_stream=False)

    # -- the life of streams and of the connection -----------------------------------------------

    def _end_sent(self, stream_id: int) -> None:
        self._over(stream_id, "out")

    def _over(self, stream_id: int, direction: str) -> None:
        directions = self._open.get(stream_id)
        if directions is not None:
            directions.discard(direction)
            if not directions:
                self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        self._open.pop(stream_id, None)
        self._credit_bytes.pop(stream_id, None)
        self._outbox.drop(stream_id)

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
                self.written_count += 1
                self._wire.write(data)
            if not progressed:
                break
        if sent:
            self._application.streams_writable()

    def _fail(self, detail: str) -> None:
        data = self._h2.data_to_send()  # h2's GOAWAY
        if data:
            self._wire.write(data)
        self._wire.close()
        self._lose(detail)

    def _lose(self, detail: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._open.clear()
            self._outbox.clear()
            self._application.connection_lost(H3Error.NO_ERROR, detail)


def _connection(limits: TcpWayLimits) -> H2Connection:
    """Return a connection whose preface, SETTINGS and window are queued to be sent."""
    connection = _ClientH2(
        H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_inbound_headers=False,  # it would end the connection: see _is_well_formed
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
    )
    # RFC 9110 section 9.3.6: a content-length in a 2xx to CONNECT means nothing; h2 counts by it
    connection.decoder = HidingDecoder((b"content-length",))
    connection.decoder.max_header_list_size = limits.head_bytes
    connection.local_settings = Settings(
        client=True,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: limits.head_bytes,
        },
    )
    connection.initiate_connection()
    extra_bytes = limits.connection_window_bytes - 65_535
    if extra_bytes > 0:
        connection.increment_flow_control_window(extra_bytes)
    return connection


def _is_well_formed(headers: Headers, *, is_trailers: bool) -> bool:
    """Whether a response head or trailers are what RFC 9113 section 8.3.2 allows."""
    fields = headers if is_trailers else headers[1:]
    if not is_trailers and (
        not headers or headers[0][0] != b":status" or not _STATUS.fullmatch(headers[0][1])
    ):
        return False
    return all(_FIELD_NAME.fullmatch(name) for name, _ in fields)
