"""Owns sessions on QUIC connections of their own: ALPN ``ghostwire/1``."""

from collections.abc import Awaitable, Callable

from masque_relay.client.address import RelayAddress
from masque_relay.client.client_tls import quic_tls
from masque_relay.client.clock import SystemClock
from masque_relay.client.dial import connect_any
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.contract.ghostwire import FrameSession
from masque_relay.contract.ports import DatagramSocketFactory
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.quic.application import ApplicationFactory, QuicApplication, QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import EndpointSettings
from masque_relay.tunnels.ghostwire_quic import ALPN, GhostwireConnection

Dial = Callable[[QuicEndpoint, ApplicationFactory], Awaitable[str]]
"""Connects an endpoint to the relay; returns the address that answered, for people."""


async def open_quic_way(
    address: RelayAddress, options: RelayOptions, make_session: SessionMaker
) -> OpenWay:
    """Connect by QUIC and begin a session on the connection.

    Raises:
        ClientError: this way is blocked, or the relay does not know it.
    """

    async def dial(endpoint: QuicEndpoint, begin: ApplicationFactory) -> str:
        peer = await connect_any(
            endpoint,
            address,
            application=begin,
            tls=quic_tls(options.ca_file, options.credential),
            limits=options.limits,
            clock=SystemClock(),
            alpn=ALPN,
        )
        return str(peer)

    bind = socket_factory(SocketLimits(), FlowCounters())
    session, remote, close = await begin_by_quic(options, make_session, bind, dial)
    return OpenWay(kind=WayKind.QUIC, session=session, remote=remote, close=close)


async def begin_by_quic(
    options: RelayOptions, make_session: SessionMaker, bind: DatagramSocketFactory, dial: Dial
) -> tuple[FrameSession, str, Callable[[], Awaitable[None]]]:
    """Begin a session on a QUIC connection over sockets of any kind.

    Returns:
        The session, the address that answered, and what closes the connection.

    Raises:
        ClientError: ``dial`` did.
    """
    sessions: list[FrameSession] = []

    def begin(transport: QuicTransport) -> QuicApplication:
        session = make_session(transport.export_keying_material)
        sessions.append(session)
        return GhostwireConnection(transport, session)

    endpoint = QuicEndpoint(
        EndpointSettings(limits=options.quic_limits),
        socket_factory=bind,
        clock=SystemClock(),
        counters=QuicCounters(),
    )
    try:
        remote = await dial(endpoint, begin)
    except BaseException:
        await endpoint.close()
        raise
    return sessions[-1], remote, endpoint.close
