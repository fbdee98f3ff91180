"""The HTTP/3 front end: lifespan, bugs of applications, draining."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from masque_relay.http.lifespan import LifespanFailedError
from masque_relay.http.limits import HttpLimits
from masque_relay.http.middleware_check import UnfitMiddlewareError
from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with, settle
from tests.support.http_rig import Rig, ScriptedApp, serving


class TestStarletteApplications:
    async def test_ordinary_application_works_unchanged(self) -> None:
        async def echo(request: Request) -> PlainTextResponse:
            body = await request.body()
            return PlainTextResponse(
                f"{request.method} {request.url} {request.client} {body.decode()}"
            )

        app = Starlette(routes=[Route("/echo", echo, methods=["POST"])])
        async with serving(app) as rig:
            head = head_with(GET_HEAD, method=b"POST", path=b"/echo?q=1")
            await rig.request(0, head, b"hello")

            assert rig.transport.status(0) == 200
            assert rig.transport.data[0] == (
                b"POST https://relay.example/echo?q=1"
                b" Address(host='198.51.100.9', port=40000) hello"
            )
            assert 0 in rig.transport.finished

    async def test_streaming_body_flows(self) -> None:
        async def chunks() -> AsyncGenerator[bytes]:
            for number in range(3):
                yield b"%d" % number
                await asyncio.sleep(0)

        async def stream(request: Request) -> StreamingResponse:
            return StreamingResponse(chunks())

        async with serving(Starlette(routes=[Route("/", stream)])) as rig:
            await rig.request(0, GET_HEAD)
            await settle()

            assert rig.transport.data[0] == b"012"
            assert 0 in rig.transport.finished

    async def test_client_that_leaves_a_streaming_response_is_no_application_error(self) -> None:
        async def endless() -> AsyncGenerator[bytes]:
            while True:
                yield b"x"
                await asyncio.sleep(0)

        async def stream(request: Request) -> StreamingResponse:
            return StreamingResponse(endless())

        async with serving(Starlette(routes=[Route("/", stream)])) as rig:
            await rig.request(0, GET_HEAD)
            rig.peer.stream_reset_received(0, 0x10C)
            await settle()

            assert rig.front_end.request_count == 0
            assert rig.counters.application_errors == 0

    async def test_lifespan_state_reaches_requests(self) -> None:
        events: list[str] = []

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
            events.append("start")
            yield {"answer": 42}
            events.append("stop")

        async def show(request: Request) -> PlainTextResponse:
            return PlainTextResponse(str(request.state.answer))

        async with serving(Starlette(routes=[Route("/", show)], lifespan=lifespan)) as rig:
            await rig.request(0, GET_HEAD)
            assert rig.transport.data[0] == b"42"
            assert events == ["start"]
        assert events == ["start", "stop"]

    async def test_failing_start_up_is_reported(self) -> None:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncGenerator[None]:
            raise ValueError("no database")
            yield

        with pytest.raises(LifespanFailedError, match="no database"):
            async with serving(Starlette(lifespan=lifespan)):
                pass

    async def test_base_http_middleware_is_refused_at_the_start(self) -> None:
        app = Starlette(middleware=[Middleware(BaseHTTPMiddleware)])

        with pytest.raises(UnfitMiddlewareError, match="BaseHTTPMiddleware"):
            async with serving(app):
                pass


class TestApplicationBugs:
    async def test_raising_application_gets_500_and_one_log_record(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            with capture_logs() as logs:
                app.calls[0].finish(ValueError("bug"))
                await settle()

            assert rig.transport.status(0) == 500
            assert rig.counters.application_errors == 1
            (record,) = logs
            assert record["request_id"] == app.calls[0].scope["state"]["request_id"]

    async def test_response_that_has_begun_is_reset_so_that_it_does_not_look_complete(
        self,
    ) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            await app.calls[0].start()
            await app.calls[0].body(b"half", more=True)
            with capture_logs():
                app.calls[0].finish(ValueError("bug"))
                await settle()

            assert rig.transport.resets == {0: 0x102}
            assert 0 not in rig.transport.finished

    async def test_neighbours_of_a_raising_application_go_on(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.open_tunnel(0)
            await app.calls[0].start()
            await rig.request(4, GET_HEAD)
            with capture_logs():
                app.calls[1].finish(ValueError("bug"))
                await settle()

            rig.peer.datagrams_received(0, [b"\0still here"])
            assert (await app.calls[0].receive())["data"] == b"\0still here"
            app.calls[0].finish()

    async def test_application_that_answers_nothing_gets_500(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            app.calls[0].finish()
            await settle()

            assert rig.transport.status(0) == 500

    @pytest.mark.clause(
        "RFC 9114", "4.1", "MUST", "close the stream for sending after the final response"
    )
    async def test_application_that_forgets_the_end_is_finished(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.request(0, GET_HEAD)
            await app.calls[0].start()
            app.calls[0].finish()
            await settle()

            assert 0 in rig.transport.finished


async def test_other_limits_hold_for_connections_that_begin_later() -> None:
    app = ScriptedApp()
    async with serving(app) as rig:
        rig.front_end.apply_limits(HttpLimits(max_requests_per_connection=1))
        later = rig.connect()
        for transport in (rig.transport, later):
            for stream_id in (0, 4):
                transport.application.headers_received(stream_id, GET_HEAD, end_stream=True)
        await settle()

        assert not rig.transport.resets
        assert later.resets == {4: 0x10B}
        for call in app.calls:
            call.finish()


class TestDrain:
    @pytest.mark.clause(
        "RFC 9114", "5.2", "SHOULD", "send GOAWAY before a foreseen end, and close with H3_NO_ERROR"
    )
    async def test_goaway_then_running_requests_finish_then_the_connection_closes(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            await rig.open_tunnel(0)
            await app.calls[0].start()
            draining = asyncio.ensure_future(rig.front_end.drain(grace_s=10))
            await settle()

            assert rig.transport.goaways == 1
            assert rig.transport.closed is None
            rig.peer.datagrams_received(0, [b"\0works"])
            assert (await app.calls[0].receive())["data"] == b"\0works"
            await rig.request(4, GET_HEAD)
            assert rig.transport.resets == {4: 0x10B}, "new requests are rejected"

            app.calls[0].finish()
            await draining
            assert rig.transport.closed == (0x100, "")

    async def test_tunnels_are_disconnected_at_the_end_of_the_grace_time(self) -> None:
        app = ScriptedApp()
        async with serving(app, HttpLimits(application_exit_s=0.01)) as rig:
            await rig.open_tunnel(0)
            await app.calls[0].start()

            await rig.front_end.drain(grace_s=0.01)

            message = await app.calls[0].receive()
            assert (message["type"], message["reason"]) == ("http.disconnect", "drained")
            assert rig.transport.closed == (0x100, "")

    async def test_connection_that_comes_while_draining_is_told_to_go(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            rig.front_end.begin_drain()

            assert rig.connect().goaways == 1

    async def test_leaving_cancels_an_application_that_does_not_listen(self) -> None:
        cancelled: list[Scope] = []

        async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(scope)
                raise

        async with serving(deaf, HttpLimits(application_exit_s=0.01)) as rig:
            await rig.request(0, CONNECT_UDP_HEAD, end=False)

        assert len(cancelled) == 1
        assert rig.transport.resets == {0: 0x10C}

    async def test_request_after_the_end_is_rejected(self) -> None:
        app = ScriptedApp()
        async with serving(app) as rig:
            pass
        rig.peer.headers_received(0, GET_HEAD, end_stream=True)

        assert rig.transport.resets == {0: 0x10B}
        assert isinstance(rig, Rig)
