"""Owns the way of a tunnel request through the gate: scope -> RelayRequest -> lease -> release."""

import secrets
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.ports import Gate
from masque_relay.contract.request import RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.admission import Admission
from masque_relay.http.asked import Asked, AskedReader
from masque_relay.http.credentials import parse_credentials, presents_proxy_credential
from masque_relay.http.denials import Refusal, refuse_denial, refuse_request, send_refusal
from masque_relay.http.wrap_up import WrapUpRule
from masque_relay.wire.errors import WireError

_TRANSPORTS = {"3": Transport.HTTP3, "2": Transport.HTTP2}
_GOING_AWAY, _POLICY_VIOLATION = 1001, 1008  # RFC 6455 section 7.4.1
_UNKNOWN_SOURCE = ip_address("0.0.0.0")  # noqa: S104  (a Unix socket has no peer address)


class GateMiddleware:
    """Pure ASGI: lets a tunnel request through to ``app`` only with a lease.

    The route in front of it must have put the template's variables into ``scope["path_params"]``.
    The lease is in ``scope["state"]["admission"]`` and is released here, whatever the endpoint
    does. Another scope type than the one it is made for is a wiring mistake and raises: fail
    closed.

    A WebSocket is admitted before it is accepted, and refused with the same responses as a tunnel.
    When the gate ends its lease it is closed with 1008 (policy) or 1001 (the relay goes away);
    an endpoint that wants to do that itself sets ``admission.on_end``.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        gate: Gate,
        read_asked: AskedReader,
        proxy_name: str,
        scope_type: Literal["http", "websocket"] = "http",
        transport: Transport | None = None,
        wrap_up: WrapUpRule | None = None,
    ) -> None:
        """Stand before ``app``.

        Args:
            app: the endpoint, which finds the lease in the scope's state.
            gate: decides.
            read_asked: what the request asks for.
            proxy_name: in ``proxy-status``.
            scope_type: what ``app`` serves.
            transport: what the request counts as; None tells it by the HTTP version.
            wrap_up: who is sent WRAP_UP when the relay drains; None: nobody.
        """
        self.app = app
        self._gate = gate
        self._read_asked = read_asked
        self._proxy_name = proxy_name
        self._scope_type = scope_type
        self._transport = transport
        self._wrap_up = wrap_up or WrapUpRule()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, run the endpoint, release."""
        if scope["type"] != self._scope_type:
            raise RuntimeError(f"the gate does not know scope type {scope['type']!r}")
        try:
            asked = self._read_asked(scope)
        except WireError as error:
            # The detail quotes at most an excerpt of what the client itself sent.
            refusal = refuse_request(400, f"bad target: {error.detail}")
            await refuse(scope, send, refusal, proxy_name=self._proxy_name)
            return
        request = read_request(scope, asked, transport=self._transport)
        verdict = await self._gate.admit(request)
        other = asked.fallback
        if isinstance(verdict, Denial) and verdict.reason is DenyReason.POLICY and other:
            request = replace(request, method=other.method, target=other.target)
            verdict = await self._gate.admit(request)
        if isinstance(verdict, Denial):
            refusal = refuse_denial(verdict, speaks_to_proxy=speaks_to_proxy(scope))
            await refuse(scope, send, refusal, proxy_name=self._proxy_name)
            return
        admission = Admission(verdict)
        extensions: dict[str, Any] = scope.get("extensions", {})
        if "websocket.end" in extensions:
            admission.on_end(partial(_end_websocket, extensions["websocket.end"]))
        if "http.wrap_up" in extensions and self._wrap_up.names(verdict.subject, scope["headers"]):
            extensions["http.wrap_up"]()
        try:
            scope["state"]["admission"] = admission
            await self.app(scope, receive, send)
            if self._scope_type == "websocket" and admission.end_reason is EndReason.BUG:
                # An ordinary WebSocket endpoint knows nothing of admissions: it returns.
                admission.close(EndReason.PEER_CLOSED)
        finally:
            if not admission.outlives_request:
                admission.release()


def read_request(scope: Scope, asked: Asked, *, transport: Transport | None = None) -> RelayRequest:
    """Return what a scope asks of the gate; ``transport`` None tells it by the HTTP version."""
    return RelayRequest(
        request_id=request_id_of(scope),
        transport=transport or _TRANSPORTS.get(scope["http_version"], Transport.HTTP1),
        method=asked.method,
        target=asked.target,
        ip_scope=asked.ip_scope,
        credentials=parse_credentials(scope["headers"], _certificate_chain_der(scope)),
        source=_source(scope),
    )


async def refuse(scope: Scope, send: Send, refusal: Refusal, *, proxy_name: str) -> None:
    """Answer a request, or a WebSocket that is not accepted, with a refusal."""
    request_id = request_id_of(scope)
    if scope["type"] == "http":
        await send_refusal(send, refusal, proxy_name=proxy_name, request_id=request_id)
    elif "websocket.http.response" in scope.get("extensions", {}):
        as_websocket = partial(_send_as_websocket, send)
        await send_refusal(as_websocket, refusal, proxy_name=proxy_name, request_id=request_id)
    else:  # a server that can only say 403
        await send({"type": "websocket.close"})


async def _send_as_websocket(send: Send, message: Message) -> None:
    """ASGI's "WebSocket Denial Response": the same messages under another name."""
    await send({**message, "type": f"websocket.{message['type']}"})


def _end_websocket(end: Callable[[int, str], None], reason: EndReason) -> None:
    end(_GOING_AWAY if reason is EndReason.DRAINED else _POLICY_VIOLATION, str(reason))


def speaks_to_proxy(scope: Scope) -> bool:
    """Return whether a missing credential is 407, because the client speaks to us as to a proxy.

    Classic CONNECT always does. A templated tunnel is a resource of this origin: connect-tcp
    ("Authentication Headers") never has 407; a client of the others that sends
    ``Proxy-Authorization`` all the same hears what it understands.
    """
    connect: dict[str, Any] = scope.get("extensions", {}).get("http.connect") or {}
    if connect.get("form") == "classic":
        return True
    if connect.get("protocol") == "connect-tcp":
        return False
    return presents_proxy_credential(scope["headers"])


def request_id_of(scope: Scope) -> str:
    """Return the front end's request id; makes one where the server has none (stock hypercorn)."""
    state: dict[str, Any] = scope.setdefault("state", {})
    request_id: str = state.setdefault("request_id", secrets.token_hex(8))
    return request_id


def _source(scope: Scope) -> Endpoint:
    client: tuple[str, int] | None = scope.get("client")
    if client is None:
        return Endpoint(address=_UNKNOWN_SOURCE, port=0)
    address: IPAddress = ip_address(client[0])
    return Endpoint(address=address, port=client[1])


def _certificate_chain_der(scope: Scope) -> list[bytes]:
    tls: dict[str, Any] = scope.get("extensions", {}).get("tls") or {}
    chain_pem: list[str] = list(tls.get("client_cert_chain") or ())
    return [ssl.PEM_cert_to_DER_cert(pem) for pem in chain_pem]
