"""One HTTP/3 connection of the front end: faults stay in their stream."""

import asyncio

import pytest

from masque_relay.http.limits import HttpLimits
from masque_relay.quic.application import Headers
from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with, settle
from tests.support.http_rig import Rig, ScriptedApp, serving


async def neighbour_works(rig: Rig, app: ScriptedApp, stream_id: int) -> bool:
    """Whether a request on the same connection is answered."""
    known = len(app.calls)
    await rig.request(stream_id, GET_HEAD)
    if len(app.calls) == known:
        return False
    await app.calls[-1].start()
    await app.calls[-1].body(b"ok")
    app.calls[-1].finish()
    await settle()
    return rig.transport.data[stream_id] == b"ok" and rig.transport.closed is None


class TestMalformedRequests:
    """RFC 9114 section 4.1.2: a stream error."""

    @pytest.mark.clause(
        "RFC 9114", "4.1.2", "MUST", "reset the stream of a malformed message with H3_MESSAGE_ERROR"
    )
    @pytest.mark.parametrize(
        "head",
        [
            head_with(GET_HEAD, protocol=b"connect-udp"),
            head_with(CONNECT_UDP_HEAD, path=None),
            head_with(GET_HEAD, path=b"/\0"),
            [],
        ],
    )
    async def test_bad_head_resets_its_stream_only(self, head: Headers) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, head)

            assert not app.calls
            assert rig.transport.resets == {0: 0x10E}
            assert rig.counters.requests_malformed == 1
            assert await neighbour_works(rig, app, 4)

    async def test_what_the_transport_refused_is_counted_and_ends_the_request(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD, end=False)
            rig.peer.malformed_received(0, "bad field name")
            rig.peer.malformed_received(4, "bad field name")

            await app.calls[0].receive()
            assert app.calls[0] is app.calls[-1]
            assert rig.counters.requests_malformed == 2
            app.calls[0].finish()
            assert await neighbour_works(rig, app, 8)


class TestCaps:
    @pytest.mark.clause(
        "RFC 9114",
        "4.1.1",
        "SHOULD",
        "use H3_REQUEST_REJECTED for requests that were not processed",
    )
    async def test_requests_beyond_the_cap_are_rejected_and_may_be_retried(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(max_requests_per_connection=2)) as rig:
            for stream_id in (0, 4, 8):
                await rig.request(stream_id, GET_HEAD)

            assert rig.transport.resets == {8: 0x10B}
            app.calls[0].finish()
            await settle()
            assert await neighbour_works(rig, app, 12)
            app.calls[1].finish()

    async def test_requests_beyond_the_rate_are_rejected(self) -> None:
        app = ScriptedApp()
        limits = HttpLimits(request_burst_count=3, request_rate_per_s=10)
        async with serving(app, limits) as rig:
            for stream_id in range(0, 20, 4):
                await rig.request(stream_id, GET_HEAD)
                if len(app.calls) * 4 > stream_id:
                    app.calls[-1].finish()

            assert rig.transport.resets == {12: 0x10B, 16: 0x10B}
            rig.clock.now_s += 1
            assert await neighbour_works(rig, app, 20)

    @pytest.mark.clause(
        "RFC 9114", "10.5", "SHOULD", "end connections that only make work, with H3_EXCESSIVE_LOAD"
    )
    async def test_rapid_resets_close_the_connection(self) -> None:
        app = ScriptedApp()
        limits = HttpLimits(reset_burst_count=5, reset_rate_per_s=1)
        async with serving(app, limits) as rig:
            for stream_id in range(0, 24, 4):
                await rig.request(stream_id, GET_HEAD)
                rig.peer.stream_reset_received(stream_id, 0x10C)
                app.calls[-1].finish()

            assert rig.transport.closed is not None
            assert rig.transport.closed[0] == 0x107
            assert rig.counters.streams_reset == 6

    @pytest.mark.parametrize("found_by", ["transport", "front end"])
    async def test_flood_of_malformed_requests_closes_the_connection(self, found_by: str) -> None:
        app = ScriptedApp()
        limits = HttpLimits(reset_burst_count=5, reset_rate_per_s=1)
        async with serving(app, limits) as rig:
            for stream_id in range(0, 24, 4):
                assert rig.transport.closed is None
                if found_by == "transport":
                    rig.peer.malformed_received(stream_id, "bad")
                else:
                    rig.peer.headers_received(stream_id, [], end_stream=True)

            assert rig.transport.closed is not None
            assert rig.transport.closed[0] == 0x107

    @pytest.mark.clause(
        "RFC 9114",
        "4.1.1",
        "SHOULD",
        "use H3_REQUEST_CANCELLED for requests that were processed in part",
    )
    async def test_cancelled_request_is_reset_from_our_side_too(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            rig.peer.stream_reset_received(0, 0x10C)

            assert rig.transport.resets == {0: 0x10C}
            app.calls[0].finish()


class TestDatagrams:
    """RFC 9297 section 2.1: for streams that have not begun, keep some, bounded."""

    @pytest.mark.clause(
        "RFC 9297", "2.1", "MUST", "drop or buffer datagrams for a stream that is not there yet"
    )
    async def test_datagrams_that_overtake_their_request_are_delivered(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            rig.peer.datagrams_received(4, [b"early"])
            await rig.open_tunnel(4)
            await app.calls[0].start()

            assert (await app.calls[0].receive())["data"] == b"early"
            app.calls[0].finish()

    async def test_stream_that_is_overtaken_by_another_still_gets_its_datagrams(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.open_tunnel(8)
            rig.peer.datagrams_received(4, [b"early"])
            await rig.open_tunnel(4)
            await app.calls[1].start()

            assert (await app.calls[1].receive())["data"] == b"early"
            assert rig.counters.unknown_stream_datagrams == 0
            for call in app.calls:
                call.finish()

    @pytest.mark.clause("RFC 9297", "2.1", "MUST", "drop datagrams for a closed stream silently")
    async def test_datagrams_for_a_closed_stream_are_counted_and_dropped(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.open_tunnel(0)
            app.calls[0].finish()
            await settle()

            rig.peer.datagrams_received(0, [b"late", b"later"])

            assert rig.counters.unknown_stream_datagrams == 2

    async def test_datagrams_for_a_refused_stream_are_forgotten(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            rig.peer.datagrams_received(0, [b"early"])
            await rig.request(0, head_with(CONNECT_UDP_HEAD, path=None))
            rig.peer.datagrams_received(0, [b"late"])

            assert rig.counters.unknown_stream_datagrams == 1

    @pytest.mark.clause(
        "RFC 9297", "2.1", "MUST", "drop or buffer datagrams for a stream that is not there yet"
    )
    async def test_flood_for_streams_that_never_begin_is_dropped_and_counted(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(early_unknown_streams=4)) as rig:
            for stream_id in range(0, 4_000, 4):
                rig.peer.datagrams_received(stream_id, [b"x"])

            assert rig.counters.early_datagrams_dropped == 996

    async def test_datagrams_on_an_ordinary_request_abort_it(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            rig.peer.datagrams_received(0, [b"x"])

            assert rig.transport.resets == {0: 0x33}
            assert (await app.calls[0].receive())["type"] == "http.disconnect"
            app.calls[0].finish()


async def test_lost_connection_disconnects_every_request() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        await rig.open_tunnel(0)
        await rig.request(4, GET_HEAD)
        rig.peer.connection_lost(0x101, "gone")

        for call in app.calls:
            message = await call.receive()
            assert (message["type"], message["reason"]) == ("http.disconnect", "connection_lost")
            call.finish()
        assert rig.front_end.connection_count == 0


async def test_settings_and_goaway_of_the_peer_change_nothing() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        rig.peer.settings_received({0x33: 1})
        rig.peer.goaway_received(0)

        assert await neighbour_works(rig, app, 0)


async def test_requests_of_one_connection_run_side_by_side() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        for stream_id in (0, 4, 8):
            await rig.request(stream_id, GET_HEAD)

        assert rig.front_end.request_count == 3
        for call in app.calls:
            call.finish()
        await asyncio.sleep(0)
