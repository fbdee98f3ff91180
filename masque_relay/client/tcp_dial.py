"""Owns the way to a relay over TCP: its addresses, the TLS handshake, and what a failure means."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address

from masque_relay.client.address import RelayAddress
from masque_relay.client.errors import RelayUnreachable, RelayUntrusted
from masque_relay.client.limits import ClientLimits
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import Clock
from masque_relay.dataplane.tcp_connect import connect_first
from masque_relay.http.tcp_connection import TcpConnection, TcpLink
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_wire import TcpSession, Wire

KEEPALIVE_PROBES = 3
GOODBYE_S = 1.0  # for TLS's close_notify both ways
_CERTIFICATE_REQUIRED = "CERTIFICATE_REQUIRED"

Begin = Callable[[Wire, TcpLink], TcpSession]


class OpenConnections:
    """The TLS connections that are open, so that their owner can see them all closed."""

    def __init__(self) -> None:
        self._connections: set[TcpConnection] = set()
        self._all_lost = asyncio.Event()
        self._all_lost.set()

    def opened(self, connection: TcpConnection) -> None:
        """Count one in."""
        self._connections.add(connection)
        self._all_lost.clear()

    def lost(self, connection: TcpConnection) -> None:
        """Count one out."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_lost.set()

    async def close(self) -> None:
        """Close all, and cut off those whose goodbye takes longer than ``GOODBYE_S``."""
        for connection in tuple(self._connections):
            connection.close()
        for _ in range(2):
            try:
                async with asyncio.timeout(GOODBYE_S):
                    await self._all_lost.wait()
            except TimeoutError:
                for connection in tuple(self._connections):
                    connection.abort()


class _Owner:
    """What a TcpConnection needs; a ConnectionOwner."""

    def __init__(self, begin: Begin, connections: OpenConnections) -> None:
        self._begin = begin
        self._connections = connections

    def begin(self, connection: TcpConnection, link: TcpLink) -> TcpSession:
        """Put a session on the connection."""
        self._connections.opened(connection)
        return self._begin(connection, link)

    def lost(self, connection: TcpConnection) -> None:
        """The session was told already."""
        self._connections.lost(connection)


class DialledConnection(TcpConnection):
    """A TLS connection that we opened.

    Attributes:
        tls_error: what TLS said at its end: with TLS 1.3 a relay refuses our certificate, or the
            lack of one, after the handshake has succeeded for us.
    """

    tls_error: ssl.SSLError | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember why."""
        if isinstance(exc, ssl.SSLError):
            self.tls_error = exc
        super().connection_lost(exc)


async def dial_tls(
    address: RelayAddress,
    endpoints: Sequence[Endpoint],
    begin: Begin,
    *,
    tls: ssl.SSLContext,
    limits: ClientLimits,
    clock: Clock,
    connections: OpenConnections,
) -> DialledConnection:
    """Open a TLS connection to the first of the relay's addresses that answers; return it.

    Args:
        address: the relay; its host is what the certificate must be good for.
        endpoints: its addresses, tried as RFC 8305 says.
        begin: puts a session on the connection once the handshake is complete.
        tls: what is checked and shown.
        limits: deadlines.
        clock: time.
        connections: where the connection is counted.

    Raises:
        RelayUnreachable: none answered within ``limits.connect_timeout_s``.
        RelayUntrusted: TLS failed.
    """
    connected = await _connect(address, endpoints, limits)
    peer = _peer_of(connected, address.port)
    try:
        _keep_watched(connected, limits)
        async with asyncio.timeout(limits.connect_timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: DialledConnection(
                    _Owner(begin, connections),
                    peer,
                    connection_id="",
                    limits=TcpLimits(),
                    clock=clock,
                ),
                sock=connected,
                ssl=tls,
                server_hostname=address.host,
            )
    except TimeoutError:
        raise RelayUnreachable(
            f"the TLS handshake with {address} (TCP {peer}) did not end within "
            f"{limits.connect_timeout_s:g} s",
            hint="check that --relay names a relay",
        ) from None
    except ssl.SSLError as error:
        raise untrusted_from(error, address) from error
    except OSError as error:
        raise RelayUnreachable(
            f"{address} (TCP {peer}) closed the connection during the handshake",
            hint="check that --relay names a relay",
        ) from error
    return connection


async def _connect(
    address: RelayAddress, endpoints: Sequence[Endpoint], limits: ClientLimits
) -> socket.socket:
    try:
        return await connect_first(
            endpoints, timeout_s=limits.connect_timeout_s, egress_by_version={}
        )
    except FlowError as error:
        tried = ", ".join(map(str, endpoints))
        if error.fault is FlowFault.CONNECTION_REFUSED:
            raise RelayUnreachable(
                f"nothing listens on TCP {tried}",
                hint="check that the relay runs, and its port in --relay",
            ) from error
        raise RelayUnreachable(
            f"nothing answers at {address} (TCP {tried})", hint="check this machine's network"
        ) from error


def _keep_watched(connected: socket.socket, limits: ClientLimits) -> None:
    """Let the kernel notice a relay that is gone, where it can: HTTP/1.1 has no PING."""
    interval_s = max(1, int(limits.keepalive_interval_s))
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": interval_s,
        "TCP_KEEPINTVL": max(1, interval_s // KEEPALIVE_PROBES),
        "TCP_KEEPCNT": KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": int(limits.silence_timeout_s * 1_000),
    }
    for name, value in options.items():
        option = getattr(socket, name, None)  # not every system has all
        if option is not None:
            with suppress(OSError):
                connected.setsockopt(socket.IPPROTO_TCP, option, value)


def untrusted_from(error: ssl.SSLError, address: RelayAddress) -> RelayUntrusted:
    """Return what a TLS failure means to a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RelayUntrusted(
            f"TLS with {address} failed: {error.verify_message}",
            hint=(
                "give the CA that signed the relay's certificate with --ca, and name the relay as "
                f"its certificate does (now: {address.host})"
            ),
        )
    reason = error.reason or str(error)
    if _CERTIFICATE_REQUIRED in reason:
        hint = "the relay asks for a certificate: give --client-cert and --client-key"
    elif "NO_APPLICATION_PROTOCOL" in reason:
        hint = "what listens there does not speak this HTTP version; check --relay and --http"
    else:
        hint = "check that --relay names a relay"
    return RelayUntrusted(f"TLS with {address} failed: {reason}", hint=hint)


def _peer_of(connected: socket.socket, port: int) -> Endpoint:
    return Endpoint(address=ip_address(connected.getpeername()[0]), port=port)
