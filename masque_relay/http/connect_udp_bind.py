"""Owns the bound UDP endpoint (draft-ietf-masque-connect-udp-listen-15) on CONNECT-UDP's templates.

The gate decides on ``bind-udp`` without a target, and on every peer by its address. A request that
names a target and may not bind is asked about again as what it falls back to: plain CONNECT-UDP to
that target (section 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.types import Scope

from masque_relay.contract.address import Endpoint, IPAddress, Target
from masque_relay.contract.counters import BindCounters
from masque_relay.contract.flow import FlowError
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import Asked, AskedReader, parse_target
from masque_relay.http.connect_udp import ConnectUdpServices
from masque_relay.http.denials import Refusal, refuse_flow_error
from masque_relay.http.gate_middleware import speaks_to_proxy
from masque_relay.http.rate import EventRate
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.tunnel import Opened, Tunnel, TunnelKind
from masque_relay.http.watched_sink import (
    OVERSIZE_NOTICES_BURST,
    OVERSIZE_NOTICES_PER_S,
    WatchedBoundSink,
)
from masque_relay.tunnels.connect_udp_bind import BindLimits, BoundUdpSession, Inbound
from masque_relay.tunnels.peer_policy import PeerPolicy, PeerPolicyLimits
from masque_relay.wire.connect_udp_bind import (
    BIND_FIELD,
    BIND_VALUE,
    PUBLIC_ADDRESS_FIELD,
    asks_to_bind,
    encode_public_addresses,
    names_any_target,
)
from masque_relay.wire.proxy_status import encode_proxy_status

_BIND_FIELD_NAME = BIND_FIELD.encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class BindServices:
    """What the endpoint is given beside what plain CONNECT-UDP has."""

    udp: ConnectUdpServices
    counters: BindCounters
    limits: BindLimits
    policy_limits: PeerPolicyLimits
    inbound: Inbound


class BoundUdpTunnel:
    """One bound UDP tunnel, from its admission to its end.

    Attributes:
        session: what is spliced.
    """

    def __init__(
        self,
        services: BindServices,
        admission: Admission,
        target: Target | None,
        *,
        oversize_notices: EventRate,
        speaks_to_proxy: bool,
    ) -> None:
        self._services = services
        self._admission = admission
        self._target = target
        self._oversize_notices = oversize_notices
        self._speaks_to_proxy = speaks_to_proxy
        self._public: Sequence[Endpoint] = ()
        udp, limits = services.udp, services.policy_limits
        policy = PeerPolicy(
            udp.gate,
            admission.lease,
            clock=udp.clock,
            limits=limits,
            may_ask=EventRate(
                rate_per_s=limits.questions_per_s,
                burst_count=limits.questions_burst,
                clock=udp.clock,
            ).allow,
            may_ask_unsolicited=EventRate(
                rate_per_s=limits.unsolicited_per_s,
                burst_count=limits.unsolicited_burst,
                clock=udp.clock,
            ).allow,
        )
        self.session = BoundUdpSession(
            admission.lease,
            policy,
            clock=udp.clock,
            counters=udp.counters,
            bind_counters=services.counters,
            limits=services.limits,
            inbound=services.inbound,
        )

    async def open(self) -> Opened | Refusal:
        """Find the target's address, where there is a target, and bind the public ports."""
        target = self._target
        admitted: Sequence[IPAddress] = ()
        if target is not None:
            found = await admitted_addresses(
                self._admission,
                target,
                gate=self._services.udp.gate,
                dataplane=self._services.udp.dataplane,
                resolve_timeout_s=self._services.udp.limits.resolve_timeout_s,
                speaks_to_proxy=self._speaks_to_proxy,
            )
            if isinstance(found, Refusal):
                return found
            admitted = found
        lease = self._admission.lease
        sink = WatchedBoundSink(
            self.session,
            request_id=lease.request.request_id,
            oversize_notices=self._oversize_notices,
        )
        try:
            flow = self._services.udp.dataplane.open_bound_udp(lease, sink)
        except FlowError as error:
            self._admission.close(EndReason.TARGET_FAILED, str(error))
            return refuse_flow_error(error)
        peers = [] if target is None else [Endpoint(address=a, port=target.port) for a in admitted]
        peer = next((peer for peer in peers if flow.reaches(peer)), peers[0] if peers else None)
        self._public = flow.public
        self.session.bind_flow(flow, peer)
        return Opened(
            headers=self._headers(peer),
            splice="flow",
            idle_timeout_s=self._services.limits.idle_timeout_s,
        )

    def end_detail(self) -> str:
        """Whose ports these were, for whoever follows up a complaint; and what did not pass."""
        session = self.session
        parts = ["public " + ", ".join(map(str, self._public))]
        if session.denied_count:
            parts.append(f"{session.denied_count} datagrams of peers that the policy refuses")
        if session.oversize_downlink_count:
            parts.append(
                f"{session.oversize_downlink_count} datagrams from peers were too large for the"
                " client's path"
            )
        return "; ".join(parts)

    def _headers(self, peer: Endpoint | None) -> list[tuple[bytes, bytes]]:
        public = encode_public_addresses((end.address, end.port) for end in self._public)
        headers = [
            (b"capsule-protocol", b"?1"),
            (_BIND_FIELD_NAME, BIND_VALUE.encode("ascii")),
            (PUBLIC_ADDRESS_FIELD.encode("ascii"), public.encode("ascii")),
        ]
        if peer is not None:
            status = encode_proxy_status(self._services.udp.proxy_name, next_hop=str(peer))
            headers.append((b"proxy-status", status.encode("ascii")))
        return headers


def bound_udp_kind(plain: TunnelKind, services: BindServices) -> TunnelKind:
    """Return CONNECT-UDP that binds where a client asks for it, and is ``plain`` elsewhere."""
    oversize_notices = EventRate(
        rate_per_s=OVERSIZE_NOTICES_PER_S,
        burst_count=OVERSIZE_NOTICES_BURST,
        clock=services.udp.clock,
    )

    def tunnels(scope: Scope, admission: Admission) -> Tunnel:
        if admission.lease.request.method is not Method.BIND_UDP:
            return plain.tunnels(scope, admission)
        variables = scope["path_params"]
        return BoundUdpTunnel(
            services,
            admission,
            None if names_any_target(variables) else parse_target(variables),
            oversize_notices=oversize_notices,
            speaks_to_proxy=speaks_to_proxy(scope),
        )

    return replace(plain, read_asked=_asks_to_bind_or(plain.read_asked), tunnels=tunnels)


def _asks_to_bind_or(read_plain: AskedReader) -> AskedReader:
    def read(scope: Scope) -> Asked:
        values = [value for name, value in scope["headers"] if name == _BIND_FIELD_NAME]
        if not asks_to_bind(values):
            return read_plain(scope)
        if names_any_target(scope["path_params"]):
            return Asked(method=Method.BIND_UDP)
        # Not with the target: a rule that allows its name would then allow every peer.
        return Asked(method=Method.BIND_UDP, fallback=read_plain(scope))

    return read
