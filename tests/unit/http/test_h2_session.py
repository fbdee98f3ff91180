"""HTTP/2 sessions with h2 as the client, in memory (RFC 9113, RFC 8441)."""

import asyncio
import dataclasses
import struct
from typing import Any

import h2.settings
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, SettingsFrame
from starlette.types import Message, Receive, Scope, Send

from masque_relay.http.codes import H3Error, h2_code
from masque_relay.http.limits import HttpLimits
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.application import Headers
from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with, settle
from tests.support.tcp_rig import tcp_rig

POST_HEAD = head_with(GET_HEAD, method=b"POST")


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer an ordinary request with its own version and body."""
    assert scope["type"] == "http"
    body, message = b"", await receive()
    while message["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
        message = await receive()
    headers = [(b"x-version", scope["http_version"].encode()), (b"keep-alive", b"x")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"got " + body})


class Tunnels:
    """Opens every tunnel; hands out what the test needs to speak through it."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.sends: list[Send] = []
        self.received: list[list[Message]] = []
        self.may_read = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("no lifespan")
        messages: list[Message] = []
        self.scopes.append(scope)
        self.sends.append(send)
        self.received.append(messages)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await self.may_read.wait()
        while True:
            messages.append(await receive())
            if messages[-1]["type"] == "http.disconnect":
                return


class TestRequests:
    @pytest.mark.clause(
        "RFC 8441", "3", "MUST", "announce SETTINGS_ENABLE_CONNECT_PROTOCOL over HTTP/2"
    )
    async def test_settings_allow_extended_connect_and_bound_the_rest(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            await peer.settle()
            settings = peer.h2.remote_settings

            assert settings[h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL] == 1
            assert settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] == 262_144
            assert settings[h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE] == 16_384
            assert settings[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] == 128

    async def test_post_is_answered_and_names_http3(self) -> None:
        async with tcp_rig(hello, alt_svc=b'h3=":443"') as rig:
            peer = rig.h2()
            exchange = peer.exchange(await peer.request(POST_HEAD, b"body"))

            assert bytes(exchange.data) == b"got body"
            assert exchange.ended
            assert exchange.fields["x-version"] == "2"
            assert exchange.fields["alt-svc"] == 'h3=":443"'
            assert "keep-alive" not in exchange.fields

    async def test_many_requests_leave_nothing_behind(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            for _ in range(300):
                exchange = peer.exchange(await peer.request(GET_HEAD))
                assert exchange.ended

            assert peer.session._streams == {}
            assert peer.session._by_h2_id == {}
            assert peer.session._outbox.is_empty

    async def test_head_has_no_body_and_one_end(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            exchange = peer.exchange(await peer.request(head_with(GET_HEAD, method=b"HEAD")))

            assert exchange.status == 200
            assert exchange.data == b""
            assert exchange.ended

    async def test_early_hints_and_trailers_of_a_response(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send({**start, "trailers": True})
            await send({"type": "http.response.body", "body": b"x" * 100_000})
            await send({"type": "http.response.trailers", "headers": [(b"sum", b"7")]})

        async with tcp_rig(app) as rig:
            peer = rig.h2()
            stream_id = await peer.request(GET_HEAD)
            exchange = peer.exchange(stream_id)

            assert [dict(head)[b":status"] for head in exchange.heads] == [b"103", b"200"]
            assert len(exchange.data) == 100_000
            assert peer.trailers[stream_id] == [(b"sum", b"7")]
            assert exchange.ended

    async def test_trailers_of_a_request_end_it(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            stream_id = await peer.request(POST_HEAD, b"body", end=False)
            peer.h2.send_headers(stream_id, [(b"sum", b"7")], end_stream=True)
            await peer.settle()

            assert bytes(peer.exchange(stream_id).data) == b"got body"

    async def test_answer_before_the_end_of_the_request_stops_it_without_an_error(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 413, "headers": []})
            await send({"type": "http.response.body", "body": b"too large"})

        async with tcp_rig(app) as rig:
            peer = rig.h2()
            stream_id = await peer.request(POST_HEAD, b"begin", end=False)
            exchange = peer.exchange(stream_id)

            assert exchange.status == 413
            assert bytes(exchange.data) == b"too large"
            # RFC 9113 section 8.1
            assert exchange.reset == ErrorCodes.NO_ERROR


MALFORMED: dict[str, Headers] = {
    "no path": head_with(GET_HEAD, path=None),
    "no authority": head_with(GET_HEAD, authority=None),
    "a status": [(b":status", b"200"), *GET_HEAD],
    "upper case": [*GET_HEAD, (b"Upper", b"x")],
    "connection field": [*GET_HEAD, (b"connection", b"close")],
    "transfer-encoding": [*GET_HEAD, (b"transfer-encoding", b"chunked")],
    "bad content-length": [*POST_HEAD, (b"content-length", b"x")],
    "two content-lengths": [*POST_HEAD, (b"content-length", b"1"), (b"content-length", b"2")],
    "line feed": [*GET_HEAD, (b"x", b"a\nb")],
    "protocol on GET": [*GET_HEAD[:1], (b":protocol", b"connect-udp"), *GET_HEAD[1:]],
    "late pseudo-header": [*GET_HEAD[:-1], (b"x", b"y"), GET_HEAD[-1]],
}


class TestMalformed:
    """RFC 9113 section 8.1.1: a stream error, and nothing else."""

    @pytest.mark.clause(
        "RFC 9113", "8.1.1", "MUST", "reset the stream of a malformed message with PROTOCOL_ERROR"
    )
    @pytest.mark.parametrize("head", MALFORMED.values(), ids=MALFORMED)
    async def test_malformed_request_is_reset_and_its_neighbour_is_answered(
        self, head: Headers
    ) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            bad = await peer.request(head)
            good = await peer.request(GET_HEAD)

            assert peer.exchange(bad).reset == ErrorCodes.PROTOCOL_ERROR
            assert peer.exchange(good).status == 200
            assert peer.goaway is None
            assert rig.http.requests_malformed == 1

    @pytest.mark.clause(
        "RFC 9113", "8.1.1", "MUST", "reset the stream of a malformed message with PROTOCOL_ERROR"
    )
    @pytest.mark.parametrize("body", [b"", b"longer"])
    async def test_body_that_differs_from_content_length(self, body: bytes) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            head = [*POST_HEAD, (b"content-length", b"3")]
            bad = await peer.request(head, body)
            good = await peer.request(GET_HEAD)

            assert peer.exchange(bad).reset == ErrorCodes.PROTOCOL_ERROR
            assert peer.exchange(good).status == 200

    async def test_trailers_without_an_end(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            stream_id = await peer.request(POST_HEAD, b"body", end=False)
            frame = HeadersFrame(stream_id, peer.h2.encoder.encode([(b"a", b"b")]))
            frame.flags.add("END_HEADERS")
            peer.session.data_received(frame.serialize())
            good = await peer.request(GET_HEAD)

            assert peer.exchange(stream_id).reset == ErrorCodes.PROTOCOL_ERROR
            assert peer.exchange(good).status == 200


class TestFloods:
    """RFC 9113 section 10.5, and the attacks of 2019, 2023 and 2024."""

    async def test_rapid_reset_closes_the_connection(self) -> None:
        async with tcp_rig(hello, limits=HttpLimits(reset_burst_count=20)) as rig:
            peer = rig.h2()
            for _ in range(25):
                stream_id = peer.h2.get_next_available_stream_id()
                peer.h2.send_headers(stream_id, GET_HEAD)
                peer.h2.reset_stream(stream_id)
            await peer.settle()

            assert peer.goaway is not None
            assert peer.goaway[0] == ErrorCodes.ENHANCE_YOUR_CALM
            assert rig.wire.is_closed

    @pytest.mark.parametrize(
        "frame",
        [
            PingFrame(0, opaque_data=b"12345678").serialize(),
            SettingsFrame(0).serialize(),
            struct.pack(">I", 0)[1:] + bytes([0, 0, 0, 0, 0, 1]),  # empty DATA
            struct.pack(">I", 0)[1:] + bytes([0x20, 0, 0, 0, 0, 0]),  # an unknown type
        ],
        ids=["ping", "settings", "empty data", "unknown"],
    )
    async def test_flood_of_control_frames_closes_the_connection(self, frame: bytes) -> None:
        limits = TcpLimits(control_frames_burst_count=50)
        async with tcp_rig(hello, tcp_limits=limits) as rig:
            peer = rig.h2()
            await peer.request(POST_HEAD, b"open", end=False)
            peer.session.data_received(frame * 100)
            await peer.settle()

            assert peer.goaway is not None
            assert peer.goaway[0] == ErrorCodes.ENHANCE_YOUR_CALM
            assert rig.tcp.floods_stopped == 1
            assert rig.wire.is_closed

    async def test_endless_continuation_is_stopped_early(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            await peer.settle()
            peer.session.data_received(HeadersFrame(1, b"\x00" * 100).serialize())
            for _ in range(3):
                peer.session.data_received(ContinuationFrame(1, b"\x00" * 8_000).serialize())
            await peer.settle()

            assert peer.goaway is not None
            assert peer.goaway[0] == ErrorCodes.ENHANCE_YOUR_CALM

    async def test_frame_that_announces_megabytes_is_refused_at_its_head(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            await peer.settle()
            peer.session.data_received(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01")
            await peer.settle()

            assert peer.goaway is not None
            assert peer.goaway[0] == ErrorCodes.FRAME_SIZE_ERROR

    async def test_head_that_decodes_to_more_than_the_limit(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            entry = (b"x-bomb", b"y" * 3_000)
            stream_id = peer.h2.get_next_available_stream_id()
            peer.h2.send_headers(stream_id, [*GET_HEAD, *([entry] * 6)], end_stream=True)
            await peer.settle()

            assert peer.goaway is not None
            assert peer.goaway[0] == ErrorCodes.ENHANCE_YOUR_CALM
            assert rig.tcp.protocol_errors == 1

    async def test_request_rate_refuses_streams_that_may_be_retried(self) -> None:
        async with tcp_rig(hello, limits=HttpLimits(request_burst_count=1)) as rig:
            peer = rig.h2()
            first, second = await peer.request(GET_HEAD), await peer.request(GET_HEAD)

            assert peer.exchange(first).status == 200
            assert peer.exchange(second).reset == ErrorCodes.REFUSED_STREAM


class TestCredit:
    async def test_stuck_request_keeps_its_window_and_leaves_its_neighbours_alone(self) -> None:
        limits = TcpLimits(stream_window_bytes=65_535, connection_window_bytes=131_072)
        async with tcp_rig(app := Tunnels(), tcp_limits=limits) as rig:
            peer = rig.h2()
            stuck = [await peer.request(CONNECT_UDP_HEAD, end=False) for _ in range(3)]
            for stream_id in stuck:
                while (window := peer.h2.local_flow_control_window(stream_id)) > 0:
                    peer.h2.send_data(stream_id, bytes(min(window, 16_384)))
                    await peer.settle()
            neighbour = await peer.request(CONNECT_UDP_HEAD, end=False)

            assert peer.h2.remote_flow_control_window(neighbour) > 0
            assert peer.h2.local_flow_control_window(neighbour) >= 32_768
            assert all(peer.h2.local_flow_control_window(id_) == 0 for id_ in stuck)
            app.may_read.set()
            await peer.settle()
            assert all(peer.h2.local_flow_control_window(id_) > 0 for id_ in stuck)

    async def test_connection_stops_when_too_much_is_unread_and_goes_on_when_it_was(self) -> None:
        limits = TcpLimits(connection_window_bytes=131_072, max_unread_bytes=100_000)
        async with tcp_rig(app := Tunnels(), tcp_limits=limits) as rig:
            peer = rig.h2()
            await peer.settle()
            sent = 0
            while True:
                stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
                window = peer.h2.local_flow_control_window(stream_id)
                if window <= 0:
                    break
                for _ in range(4):
                    size = min(16_384, peer.h2.local_flow_control_window(stream_id))
                    if size > 0:
                        peer.h2.send_data(stream_id, bytes(size))
                        sent += size
                await peer.settle()
                assert sent < 400_000

            app.may_read.set()
            await peer.settle()

            assert peer.h2.local_flow_control_window(stream_id) > 0

    async def test_reset_request_gives_back_what_it_held(self) -> None:
        limits = TcpLimits(connection_window_bytes=131_072, max_unread_bytes=100_000)
        async with tcp_rig(Tunnels(), tcp_limits=limits) as rig:
            peer = rig.h2()
            for _ in range(20):
                stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
                for _ in range(4):
                    peer.h2.send_data(stream_id, bytes(16_000))
                await peer.settle()
                peer.h2.reset_stream(stream_id)
                await peer.settle()

            assert peer.session._unread_bytes == 0
            assert peer.session._withheld_bytes == 0


class TestWayOut:
    async def test_batch_leaves_in_one_write(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
            writes = rig.wire.writes
            await app.sends[0]({"type": "http.datagram.send", "batch": [b"\0x"] * 64})
            await settle()

            assert rig.wire.writes == writes + 1
            await peer.settle()
            assert bytes(peer.exchange(stream_id).data) == b"\x00\x02\x00x" * 64

    async def test_datagrams_for_a_reader_that_stopped_are_dropped_and_counted(self) -> None:
        async with tcp_rig(app := Tunnels(), limits=HttpLimits(capsule_backlog_bytes=5_000)) as rig:
            peer = rig.h2()
            peer.grants_credit = False
            stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
            neighbour = await peer.request(CONNECT_UDP_HEAD, end=False)
            for _ in range(100):
                await app.sends[0]({"type": "http.datagram.send", "data": b"\0" * 1_000})
                await peer.settle()
            await app.sends[1]({"type": "http.datagram.send", "data": b"\0y"})
            await peer.settle()

            assert len(peer.exchange(stream_id).data) <= 65_535
            assert peer.session.unsent_bytes(0) <= 6_100
            assert rig.http.capsule_datagrams_dropped > 20
            # The neighbour waits for the connection's window, which this client never opens; it
            # comes as soon as it does.
            peer.h2.increment_flow_control_window(100_000)
            await peer.settle()
            assert bytes(peer.exchange(neighbour).data) == b"\x00\x02\x00y"

    async def test_full_socket_holds_everything_back_and_streams_take_turns(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            first = await peer.request(CONNECT_UDP_HEAD, end=False)
            second = await peer.request(CONNECT_UDP_HEAD, end=False)
            rig.wire.is_congested = True
            big: Any = {"type": "http.capsule.send", "capsule_type": 77, "data": bytes(60_000)}
            small: Any = {"type": "http.capsule.send", "capsule_type": 77, "data": b"small"}
            await app.sends[0](big)
            await app.sends[1](small)
            await settle()
            assert rig.wire.take() == b""

            rig.wire.is_congested = False
            peer.session.writable()
            await peer.settle()

            assert len(peer.exchange(first).data) > 60_000
            assert bytes(peer.exchange(second).data).endswith(b"small")


class TestEnds:
    async def test_goaway_lets_the_running_request_finish(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
            rig.front_end.begin_drain()
            # h2 as a client stops at GOAWAY: look at the bytes.
            goaway = rig.wire.take()
            assert goaway[3] == 0x7
            assert goaway[9:17] == struct.pack(">II", stream_id, ErrorCodes.NO_ERROR)
            assert not rig.wire.is_closed

            await app.sends[0]({"type": "http.datagram.send", "data": b"\0still"})
            await peer.settle()
            assert bytes(peer.exchange(stream_id).data) == b"\x00\x06\x00still"
            peer.h2.send_headers(3, GET_HEAD, end_stream=True)
            await peer.settle()
            assert peer.exchange(3).reset == ErrorCodes.REFUSED_STREAM

            peer.h2.reset_stream(stream_id)
            await peer.settle()
            assert rig.wire.is_closed

    async def test_goaway_from_the_client_changes_nothing(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            stream_id = await peer.request(CONNECT_UDP_HEAD, end=False)
            frame = bytes.fromhex("000008070000000000") + bytes(8)
            peer.session.data_received(frame)
            await app.sends[0]({"type": "http.datagram.send", "data": b"\0still"})
            await peer.settle()

            assert bytes(peer.exchange(stream_id).data) == b"\x00\x06\x00still"

    async def test_lost_wire_ends_every_request(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            app.may_read.set()
            await peer.request(CONNECT_UDP_HEAD, end=False)
            peer.session.wire_lost()
            await settle()

            assert app.received[0][-1]["type"] == "http.disconnect"
            assert rig.front_end.connection_count == 0
            assert rig.front_end.request_count == 0

    async def test_broken_framing_closes_and_ends_every_request(self) -> None:
        async with tcp_rig(app := Tunnels()) as rig:
            peer = rig.h2()
            app.may_read.set()
            await peer.request(CONNECT_UDP_HEAD, end=False)
            peer.session.data_received(bytes.fromhex("000004080000000000") + bytes(4))
            await settle()

            assert rig.tcp.protocol_errors == 1
            assert rig.wire.is_closed
            assert app.received[0][-1]["type"] == "http.disconnect"

    @pytest.mark.parametrize("bytes_sent", [0, 10, 24])
    async def test_preface_that_does_not_come(self, bytes_sent: int) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            peer.session.data_received(peer.h2.data_to_send()[:bytes_sent])
            now_s = rig.clock.monotonic_s()

            assert not peer.session.overdue(now_s + 14)
            assert peer.session.overdue(now_s + 16)

    async def test_head_that_trickles_in_beside_a_live_tunnel(self) -> None:
        async with tcp_rig(Tunnels()) as rig:
            peer = rig.h2()
            await peer.request(CONNECT_UDP_HEAD, end=False)
            assert not peer.session.overdue(rig.clock.monotonic_s() + 1_000)
            peer.session.data_received(HeadersFrame(3, b"\x00").serialize())

            assert peer.session.overdue(rig.clock.monotonic_s() + 16)

    async def test_idle_connection_is_closed_with_goaway(self) -> None:
        async with tcp_rig(hello) as rig:
            peer = rig.h2()
            await peer.request(GET_HEAD)
            assert not peer.session.overdue(rig.clock.monotonic_s() + 119)
            assert peer.session.overdue(rig.clock.monotonic_s() + 121)
            peer.session.expire()
            await peer.settle()

            assert peer.goaway == (ErrorCodes.NO_ERROR, 1)
            assert rig.wire.is_closed


async def test_tunnel_scope_says_what_http2_is() -> None:
    async with tcp_rig(app := Tunnels()) as rig:
        peer = rig.h2()
        await peer.request(CONNECT_UDP_HEAD, end=False)
        scope = app.scopes[0]

        assert scope["http_version"] == "2"
        assert scope["method"] == "CONNECT"
        assert scope["extensions"]["http.connect"]["form"] == "extended"
        assert scope["extensions"]["http.datagram"] == {"reliable": True, "max_size": 65_535}
        assert scope["extensions"]["tls"]["exporter"] is None
        assert scope["client"] == ("198.51.100.9", 40_000)


@pytest.mark.parametrize("code", list(H3Error))
def test_every_code_of_ours_is_one_of_http2(code: H3Error) -> None:
    assert h2_code(code) in list(ErrorCodes)
    assert h2_code(0x1234) is ErrorCodes.CANCEL


def test_every_limit_is_a_positive_number() -> None:
    limits = TcpLimits()
    assert all(getattr(limits, item.name) > 0 for item in dataclasses.fields(limits))
