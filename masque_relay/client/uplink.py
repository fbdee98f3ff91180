"""Owns Uplink: an open connection to a relay on one HTTP version, and how each is opened."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from masque_relay.client import tcp_dial
from masque_relay.client.address import RelayAddress
from masque_relay.client.client_tls import quic_tls, tcp_tls
from masque_relay.client.connection import RelayConnection
from masque_relay.client.credentials import Credential
from masque_relay.client.dial import connect_any, relay_endpoints
from masque_relay.client.errors import ConnectionLost
from masque_relay.client.h1 import Begin, H1ClientTransport
from masque_relay.client.h2 import H2ClientTransport
from masque_relay.client.h3 import h3_application
from masque_relay.client.http_version import HttpChoice
from masque_relay.client.limits import ClientLimits, TcpWayLimits
from masque_relay.client.tcp_dial import (
    DialledConnection,
    OpenConnections,
    dial_tls,
    untrusted_from,
)
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import Clock, DatagramSocketFactory
from masque_relay.http.tcp_connection import TcpLink
from masque_relay.http.tcp_tls import ALPN_H1, ALPN_H2
from masque_relay.http.tcp_wire import TcpSession, Wire
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import EndpointSettings
from masque_relay.wire.connect_tcp import DataCapsuleTypes

CLIENT_QUIC_LIMITS = QuicLimits(
    idle_timeout_s=60.0, stream_window_bytes=1_048_576, connection_window_bytes=8_388_608
)
"""Keep-alives come every 10 s, so that a minute of silence means that nobody is there. The windows
are those of TcpWayLimits: 80 Mbit/s at 100 ms a stream, and only the user's own memory at stake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Everything about how to reach a relay but its address."""

    ca_file: Path | None = None
    """PEM; trust these and nothing else. None: the bundled public roots."""
    credential: Credential | None = None
    http: HttpChoice = HttpChoice.AUTO
    connect_tcp: DataCapsuleTypes | None = None
    """Open TCP by ``connect-tcp`` with these capsule types; None: by classic CONNECT."""
    limits: ClientLimits = field(default_factory=ClientLimits)
    tcp_limits: TcpWayLimits = field(default_factory=TcpWayLimits)
    quic_limits: QuicLimits = CLIENT_QUIC_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """One open connection; whoever has it closes it."""

    connection: RelayConnection
    peer: Endpoint
    """The relay's address that answered."""
    activity: Callable[[], tuple[int, int]]
    """Running totals of what was sent and received, to tell whether the relay lives."""
    end: Callable[[], Awaitable[None]]
    """Gives up what is below the connection."""

    async def close(self) -> None:
        """Close the connection and its tunnels; idempotent."""
        self.connection.close()
        await self.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkParts:
    """What opening takes."""

    address: RelayAddress
    options: RelayOptions
    counters: QuicCounters
    socket_factory: DatagramSocketFactory
    clock: Clock


async def open_h3(parts: UplinkParts) -> Uplink:
    """Connect by QUIC and wait until the relay takes tunnel requests.

    Raises:
        CredentialError: a credential or CA file cannot be used.
        RelayUnreachable: nothing answers there.
        RelayUntrusted: TLS failed.
        RelayTimeout: no SETTINGS, or no name resolution, in time.
        RelayIncapable: it is no relay.
    """
    options = parts.options
    tls = quic_tls(options.ca_file, options.credential)
    connection = RelayConnection(options.limits)
    endpoint = QuicEndpoint(
        EndpointSettings(limits=options.quic_limits),
        socket_factory=parts.socket_factory,
        clock=parts.clock,
        counters=parts.counters,
    )
    try:
        peer = await connect_any(
            endpoint,
            parts.address,
            application=h3_application(connection),
            tls=tls,
            limits=options.limits,
            clock=parts.clock,
        )
        await connection.wait_ready()
    except BaseException:
        connection.close()
        await endpoint.close()
        raise
    counters = parts.counters
    return Uplink(
        connection=connection,
        peer=peer,
        activity=lambda: (counters.datagrams_sent, counters.datagrams_received),
        end=endpoint.close,
    )


async def open_tcp(parts: UplinkParts, alpn: tuple[str, ...]) -> Uplink:
    """Connect by TLS over TCP, with the HTTP version that the relay chooses out of ``alpn``.

    Raises:
        ClientError: as :func:`open_h3`.
    """
    uplink = _TcpUplink(parts, alpn)
    try:
        await uplink.open()
    except BaseException:
        uplink.connection.close()
        await uplink.end()
        raise
    return Uplink(
        connection=uplink.connection,
        peer=uplink.first.peer,
        activity=uplink.activity,
        end=uplink.end,
    )


class _TcpUplink:
    """The opening of a connection over TCP; HTTP/1.1 dials again for every request."""

    first: DialledConnection

    def __init__(self, parts: UplinkParts, alpn: tuple[str, ...]) -> None:
        options = parts.options
        self._parts = parts
        self._limits = options.limits
        self._tls = tcp_tls(options.ca_file, options.credential, alpn)
        self._tls_h1 = tcp_tls(options.ca_file, options.credential, (ALPN_H1,))
        self.connection = RelayConnection(options.limits)
        self._h2: H2ClientTransport | None = None
        self._connections = OpenConnections()

    async def open(self) -> None:
        endpoints = await relay_endpoints(self._parts.address, self._limits)
        h1 = H1ClientTransport(
            self.connection,
            partial(self._dial_h1, endpoints),
            limits=self._parts.options.tcp_limits,
        )

        def begin(wire: Wire, link: TcpLink) -> TcpSession:
            if link.alpn != ALPN_H2:
                self.connection.attach(h1)
                return h1.begin(wire)
            self._h2 = H2ClientTransport(
                self.connection,
                wire,
                limits=self._parts.options.tcp_limits,
                clock=self._parts.clock,
                call_soon=asyncio.get_running_loop().call_soon,
            )
            self.connection.attach(self._h2)
            return self._h2

        self.first = await self._dial(endpoints, begin, self._tls)
        if self._h2 is None:
            h1.started()
        try:
            await self.connection.wait_ready()
        except ConnectionLost as error:
            if self.first.tls_error is not None:
                raise untrusted_from(self.first.tls_error, self._parts.address) from error
            raise

    def activity(self) -> tuple[int, int]:
        """Return the counts of HTTP/2; HTTP/1.1 leaves the watch to the kernel."""
        h2 = self._h2
        return (0, 0) if h2 is None else (h2.written_count, h2.read_count)

    async def end(self) -> None:
        """Wait until every socket is closed."""
        await self._connections.close()

    async def _dial_h1(self, endpoints: tuple[Endpoint, ...], begin: Begin) -> None:
        await self._dial(endpoints, lambda wire, _: begin(wire), self._tls_h1)

    async def _dial(
        self, endpoints: tuple[Endpoint, ...], begin: tcp_dial.Begin, tls: ssl.SSLContext
    ) -> DialledConnection:
        return await dial_tls(
            self._parts.address,
            endpoints,
            begin,
            tls=tls,
            limits=self._limits,
            clock=self._parts.clock,
            connections=self._connections,
        )
