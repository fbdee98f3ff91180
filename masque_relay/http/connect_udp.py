"""Owns the CONNECT-UDP endpoint (RFC 9298): resolve, admit addresses, open the flow, splice."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, UdpFlow
from masque_relay.contract.ports import Clock, Dataplane, Gate
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import TARGET_VARIABLES, asks_for_target
from masque_relay.http.denials import Refusal, refuse_flow_error
from masque_relay.http.gate_middleware import speaks_to_proxy
from masque_relay.http.limits import HttpLimits
from masque_relay.http.rate import EventRate
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.tunnel import Opened, TunnelKind
from masque_relay.http.watched_sink import (
    OVERSIZE_NOTICES_BURST,
    OVERSIZE_NOTICES_PER_S,
    WatchedSink,
)
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from masque_relay.wire.proxy_status import encode_proxy_status
from masque_relay.wire.uri_template import UriTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectUdpServices:
    """What the endpoint is given."""

    gate: Gate
    dataplane: Dataplane
    clock: Clock
    counters: TunnelCounters
    limits: HttpLimits
    proxy_name: str


class ConnectUdpTunnel:
    """One CONNECT-UDP tunnel.

    Name resolution comes before the 2xx (RFC 9298 section 3.1), every resolved address is shown
    to the gate, and the socket connects to exactly an admitted one, in the resolver's order.

    Attributes:
        session: what is spliced.
    """

    def __init__(
        self,
        services: ConnectUdpServices,
        admission: Admission,
        *,
        oversize_notices: EventRate,
        speaks_to_proxy: bool,
    ) -> None:
        self._services = services
        self._admission = admission
        self._oversize_notices = oversize_notices
        self._speaks_to_proxy = speaks_to_proxy
        lease = admission.lease
        self.session = ConnectUdpSession(
            uplink=lease.uplink, downlink=lease.downlink, counters=services.counters
        )

    async def open(self) -> Opened | Refusal:
        """Resolve, ask the gate about every address, and open the first flow that opens."""
        target = self._admission.lease.request.target
        if target is None:
            raise RuntimeError("CONNECT-UDP admitted without a target")
        admitted = await admitted_addresses(
            self._admission,
            target,
            gate=self._services.gate,
            dataplane=self._services.dataplane,
            resolve_timeout_s=self._services.limits.resolve_timeout_s,
            speaks_to_proxy=self._speaks_to_proxy,
        )
        if isinstance(admitted, Refusal):
            return admitted
        endpoint = self._open_first(admitted, target.port)
        if isinstance(endpoint, Refusal):
            return endpoint
        proxy_status = encode_proxy_status(self._services.proxy_name, next_hop=str(endpoint))
        headers = [(b"capsule-protocol", b"?1"), (b"proxy-status", proxy_status.encode("ascii"))]
        return Opened(headers=headers, splice="flow")

    def _open_first(self, addresses: Sequence[IPAddress], port: int) -> Endpoint | Refusal:
        """Take the first address that has a route; the session may ask for the others."""
        session, lease = self.session, self._admission.lease
        first_error: FlowError | None = None
        sink = WatchedSink(
            session,
            request_id=lease.request.request_id,
            oversize_notices=self._oversize_notices,
        )
        endpoints = iter([Endpoint(address=address, port=port) for address in addresses])

        def next_flow() -> UdpFlow | None:
            nonlocal first_error
            for endpoint in endpoints:
                try:
                    return self._services.dataplane.open_udp(lease, endpoint, sink)
                except FlowError as error:
                    first_error = first_error or error
            return None

        flow = next_flow()
        if flow is not None:
            session.bind_flow(flow, spare_flow=next_flow if len(addresses) > 1 else None)
            return flow.peer
        if first_error is None:
            raise RuntimeError("no address to open")
        self._admission.close(EndReason.TARGET_FAILED, str(first_error))
        return refuse_flow_error(first_error)

    def end_detail(self) -> str:
        """What an operator wants to know about a tunnel that did not work."""
        parts: list[str] = []
        if self.session.last_flow_error is not None:
            parts.append(
                f"{self.session.flow_error_count} errors from the target,"
                f" the last {self.session.last_flow_error.fault}"
            )
        if self.session.oversize_downlink_count:
            parts.append(
                f"{self.session.oversize_downlink_count} datagrams from the target were too large"
                " for the client's path"
            )
        return "; ".join(parts)


class ConnectUdpTunnels:
    """Makes the tunnels of one relay; what they share is here."""

    def __init__(self, services: ConnectUdpServices) -> None:
        self.services = services
        self.oversize_notices = EventRate(
            rate_per_s=OVERSIZE_NOTICES_PER_S,
            burst_count=OVERSIZE_NOTICES_BURST,
            clock=services.clock,
        )

    def __call__(self, scope: Scope, admission: Admission) -> ConnectUdpTunnel:
        """Make the tunnel of one admitted request."""
        return ConnectUdpTunnel(
            self.services,
            admission,
            oversize_notices=self.oversize_notices,
            speaks_to_proxy=speaks_to_proxy(scope),
        )


def connect_udp_kind(
    services: ConnectUdpServices, templates: Sequence[str] = (DEFAULT_TEMPLATE,)
) -> TunnelKind:
    """Return CONNECT-UDP as the application mounts it.

    Raises:
        WireError: a template is broken or lacks ``target_host`` or ``target_port``.
    """
    return TunnelKind(
        protocol="connect-udp",
        templates=[UriTemplate.parse(text, required=TARGET_VARIABLES) for text in templates],
        read_asked=asks_for_target(Method.CONNECT_UDP),
        tunnels=ConnectUdpTunnels(services),
    )
