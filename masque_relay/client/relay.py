"""Owns RelayClient: one connection to a relay, from the address in a URL to open tunnels."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from masque_relay.client.address import RelayAddress, make_target
from masque_relay.client.clock import SystemClock
from masque_relay.client.connection import RelayConnection
from masque_relay.client.credentials import authorization_of
from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.errors import ConnectionLost
from masque_relay.client.exchange import Response
from masque_relay.client.liveness import Liveness, Pulse
from masque_relay.client.race import open_uplink
from masque_relay.client.sockets import bind_client_udp
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.client.uplink import RelayOptions, Uplink, UplinkParts
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import Clock, DatagramSocketFactory

CHECK_INTERVAL_S = 1.0  # how often the liveness of a connection is looked at


class RelayClient:
    """One connection to a relay, and tunnels on it; an async context manager.

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
        counters: of the QUIC connection, where there is one.
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
        self._uplink: Uplink | None = None
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
        self._authorization = authorization_of(self._options.credential)
        self._uplink = await open_uplink(
            UplinkParts(
                address=self.address,
                options=self._options,
                counters=self.counters,
                socket_factory=self._socket_factory,
                clock=self._clock,
            )
        )
        self._liveness = Liveness(self._limits, self._clock.monotonic_s())
        self._schedule_check()

    @property
    def connection(self) -> RelayConnection:
        """The HTTP connection, to drive many tunnels at once.

        Raises:
            ConnectionLost: :meth:`connect` has not been called.
        """
        if self._uplink is None:
            raise ConnectionLost("not connected", hint="await connect(), or use `async with`")
        return self._uplink.connection

    @property
    def peer(self) -> Endpoint | None:
        """The relay's address that answered; None before :meth:`connect`."""
        return None if self._uplink is None else self._uplink.peer

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

    async def start_tcp(
        self, target: Target, *, fields: Sequence[tuple[bytes, bytes]] = ()
    ) -> TcpTunnel:
        """Open a TCP connection that the caller ends, by the method that the options name.

        See :meth:`RelayConnection.open_tcp` and ``open_templated_tcp``.
        """
        capsule_types = self._options.connect_tcp
        if capsule_types is not None:
            return await self.connection.open_templated_tcp(
                target,
                authority=self.address.authority,
                path=self.address.tcp_path_for(target),
                capsule_types=capsule_types,
                authorization=self._authorization,
                fields=fields,
            )
        return await self.connection.open_tcp(
            target, authorization=self._authorization, fields=fields
        )

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

    async def fetch(
        self, path: str, *, accept: str = "*/*", with_credential: bool = False
    ) -> Response:
        """GET a path of the relay's own web site; see RelayConnection.request.

        Args:
            path: with its query.
            accept: the media type that is wanted.
            with_credential: send the credential, as with a request for a tunnel.
        """
        fields = [(b"accept", accept.encode("ascii"))]
        if with_credential and self._authorization is not None:
            fields.append((b"authorization", self._authorization))
        return await self.connection.request(
            "GET", authority=self.address.authority, path=path, fields=fields
        )

    async def close(self) -> None:
        """Close the connection and its tunnels; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._uplink is not None:
            await self._uplink.close()

    def _schedule_check(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._check)

    def _check(self) -> None:
        uplink, liveness = self._uplink, self._liveness
        if uplink is None or liveness is None or uplink.connection.lost is not None:
            return
        connection = uplink.connection
        sent_count, received_count = uplink.activity()
        pulse = liveness.check(
            self._clock.monotonic_s(), sent_count=sent_count, received_count=received_count
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
