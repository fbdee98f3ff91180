"""Owns the second hop: tunnels whose targets are reached through an upstream MASQUE relay.

A chained tunnel is an ordinary one whose flow is a client's tunnel. The gate has the same say as
ever: over addresses where there are any, over the name where the upstream relay looks it up.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from starlette.types import Scope

from masque_relay.client.address import RelayAddress
from masque_relay.client.errors import ClientError, RelayTimeout, TunnelClosed, TunnelRefused
from masque_relay.client.limits import ClientLimits
from masque_relay.client.link import RelayLink
from masque_relay.client.refusal import Headers, header_values
from masque_relay.client.split import SplitRules, Way
from masque_relay.client.udp_tunnel import UdpTunnel, udp_request
from masque_relay.client.upstream import UpstreamTcpFlow, UpstreamUdpFlow
from masque_relay.contract.address import Target
from masque_relay.contract.counters import UpstreamCounters
from masque_relay.contract.ports import Dataplane, Gate, NameGate
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.connect_tcp import ConnectTcpTunnel
from masque_relay.http.connect_udp import ConnectUdpTunnel
from masque_relay.http.denials import Refusal, refuse_denial
from masque_relay.http.gate_middleware import speaks_to_proxy
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.tunnel import Opened, Tunnel, TunnelKind
from masque_relay.http.watched_bytes import WatchedByteSink
from masque_relay.wire.errors import WireError
from masque_relay.wire.proxy_status import encode_proxy_status, parse_proxy_status
from masque_relay.wire.via import chain_fields, loop_names, via_names

_ERROR_TYPE = re.compile(r"[a-z_]{1,40}")
_LOOP = Refusal(
    status=502,  # RFC 9209 section 2.3.30
    error="proxy_loop_detected",
    explanation="the request has been here before, or has come through too many proxies",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The way upstream, and who is asked before it is taken."""

    link: RelayLink
    address: RelayAddress
    client_limits: ClientLimits
    rules: SplitRules
    resolves_upstream: bool
    pseudonym: str
    """Our name in ``via``."""
    max_hops: int
    proxy_name: str
    gate: Gate
    names: NameGate
    dataplane: Dataplane
    resolve_timeout_s: float
    counters: UpstreamCounters

    def over(self, kind: TunnelKind) -> TunnelKind:
        """Return a kind of tunnel whose targets take the way that the rules say."""

        def make(scope: Scope, admission: Admission) -> Tunnel:
            inner = kind.tunnels(scope, admission)
            target = admission.lease.request.target
            if target is None or self.rules.way_of(target) is not Way.PROXY:
                return inner
            match inner:
                case ConnectUdpTunnel():
                    return _ChainedUdp(self, inner, scope, admission, target)
                case ConnectTcpTunnel():
                    return _ChainedTcp(self, inner, scope, admission, target)
                case _:
                    return inner

        return replace(kind, tunnels=make)

    async def admit(self, scope: Scope, admission: Admission, target: Target) -> Target | Refusal:
        """Return what to ask the upstream relay for, or why not; a refusal closes the admission."""
        headers: Headers = scope["headers"]
        hops = via_names(headers)
        if hops is None or len(hops) >= self.max_hops or self._was_here(headers, hops):
            self.counters.loops_refused += 1
            admission.close(EndReason.DENIED, "a loop of proxies")
            return _LOOP
        to_proxy = speaks_to_proxy(scope)
        if isinstance(target.host, str) and self.resolves_upstream:
            denial = self.names.admit_name(admission.lease)
            if denial is None:
                return target
            admission.close(EndReason.DENIED, denial.detail)
            return refuse_denial(denial, speaks_to_proxy=to_proxy)
        admitted = await admitted_addresses(
            admission,
            target,
            gate=self.gate,
            dataplane=self.dataplane,
            resolve_timeout_s=self.resolve_timeout_s,
            speaks_to_proxy=to_proxy,
        )
        if isinstance(admitted, Refusal):
            return admitted
        return Target(host=admitted[0], port=target.port)

    def fields(self, scope: Scope) -> Headers:
        """Return what tells the next hop by whom the request came."""
        headers: Headers = scope["headers"]
        return chain_fields(headers, self.pseudonym, http_version=scope["http_version"])

    def proxy_status(self, response: Headers) -> tuple[bytes, bytes]:
        """Return what the upstream relay said, then ourselves (RFC 9209 section 2)."""
        said = b", ".join(header_values(response, b"proxy-status"))
        try:
            parse_proxy_status(said.decode("ascii"))
        except (WireError, UnicodeDecodeError):
            said = b""
        own = encode_proxy_status(self.proxy_name, next_hop=self.address.host).encode("ascii")
        return (b"proxy-status", own if not said else said + b", " + own)

    def refused(self, admission: Admission, error: ClientError) -> Refusal:
        """Return what a failure upstream looks like to our client."""
        self.counters.tunnels_refused += 1
        admission.close(EndReason.TARGET_FAILED, f"upstream: {error.message}")
        return refusal_upstream(error)

    def _was_here(self, headers: Headers, hops: list[str]) -> bool:
        return self.pseudonym in hops or self.pseudonym in loop_names(headers)


def refusal_upstream(error: ClientError) -> Refusal:
    """Return the refusal for a tunnel that the upstream relay did not open."""
    if isinstance(error, RelayTimeout):
        return Refusal(
            status=504,
            error="http_response_timeout",
            explanation="the upstream relay did not answer in time",
        )
    if not isinstance(error, TunnelRefused):
        return Refusal(
            status=502,
            error="destination_unavailable",
            explanation="the upstream relay cannot be reached",
        )
    if error.status in {401, 407}:
        return Refusal(
            status=502,
            error="proxy_configuration_error",
            explanation="the upstream relay does not accept this relay's credential",
        )
    kind = error.error if error.error and _ERROR_TYPE.fullmatch(error.error) else None
    if error.status in {429, 503}:
        return Refusal(
            status=503,
            error=kind or "connection_limit_reached",
            explanation="the upstream relay takes no more now",
            retry_after_s=error.retry_after_s,
        )
    status = error.status if error.status in {403, 504} else 502
    return Refusal(
        status=status,
        error=kind or "proxy_internal_error",
        explanation="the upstream relay refused",
        rcode=error.rcode,
    )


class _ChainedUdp:
    """A CONNECT-UDP tunnel whose flow is a tunnel upstream; a Tunnel."""

    def __init__(
        self,
        chain: Chain,
        inner: ConnectUdpTunnel,
        scope: Scope,
        admission: Admission,
        target: Target,
    ) -> None:
        self.session = inner.session
        self._chain = chain
        self._scope = scope
        self._admission = admission
        self._target = target
        self._end_detail = ""
        self._is_open = False

    async def open(self) -> Opened | Refusal:
        """Ask the gate, then the upstream relay."""
        chain, admission = self._chain, self._admission
        target = await chain.admit(self._scope, admission, self._target)
        if isinstance(target, Refusal):
            return target
        tunnel = UdpTunnel(
            target,
            limits=chain.client_limits,
            on_batch=self.session.on_batch,
            on_closed=self._closed_upstream,
        )
        request = udp_request(target, chain.address.path_for(target), chain.fields(self._scope))
        try:
            await chain.link.open_tunnel(request, tunnel)
        except ClientError as error:
            return chain.refused(admission, error)
        chain.counters.tunnels_opened += 1
        self._is_open = True
        self.session.bind_flow(UpstreamUdpFlow(tunnel))
        return Opened(
            headers=[(b"capsule-protocol", b"?1"), chain.proxy_status(tunnel.response)],
            splice="flow",
        )

    def end_detail(self) -> str:
        """Say how the tunnel upstream ended."""
        return self._end_detail

    def _closed_upstream(self, closed: TunnelClosed) -> None:
        if self._is_open:
            self._end_detail = f"upstream: {closed.message}"
            self.session.close(EndReason.TARGET_FAILED)


class _ChainedTcp:
    """A TCP tunnel whose flow is a tunnel upstream; a Tunnel."""

    def __init__(
        self,
        chain: Chain,
        inner: ConnectTcpTunnel,
        scope: Scope,
        admission: Admission,
        target: Target,
    ) -> None:
        self.session = inner.session
        self.end_detail: Callable[[], str] = inner.end_detail
        self._chain = chain
        self._scope = scope
        self._admission = admission
        self._target = target

    async def open(self) -> Opened | Refusal:
        """Ask the gate, then the upstream relay."""
        chain, admission = self._chain, self._admission
        target = await chain.admit(self._scope, admission, self._target)
        if isinstance(target, Refusal):
            return target
        try:
            tunnel = await chain.link.open_tcp(target, fields=chain.fields(self._scope))
        except ClientError as error:
            return chain.refused(admission, error)
        chain.counters.tunnels_opened += 1
        sink = WatchedByteSink(self.session, request_id=admission.lease.request.request_id)
        self.session.bind_flow(UpstreamTcpFlow(tunnel, sink))
        headers = [chain.proxy_status(tunnel.response)]
        if self._scope["extensions"]["http.connect"]["protocol"] is not None:
            headers.append((b"capsule-protocol", b"?1"))
        return Opened(headers=headers, splice="tcp")
