"""Owns the wiring: which part of the relay is given which other, and in which order they close."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import structlog

from fallbacks.derp.server import DerpServer
from fallbacks.turn.server import TurnServer
from masque_relay.admin.listener import AdminListener
from masque_relay.config import RelayConfig
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import (
    BindCounters,
    DerpCounters,
    DerpMeshCounters,
    FlowCounters,
    HttpCounters,
    IpCounters,
    MeshCounters,
    QuicCounters,
    TcpCounters,
    TunnelCounters,
    TurnCounters,
    UpstreamCounters,
)
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock
from masque_relay.control.audit import AuditWriter, open_audit_trail
from masque_relay.control.gate import RelayGate
from masque_relay.control.gate_build import build_gate
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.switchboard import RelaySwitchboard
from masque_relay.dataplane.udp_bind import BindSettings
from masque_relay.http.connect_tcp import ConnectTcpServices, connect_tcp_kinds
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.connect_udp_bind import BindServices, bound_udp_kind
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.ghostwire import ghostwire_kind
from masque_relay.http.pvd import PvdEndpoint, offers_of, pvd_route
from masque_relay.http.routes import build_app
from masque_relay.http.tcp_front import TcpFront
from masque_relay.http.tcp_tls import ALPN_H1, ALPN_H2
from masque_relay.http.tunnel import TunnelKind
from masque_relay.http.wrap_up import WrapUpRule
from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.quic.settings import EndpointSettings
from masque_relay.quic.tls import CertificateStore
from masque_relay.server.chain import Chain
from masque_relay.server.connect_ip import open_connect_ip
from masque_relay.server.derp import Derp, derp_routes, open_derp, open_derp_mesh
from masque_relay.server.material import Material
from masque_relay.server.mesh import Mesh, open_mesh
from masque_relay.server.mesh_ways import mesh_applications, mesh_routes
from masque_relay.server.surroundings import QUIC_LISTENER, Listeners, Surroundings, WorkerShare
from masque_relay.server.turn import SharingFactory, open_turn
from masque_relay.server.upstream import open_chain
from masque_relay.wire.connect_tcp import DataCapsuleTypes

H3_ALPN = "h3"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """The plain ints of the packet path."""

    quic: QuicCounters = field(default_factory=QuicCounters)
    http: HttpCounters = field(default_factory=HttpCounters)
    tcp: TcpCounters = field(default_factory=TcpCounters)
    tunnel: TunnelCounters = field(default_factory=TunnelCounters)
    bind: BindCounters = field(default_factory=BindCounters)
    ip: IpCounters = field(default_factory=IpCounters)
    flow: FlowCounters = field(default_factory=FlowCounters)
    turn: TurnCounters = field(default_factory=TurnCounters)
    mesh: MeshCounters = field(default_factory=MeshCounters)
    derp: DerpCounters = field(default_factory=DerpCounters)
    derp_mesh: DerpMeshCounters = field(default_factory=DerpMeshCounters)
    upstream: UpstreamCounters = field(default_factory=UpstreamCounters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """A relay that is wired and listens."""

    counters: Counters
    audit: AuditWriter
    gate: RelayGate
    dataplane: InprocDataplane
    certificates: CertificateStore
    front_end: HttpFrontEnd
    endpoint: QuicEndpoint
    applications: Mapping[str, ApplicationFactory]
    """By ALPN, as the endpoint has them."""
    h3_address: Endpoint
    """With the real port."""
    tcp_front: TcpFront | None
    https_address: Endpoint | None
    """With the real port; None where there is no HTTP/2 and HTTP/1.1."""
    turn: TurnServer | None
    """None where STUN and TURN are off."""
    mesh: Mesh | None
    """None where the mesh is off."""
    derp: Derp | None
    """None where DERP is off."""
    admin: AdminListener | None
    """None in a worker: its supervisor has it."""


async def open_parts(
    stack: AsyncExitStack,
    config: RelayConfig,
    material: Material,
    *,
    clock: Clock,
    surroundings: Surroundings,
) -> Parts:
    """Build, wire and bind everything; the stack closes it in the opposite order.

    Raises:
        ConfigError: a file or an address can't be used.
    """
    counters = Counters()
    share, listeners = surroundings.share, surroundings.listeners
    admin: AdminListener | None = None
    if share is None:
        admin = bind_admin(config)
        stack.callback(admin.close)
        audit = open_audit_trail(config.audit)
    else:
        audit = AuditWriter(share.audit, queue_records=config.audit.queue_records)
    stack.callback(audit.close)
    gate = build_gate(
        config.gate,
        clock=clock,
        audit=audit,
        book=None if share is None else share.book,
        revocations=None if share is None else share.revocations,
    )
    stack.callback(gate.close)
    dataplane = _open_dataplane(config, counters)
    stack.push_async_callback(dataplane.close)
    ip_kinds = await open_connect_ip(
        stack,
        config,
        gate=gate,
        dataplane=dataplane,
        clock=clock,
        counters=counters.tunnel,
        ip_counters=counters.ip,
    )
    mesh, derp_server = await _open_meeting_place(
        stack, config, material, gate=gate, dataplane=dataplane, clock=clock, counters=counters
    )
    chain = await open_chain(
        stack,
        config,
        gate=gate,
        dataplane=dataplane,
        secrets=material.secrets if share is None else share.secrets,
        counters=counters.upstream,
    )
    kinds = [*_tunnel_kinds(config, gate, dataplane, counters, clock, chain), *ip_kinds]
    if mesh is not None:
        kinds.append(ghostwire_kind(mesh.new_session, config.ghostwire.paths))
    proxy_name = config.connect_udp.proxy_name
    pvd = PvdEndpoint(
        gate,
        offers_of(kinds),
        alpn=[H3_ALPN] if material.tcp_tls is None else [H3_ALPN, ALPN_H2, ALPN_H1],
        settings=config.pvd,
        clock=clock,
        proxy_name=proxy_name,
    )
    ways_of_derp = derp_routes(derp_server, config.derp, proxy_name=proxy_name)
    front_end = HttpFrontEnd(
        build_app(
            kinds,
            gate=gate,
            proxy_name=proxy_name,
            site=[
                pvd_route(pvd),
                *mesh_routes(mesh, config.ghostwire, gate=gate, proxy_name=proxy_name),
                *ways_of_derp.site,
            ],
            own_tunnels=ways_of_derp.tunnels,
            wrap_up=WrapUpRule(config.drain.wrap_up_subjects),
        ),
        limits=config.http,
        counters=counters.http,
        clock=clock,
        session_factory=partial(H3Session, limits=config.quic.h3),
    )
    certificates = CertificateStore(
        material.certificate,
        material.more_certificates,
        refuse_unknown_names=config.tls.refuse_unknown_names,
    )
    applications = {
        H3_ALPN: front_end.application_factory,
        **mesh_applications(mesh, config.ghostwire),
    }
    bind_h3 = SharingFactory(
        partial(
            listeners.datagram, QUIC_LISTENER, limits=config.listen.socket, counters=counters.flow
        ),
        shares=config.turn.on_h3_port,
    )
    endpoint = QuicEndpoint(
        endpoint_settings(config, material, certificates, applications=applications, share=share),
        socket_factory=bind_h3,
        clock=clock,
        counters=counters.quic,
    )
    # Closed after the front end, which ends its tunnels and connections first.
    stack.push_async_callback(endpoint.close)
    tcp_front: TcpFront | None = None
    if material.tcp_tls is not None:
        tcp_front = TcpFront(
            front_end,
            material.tcp_tls,
            limits=config.tcp,
            counters=counters.tcp,
            clock=clock,
        )
        await stack.enter_async_context(tcp_front)
    await stack.enter_async_context(front_end)
    h3_address = _listen(endpoint, config.listen.h3)
    https_address = (
        None if tcp_front is None else _listen_tcp(tcp_front, config, h3_address, listeners)
    )
    turn = await open_turn(
        stack,
        config,
        tls=material.turn_tls,
        tcp_front=tcp_front,
        shared=bind_h3.shared,
        bound_flows=dataplane.bound_flows,
        h3_address=h3_address,
        gate=gate,
        clock=clock,
        counters=counters.turn,
        tunnels=counters.tunnel,
        flows=counters.flow,
        listeners=listeners,
    )
    if mesh is not None:
        mesh.observer_port = _stun_port(config, h3_address)
    return Parts(
        counters=counters,
        audit=audit,
        gate=gate,
        dataplane=dataplane,
        certificates=certificates,
        front_end=front_end,
        endpoint=endpoint,
        applications=applications,
        h3_address=h3_address,
        tcp_front=tcp_front,
        https_address=https_address,
        admin=admin,
        turn=turn,
        mesh=mesh,
        derp=await open_derp_mesh(
            stack,
            config.derp,
            derp_server,
            clock=clock,
            counters=counters.derp_mesh,
            keys=material.derp_keys,
        ),
    )


def _stun_port(config: RelayConfig, h3_address: Endpoint) -> int:
    """Return the UDP port that answers STUN Bindings; 0 for none."""
    if config.turn.on_h3_port:
        return h3_address.port
    return config.turn.udp[0].port if config.turn.udp else 0


async def _open_meeting_place(
    stack: AsyncExitStack,
    config: RelayConfig,
    material: Material,
    *,
    gate: RelayGate,
    dataplane: InprocDataplane,
    clock: Clock,
    counters: Counters,
) -> tuple[Mesh | None, DerpServer | None]:
    """Open what peers of both protocols meet at; None for what is off."""
    switchboard = RelaySwitchboard()
    mesh = await open_mesh(
        stack,
        config,
        gate=gate,
        dataplane=dataplane,
        switchboard=switchboard,
        clock=clock,
        counters=counters.mesh,
    )
    derp = await open_derp(
        stack,
        config,
        gate=gate,
        switchboard=switchboard,
        clock=clock,
        counters=counters.derp,
        keys=material.derp_keys,
    )
    return mesh, derp


def _tunnel_kinds(
    config: RelayConfig,
    gate: RelayGate,
    dataplane: InprocDataplane,
    counters: Counters,
    clock: Clock,
    chain: Chain | None,
) -> list[TunnelKind]:
    """Return every kind of tunnel that the configuration switches on."""
    udp = ConnectUdpServices(
        gate=gate,
        dataplane=dataplane,
        clock=clock,
        counters=counters.tunnel,
        limits=config.http,
        proxy_name=config.connect_udp.proxy_name,
    )
    tcp = ConnectTcpServices(
        gate=gate,
        dataplane=dataplane,
        counters=counters.tunnel,
        limits=config.http,
        proxy_name=config.connect_udp.proxy_name,
        capsule_types=DataCapsuleTypes(
            data=config.connect_tcp.data_capsule_type,
            final_data=config.connect_tcp.final_data_capsule_type,
        ),
    )
    plain_udp = connect_udp_kind(udp, config.connect_udp.templates)
    tcp_kinds = connect_tcp_kinds(
        tcp, config.connect_tcp.templates, classic=config.connect_tcp.classic
    )
    if chain is not None:
        plain_udp = chain.over(plain_udp)
        tcp_kinds = [chain.over(kind) for kind in tcp_kinds]
    bind = config.connect_udp.bind
    bound_udp = BindServices(
        udp=udp,
        counters=counters.bind,
        limits=bind.limits,
        policy_limits=bind.policy,
        inbound=bind.inbound,
    )
    return [
        bound_udp_kind(plain_udp, bound_udp) if bind.enabled else plain_udp,
        *tcp_kinds,
    ]


def endpoint_settings(
    config: RelayConfig,
    material: Material,
    certificates: CertificateStore,
    *,
    applications: Mapping[str, ApplicationFactory],
    share: WorkerShare | None,
) -> EndpointSettings:
    """Return what the QUIC endpoint is made of."""
    return EndpointSettings(
        applications=applications,
        certificates=certificates,
        client_certificates=material.client_certificates,
        client_ca_pem=material.client_ca_pem,
        limits=config.quic.limits,
        secrets=material.secrets if share is None else share.secrets,
        new_connection_id=None if share is None else share.new_connection_id,
        neighbours=None if share is None else share.neighbours,
        qlog_directory=config.quic.qlog_dir,
        key_log_file=config.quic.keylog_file,
    )


def _open_dataplane(config: RelayConfig, counters: Counters) -> InprocDataplane:
    try:
        return InprocDataplane(
            flow_limits=config.egress.limits,
            resolver_limits=config.dns.limits,
            counters=counters.flow,
            nameservers=config.dns.servers,
            preference=config.dns.prefer,
            pins=config.dns.hosts,
            egress_addresses=[
                address
                for address in (config.egress.ipv4, config.egress.ipv6)
                if address is not None
            ],
            allow_own_addresses=config.egress.allow_own_addresses,
            bind=BindSettings(
                addresses=config.connect_udp.bind.addresses,
                public_addresses=config.connect_udp.bind.public_addresses,
                first_port=config.connect_udp.bind.first_port,
                last_port=config.connect_udp.bind.last_port,
            ),
        )
    except ValueError as error:
        raise ConfigError([Problem(key_path="dns.servers", detail=str(error))]) from error


def bind_admin(config: RelayConfig) -> AdminListener:
    """Bind the admin listener.

    Raises:
        ConfigError: the address can't be used.
    """
    try:
        return AdminListener(config.admin.listen)
    except OSError as error:
        raise ConfigError(
            [
                Problem(
                    key_path="admin.listen",
                    detail=f"{config.admin.listen}: {error.strerror or error}",
                    hint="choose another one with --admin ADDR:PORT",
                )
            ]
        ) from error


def _listen(endpoint: QuicEndpoint, address: Endpoint) -> Endpoint:
    try:
        return endpoint.listen(address)
    except FlowError as error:
        raise ConfigError(
            [
                Problem(
                    key_path="listen.h3",
                    detail=f"{address}: {error.detail}",
                    hint="choose another one with --listen ADDR:PORT; ports below 1024 need root",
                )
            ]
        ) from error


def _listen_tcp(
    front: TcpFront, config: RelayConfig, h3_address: Endpoint, listeners: Listeners
) -> Endpoint | None:
    """Listen beside HTTP/3, or where the configuration says."""
    wanted = config.listen.https
    open_socket = partial(listeners.stream, "listen.https")
    if isinstance(wanted, Endpoint):
        try:
            return front.listen(wanted, h3_port=h3_address.port, open_socket=open_socket)
        except OSError as error:
            raise ConfigError(
                [
                    Problem(
                        key_path="listen.https",
                        detail=f"{wanted}: {error.strerror or error}",
                        hint='choose another address, or "off"; ports below 1024 need root',
                    )
                ]
            ) from error
    try:
        return front.listen(h3_address, h3_port=h3_address.port, open_socket=open_socket)
    except OSError as error:
        _log.warning(
            "no HTTP/2 and HTTP/1.1: the TCP port is taken",
            address=str(h3_address),
            error=error.strerror,
            hint="set listen.https",
        )
        return None
