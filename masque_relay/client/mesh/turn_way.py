"""Owns sessions through a TURN server: QUIC to the relay, in datagrams that the server passes on.

The last resort, for networks that let nobody talk to the relay but WebRTC to its TURN server. What
the server sees is QUIC that it can't read; to the relay the server's address is the client's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from ssl import SSLError

from masque_relay.client.address import RelayAddress
from masque_relay.client.client_tls import quic_tls, tcp_tls
from masque_relay.client.credentials import Bearer
from masque_relay.client.dial import failure_from, relay_endpoints
from masque_relay.client.errors import (
    ClientError,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
)
from masque_relay.client.mesh.link_socket import LinkSocket, link_endpoint
from masque_relay.client.mesh.quic_way import begin_by_quic
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind
from masque_relay.client.turn.allocation import TryAlternate, TurnAllocation
from masque_relay.client.turn.server import TurnRoute, TurnServer, TurnTransport
from masque_relay.client.turn.wire import UdpWire, open_stream_wire
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.address import Endpoint
from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ConnectFailed
from masque_relay.tunnels.ghostwire_quic import ALPN

ALPN_TURN = "stun.turn"  # RFC 7443
LINK = 1
"""The number of the one link that the QUIC endpoint sees."""


async def open_turn_way(
    address: RelayAddress, options: RelayOptions, make_session: SessionMaker, *, route: TurnRoute
) -> OpenWay:
    """Allocate at the first server that goes along, connect through it and begin a session.

    Raises:
        ClientError: no server leads to the relay; of the last one the reason.
    """
    relays = await relay_endpoints(address, options.limits)
    failure: ClientError | None = None
    for server in route.servers:
        path = _TurnPath(address, options, route, server)
        try:
            await path.open(relays)
            return await path.begin(make_session)
        except ClientError as error:
            failure = error
        except BaseException:
            await path.close()
            raise
        await path.close()
    raise failure or RelayUnreachable("no TURN server is named")


class _TurnPath:
    """An allocation, and the socket that the QUIC endpoint sends into."""

    def __init__(
        self, address: RelayAddress, options: RelayOptions, route: TurnRoute, server: TurnServer
    ) -> None:
        self._address = address
        self._options = options
        self._server = server
        credential = options.credential
        token = ""
        if isinstance(credential, Bearer):
            token = credential.authorization().removeprefix(b"Bearer ").decode("ascii")
        self._login = route.login_for(server, relay_host=address.host, token=token)
        self._allocation: TurnAllocation | None = None
        self._socket: LinkSocket | None = None
        self._over = asyncio.Event()
        self._end: Callable[[], Awaitable[None]] | None = None
        self._remote = ""

    async def open(self, relays: Sequence[Endpoint]) -> None:
        """Allocate, following the server once where it sends us elsewhere."""
        host, port = self._server.host, self._server.port
        known = self._address.addresses if host == self._address.host else ()
        there = RelayAddress(host=host, port=port, addresses=known)
        servers = await relay_endpoints(there, self._options.limits)
        peer = next((one for one in relays if one.address.version == 4), relays[0])
        try:
            await self._allocate(servers[0], peer)
        except TryAlternate as other:
            await self.close()
            self._over.clear()
            try:
                await self._allocate(other.server, peer)
            except TryAlternate:
                raise RelayUnreachable(f"{self._server} and its alternate send us on") from None
        self._remote = f"{peer} by {self._server}"

    async def begin(self, make_session: SessionMaker) -> OpenWay:
        """Connect by QUIC through the allocation."""
        session, remote, self._end = await begin_by_quic(
            self._options, make_session, self._bind, self._dial
        )
        return OpenWay(
            kind=WayKind.TURN, session=session, remote=remote, close=self.close, run=self._run
        )

    async def close(self) -> None:
        """End the connection, then the allocation below it; idempotent."""
        self._over.set()
        end, self._end = self._end, None
        if end is not None:
            await end()
        allocation, self._allocation = self._allocation, None
        if allocation is not None:
            await allocation.close()

    async def _allocate(self, server: Endpoint, peer: Endpoint) -> None:
        allocation = TurnAllocation(self._login, self._received)
        limits = self._options.limits
        try:
            async with asyncio.timeout(limits.connect_timeout_s):
                if self._server.transport is TurnTransport.UDP:
                    allocation.attach(UdpWire(server, allocation.received))
                else:
                    tls = None
                    if self._server.transport is TurnTransport.TLS:
                        tls = tcp_tls(self._options.ca_file, None, (ALPN_TURN,))
                    wire = await open_stream_wire(
                        server,
                        self._server.host,
                        tls,
                        on_messages=allocation.received,
                        on_lost=partial(self._lost, allocation),
                    )
                    allocation.attach(wire)
                self._allocation = allocation
                await allocation.open(peer)
        except TimeoutError:
            raise RelayTimeout(f"{self._server} did not answer in time") from None
        except SSLError as error:
            raise RelayUntrusted(f"TLS with {self._server} failed: {error.reason}") from error
        except OSError as error:
            raise RelayUnreachable(f"no way to {self._server}: {error.strerror}") from error

    def _lost(self, allocation: TurnAllocation) -> None:
        allocation.lost()
        self._over.set()

    def _received(self, payloads: Sequence[bytes]) -> None:
        if self._socket is not None:
            self._socket.push(LINK, payloads)

    def _bind(self, _: Endpoint) -> LinkSocket:
        allocation = self._allocation
        if allocation is None:
            raise RuntimeError("nothing to send through")
        self._socket = LinkSocket(lambda _, payloads: allocation.send_datagrams(payloads))
        return self._socket

    async def _dial(self, endpoint: QuicEndpoint, begin: ApplicationFactory) -> str:
        try:
            await endpoint.connect(
                link_endpoint(LINK),
                server_name=self._address.host,
                alpn=ALPN,
                application=begin,
                tls=quic_tls(self._options.ca_file, self._options.credential),
                timeout_s=self._options.limits.connect_timeout_s,
            )
        except ConnectFailed as error:
            raise failure_from(error, self._address, ()) from error
        return self._remote

    async def _run(self) -> None:
        """Keep the allocation alive until the way is closed; close it when that fails."""
        allocation = self._allocation
        if allocation is None:
            return
        async with asyncio.TaskGroup() as tasks:
            waiting = (
                tasks.create_task(_until_failure(allocation)),
                tasks.create_task(self._until_over()),
            )
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        await self.close()

    async def _until_over(self) -> None:
        await self._over.wait()


async def _until_failure(allocation: TurnAllocation) -> None:
    with suppress(ClientError, TryAlternate):
        await allocation.keep()
