"""Owns RelayClient: one connection to a relay, from the address in a URL to open tunnels."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from masque_relay.client.address import RelayAddress, make_target
from masque_relay.client.clock import SystemClock
from masque_relay.client.connection import RelayConnection
from masque_relay.client.credentials import Credential, MutualTls, authorization_of
from masque_relay.client.dial import connect_any
from masque_relay.client.errors import ConnectionLost, CredentialError
from masque_relay.client.exchange import Response
from masque_relay.client.h3 import h3_application
from masque_relay.client.limits import ClientLimits
from masque_relay.client.liveness import Liveness, Pulse
from masque_relay.client.sockets import bind_client_udp
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import OnBatch, OnClosed, UdpTunnel
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import Clock, DatagramSocketFactory
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.tls import CertificateIdentity

CHECK_INTERVAL_S = 1.0  # how often the liveness of a connection is looked at

CLIENT_QUIC_LIMITS = QuicLimits(idle_timeout_s=60.0)
"""Keep-alives come every 10 s, so that a minute of silence means that nobody is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOptions:
    """Everything about how to reach a relay but its address."""

    ca_file: Path | None = None
    """PEM; trust these and nothing else. None: the bundled public roots."""
    credential: Credential | None = None
    limits: ClientLimits = field(default_factory=ClientLimits)
    quic_limits: QuicLimits = CLIENT_QUIC_LIMITS


class RelayClient:
    """One HTTP/3 connection to a relay, and tunnels on it; an async context manager.

        async with RelayClient(RelayAddress.parse("https://relay.example"), options) as relay:
            async with relay.open_udp("example.org", 443) as tunnel:
                tunnel.send_batch([b"one", b"two"])
                print(await tunnel.receive())

    It does not reconnect: :class:`RelayLink` does. Lives in one event loop.

    Args:
        address: where the relay is.
        options: certificates, credential and limits.
        socket_factory: binds UDP sockets; by default batching ones with GSO and GRO.
        clock: time.

    Attributes:
        address: as given.
        counters: of the QUIC connection.
    """

    def __init__(
        self,
        address: RelayAddress,
        options: RelayOptions | None = None,
        *,
        socket_factory: DatagramSocketFactory | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.address = address
        self.counters = QuicCounters()
        self._options = options or RelayOptions()
        self._limits = self._options.limits
        self._socket_factory = socket_factory or bind_client_udp
        self._clock = clock or SystemClock()
        self._endpoint: QuicEndpoint | None = None
        self._connection: RelayConnection | None = None
        self._peer: Endpoint | None = None
        self._authorization: bytes | None = None
        self._liveness: Liveness | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Connect; see :meth:`connect`."""
        await self.connect()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection and its tunnels."""
        await self.close()

    async def connect(self) -> None:
        """Connect and wait until the relay takes tunnel requests.

        The credential's file is read here, so that every new connection uses what it holds then.

        Raises:
            CredentialError: a credential or CA file cannot be used.
            RelayUnreachable: nothing answers there.
            RelayUntrusted: TLS failed.
            RelayTimeout: no SETTINGS, or no name resolution, in time.
            RelayIncapable: it is no relay.
        """
        options = self._options
        self._authorization = authorization_of(options.credential)
        tls = ClientTls(
            ca_pem=_read_ca(options.ca_file), identity=_read_identity(options.credential)
        )
        connection = RelayConnection(self._limits)
        self._endpoint = QuicEndpoint(
            EndpointSettings(limits=options.quic_limits),
            socket_factory=self._socket_factory,
            clock=self._clock,
            counters=self.counters,
        )
        try:
            self._peer = await connect_any(
                self._endpoint,
                self.address,
                application=h3_application(connection),
                tls=tls,
                limits=self._limits,
                clock=self._clock,
            )
            await connection.wait_ready()
        except BaseException:
            connection.close()
            await self._endpoint.close()
            raise
        self._connection = connection
        self._liveness = Liveness(self._limits, self._clock.monotonic_s())
        self._schedule_check()

    @property
    def connection(self) -> RelayConnection:
        """The HTTP/3 connection, to drive many tunnels at once.

        Raises:
            ConnectionLost: :meth:`connect` has not been called.
        """
        if self._connection is None:
            raise ConnectionLost("not connected", hint="await connect(), or use `async with`")
        return self._connection

    @property
    def peer(self) -> Endpoint | None:
        """The relay's address that answered; None before :meth:`connect`."""
        return self._peer

    async def start_udp(
        self,
        target: Target,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        """Open a tunnel that the caller closes; see :meth:`RelayConnection.open_udp`."""
        return await self.connection.open_udp(
            target,
            authority=self.address.authority,
            path=self.address.path_for(target),
            authorization=self._authorization,
            on_batch=on_batch,
            on_closed=on_closed,
        )

    async def start_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        """Open any extended CONNECT tunnel; see :meth:`RelayConnection.open_tunnel`."""
        return await self.connection.open_tunnel(
            request, user, authority=self.address.authority, authorization=self._authorization
        )

    async def start_tcp(self, target: Target) -> TcpTunnel:
        """Open a TCP connection that the caller ends; see :meth:`RelayConnection.open_tcp`."""
        return await self.connection.open_tcp(target, authorization=self._authorization)

    @asynccontextmanager
    async def open_udp(
        self,
        host: str,
        port: int,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> AsyncGenerator[UdpTunnel]:
        """Open a tunnel for the length of an ``async with`` block.

        Args:
            host: a DNS name (the relay resolves it) or an address.
            port: 1..65535.
            on_batch: takes received payloads, in the event loop; must neither block nor raise.
            on_closed: called once when the tunnel is over.

        Raises:
            AddressError: the target cannot be read.
            TunnelRefused: the relay said no, and why.
            RelayTimeout: it said nothing in time.
            RelayLeaving: it takes no new tunnels on this connection.
            ConnectionLost: the connection is over.
        """
        tunnel = await self.start_udp(
            make_target(host, port), on_batch=on_batch, on_closed=on_closed
        )
        try:
            yield tunnel
        finally:
            tunnel.close()

    async def fetch(self, path: str) -> Response:
        """GET a path of the relay's own web site; for diagnosis. See RelayConnection.request."""
        return await self.connection.request("GET", authority=self.address.authority, path=path)

    async def close(self) -> None:
        """Close the connection and its tunnels; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection is not None:
            self._connection.close()
        if self._endpoint is not None:
            await self._endpoint.close()

    def _schedule_check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        connection, liveness = self._connection, self._liveness
        if connection is None or liveness is None or connection.lost is not None:
            return
        pulse = liveness.check(
            self._clock.monotonic_s(),
            sent_count=self.counters.datagrams_sent,
            received_count=self.counters.datagrams_received,
        )
        if pulse is Pulse.GONE:
            connection.close(
                ConnectionLost(
                    f"the relay answers nothing for {self._limits.silence_timeout_s:g} s",
                    hint="it was killed, or the network between here and there changed",
                )
            )
            return
        if pulse is Pulse.PING:
            connection.ping()
        self._schedule_check()


def _read_ca(ca_file: Path | None) -> bytes | None:
    if ca_file is None:
        return None
    try:
        ca_pem = ca_file.read_bytes()
    except OSError as error:
        raise CredentialError(
            f"cannot read the CA file {ca_file}: {error.strerror}",
            hint="`ghostctl relay run --dev --state-dir DIR` writes DIR/ca.pem",
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in ca_pem:
        raise CredentialError(
            f"the CA file {ca_file} holds no PEM certificate",
            hint="name the file that begins with -----BEGIN CERTIFICATE-----, not a key or a token",
        )
    return ca_pem


def _read_identity(credential: Credential | None) -> CertificateIdentity | None:
    if not isinstance(credential, MutualTls):
        return None
    try:
        return CertificateIdentity.from_pem(
            credential.certificate_file.read_bytes(), credential.key_file.read_bytes()
        )
    except OSError as error:
        raise CredentialError(f"cannot read {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise CredentialError(
            f"client certificate {credential.certificate_file}: {error}",
            hint="both files must be PEM, the key without a passphrase and of this certificate",
        ) from error
