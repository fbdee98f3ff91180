"""The ASGI surface of one request (docs/reference/asgi.md), the test being both peer and app."""

import asyncio
from typing import Any

import pytest

from masque_relay.http.limits import HttpLimits
from masque_relay.http.send_room import ClientDisconnectedError
from masque_relay.wire.capsule import encode_capsule
from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with, settle
from tests.support.http_rig import AppCall, Rig, ScriptedApp, serving

POST_HEAD = head_with(GET_HEAD, method=b"POST")
UNKNOWN_PROTOCOL_HEAD = head_with(CONNECT_UDP_HEAD, protocol=b"raw-bytes")


def datagram_capsule(payload: bytes) -> bytes:
    return encode_capsule(0, payload)


async def started(rig: Rig, app: ScriptedApp, head: Any = GET_HEAD, **more: Any) -> AppCall:
    """Send a request and return the application's side of it."""
    await rig.request(0, head, **more)
    return app.calls[-1]


async def tunnel(rig: Rig, app: ScriptedApp, head: Any = CONNECT_UDP_HEAD, **more: Any) -> AppCall:
    """Open a tunnel that the application accepts."""
    call = await started(rig, app, head, end=False)
    await call.start(200, **more)
    return call


async def waits(call: AppCall) -> bool:
    """Whether receive() has nothing to say."""
    pending = asyncio.ensure_future(call.receive())
    await settle()
    waiting = not pending.done()
    pending.cancel()
    return waiting


class TestRequestBody:
    async def test_body_comes_in_order_with_its_end(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, POST_HEAD, body=b"hello", end=False)

            assert await call.receive() == {
                "type": "http.request",
                "body": b"hello",
                "more_body": True,
            }
            rig.peer.data_received(0, b" world", end_stream=True)
            assert await call.receive() == {
                "type": "http.request",
                "body": b" world",
                "more_body": False,
            }
            call.finish()

    async def test_credit_is_granted_when_the_bytes_are_read_not_before(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, POST_HEAD, body=bytes(1_000), end=False)
            assert rig.transport.consumed.get(0, 0) == 0

            await call.receive()

            assert rig.transport.consumed[0] == 1_000
            call.finish()

    @pytest.mark.clause(
        "RFC 9114", "4.1", "SHOULD", "ask with H3_NO_ERROR to stop a request that is answered"
    )
    async def test_unread_body_is_given_back_and_stopped_once_the_response_is_complete(
        self,
    ) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, POST_HEAD, body=bytes(1_000), end=False)
            await call.start(413)
            await call.body(b"too large")
            call.finish()
            await settle()
            rig.transport.unsent[0] = 9
            rig.peer.streams_writable()
            assert not rig.transport.stopped, "it could overtake the response"
            rig.transport.unsent[0] = 0
            rig.peer.streams_writable()

            assert rig.transport.stopped == {0: 0x100}
            assert rig.transport.consumed[0] == 1_000
            rig.peer.data_received(0, bytes(500), end_stream=False)
            assert rig.transport.consumed[0] == 1_500

    @pytest.mark.parametrize("body", [b"four", b"sixsix"])
    async def test_body_of_another_length_than_announced_is_a_stream_error(
        self, body: bytes
    ) -> None:
        app = ScriptedApp()
        head = [*POST_HEAD, (b"content-length", b"5")]
        async with serving(app) as rig:
            call = await started(rig, app, head, body=body)

            assert (await call.receive())["type"] == "http.disconnect"
            assert rig.transport.resets == {0: 0x10E}
            assert rig.counters.requests_malformed == 1
            call.finish()

    async def test_body_of_the_announced_length_passes(self) -> None:
        app = ScriptedApp()
        head = [*POST_HEAD, (b"content-length", b"5")]
        async with serving(app) as rig:
            call = await started(rig, app, head, body=b"fives")

            assert (await call.receive())["body"] == b"fives"
            assert not rig.transport.resets
            call.finish()

    async def test_trailers_end_the_body_and_are_handed_over(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, POST_HEAD, body=b"x", end=False)
            rig.peer.headers_received(0, [(b"checksum", b"1")], end_stream=True)

            message = await call.receive()

            assert message["more_body"] is False
            assert message["trailers"] == [(b"checksum", b"1")]
            call.finish()

    async def test_pseudo_header_in_trailers_is_a_stream_error(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, POST_HEAD, body=b"x", end=False)
            rig.peer.headers_received(0, [(b":path", b"/")], end_stream=True)

            assert (await call.receive())["type"] == "http.disconnect"
            assert rig.transport.resets == {0: 0x10E}
            call.finish()

    async def test_body_that_stops_is_given_up_at_the_deadline(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(body_timeout_s=0.01)) as rig:
            call = await started(rig, app, POST_HEAD, body=b"x", end=False)
            await call.receive()

            message = await call.receive()

            assert message["type"] == "http.disconnect"
            assert rig.transport.resets == {0: 0x10C}
            call.finish()


class TestResponse:
    async def test_head_body_and_end_reach_the_wire(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.start(200, [(b"Content-Type", b"text/plain"), (b"Connection", b"close")])
            await call.body(b"he", more=True)
            await call.body(b"llo")

            assert rig.transport.headers[0] == [
                [(b":status", b"200"), (b"content-type", b"text/plain")]
            ]
            assert rig.transport.data[0] == b"hello"
            assert 0 in rig.transport.finished
            assert rig.counters.responses_2xx == 1
            assert (await call.receive())["more_body"] is False
            assert (await call.receive())["type"] == "http.disconnect"
            call.finish()

    async def test_send_waits_while_the_stream_holds_too_much(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(send_high_water_bytes=1_000)) as rig:
            call = await started(rig, app)
            await call.start()
            rig.transport.unsent[0] = 5_000
            sending = asyncio.ensure_future(call.body(bytes(5_000), more=True))
            await settle()
            assert not sending.done()

            rig.transport.unsent[0] = 4_000
            rig.peer.streams_writable()
            await settle()
            assert not sending.done(), "progress, but not enough"

            rig.transport.unsent[0] = 1_000
            rig.peer.streams_writable()
            await sending
            call.finish()

    async def test_slow_reader_loses_the_stream_at_the_deadline_and_only_that(self) -> None:
        app = ScriptedApp()
        limits = HttpLimits(send_high_water_bytes=1_000, send_timeout_s=0.01)
        async with serving(app, limits) as rig:
            slow = await started(rig, app)
            await slow.start()
            rig.transport.unsent[0] = 5_000
            with pytest.raises(ClientDisconnectedError):
                await slow.body(bytes(5_000), more=True)
            slow.finish()
            await rig.request(4, GET_HEAD)
            await app.calls[-1].start()
            await app.calls[-1].body(b"fine")
            app.calls[-1].finish()

            assert rig.transport.resets == {0: 0x10C}
            assert rig.transport.data[4] == b"fine"

    async def test_redirects_and_failures_are_counted_by_class(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            for stream_id, status in ((0, 307), (4, 503)):
                await rig.request(stream_id, GET_HEAD)
                await app.calls[-1].start(status)
                await app.calls[-1].body()
                app.calls[-1].finish()

            assert rig.counters.responses_3xx == 1
            assert rig.counters.responses_5xx == 1

    async def test_interim_responses_come_before_the_final_one(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
            await call.start(100)
            await call.start(200)
            await call.body()

            statuses = [dict(headers)[b":status"] for headers in rig.transport.headers[0]]
            assert statuses == [b"103", b"100", b"200"]
            assert rig.counters.responses_1xx == 2
            with pytest.raises(RuntimeError, match="interim"):
                await call.send({"type": "http.response.early_hint", "links": []})
            call.finish()

    async def test_trailers_end_the_response(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.start(trailers=True)
            await call.body(b"x")
            assert 0 not in rig.transport.finished
            await call.send({"type": "http.response.trailers", "headers": [(b"Checksum", b"1")]})

            assert rig.transport.headers[0][-1] == [(b"checksum", b"1")]
            assert 0 in rig.transport.finished
            call.finish()

    async def test_head_request_gets_no_body(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, head_with(GET_HEAD, method=b"HEAD"))
            await call.start(200, [(b"content-length", b"5")])
            await call.body(b"hello")

            assert rig.transport.data[0] == b""
            assert rig.transport.fields(0)[b"content-length"] == b"5"
            assert 0 in rig.transport.finished
            call.finish()

    async def test_no_content_gets_no_body(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.start(204)
            await call.body(b"oops")

            assert rig.transport.data[0] == b""
            call.finish()

    async def test_send_after_the_client_is_gone_raises_oserror(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            rig.peer.stream_reset_received(0, 0x10C)

            with pytest.raises(OSError, match="gone"):
                await call.start()
            disconnect = await call.receive()
            assert (disconnect["type"], disconnect["code"]) == ("http.disconnect", 0x10C)
            call.finish()

    @pytest.mark.parametrize(
        "message",
        [
            {"type": "http.response.body", "body": b"x"},
            {"type": "http.response.trailers"},
            {"type": "http.response.pathsend", "path": "/etc/passwd"},
            {"type": "websocket.send"},
            {"type": "http.capsule.send", "capsule_type": 1, "data": b""},
            {"type": "http.datagram.send", "data": b""},
            {"type": "http.splice", "kind": "flow", "sink": None},
        ],
    )
    async def test_message_that_does_not_fit_the_state_is_refused(
        self, message: dict[str, Any]
    ) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)

            with pytest.raises(RuntimeError):
                await call.send(message)
            call.finish()

    async def test_second_start_is_refused(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.start()

            with pytest.raises(RuntimeError, match="twice"):
                await call.start()
            call.finish()

    async def test_abort_resets_with_the_given_code(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app)
            await call.send({"type": "http.abort", "code": 0x10F})

            assert rig.transport.resets == {0: 0x10F}
            assert (await call.receive())["type"] == "http.disconnect"
            call.finish()


class TestTunnelWithoutSplice:
    async def test_datagrams_before_the_answer_are_kept_and_then_delivered(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, CONNECT_UDP_HEAD, end=False)
            rig.peer.datagrams_received(0, [b"\0one", b"\0two"])
            assert await waits(call)

            await call.start(200)

            assert (await call.receive())["data"] == b"\0one"
            assert (await call.receive())["data"] == b"\0two"
            call.finish()

    async def test_datagrams_before_the_answer_are_bounded_and_the_first_stay(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(early_datagrams_per_stream=2)) as rig:
            call = await started(rig, app, CONNECT_UDP_HEAD, end=False)
            rig.peer.datagrams_received(0, [b"1", b"2", b"3", b"4"])
            await call.start(200)

            assert (await call.receive())["data"] == b"1"
            assert rig.counters.early_datagrams_dropped == 2
            call.finish()

    async def test_full_queue_drops_the_oldest(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(datagram_queue_count=2)) as rig:
            call = await tunnel(rig, app)
            rig.peer.datagrams_received(0, [b"1", b"2", b"3"])

            assert (await call.receive())["data"] == b"2"
            assert (await call.receive())["data"] == b"3"
            call.finish()

    async def test_batches_on_request(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app, **{"http.datagram": {"batch": True}})
            rig.peer.datagrams_received(0, [b"1", b"2"])

            assert await call.receive() == {"type": "http.datagram.receive", "batch": [b"1", b"2"]}
            await call.send({"type": "http.datagram.send", "batch": [b"a", b"b"]})
            assert rig.transport.datagrams == [(0, b"a"), (0, b"b")]
            call.finish()

    async def test_datagram_send_never_raises_for_a_client_that_is_gone(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            rig.peer.stream_reset_received(0, 0x10C)

            await call.send({"type": "http.datagram.send", "data": b"x"})

            assert not rig.transport.datagrams
            call.finish()

    @pytest.mark.clause(
        "RFC 9297", "3.5", "SHOULD NOT", "turn a datagram that is too large into a capsule"
    )
    async def test_oversize_datagram_is_dropped_not_turned_into_a_capsule(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            await call.send({"type": "http.datagram.send", "data": bytes(1_201)})
            await call.send({"type": "http.datagram.send", "data": bytes(1_200)})

            assert [len(data) for _, data in rig.transport.datagrams] == [1_200]
            assert 0 not in rig.transport.data
            call.finish()

    async def test_datagram_capsule_is_a_datagram_and_is_answered_in_kind(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            rig.transport.datagrams_negotiated = False
            call = await tunnel(rig, app)
            wire = datagram_capsule(b"\0ping")
            rig.peer.data_received(0, wire[:3], end_stream=False)
            rig.peer.data_received(0, wire[3:], end_stream=False)

            assert (await call.receive())["data"] == b"\0ping"
            await call.send({"type": "http.datagram.send", "data": b"\0pong"})
            assert rig.transport.data[0] == datagram_capsule(b"\0pong")
            assert rig.transport.consumed[0] == len(wire)
            call.finish()

    async def test_capsules_the_application_asked_for_are_delivered_others_skipped(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app, **{"http.capsule": {"types": [0x11]}})
            capsules = encode_capsule(0x99, b"grease") + encode_capsule(0x11, b"assign")
            rig.peer.data_received(0, capsules, end_stream=False)

            assert await call.receive() == {
                "type": "http.capsule.receive",
                "capsule_type": 0x11,
                "data": b"assign",
            }
            assert rig.counters.capsules_skipped == 1
            await call.send({"type": "http.capsule.send", "capsule_type": 0x12, "data": b"ack"})
            assert rig.transport.data[0] == encode_capsule(0x12, b"ack")
            call.finish()

    async def test_peer_half_close_is_an_empty_last_request_message(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            rig.peer.data_received(0, b"", end_stream=True)

            assert await call.receive() == {"type": "http.request", "body": b"", "more_body": False}
            call.finish()

    @pytest.mark.clause(
        "RFC 9297", "3.3", "MUST", "treat a capsule cut off by FIN as a malformed message"
    )
    @pytest.mark.parametrize("wire", [b"\0\x05abc", b"\0", b"\x40"])
    async def test_stream_that_ends_inside_a_capsule_is_reset(self, wire: bytes) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            rig.peer.data_received(0, wire, end_stream=True)

            assert (await call.receive())["type"] == "http.disconnect"
            assert rig.transport.resets == {0: 0x10E}
            assert rig.counters.capsules_malformed == 1
            call.finish()

    async def test_raw_bytes_where_no_capsule_protocol_is_spoken(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app, UNKNOWN_PROTOCOL_HEAD)
            rig.peer.data_received(0, b"\0\x05abc", end_stream=False)

            assert await call.receive() == {
                "type": "http.request",
                "body": b"\0\x05abc",
                "more_body": True,
            }
            await call.body(b"raw", more=True)
            assert rig.transport.data[0] == b"raw"
            call.finish()

    async def test_stream_bytes_before_the_answer_are_kept_without_credit(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await started(rig, app, CONNECT_UDP_HEAD, end=False)
            wire = datagram_capsule(b"\0early")
            rig.peer.data_received(0, wire, end_stream=False)
            assert await waits(call)
            assert 0 not in rig.transport.consumed

            await call.start(200)

            assert (await call.receive())["data"] == b"\0early"
            assert rig.transport.consumed[0] == len(wire)
            call.finish()

    @pytest.mark.clause("RFC 9114", "4.4", "MUST", "take nothing but DATA after CONNECT")
    async def test_trailers_on_connect_are_a_stream_error(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            rig.peer.headers_received(0, [(b"a", b"b")], end_stream=True)

            assert rig.transport.resets == {0: 0x10E}
            call.finish()

    async def test_tunnel_waits_without_a_body_deadline(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(body_timeout_s=0.001)) as rig:
            call = await tunnel(rig, app)

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.receive(), 0.05)
            assert not rig.transport.resets
            call.finish()

    async def test_returning_application_ends_the_tunnel_cleanly(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            call = await tunnel(rig, app)
            call.finish()
            await settle()
            rig.peer.streams_writable()

            assert 0 in rig.transport.finished
            assert rig.transport.stopped == {0: 0x100}
            assert not rig.transport.resets

    async def test_classic_connect_has_no_datagrams(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            head = [(b":method", b"CONNECT"), (b":authority", b"example.org:443")]
            call = await started(rig, app, head, end=False)

            extensions = call.scope["extensions"]
            assert extensions["http.connect"] == {
                "protocol": None,
                "form": "classic",
                "authority": "example.org:443",
            }
            assert not {"http.datagram", "http.capsule"} & extensions.keys()
            assert extensions["http.splice"] == {"kinds": ["tcp"]}
            call.finish()
