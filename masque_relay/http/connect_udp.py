"""Owns the CONNECT-UDP endpoint (RFC 9298): resolve, admit addresses, open the flow, splice."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.types import Receive, Scope, Send

from masque_relay.contract.address import Endpoint, IPAddress, Target
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, UdpFlow
from masque_relay.contract.ports import Clock, Dataplane, Gate
from masque_relay.contract.verdict import EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.credentials import presents_proxy_credential
from masque_relay.http.denials import (
    Refusal,
    refuse_flow_error,
    send_refusal,
)
from masque_relay.http.gate_middleware import request_id_of
from masque_relay.http.limits import HttpLimits
from masque_relay.http.rate import EventRate
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.watched_sink import (
    OVERSIZE_NOTICES_BURST,
    OVERSIZE_NOTICES_PER_S,
    WatchedSink,
)
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from masque_relay.wire.proxy_status import encode_proxy_status

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectUdpServices:
    """What the endpoint is given."""

    gate: Gate
    dataplane: Dataplane
    clock: Clock
    counters: TunnelCounters
    limits: HttpLimits
    proxy_name: str


class ConnectUdpEndpoint:
    """An ASGI endpoint behind the GateMiddleware.

    Name resolution comes before the 2xx (RFC 9298 section 3.1), every resolved address is shown
    to the gate, and the socket connects to exactly an admitted one, in the resolver's order.
    """

    def __init__(self, services: ConnectUdpServices) -> None:
        self._services = services
        self._oversize_notices = EventRate(
            rate_per_s=OVERSIZE_NOTICES_PER_S,
            burst_count=OVERSIZE_NOTICES_BURST,
            clock=services.clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open one tunnel and hold it until it ends."""
        admission: Admission = scope["state"]["admission"]
        lease = admission.lease
        target = lease.request.target
        if target is None:
            raise RuntimeError("CONNECT-UDP admitted without a target")
        session = ConnectUdpSession(
            uplink=lease.uplink, downlink=lease.downlink, counters=self._services.counters
        )
        admission.on_end(session.close)
        speaks_to_proxy = presents_proxy_credential(scope["headers"])
        try:
            opened = await self._open(admission, session, target, speaks_to_proxy=speaks_to_proxy)
            if isinstance(opened, Refusal):
                await send_refusal(
                    send,
                    opened,
                    proxy_name=self._services.proxy_name,
                    request_id=request_id_of(scope),
                )
                return
            await self._run(admission, session, opened, receive, send)
        except asyncio.CancelledError:
            admission.close(EndReason.DRAINED)
            raise
        except OSError as error:  # the client went away while we answered
            admission.close(EndReason.PEER_RESET, str(error))
            raise
        finally:
            session.ended(EndReason.PEER_CLOSED)

    async def _open(
        self,
        admission: Admission,
        session: ConnectUdpSession,
        target: Target,
        *,
        speaks_to_proxy: bool,
    ) -> Endpoint | Refusal:
        """Resolve, ask the gate about every address, and open the first flow that opens."""
        admitted = await admitted_addresses(
            admission,
            target,
            gate=self._services.gate,
            dataplane=self._services.dataplane,
            resolve_timeout_s=self._services.limits.resolve_timeout_s,
            speaks_to_proxy=speaks_to_proxy,
        )
        if isinstance(admitted, Refusal):
            return admitted
        return self._open_first(admission, session, admitted, target.port)

    def _open_first(
        self,
        admission: Admission,
        session: ConnectUdpSession,
        addresses: Sequence[IPAddress],
        port: int,
    ) -> Endpoint | Refusal:
        """Take the first address that has a route; the session may ask for the others."""
        first_error: FlowError | None = None
        sink = WatchedSink(
            session,
            request_id=admission.lease.request.request_id,
            oversize_notices=self._oversize_notices,
        )
        endpoints = iter([Endpoint(address=address, port=port) for address in addresses])

        def next_flow() -> UdpFlow | None:
            nonlocal first_error
            for endpoint in endpoints:
                try:
                    return self._services.dataplane.open_udp(admission.lease, endpoint, sink)
                except FlowError as error:
                    first_error = first_error or error
            return None

        flow = next_flow()
        if flow is not None:
            session.bind_flow(flow, spare_flow=next_flow if len(addresses) > 1 else None)
            return flow.peer
        if first_error is None:
            raise RuntimeError("no address to open")
        admission.close(EndReason.TARGET_FAILED, str(first_error))
        return refuse_flow_error(first_error)

    async def _run(
        self,
        admission: Admission,
        session: ConnectUdpSession,
        endpoint: Endpoint,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer 200, hand the bulk to the server, wait for the end."""
        proxy_status = encode_proxy_status(self._services.proxy_name, next_hop=str(endpoint))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"capsule-protocol", b"?1"),
                    (b"proxy-status", proxy_status.encode("ascii")),
                ],
            }
        )
        idle_timeout_s = admission.lease.limits.idle_timeout_s
        await send(
            {
                "type": "http.splice",
                "kind": "flow",
                "sink": session,
                "limits": {"idle": idle_timeout_s},
            }
        )
        while True:
            message = await receive()
            if message["type"] in {"http.splice.done", "http.disconnect"}:
                break
        reason = session.end_reason or EndReason.BUG
        admission.close(reason, self._end_detail(session))
        _log.debug("tunnel ended", request_id=admission.lease.request.request_id, reason=reason)

    @staticmethod
    def _end_detail(session: ConnectUdpSession) -> str:
        """What an operator wants to know about a tunnel that did not work."""
        parts: list[str] = []
        if session.last_flow_error is not None:
            parts.append(
                f"{session.flow_error_count} errors from the target,"
                f" the last {session.last_flow_error.fault}"
            )
        if session.oversize_downlink_count:
            parts.append(
                f"{session.oversize_downlink_count} datagrams from the target were too large"
                " for the client's path"
            )
        return "; ".join(parts)
