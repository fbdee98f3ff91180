"""Owns the TCP tunnel's endpoint: resolve, admit addresses, connect, answer, splice."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from starlette.types import Scope

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, TcpFlow
from masque_relay.contract.ports import Dataplane, Gate
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import TARGET_VARIABLES, asks_for_target
from masque_relay.http.denials import Refusal, refuse_denial, refuse_flow_error
from masque_relay.http.gate_middleware import speaks_to_proxy
from masque_relay.http.limits import HttpLimits
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.tunnel import Opened, TunnelKind
from masque_relay.http.watched_bytes import WatchedByteSink
from masque_relay.tunnels.connect_tcp import ConnectTcpSession
from masque_relay.wire.connect_tcp import (
    DEFAULT_TEMPLATE,
    CapsuleFraming,
    DataCapsuleTypes,
    RawFraming,
    TcpFraming,
)
from masque_relay.wire.proxy_status import encode_proxy_status
from masque_relay.wire.uri_template import UriTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTcpServices:
    """What the endpoint is given."""

    gate: Gate
    dataplane: Dataplane
    counters: TunnelCounters
    limits: HttpLimits
    proxy_name: str
    capsule_types: DataCapsuleTypes = field(default_factory=DataCapsuleTypes)


class ConnectTcpTunnel:
    """One TCP tunnel, by classic CONNECT or by ``connect-tcp``.

    The connection to the target comes before the 2xx, so that a client learns of a refusal by the
    status; every resolved address is shown to the gate, and only admitted ones are tried.

    Attributes:
        session: what is spliced.
    """

    def __init__(
        self,
        services: ConnectTcpServices,
        admission: Admission,
        *,
        is_templated: bool,
        speaks_to_proxy: bool,
    ) -> None:
        self._services = services
        self._admission = admission
        self._is_templated = is_templated
        self._speaks_to_proxy = speaks_to_proxy
        framing: TcpFraming = (
            CapsuleFraming(services.capsule_types) if is_templated else RawFraming()
        )
        lease = admission.lease
        self.session = ConnectTcpSession(
            framing=framing,
            uplink=lease.uplink,
            downlink=lease.downlink,
            counters=services.counters,
        )

    async def open(self) -> Opened | Refusal:
        """Resolve, ask the gate about every address, and connect to the first that answers."""
        flow = await self._connect()
        if isinstance(flow, Refusal):
            return flow
        self.session.bind_flow(flow)
        proxy_status = encode_proxy_status(self._services.proxy_name, next_hop=str(flow.peer))
        headers = [(b"proxy-status", proxy_status.encode("ascii"))]
        if self._is_templated:
            headers.append((b"capsule-protocol", b"?1"))
        return Opened(headers=headers, splice="tcp")

    def end_detail(self) -> str:
        """Say what broke the connection to the target, if something did."""
        return "" if self.session.flow_error is None else str(self.session.flow_error)

    async def _connect(self) -> TcpFlow | Refusal:
        services, admission = self._services, self._admission
        target = admission.lease.request.target
        if target is None:
            raise RuntimeError("CONNECT-TCP admitted without a target")
        admitted = await admitted_addresses(
            admission,
            target,
            gate=services.gate,
            dataplane=services.dataplane,
            resolve_timeout_s=services.limits.resolve_timeout_s,
            speaks_to_proxy=self._speaks_to_proxy,
        )
        if isinstance(admitted, Refusal):
            return admitted
        try:
            flow = await services.dataplane.open_tcp(
                admission.lease,
                [Endpoint(address=address, port=target.port) for address in admitted],
                WatchedByteSink(self.session, request_id=admission.lease.request.request_id),
                timeout_s=services.limits.connect_timeout_s,
            )
        except FlowError as error:
            admission.close(EndReason.TARGET_FAILED, str(error))
            return refuse_flow_error(error)
        if admission.ended_by_gate is not None:
            flow.abort()
            admission.close(admission.ended_by_gate)
            denial = Denial(reason=DenyReason.POLICY, detail="ended while connecting")
            return refuse_denial(denial, speaks_to_proxy=self._speaks_to_proxy)
        return flow


class ConnectTcpTunnels:
    """Makes the tunnels of one relay."""

    def __init__(self, services: ConnectTcpServices) -> None:
        self.services = services

    def __call__(self, scope: Scope, admission: Admission) -> ConnectTcpTunnel:
        """Make the tunnel of one admitted request."""
        return ConnectTcpTunnel(
            self.services,
            admission,
            is_templated=scope["extensions"]["http.connect"]["protocol"] is not None,
            speaks_to_proxy=speaks_to_proxy(scope),
        )


def connect_tcp_kinds(
    services: ConnectTcpServices,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    *,
    classic: bool = True,
) -> list[TunnelKind]:
    """Return ``connect-tcp`` and, unless it is off, classic CONNECT as the application mounts them.

    Raises:
        WireError: a template is broken or lacks ``target_host`` or ``target_port``.
    """
    templated = TunnelKind(
        protocol="connect-tcp",
        templates=[UriTemplate.parse(text, required=TARGET_VARIABLES) for text in templates],
        read_asked=asks_for_target(Method.CONNECT_TCP),
        tunnels=ConnectTcpTunnels(services),
    )
    if not classic:
        return [templated]
    return [templated, replace(templated, protocol=None, templates=())]
