"""Owns LocalProxy: SOCKS5 and HTTP listeners for this machine's programs, over a relay."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from ipaddress import IPv6Address, ip_address

from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import ClientError, ListenFailed
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.proxy_sessions import (
    ProgramConnection,
    ProxyOpener,
    ProxyServices,
    ProxyTotals,
    serve_http,
    serve_socks,
)
from masque_relay.client.socket_stream import SocketStream
from masque_relay.client.sockets import bind_client_udp
from masque_relay.client.socks import Login
from masque_relay.client.splice import Meter
from masque_relay.client.split import SplitRules
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import Clock, DatagramSocketFactory

logger = logging.getLogger(__name__)

Serve = Callable[[ProgramConnection, ProxyServices], Awaitable[None]]

_BACKLOG = 128
_ACCEPT_PAUSE_S = 0.2  # after accept failed: out of descriptors, most likely


class LocalProxy:
    """SOCKS5 and HTTP proxy on local ports; targets are reached through a relay, or by split rules.

    Call :meth:`start`, then :meth:`run` until the end.

    Args:
        opener: opens TCP connections and UDP tunnels through the relay; RelayLink is one.
        socks: where SOCKS5 listens, or None.
        http: where the HTTP proxy listens, or None.
        rules: which targets go around the relay, or nowhere.
        login: what programs must show; without it everybody who reaches the ports is served.
        limits: bounds.
        socket_factory: binds the UDP ports of associations.
        clock: time.

    Attributes:
        socks: after :meth:`start` with the real port.
        http: the same.
        totals: what happened so far.
    """

    def __init__(  # noqa: PLR0913 - all but one by keyword
        self,
        opener: ProxyOpener,
        *,
        socks: Endpoint | None,
        http: Endpoint | None = None,
        rules: SplitRules | None = None,
        login: Login | None = None,
        limits: ProxyLimits | None = None,
        socket_factory: DatagramSocketFactory = bind_client_udp,
        clock: Clock | None = None,
    ) -> None:
        self.socks = socks
        self.http = http
        self.totals = ProxyTotals()
        self._limits = limits or ProxyLimits()
        self._clock = clock or SystemClock()
        self._services = ProxyServices(
            opener=opener,
            rules=rules or SplitRules(),
            login=login,
            limits=self._limits,
            clock=self._clock,
            socket_factory=socket_factory,
            totals=self.totals,
        )
        self._listeners: list[tuple[socket.socket, Serve]] = []
        self._connections: dict[asyncio.Task[None], ProgramConnection] = {}

    def start(self) -> None:
        """Bind the local ports.

        Raises:
            ListenFailed: one of them is taken or not ours.
        """
        try:
            if self.socks is not None:
                self.socks = self._listen(self.socks, serve_socks)
            if self.http is not None:
                self.http = self._listen(self.http, serve_http)
        except ListenFailed:
            self.close()
            raise

    async def run(self) -> None:
        """Serve until cancelled; then close the ports and all connections."""
        try:
            async with asyncio.TaskGroup() as group:
                for listener, serve in self._listeners:
                    group.create_task(self._accept(listener, serve, group), name="accept")
                while True:
                    await asyncio.sleep(self._limits.sweep_interval_s)
                    self.sweep()
        finally:
            self.close()

    def close(self) -> None:
        """Close the ports; idempotent. Connections end with :meth:`run`."""
        for listener, _ in self._listeners:
            listener.close()
        self._listeners.clear()

    def sweep(self) -> None:
        """Close connections on which nothing moved for long. :meth:`run` calls it."""
        expired_s = self._clock.monotonic_s() - self._limits.idle_timeout_s
        for task, connection in self._connections.items():
            if connection.meter.last_active_s <= expired_s and not connection.is_association:
                self.totals.idle_closed += 1
                task.cancel()

    @property
    def connection_count(self) -> int:
        """Programs' connections that are open."""
        return len(self._connections)

    def status(self) -> Mapping[str, object]:
        """Return addresses and counts; JSON-ready."""
        return {
            "socks": None if self.socks is None else str(self.socks),
            "http": None if self.http is None else str(self.http),
            "connections": len(self._connections),
            "associations": self._services.association_count,
            **asdict(self.totals),
        }

    # -- parts -----------------------------------------------------------------------------------

    def _listen(self, endpoint: Endpoint, serve: Serve) -> Endpoint:
        family = socket.AF_INET6 if isinstance(endpoint.address, IPv6Address) else socket.AF_INET
        try:
            listener = socket.create_server(
                (str(endpoint.address), endpoint.port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            raise ListenFailed(
                f"cannot listen on {endpoint}: {error.strerror}",
                hint="choose another port, or end what uses it",
            ) from error
        listener.settimeout(0.0)
        self._listeners.append((listener, serve))
        return _endpoint(listener.getsockname())

    async def _accept(
        self, listener: socket.socket, serve: Serve, group: asyncio.TaskGroup
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            self.totals.accepted += 1
            if len(self._connections) >= self._limits.connections:
                self.totals.over_limit += 1
                accepted.close()
                continue
            connection = ProgramConnection(
                stream=SocketStream(accepted),
                program=_endpoint(peer),
                local=_endpoint(accepted.getsockname()),
                meter=Meter(clock=self._clock, last_active_s=self._clock.monotonic_s()),
            )
            task = group.create_task(self._serve(connection, serve), name="program")
            self._connections[task] = connection
            task.add_done_callback(self._connections.pop)

    async def _serve(self, connection: ProgramConnection, serve: Serve) -> None:
        """Serve one program; what goes wrong there ends it alone."""
        try:
            await serve(connection, self._services)
        except (ClientError, TimeoutError):
            self.totals.handshake_failed += 1
        except Exception:
            logger.exception("bug: a local connection ended badly")
        finally:
            connection.stream.abort()


def _endpoint(address: tuple[str, int]) -> Endpoint:
    """Return what a socket calls an address; IPv4-mapped ones unwrapped."""
    host = ip_address(address[0].partition("%")[0])
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return Endpoint(address=mapped or host, port=address[1])
