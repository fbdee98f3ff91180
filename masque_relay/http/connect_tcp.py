"""Owns the TCP tunnel's endpoint: resolve, admit addresses, connect, answer, splice."""

import asyncio
from dataclasses import dataclass, field

import structlog
from starlette.types import Receive, Scope, Send

from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, TcpFlow
from masque_relay.contract.ports import Dataplane, Gate
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.denials import (
    Refusal,
    refuse_denial,
    refuse_flow_error,
    send_refusal,
)
from masque_relay.http.gate_middleware import request_id_of, speaks_to_proxy
from masque_relay.http.limits import HttpLimits
from masque_relay.http.target_addresses import admitted_addresses
from masque_relay.http.watched_bytes import WatchedByteSink
from masque_relay.tunnels.connect_tcp import ConnectTcpSession
from masque_relay.wire.connect_tcp import (
    CapsuleFraming,
    DataCapsuleTypes,
    RawFraming,
    TcpFraming,
)
from masque_relay.wire.proxy_status import encode_proxy_status

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectTcpServices:
    """What the endpoint is given."""

    gate: Gate
    dataplane: Dataplane
    counters: TunnelCounters
    limits: HttpLimits
    proxy_name: str
    capsule_types: DataCapsuleTypes = field(default_factory=DataCapsuleTypes)


class ConnectTcpEndpoint:
    """An ASGI endpoint behind the GateMiddleware, for classic CONNECT and for ``connect-tcp``.

    The connection to the target comes before the 2xx, so that a client learns of a refusal by the
    status; every resolved address is shown to the gate, and only admitted ones are tried.
    """

    def __init__(self, services: ConnectTcpServices) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Open one tunnel and hold it until it ends."""
        admission: Admission = scope["state"]["admission"]
        lease = admission.lease
        target = lease.request.target
        if target is None:
            raise RuntimeError("CONNECT-TCP admitted without a target")
        is_templated = scope["extensions"]["http.connect"]["protocol"] is not None
        framing: TcpFraming = (
            CapsuleFraming(self._services.capsule_types) if is_templated else RawFraming()
        )
        session = ConnectTcpSession(
            framing=framing,
            uplink=lease.uplink,
            downlink=lease.downlink,
            counters=self._services.counters,
        )
        admission.on_end(session.close)
        try:
            if expects_continue(scope):
                await send({"type": "http.response.start", "status": 100, "headers": []})
            opened = await self._open(scope, admission, session, target)
            if isinstance(opened, Refusal):
                await send_refusal(
                    send,
                    opened,
                    proxy_name=self._services.proxy_name,
                    request_id=request_id_of(scope),
                )
                return
            session.bind_flow(opened)
            await self._run(admission, session, opened.peer, receive, send, capsules=is_templated)
        except asyncio.CancelledError:
            admission.close(EndReason.DRAINED)
            raise
        except OSError as error:  # the client went away while we answered
            admission.close(EndReason.PEER_RESET, str(error))
            raise
        finally:
            session.ended(EndReason.PEER_RESET)

    async def _open(
        self, scope: Scope, admission: Admission, session: ConnectTcpSession, target: Target
    ) -> TcpFlow | Refusal:
        """Resolve, ask the gate about every address, and connect to the first that answers."""
        services = self._services
        to_proxy = speaks_to_proxy(scope)
        admitted = await admitted_addresses(
            admission,
            target,
            gate=services.gate,
            dataplane=services.dataplane,
            resolve_timeout_s=services.limits.resolve_timeout_s,
            speaks_to_proxy=to_proxy,
        )
        if isinstance(admitted, Refusal):
            return admitted
        sink = WatchedByteSink(session, request_id=request_id_of(scope))
        try:
            flow = await services.dataplane.open_tcp(
                admission.lease,
                [Endpoint(address=address, port=target.port) for address in admitted],
                sink,
                timeout_s=services.limits.connect_timeout_s,
            )
        except FlowError as error:
            admission.close(EndReason.TARGET_FAILED, str(error))
            return refuse_flow_error(error)
        if admission.ended_by_gate is not None:
            flow.abort()
            admission.close(admission.ended_by_gate)
            denial = Denial(reason=DenyReason.POLICY, detail="ended while connecting")
            return refuse_denial(denial, speaks_to_proxy=to_proxy)
        return flow

    async def _run(
        self,
        admission: Admission,
        session: ConnectTcpSession,
        endpoint: Endpoint,
        receive: Receive,
        send: Send,
        *,
        capsules: bool,
    ) -> None:
        """Answer 200, hand the bulk to the server, wait for the end."""
        proxy_status = encode_proxy_status(self._services.proxy_name, next_hop=str(endpoint))
        headers = [(b"proxy-status", proxy_status.encode("ascii"))]
        if capsules:
            headers.append((b"capsule-protocol", b"?1"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        idle_timeout_s = admission.lease.limits.idle_timeout_s
        await send(
            {
                "type": "http.splice",
                "kind": "tcp",
                "sink": session,
                "limits": {"idle": idle_timeout_s},
            }
        )
        while True:
            message = await receive()
            if message["type"] in {"http.splice.done", "http.disconnect"}:
                break
        reason = session.end_reason or EndReason.BUG
        detail = "" if session.flow_error is None else str(session.flow_error)
        admission.close(reason, detail)
        _log.debug("tunnel ended", request_id=admission.lease.request.request_id, reason=reason)


def expects_continue(scope: Scope) -> bool:
    """Return whether the client waits for a 100 (RFC 9110 section 10.1.1).

    connect-tcp, "Conveying Metadata": a proxy MUST answer it; here once the gate has admitted the
    request, before the name is resolved and the target is tried.
    """
    return any(
        name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
    )
