"""Owns the tests of HTTP/2 as a transport of the client; h2 plays the relay, in memory."""

from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset

from masque_relay.client.errors import RelayLeaving
from masque_relay.client.h2 import H2ClientTransport
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import TcpWayLimits
from masque_relay.http.codes import H3Error
from masque_relay.http.h2_protocol import make_server
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.application import Headers
from tests.support.client_fakes import FakeClock
from tests.support.client_wires import MemoryWire, Told

TUNNEL: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/p"),
    (b"capsule-protocol", b"?1"),
]
OK: Headers = [(b":status", b"200"), (b"capsule-protocol", b"?1")]


class Rig:
    """A transport, and a relay that answers as the test says."""

    def __init__(self, limits: TcpWayLimits | None = None, *, streams: int = 100) -> None:
        self.told = Told()
        self.wire = MemoryWire()
        self.later: list[Callable[[], None]] = []
        self.transport = H2ClientTransport(
            self.told,
            self.wire,
            limits=limits or TcpWayLimits(),
            clock=FakeClock(),
            call_soon=self.later.append,
        )
        self.relay = make_server(TcpLimits(max_concurrent_streams=streams))
        self.transport.start()
        self.exchange()

    def exchange(self) -> list[Event]:
        """Carry bytes both ways until both are silent; return what the relay saw."""
        seen: list[Event] = []
        for _ in range(50):
            later, self.later[:] = list(self.later), []
            for call in later:
                call()
            there, back = self.wire.take(), b""
            if there:
                seen += self.relay.receive_data(there)
            back = self.relay.data_to_send()
            if back:
                self.transport.data_received(back)
            if not there and not back and not self.later:
                break
        return seen

    def open(self) -> int:
        stream_id = self.transport.open_request(TUNNEL, end_stream=False)
        self.exchange()
        self.relay.send_headers(stream_id, OK)
        self.exchange()
        return stream_id


class TestReadiness:
    """RFC 8441 section 3."""

    def test_the_relays_settings_say_whether_it_takes_extended_connect(self) -> None:
        assert Rig().told.heard("settings")[0] == ({8: 1},)

    async def test_no_more_requests_than_the_relay_takes(self) -> None:
        rig = Rig(streams=1)
        await rig.transport.prepare()
        rig.open()
        assert rig.transport.request_limit == 1
        with pytest.raises(RelayLeaving):
            await rig.transport.prepare()


class TestTunnels:
    def test_a_request_arrives_as_it_was_given(self) -> None:
        rig = Rig()
        rig.transport.open_request(TUNNEL, end_stream=False)
        (request,) = [e for e in rig.exchange() if isinstance(e, RequestReceived)]
        assert [tuple(field) for field in request.headers] == TUNNEL

    def test_bytes_go_both_ways_and_each_side_ends_alone(self) -> None:
        rig = Rig()
        stream_id = rig.open()
        assert rig.told.heard("headers") == [(stream_id, OK, False)]
        rig.transport.send_data(stream_id, b"up", end_stream=True)
        seen = rig.exchange()
        assert [e.data for e in seen if isinstance(e, DataReceived)] == [b"up"]
        assert any(isinstance(e, StreamEnded) for e in seen)
        rig.relay.send_data(stream_id, b"down", end_stream=True)
        rig.exchange()
        assert rig.told.heard("data") == [(stream_id, b"down", False), (stream_id, b"", True)]

    def test_what_the_window_holds_back_waits_and_is_counted(self) -> None:
        rig = Rig()
        stream_id = rig.open()
        rig.transport.send_data(stream_id, bytes(262_144 + 7), end_stream=False)
        rig.exchange()
        assert rig.transport.unsent_bytes(stream_id) == 7
        rig.relay.increment_flow_control_window(100, stream_id)
        rig.relay.increment_flow_control_window(100)
        rig.exchange()
        assert rig.transport.unsent_bytes(stream_id) == 0
        assert rig.told.heard("writable")

    def test_a_tunnel_that_nobody_reads_stalls_itself_alone(self) -> None:
        rig = Rig(TcpWayLimits(stream_window_bytes=65_535, connection_window_bytes=100_000))
        stuck, other = rig.open(), rig.open()
        for _ in range(3):
            rig.relay.send_data(stuck, bytes(16_384))
        rig.exchange()
        for _ in range(6):  # more than the connection's window in all: it was opened again
            rig.relay.send_data(other, bytes(16_384))
            rig.exchange()
            rig.transport.consume(other, 16_384)
            rig.exchange()
        assert rig.relay.local_flow_control_window(stuck) < 65_535 // 2

    def test_a_read_tunnel_gets_its_window_back(self) -> None:
        rig = Rig(TcpWayLimits(stream_window_bytes=65_535))
        stream_id = rig.open()
        for _ in range(3):
            rig.relay.send_data(stream_id, bytes(16_384))
        rig.exchange()
        rig.transport.consume(stream_id, 3 * 16_384)
        rig.exchange()
        assert rig.relay.local_flow_control_window(stream_id) == 65_535

    def test_a_reset_of_ours_has_the_codes_of_http2(self) -> None:
        rig = Rig()
        stream_id = rig.open()
        rig.transport.reset(stream_id, H3Error.CONNECT_ERROR)
        (reset,) = [e for e in rig.exchange() if isinstance(e, StreamReset)]
        assert reset.error_code == ErrorCodes.CONNECT_ERROR
        rig.transport.send_data(stream_id, b"late", end_stream=False)
        assert rig.exchange() == []

    def test_a_reset_of_the_relays_is_told_once(self) -> None:
        rig = Rig()
        stream_id = rig.open()
        rig.relay.reset_stream(stream_id, ErrorCodes.CONNECT_ERROR)
        rig.exchange()
        assert rig.told.heard("reset") == [(stream_id, ErrorCodes.CONNECT_ERROR)]

    def test_a_content_length_in_the_answer_to_connect_counts_for_nothing(self) -> None:
        """RFC 9110 section 9.3.6."""
        rig = Rig()
        stream_id = rig.transport.open_request(TUNNEL, end_stream=False)
        rig.exchange()
        rig.relay.send_headers(stream_id, [*OK, (b"content-length", b"0")])
        rig.relay.send_data(stream_id, b"bytes all the same")
        rig.exchange()
        assert rig.told.heard("data") == [(stream_id, b"bytes all the same", False)]
        assert (b"content-length", b"0") in rig.told.calls[-2][2]  # type: ignore[operator]  # headers

    @pytest.mark.clause("RFC 9113", "8.1.1", "MUST", "treat a malformed response as a stream error")
    @pytest.mark.parametrize(
        "head",
        [
            [(b":status", b"20")],
            [(b"x", b"y")],
            [(b":status", b"200"), (b"Upper", b"y")],
            [(b":status", b"200"), (b":path", b"/")],
        ],
    )
    def test_a_malformed_answer_ends_its_stream_alone(self, head: Headers) -> None:
        rig = Rig()
        fine = rig.open()
        broken = rig.transport.open_request(TUNNEL, end_stream=False)
        rig.exchange()
        rig.relay.send_headers(broken, head)
        seen = rig.exchange()
        assert [call[0] for call in rig.told.heard("malformed")] == [broken]
        assert any(isinstance(e, StreamReset) for e in seen)
        rig.relay.send_data(fine, b"lives")
        rig.exchange()
        assert rig.told.heard("data") == [(fine, b"lives", False)]


class TestConnection:
    def test_streams_live_on_after_goaway(self) -> None:
        rig = Rig()
        stream_id = rig.open()
        rig.relay.close_connection(last_stream_id=stream_id)
        goaway = rig.relay.data_to_send()
        rig.transport.data_received(goaway)
        assert rig.told.heard("goaway") == [(stream_id + 1,)]
        rig.transport.send_data(stream_id, b"goes on", end_stream=False)
        for call in list(rig.later):
            call()
        assert b"goes on" in rig.wire.take()

    def test_a_ping_is_counted_as_written_and_its_answer_as_read(self) -> None:
        rig = Rig()
        before = (rig.transport.written_count, rig.transport.read_count)
        rig.transport.ping()
        rig.exchange()
        assert rig.transport.written_count > before[0]
        assert rig.transport.read_count > before[1]

    def test_a_relay_that_breaks_http2_loses_the_connection(self) -> None:
        rig = Rig()
        rig.transport.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert rig.wire.closed
        assert len(rig.told.heard("lost")) == 1

    def test_a_relay_that_floods_loses_the_connection(self) -> None:
        rig = Rig(TcpWayLimits(control_frames_per_s=1.0, control_frames_burst_count=20))
        ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
        for _ in range(40):
            rig.transport.data_received(ping)
        assert len(rig.told.heard("lost")) == 1

    def test_the_end_of_the_wire_is_told_once(self) -> None:
        rig = Rig()
        rig.transport.wire_lost()
        rig.transport.wire_lost()
        assert len(rig.told.heard("lost")) == 1

    def test_close_says_goodbye(self) -> None:
        rig = Rig()
        rig.transport.close(H3Error.NO_ERROR, "")
        assert rig.wire.closed
        assert rig.wire.take()[3:4] == b"\x07"  # GOAWAY


def as_http_transport(transport: H2ClientTransport) -> HttpTransport:
    """Hold the class to the Protocol."""
    return transport
