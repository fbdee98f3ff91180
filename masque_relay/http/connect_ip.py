"""Owns the CONNECT-IP endpoint (RFC 9484): scope, names, addresses, a place at the egress."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

import structlog
from starlette.types import Scope

from masque_relay.contract.address import Target
from masque_relay.contract.counters import IpCounters, TunnelCounters
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ip import AddressPool, IpEgress, IpSink
from masque_relay.contract.ip_scope import IPNetwork, IpScope
from masque_relay.contract.ports import Clock, Dataplane, Gate
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import Asked
from masque_relay.http.connect_ip_limits import ConnectIpLimits
from masque_relay.http.denials import Refusal, refuse_flow_error
from masque_relay.http.gate_middleware import speaks_to_proxy
from masque_relay.http.rate import EventRate
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.tunnel import Opened, TunnelKind
from masque_relay.tunnels.connect_ip import ConnectIpSession
from masque_relay.tunnels.ip_addresses import AddressMemory
from masque_relay.tunnels.ip_parts import IpTunnelParts
from masque_relay.wire.connect_ip import (
    DEFAULT_TEMPLATE,
    PROTOCOL,
    WILDCARD,
    parse_scope_protocol,
    parse_scope_target,
)
from masque_relay.wire.proxy_status import encode_proxy_status
from masque_relay.wire.uri_template import UriTemplate

CLOUDFLARE_PROTOCOL = "cf-connect-ip"
"""The token of WARP clients (usque). Same datagrams; their path is ``/``, and they know their
addresses from elsewhere."""
CLOUDFLARE_TEMPLATE = "/"

_ANY_PORT = 0  # gate.admit_address: whether anything at this address could be allowed

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectIpServices:
    """What the endpoint is given."""

    gate: Gate
    dataplane: Dataplane
    egress: IpEgress
    pool: AddressPool
    clock: Clock
    counters: TunnelCounters
    ip_counters: IpCounters
    limits: ConnectIpLimits
    resolve_timeout_s: float
    proxy_name: str
    extra_capsules: Sequence[tuple[int, bytes]] = ()
    """DNS_ASSIGN and PREF64, behind the first routes."""
    probe_ipv6: bool = False
    """Ask every client with IPv6 for an echo of 1,280 bytes; end the tunnel without one."""


class ConnectIpTunnel:
    """One CONNECT-IP tunnel, from its admission to its end.

    Attributes:
        session: what is spliced.
    """

    def __init__(
        self,
        shared: "ConnectIpTunnels",
        admission: Admission,
        *,
        speaks_to_proxy: bool,
        adopts_sources: bool,
    ) -> None:
        services, lease = shared.services, admission.lease
        self._services = services
        self._memory = shared.memory
        self._admission = admission
        self._speaks_to_proxy = speaks_to_proxy
        self.session = ConnectIpSession(
            lease,
            IpTunnelParts(
                egress=services.egress,
                pool=services.pool,
                packet_filter=services.gate.packet_filter(lease),
                counters=services.counters,
                ip_counters=services.ip_counters,
                may_send_icmp=shared.icmp_rate.allow,
                watch=lambda sink: WatchedIpSink(sink, self.session, lease.request.request_id),
                extra_capsules=services.extra_capsules,
                adopts_sources=adopts_sources,
            ),
        )

    async def open(self) -> Opened | Refusal:
        """Resolve the scope's name, take addresses and a place at the egress."""
        networks = await self._networks()
        if isinstance(networks, Refusal):
            return networks
        session, subject = self.session, self._admission.lease.subject
        try:
            session.open(networks, self._memory.recall(subject))
        except FlowError as error:
            self._admission.close(EndReason.TARGET_FAILED, str(error))
            return refuse_flow_error(error)
        self._memory.remember(subject, session.addresses)
        if session.has_ipv6:
            self._watch_ipv6()
        proxy_status = encode_proxy_status(self._services.proxy_name)
        headers = [(b"capsule-protocol", b"?1"), (b"proxy-status", proxy_status.encode("ascii"))]
        return Opened(headers=headers, splice="flow")

    def end_detail(self) -> str:
        """Say what ended a tunnel that did not work."""
        return self.session.trouble

    async def _networks(self) -> Sequence[IPNetwork] | Refusal | None:
        """Return what the tunnel is limited to; None = nothing.

        A name is resolved before the 2xx (RFC 9484 section 4.1), and each address shown to the
        gate.
        """
        scope = self._admission.lease.request.ip_scope or IpScope()
        if scope.target is None:
            return None
        if not isinstance(scope.target, str):
            return [scope.target]
        addresses = await admitted_addresses(
            self._admission,
            Target(host=scope.target, port=_ANY_PORT),
            gate=self._services.gate,
            dataplane=self._services.dataplane,
            resolve_timeout_s=self._services.resolve_timeout_s,
            speaks_to_proxy=self._speaks_to_proxy,
        )
        if isinstance(addresses, Refusal):
            return addresses
        return [ip_network(address) for address in dict.fromkeys(addresses)]

    def _watch_ipv6(self) -> None:
        """Look after the 1,280 bytes of IPv6; the timers find a tunnel that has ended harmless."""
        loop, limits, session = asyncio.get_running_loop(), self._services.limits, self.session
        loop.call_later(limits.ipv6_settle_s, session.require_ipv6_mtu)
        if self._services.probe_ipv6:
            loop.call_later(limits.ipv6_settle_s, session.probe_ipv6, secrets.randbelow(1 << 16))
            answer_s = limits.ipv6_settle_s + limits.ipv6_probe_timeout_s
            loop.call_later(answer_s, session.require_ipv6_answer)


class WatchedIpSink:
    """Stands between the egress and a session: an exception ends that tunnel (STYLE 17)."""

    __slots__ = ("_request_id", "_session", "_sink")

    def __init__(self, sink: IpSink, session: ConnectIpSession, request_id: str) -> None:
        self._sink = sink
        self._session = session
        self._request_id = request_id

    @property
    def is_busy(self) -> bool:
        """Whether enough waits for the client."""
        return self._sink.is_busy

    def on_packets(self, packets: Sequence[bytes]) -> None:
        """Hand packets on."""
        try:
            self._sink.on_packets(packets)
        except Exception:  # noqa: BLE001 (STYLE 17: a bug in one tunnel ends that tunnel)
            _log.exception("tunnel failed", request_id=self._request_id)
            self._session.close(EndReason.BUG)

    def on_egress_lost(self, error: FlowError) -> None:
        """Hand the end of the egress on."""
        self._sink.on_egress_lost(error)


class ConnectIpTunnels:
    """Makes the tunnels of one relay; what they share is here."""

    def __init__(self, services: ConnectIpServices) -> None:
        self.services = services
        self.memory = AddressMemory(services.limits.remembered_identities)
        self.icmp_rate = EventRate(
            rate_per_s=services.limits.icmp_errors_per_s,
            burst_count=services.limits.icmp_errors_burst,
            clock=services.clock,
        )

    def __call__(self, scope: Scope, admission: Admission) -> ConnectIpTunnel:
        """Make the tunnel of one admitted request."""
        return self._make(scope, admission, adopts_sources=False)

    def adopting(self, scope: Scope, admission: Admission) -> ConnectIpTunnel:
        """Make the tunnel of a client that chooses its addresses itself."""
        return self._make(scope, admission, adopts_sources=True)

    def _make(self, scope: Scope, admission: Admission, *, adopts_sources: bool) -> ConnectIpTunnel:
        return ConnectIpTunnel(
            self,
            admission,
            speaks_to_proxy=speaks_to_proxy(scope),
            adopts_sources=adopts_sources,
        )


def read_ip_scope(scope: Scope) -> Asked:
    """Return what a CONNECT-IP request asks for (RFC 9484 section 4.6).

    Raises:
        WireError: a variable of the template is malformed; the client hears 400.
    """
    variables = scope["path_params"]
    return Asked(
        method=Method.CONNECT_IP,
        ip_scope=IpScope(
            target=parse_scope_target(variables.get("target", WILDCARD)),
            ip_protocol=parse_scope_protocol(variables.get("ipproto", WILDCARD)),
        ),
    )


def connect_ip_kinds(
    services: ConnectIpServices,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    *,
    cloudflare: bool = False,
) -> list[TunnelKind]:
    """Return CONNECT-IP as the application mounts it, and the WARP dialect where it is wanted.

    Raises:
        WireError: a template is broken.
    """
    tunnels = ConnectIpTunnels(services)
    kinds = [
        TunnelKind(
            protocol=PROTOCOL,
            templates=[UriTemplate.parse(text) for text in templates],
            read_asked=read_ip_scope,
            tunnels=tunnels,
        )
    ]
    if cloudflare:
        kinds.append(
            TunnelKind(
                protocol=CLOUDFLARE_PROTOCOL,
                templates=[UriTemplate.parse(CLOUDFLARE_TEMPLATE)],
                read_asked=read_ip_scope,
                tunnels=tunnels.adopting,
            )
        )
    return kinds
