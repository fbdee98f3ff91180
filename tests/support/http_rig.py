"""Owns the rig for front-end tests: an HttpFrontEnd over a recording transport."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masque_relay.contract.counters import HttpCounters
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.application import H3Application, Headers, QuicTransport
from tests.support.http_fakes import (
    CONNECT_UDP_HEAD,
    FakeClock,
    FakeQuic,
    RecordingH3Transport,
    settle,
)


class IgnoringApplication:
    """An H3Application that hears nothing, for parts that are tested without one."""

    def settings_received(self, settings: Mapping[int, int]) -> None: ...

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None: ...

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None: ...

    def malformed_received(self, stream_id: int, detail: str) -> None: ...

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None: ...

    def stream_reset_received(self, stream_id: int, error_code: int) -> None: ...

    def goaway_received(self, stream_id: int) -> None: ...

    def streams_writable(self) -> None: ...

    def connection_lost(self, error_code: int, reason: str) -> None: ...


NO_APPLICATION = IgnoringApplication()


class Rig:
    """A front end with one connection."""

    def __init__(self, app: ASGIApp, limits: HttpLimits | None = None) -> None:
        self.counters = HttpCounters()
        self.clock = FakeClock()
        self.quic = FakeQuic()
        self.transports: list[RecordingH3Transport] = []
        self.front_end = HttpFrontEnd(
            app,
            limits=limits or HttpLimits(),
            counters=self.counters,
            clock=self.clock,
            session_factory=self._make_session,
        )

    def _make_session(
        self, transport: QuicTransport, application: H3Application
    ) -> RecordingH3Transport:
        session = RecordingH3Transport(application, quic=transport)
        self.transports.append(session)
        return session

    def connect(self) -> RecordingH3Transport:
        """Open another connection."""
        self.front_end.application_factory(self.quic)
        return self.transports[-1]

    @property
    def transport(self) -> RecordingH3Transport:
        return self.transports[0]

    @property
    def peer(self) -> H3Application:
        """What the test calls as the peer."""
        return self.transport.application

    def pass_idle_time(self, seconds: float) -> None:
        """Move the clock and let the idle check of the first stream's splice fire, no sleeping."""
        self.clock.now_s += seconds
        (connection,) = self.front_end._connections
        splice = connection.streams[0]._splice
        assert splice is not None
        timer = splice._idle_timer
        if timer is not None:
            timer._run()
            timer.cancel()

    async def request(
        self, stream_id: int, headers: Headers, body: bytes | None = None, *, end: bool = True
    ) -> None:
        """Send a request and let everything settle."""
        self.peer.headers_received(stream_id, headers, end_stream=end and body is None)
        if body is not None:
            self.peer.data_received(stream_id, body, end_stream=end)
        await settle()

    async def open_tunnel(self, stream_id: int = 0, headers: Headers | None = None) -> None:
        """Send a CONNECT-UDP request."""
        await self.request(stream_id, headers or CONNECT_UDP_HEAD, end=False)


@asynccontextmanager
async def serving(app: ASGIApp, limits: HttpLimits | None = None) -> AsyncGenerator[Rig]:
    """Run a front end over one recording connection."""
    rig = Rig(app, limits)
    async with rig.front_end:
        rig.connect()
        await settle()
        yield rig


class ScriptedApp:
    """An ASGI application whose every step the test makes itself.

    Lifespan is not supported, as in many applications.
    """

    def __init__(self) -> None:
        self.calls: list[AppCall] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        call = AppCall(scope, receive, send)
        self.calls.append(call)
        await call.run()


class AppCall:
    """One request inside the application; ``receive`` and ``send`` are the server's own."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        await self._done

    def finish(self, error: Exception | None = None) -> None:
        """Let the application return, or raise."""
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    async def start(self, status: int = 200, headers: Headers | None = None, **more: Any) -> None:
        """Send ``http.response.start``."""
        message: Message = {
            "type": "http.response.start",
            "status": status,
            "headers": headers or [],
            **more,
        }
        await self.send(message)

    async def body(self, body: bytes = b"", *, more: bool = False) -> None:
        """Send ``http.response.body``."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})
