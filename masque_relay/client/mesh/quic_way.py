"""Owns sessions on QUIC connections of their own: ALPN ``ghostwire/1``."""

from masque_relay.client.address import RelayAddress
from masque_relay.client.client_tls import quic_tls
from masque_relay.client.clock import SystemClock
from masque_relay.client.dial import connect_any
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.contract.ghostwire import FrameSession
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.quic.application import QuicApplication, QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import EndpointSettings
from masque_relay.tunnels.ghostwire_quic import ALPN, GhostwireConnection


async def open_quic_way(
    address: RelayAddress, options: RelayOptions, make_session: SessionMaker
) -> OpenWay:
    """Connect by QUIC and begin a session on the connection.

    Raises:
        ClientError: this way is blocked, or the relay does not know it.
    """
    sessions: list[FrameSession] = []

    def begin(transport: QuicTransport) -> QuicApplication:
        session = make_session(transport.export_keying_material)
        sessions.append(session)
        return GhostwireConnection(transport, session)

    clock = SystemClock()
    endpoint = QuicEndpoint(
        EndpointSettings(limits=options.quic_limits),
        socket_factory=socket_factory(SocketLimits(), FlowCounters()),
        clock=clock,
        counters=QuicCounters(),
    )
    try:
        peer = await connect_any(
            endpoint,
            address,
            application=begin,
            tls=quic_tls(options.ca_file, options.credential),
            limits=options.limits,
            clock=clock,
            alpn=ALPN,
        )
    except BaseException:
        await endpoint.close()
        raise
    return OpenWay(kind=WayKind.QUIC, session=sessions[-1], remote=str(peer), close=endpoint.close)
