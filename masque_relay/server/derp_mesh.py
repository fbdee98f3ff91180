"""Owns the connections to the other DERP servers of a region: dialled, kept up, closed with us."""

import asyncio
import secrets
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

import structlog

from fallbacks.derp.box import ServerBox
from fallbacks.derp.elsewhere import Elsewhere
from fallbacks.derp.mesh_client import MeshClient, MeshPorts
from masque_relay.client.address import RelayAddress
from masque_relay.client.backoff import Backoff
from masque_relay.client.client_tls import tcp_tls
from masque_relay.client.dial import relay_endpoints
from masque_relay.client.errors import ClientError
from masque_relay.client.limits import ClientLimits, ReconnectLimits
from masque_relay.client.tcp_dial import DialledConnection, OpenConnections, dial_tls
from masque_relay.config.derp import DerpSection, split_server_url
from masque_relay.contract.counters import DerpMeshCounters
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.ports import Clock
from masque_relay.http.tcp_connection import TcpLink
from masque_relay.http.tcp_wire import TcpSession, Wire
from masque_relay.server.derp_stream import UpgradedStream

TICK_S = 1.0
ALPN = ("http/1.1",)
"""An Upgrade is HTTP/1.1's."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """Whom to dial, and how."""

    servers: tuple[str, ...]
    """URLs, checked."""
    tls: ssl.SSLContext
    mesh_key: str = field(repr=False)
    """64 lower-case hexadecimal digits."""


def mesh_tls(section: DerpSection) -> ssl.SSLContext:
    """Return what checks the other servers' certificates.

    Raises:
        ConfigError: the file of CAs cannot be used.
    """
    try:
        return tcp_tls(section.mesh_ca_file, None, ALPN)
    except ClientError as error:
        problem = Problem(
            file=str(section.mesh_ca_file), key_path="derp.mesh_ca_file", detail=error.message
        )
        raise ConfigError([problem]) from error


class DerpMesh:
    """An async context manager: one task per server lives in it, dialling again after each end."""

    def __init__(
        self,
        settings: MeshSettings,
        section: DerpSection,
        *,
        box: ServerBox,
        elsewhere: Elsewhere,
        clock: Clock,
        counters: DerpMeshCounters,
    ) -> None:
        limits = section.mesh_limits
        self._clock = clock
        self._counters = counters
        self._settings = settings
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []
        self._connections = OpenConnections()
        self._stable_after_s = limits.stable_after_s
        self._reconnect = ReconnectLimits(
            first_delay_s=limits.first_delay_s, longest_delay_s=limits.longest_delay_s
        )
        self._client_limits = ClientLimits(connect_timeout_s=limits.connect_timeout_s)
        self._ports = MeshPorts(
            box=box,
            mesh_key=settings.mesh_key,
            elsewhere=elsewhere,
            random_bytes=secrets.token_bytes,
            monotonic_s=clock.monotonic_s,
            jitter=_fraction,
            counters=counters,
            limits=limits,
        )
        self._servers = [_Server(url) for url in settings.servers]
        self._is_leaving = False

    async def __aenter__(self) -> Self:
        """Begin to dial; nobody waits for the others to answer."""
        await self._tasks.__aenter__()
        self._running = [
            self._tasks.create_task(self._keep_up(server), name="derp-mesh")
            for server in self._servers
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Say goodbye to all and close the connections."""
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._connections.close()

    def restarting(self) -> None:
        """Dial nobody any more: we will go, and a successor with our key may have come already.

        What is connected stays so as long as our clients do.
        """
        self._is_leaving = True

    def status(self) -> list[Mapping[str, object]]:
        """What an operator sees of each server; JSON-ready, without identities."""
        return [server.status() for server in self._servers]

    async def _keep_up(self, server: "_Server") -> None:
        backoff = Backoff(self._reconnect, _fraction)
        while not self._is_leaving:
            began_s = self._clock.monotonic_s()
            self._counters.servers_dialled += 1
            try:
                await self._dial(server)
            except ClientError as error:
                server.fault = error.message
            except Exception:  # noqa: BLE001  (STYLE 17: a bug with one server ends no other)
                _log.exception("the connection to a DERP server failed", server=server.url)
                server.fault = "a bug; see the log"
            if server.is_ourselves:
                _log.info("mesh_with names this relay itself", server=server.url)
                return
            self._counters.servers_failed += 1
            if server.was_open and self._clock.monotonic_s() - began_s >= self._stable_after_s:
                backoff.succeeded()
            delay_s = backoff.failed()
            _log.warning(
                "DERP server of the mesh away",
                server=server.url,
                error=server.fault,
                retry_in_s=round(delay_s, 1),
            )
            await asyncio.sleep(delay_s)

    async def _dial(self, server: "_Server") -> None:
        """Hold one connection from its first byte to its last.

        Raises:
            ClientError: there is no way to the server, or it can't prove who it is.
        """
        server.hang_up()

        def begin(wire: Wire, link: TcpLink) -> TcpSession:
            del link
            session = MeshClient(self._ports)  # only now: its deadlines are those after TLS
            address = server.address
            stream = UpgradedStream(session, wire, authority=address.authority, path=server.path)
            server.call = _Call(session, stream)
            return stream

        endpoints = await relay_endpoints(server.address, self._client_limits)
        connection = await dial_tls(
            server.address,
            endpoints,
            begin,
            tls=self._settings.tls,
            limits=self._client_limits,
            clock=self._clock,
            connections=self._connections,
        )
        call = server.call
        assert call is not None  # noqa: S101  (narrows the type: begin was called)
        try:
            await self._watch(server, *call)
        finally:
            call.session.close()
            connection.close()
            server.fault = call.fault(connection)

    async def _watch(self, server: "_Server", session: MeshClient, stream: UpgradedStream) -> None:
        """Return when the session is over; let it see the time until then."""
        is_told = False
        tick_s = self._clock.monotonic_s() + TICK_S
        while session.end_reason is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, tick_s - self._clock.monotonic_s())):
                    await stream.changed.wait()
            stream.changed.clear()
            if self._clock.monotonic_s() >= tick_s:
                tick_s = self._clock.monotonic_s() + TICK_S
                session.on_tick()
            if session.is_open and not is_told:
                is_told = True
                _log.info("DERP server of the mesh connected", server=server.url)


class _Call(NamedTuple):
    """One connection to a server, from the end of its TLS handshake on."""

    session: MeshClient
    stream: UpgradedStream

    def fault(self, connection: DialledConnection) -> str:
        """Return the best word for why it ended."""
        if connection.tls_error is not None:
            return f"TLS: {connection.tls_error.reason}"
        return self.stream.fault or self.session.fault


class _Server:
    """One of the others.

    Attributes:
        call: the last connection, over or not; None while it is dialled.
        fault: why there was none, or why it ended; for people.
    """

    def __init__(self, url: str) -> None:
        host, port, self.path = split_server_url(url)
        self.url = url
        self.address = RelayAddress(host=host, port=port)
        self.fault = ""
        self.call: _Call | None = None

    def hang_up(self) -> None:
        """Forget the last connection."""
        self.call = None

    @property
    def is_ourselves(self) -> bool:
        """Whether the URL leads back to this relay."""
        return self.call is not None and self.call.session.is_ourselves

    @property
    def was_open(self) -> bool:
        """Whether the last connection got as far as packets."""
        return self.call is not None and self.call.session.was_open

    def status(self) -> Mapping[str, object]:
        """What an operator sees."""
        session = None if self.call is None else self.call.session
        if session is None or not session.is_open:
            state = "this relay" if self.is_ourselves else "away"
            return {"server": self.url, "state": state, "error": self.fault}
        return {
            "server": self.url,
            "state": "connected",
            "public_key": session.server_key.hex(),
            "clients": session.client_count,
        }


def _fraction() -> float:
    return secrets.randbelow(1_000) / 1_000
