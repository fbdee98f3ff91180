"""Owns the HTTP front end: it runs an ASGI application for the requests of all connections."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import structlog
from starlette.types import ASGIApp, Scope

from masque_relay.contract.counters import HttpCounters
from masque_relay.contract.ports import Clock
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.http.connection import HttpConnection
from masque_relay.http.lifespan import Lifespan
from masque_relay.http.limits import HttpLimits
from masque_relay.http.middleware_check import refuse_unfit_middleware
from masque_relay.http.request_stream import RequestStream
from masque_relay.http.send_room import ClientDisconnectedError
from masque_relay.http.transport import ClientLink, HttpTransport, HttpVersion
from masque_relay.quic.application import (
    H3Application,
    H3Transport,
    QuicApplication,
    QuicTransport,
)
from masque_relay.quic.h3_adapter import H3Session

_log = structlog.get_logger(__name__)


class H3SessionPort(H3Transport, QuicApplication, Protocol):
    """HTTP/3 framing of one connection: a QuicApplication below, an H3Transport above."""


class H3SessionFactory(Protocol):
    """Makes the framing of one connection."""

    def __call__(self, transport: QuicTransport, application: H3Application, /) -> H3SessionPort:
        """Return a session that feeds the application."""
        ...


Session = TypeVar("Session", bound=HttpTransport)


class HttpFrontEnd:
    """Serves an ASGI application over HTTP of any version; an async context manager.

    Connections of other HTTP versions come through :meth:`serve_connection`.

    Every request is one task in the TaskGroup of this object. An application that raises ends its
    own request (500, or a reset once the response began) with one log record, nothing else.

    Entering starts the application's lifespan and refuses middleware that breaks tunnels; leaving
    ends what still runs and the lifespan. Call :meth:`drain` before for a graceful end.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: HttpLimits,
        counters: HttpCounters,
        clock: Clock,
        session_factory: H3SessionFactory = H3Session,
    ) -> None:
        self._app = app
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._session_factory = session_factory
        self._connections: set[HttpConnection] = set()
        self._tasks: dict[RequestStream, asyncio.Task[None]] = {}
        self._taskless: set[RequestStream] = set()
        """Tunnels whose application has returned: an idle tunnel need not cost a task."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._group = asyncio.TaskGroup()
        self._lifespan = Lifespan(app, timeout_s=limits.lifespan_timeout_s)
        self._lifespan_task: asyncio.Task[None] | None = None
        self._is_open = False
        self._is_draining = False

    async def __aenter__(self) -> Self:
        """Check the application, start its lifespan, take requests.

        Raises:
            UnfitMiddlewareError: BaseHTTPMiddleware or GZipMiddleware is in its stack.
            LifespanFailedError: its start-up failed.
        """
        refuse_unfit_middleware(self._app)
        await self._group.__aenter__()
        lifespan_task = self._group.create_task(self._lifespan.run(), name="lifespan")
        try:
            await self._lifespan.startup()
        except BaseException:
            lifespan_task.cancel()
            await self._group.__aexit__(None, None, None)
            raise
        self._lifespan_task = lifespan_task
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End what still runs, then the application's lifespan."""
        self._is_open = False
        for connection in tuple(self._connections):
            connection.end_streams(EndReason.DRAINED)
            connection.close()
        await self._let_applications_exit()
        try:
            await self._lifespan.shutdown()
        except Exception:  # noqa: BLE001  (the application's own failure must not hide ours)
            _log.exception("application shut-down failed")
        if self._lifespan_task is not None:
            self._lifespan_task.cancel()
        if exc_type is asyncio.CancelledError:
            await self._group.__aexit__(exc_type, exc, traceback)
        else:  # the group would wrap the caller's own exception
            await self._group.__aexit__(None, None, None)

    @property
    def is_draining(self) -> bool:
        """New requests are refused."""
        return self._is_draining

    @property
    def state(self) -> Mapping[str, Any]:
        """What the application stored at its lifespan start-up."""
        return self._lifespan.state

    @property
    def request_count(self) -> int:
        """Requests that are running, tunnels included."""
        return len(self._tasks) + len(self._taskless)

    @property
    def connection_count(self) -> int:
        """HTTP connections that are open."""
        return len(self._connections)

    def application_factory(self, transport: QuicTransport) -> QuicApplication:
        """Return what a new connection with ALPN ``h3`` is to be fed to."""
        return self.serve_connection(
            lambda application: self._session_factory(transport, application), transport
        )

    def serve_connection(
        self,
        make_session: Callable[[H3Application], Session],
        link: ClientLink,
        *,
        http_version: HttpVersion = HttpVersion.HTTP3,
    ) -> Session:
        """Take a new connection of any HTTP version; return the session that was made for it."""
        connection = HttpConnection(
            self,
            limits=self._limits,
            counters=self._counters,
            clock=self._clock,
            http_version=http_version,
        )
        session = make_session(connection)
        connection.bind(session, link)
        self._connections.add(connection)
        if self._is_draining:
            connection.goaway()
        return session

    def apply_limits(self, limits: HttpLimits) -> None:
        """Use other limits for connections that begin from now on; the others keep theirs."""
        self._limits = limits

    def begin_drain(self) -> None:
        """Send GOAWAY everywhere; from here new requests are rejected, running ones go on."""
        self._is_draining = True
        for connection in self._connections:
            connection.goaway()

    async def drain(self, *, grace_s: float) -> None:
        """End gracefully: GOAWAY, wait for the running requests, end the rest, close.

        RFC 9114 section 5.2. Returns when every connection was told to close.
        """
        self.begin_drain()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            _log.info("drain deadline", requests=self.request_count)
            for connection in tuple(self._connections):
                connection.end_streams(EndReason.DRAINED)
            await self._let_applications_exit()
        for connection in tuple(self._connections):
            connection.close()

    # ConnectionOwner.

    def start_request(
        self, connection: HttpConnection, stream: RequestStream, scope: Scope
    ) -> bool:
        """Run the application for one request, in a task of its own."""
        if not self._is_open:
            return False
        self._tasks[stream] = self._group.create_task(
            self._run(connection, stream, scope), name=f"request {stream.request_id}"
        )
        self._idle.clear()
        return True

    def connection_over(self, connection: HttpConnection) -> None:
        """Forget a connection; its requests end by themselves."""
        self._connections.discard(connection)

    async def _run(self, connection: HttpConnection, stream: RequestStream, scope: Scope) -> None:
        try:
            await self._answer(stream, scope)
        except Exception:  # noqa: BLE001  (STYLE 17: one request's bug is its own)
            # Of ours, not of the application: let out, it would end the group with all requests.
            self._not_ended_properly(stream)
        finally:
            del self._tasks[stream]
            self._taskless.add(stream)
            if not stream.outlives(partial(self._splice_over, connection, stream)):
                self._over(connection, stream)

    def _splice_over(self, connection: HttpConnection, stream: RequestStream) -> None:
        """Do what is done when an application returns: this one has returned long ago."""
        try:
            stream.application_returned()
        except Exception:  # noqa: BLE001  (STYLE 17: one request's bug is its own)
            self._not_ended_properly(stream)
        finally:
            self._over(connection, stream)

    def _over(self, connection: HttpConnection, stream: RequestStream) -> None:
        connection.forget(stream)
        self._taskless.discard(stream)
        if not self.request_count:
            self._idle.set()

    @staticmethod
    def _not_ended_properly(stream: RequestStream) -> None:
        _log.exception("bug: a request was not ended properly", request_id=stream.request_id)

    async def _answer(self, stream: RequestStream, scope: Scope) -> None:
        try:
            await self._app(scope, stream.receive, stream.send)
        except ClientDisconnectedError:
            pass  # the application let go when its client did: nothing is wrong
        except asyncio.CancelledError:
            stream.abort(EndReason.DRAINED, H3Error.REQUEST_CANCELLED)
            raise
        except Exception:  # noqa: BLE001  (STYLE 17: one request's bug is its own)
            if not stream.is_disconnected:
                self._counters.application_errors += 1
                _log.exception("application raised", request_id=stream.request_id)
            stream.application_failed()
        else:
            stream.application_returned()

    async def _let_applications_exit(self) -> None:
        """Give applications a moment to see their disconnect, then cancel them."""
        try:
            async with asyncio.timeout(self._limits.application_exit_s):
                await self._idle.wait()
        except TimeoutError:
            for task in tuple(self._tasks.values()):
                task.cancel()
            # A task that swallows its cancellation is caught by the TaskGroup's own exit.
