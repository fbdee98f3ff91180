"""Owns MeshNode: this machine in the mesh; connections to other peers, and services for them."""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from types import TracebackType
from typing import Protocol, Self

from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import ConnectionLost, RelayTimeout
from masque_relay.client.mesh.certificate import SERVER_NAME, certificate_for
from masque_relay.client.mesh.direct_peers import DirectPeers, PathChange
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.link import LinkTable, PeerLink
from masque_relay.client.mesh.link_socket import LinkSocket, link_endpoint
from masque_relay.client.mesh.network import NetworkWatch
from masque_relay.client.mesh.path_probe import EXPORTER_LABEL, KEY_BYTES
from masque_relay.client.mesh.peer_connection import ALPN, PeerConnection
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.mesh.uplink import MeshUplink, UplinkChange, UplinkSettings
from masque_relay.client.mesh.way import WayKind
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.flow import FlowError
from masque_relay.quic.application import QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits, RetryMode
from masque_relay.quic.settings import ClientTls, ConnectFailed, EndpointSettings
from masque_relay.quic.tls import CertificateStore, ClientCertificates
from masque_relay.tunnels.ghostwire_peer import PeerSession
from masque_relay.tunnels.ghostwire_peer_channel import PeerChannel
from masque_relay.wire.ghostwire import ErrorCode, Observed, Presence, Relays, Restarting
from masque_relay.wire.ghostwire_proof import CandidateRecord

PEER_QUIC_LIMITS = QuicLimits(
    idle_timeout_s=180.0,
    initial_datagram_bytes=1_200,
    max_datagram_bytes=1_200,
    retry_mode=RetryMode.NEVER,
)
"""Three minutes without a path are survived. 1,200 bytes fit a datagram of every carrier whose
path takes 1,280-byte packets, but for a few bytes; what does not fit goes on the frame stream. The
relay has checked addresses: no Retry."""

CONNECT_S = 15.0
"""To another peer: a call, and a handshake of two round trips through the relay."""

ServiceHandler = Callable[[bytes, PeerStream], object]
"""Takes a stream: the other peer's id, and the stream. Must not block; starts a task."""


class NodeUser(Protocol):
    """Whom a node tells of the mesh; every method may do nothing."""

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        """What the relay tells."""
        ...

    def candidates_received(self, record: CandidateRecord) -> None:
        """Another peer's record."""
        ...


class MeshNode:
    """An async context manager; inside it the uplink is kept up.

    Attributes:
        identity: who we are.
        uplink: the session at the relay.
    """

    def __init__(
        self,
        identity: PeerIdentity,
        settings: UplinkSettings,
        *,
        on_change: Callable[[UplinkChange], None] = lambda _: None,
        user: NodeUser | None = None,
        direct: bool = True,
        on_path: Callable[[PathChange], None] = lambda _: None,
        recall: Callable[[], WayKind | None] = lambda: None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            identity: who we are.
            settings: of the uplink.
            on_change: told of the session.
            user: told of the mesh.
            direct: look for direct paths.
            on_path: told of direct paths.
            recall: what worked in the network that this machine has come into.
        """
        self.identity = identity
        self._user = user
        self._services: dict[bytes, ServiceHandler] = {}
        self._connections: dict[bytes, PeerConnection] = {}
        self._connecting: dict[bytes, asyncio.Lock] = {}
        self._tasks = asyncio.TaskGroup()
        self._running: asyncio.Task[None] | None = None
        self._links = LinkTable(asyncio.get_running_loop())
        self._certificate = certificate_for(identity)
        self._listener: LinkSocket | None = None
        self._endpoints: dict[PeerConnection, tuple[QuicEndpoint, PeerLink]] = {}
        self._accepted: dict[PeerConnection, PeerLink] = {}
        """Connections that other peers made, with the links that they came by."""
        self._up = asyncio.Event()
        self._recall = recall
        self._network: NetworkWatch | None = None
        self.uplink = MeshUplink(identity, settings, self, on_change=on_change)
        self._direct = DirectPeers(self.uplink, on_change=on_path) if direct else None
        self._server = self._endpoint(self._listener_socket)

    async def __aenter__(self) -> Self:
        """Begin to connect to the relay; :meth:`wait_up` waits for it."""
        await self._tasks.__aenter__()
        self._server.listen(Endpoint(address=IPv6Address(0), port=0))
        self._running = self._tasks.create_task(self.uplink.run())
        self._network = NetworkWatch(self._relay_address, self._network_changed)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections, then the session."""
        for connection in tuple(self._connections.values()):
            connection.close()
        for endpoint, _ in tuple(self._endpoints.values()):
            await endpoint.close()
        await self._server.close()
        if self._network is not None:
            self._network.close()
        if self._direct is not None:
            self._direct.close()
        if self._running is not None:
            self._running.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    async def wait_up(self) -> None:
        """Wait until there is a session."""
        await self._up.wait()

    def serve(self, service: bytes, handler: ServiceHandler) -> None:
        """Take streams for a service from any peer that the relay's policy lets through."""
        self._services[service] = handler

    async def connect(self, peer_id: bytes, *, timeout_s: float = CONNECT_S) -> PeerConnection:
        """Return the connection to a peer, a new one if there is none.

        Raises:
            ConnectionLost: the peer is away, or not to be called by us.
            RelayTimeout: no answer in time.
        """
        async with self._connecting.setdefault(peer_id, asyncio.Lock()):
            known = self._connections.get(peer_id)
            if known is not None and known.lost is None:
                return known
            return await self._open(peer_id, timeout_s)

    async def open_stream(self, peer_id: bytes, service: bytes) -> PeerStream:
        """Open a stream to a service of a peer.

        Raises:
            ClientError: as :meth:`connect`; whether the service exists shows at the first read.
        """
        return (await self.connect(peer_id)).open_stream(service)

    def _relay_address(self) -> str:
        way = self.uplink.way
        return "" if way is None else way.remote.rpartition(":")[0].strip("[]")

    def _network_changed(self) -> None:
        self.uplink.network_changed(self._recall())

    # UplinkUser.

    def session_changed(self, session: PeerSession | None) -> None:
        """Give every link its new path."""
        if session is None:
            self._up.clear()
        else:
            self._up.set()
        self._links.use_session(session)
        if self._direct is not None:
            self._direct.session_changed()
        for connection in tuple(self._connections.values()):
            connection.ping()

    def called(self, channel: PeerChannel) -> None:
        """Take calls for links; refuse all others."""
        if self._links.called(channel, self._received) is None:
            channel.close(ErrorCode.REFUSED)

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        """Pass on."""
        if self._direct is not None and isinstance(frame, Observed):
            self._direct.observed(frame)
        if self._user is not None:
            self._user.mesh_frame_received(frame)

    def candidates_received(self, record: CandidateRecord) -> None:
        """Look there, and pass on."""
        if self._direct is not None:
            self._direct.candidates_received(record)
        if self._user is not None:
            self._user.candidates_received(record)

    # Connections.

    async def _open(self, peer_id: bytes, timeout_s: float) -> PeerConnection:
        sockets: list[LinkSocket] = []

        def receive(number: int, payloads: Sequence[bytes]) -> None:
            if sockets:
                sockets[0].push(number, payloads)

        def bind(_: Endpoint) -> LinkSocket:
            sockets.append(LinkSocket(self._links.send))
            return sockets[0]

        link = self._links.make(peer_id, receive)
        endpoint = self._endpoint(bind)
        made: list[PeerConnection] = []

        def begin(transport: QuicTransport) -> PeerConnection:
            made.append(self._connection(transport, expected=peer_id))
            return made[0]

        try:
            await endpoint.connect(
                link_endpoint(link.number),
                server_name=SERVER_NAME,
                alpn=ALPN,
                application=begin,
                tls=ClientTls(identity=self._certificate, insecure_skip_verify=True),
                timeout_s=timeout_s,
            )
        except (ConnectFailed, FlowError) as error:
            is_refused = link.is_refused
            await self._give_up(endpoint, link)
            if is_refused:
                raise ConnectionLost(
                    "the peer is away, or you may not call it",
                    hint="is `ghostctl peer listen` running there, and does the policy allow it?",
                ) from error
            raise RelayTimeout(f"the peer did not answer within {timeout_s:g} s") from error
        except BaseException:
            await self._give_up(endpoint, link)
            raise
        connection = made[0]
        if connection.lost is not None:
            await self._give_up(endpoint, link)
            raise connection.lost
        self._endpoints[connection] = (endpoint, link)
        self._connections[peer_id] = connection
        self._look_for_direct_path(connection, link)
        return connection

    async def _give_up(self, endpoint: QuicEndpoint, link: PeerLink) -> None:
        self._links.forget(link)
        await endpoint.close()

    def _connection(self, transport: QuicTransport, *, expected: bytes | None) -> PeerConnection:
        return PeerConnection(
            transport, expected=expected, on_stream=self._stream_came, on_lost=self._lost
        )

    def _accept(self, transport: QuicTransport) -> PeerConnection:
        """Take a connection that another peer made; the link says who the relay says it is."""
        link = self._links.get(int(IPv6Address(str(transport.peer.address))) & 0xFFFF_FFFF)
        connection = self._connection(transport, expected=None if link is None else link.peer_id)
        if connection.lost is None and link is not None:
            self._connections.setdefault(connection.peer_id, connection)
            self._accepted[connection] = link
            self._look_for_direct_path(connection, link)
        return connection

    def _look_for_direct_path(self, connection: PeerConnection, link: PeerLink) -> None:
        if self._direct is not None:
            key = connection.transport.export_keying_material(EXPORTER_LABEL, b"", KEY_BYTES)
            self._direct.add(link, key)

    def _stream_came(self, connection: PeerConnection, service: bytes, stream: PeerStream) -> bool:
        handler = self._services.get(service)
        if handler is None:
            return False
        handler(connection.peer_id, stream)
        return True

    def _lost(self, connection: PeerConnection) -> None:
        if self._connections.get(connection.peer_id) is connection:
            del self._connections[connection.peer_id]
        endpoint, link = self._endpoints.pop(connection, (None, None))
        link = link or self._accepted.pop(connection, None)
        if link is not None:
            if self._direct is not None:
                self._direct.forget(link)
            self._links.forget(link)
        if endpoint is not None:
            self._tasks.create_task(endpoint.close())

    # Sockets.

    def _endpoint(self, bind: Callable[[Endpoint], LinkSocket]) -> QuicEndpoint:
        return QuicEndpoint(
            EndpointSettings(
                applications={ALPN: self._accept},
                certificates=CertificateStore(self._certificate),
                client_certificates=ClientCertificates.REQUIRED,
                limits=PEER_QUIC_LIMITS,
            ),
            socket_factory=bind,
            clock=SystemClock(),
            counters=QuicCounters(),
        )

    def _listener_socket(self, _: Endpoint) -> LinkSocket:
        self._listener = LinkSocket(self._links.send)
        return self._listener

    def _received(self, number: int, payloads: Sequence[bytes]) -> None:
        if self._listener is not None:
            self._listener.push(number, payloads)
