"""The way of a tunnel request through the gate."""

import ssl
from ipaddress import ip_address
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from masque_relay.contract.lease import Lease
from masque_relay.contract.request import (
    BearerToken,
    ClientCertificate,
    MalformedCredential,
    Method,
    RelayRequest,
    Transport,
)
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.http.asked import Asked, asks_for_target
from masque_relay.http.gate_middleware import GateMiddleware
from tests.support.http_fakes import FakeGate


class Endpoint:
    """What stands behind the gate."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        if self.error is not None:
            raise self.error
        scope["state"]["admission"].close(EndReason.PEER_CLOSED)


class Behind:
    """A middleware with its gate and endpoint."""

    def __init__(self, **more: Any) -> None:
        self.gate = FakeGate()
        self.endpoint = Endpoint()
        self.middleware = GateMiddleware(
            self.endpoint,
            gate=self.gate,
            read_asked=asks_for_target(Method.CONNECT_UDP),
            proxy_name="ghostwire",
            **more,
        )
        self.sent: list[Message] = []

    async def call(self, **changes: Any) -> None:
        scope: Scope = {
            "type": "http",
            "http_version": "3",
            "headers": [(b"authorization", b"Bearer token")],
            "client": ("198.51.100.9", 40_000),
            "path_params": {"target_host": "Example.ORG.", "target_port": "443"},
            "state": {"request_id": "r1"},
            "extensions": {},
        } | changes
        await self.middleware(scope, self._receive, self._send)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    async def _receive(self) -> Message:
        raise AssertionError("the gate reads no body")

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


async def test_request_is_made_of_scope_and_path() -> None:
    behind = Behind()
    await behind.call()

    (request,) = behind.gate.requests
    assert request.request_id == "r1"
    assert request.transport is Transport.HTTP3
    assert request.method is Method.CONNECT_UDP
    assert str(request.target) == "example.org:443"
    assert request.credentials == (BearerToken(token="token"),)
    assert str(request.source) == "198.51.100.9:40000"


async def test_lease_is_released_with_the_endpoints_reason() -> None:
    behind = Behind()
    await behind.call()

    assert behind.gate.leases[0].released == [(EndReason.PEER_CLOSED, "")]


async def test_lease_is_released_when_the_endpoint_raises() -> None:
    behind = Behind()
    behind.endpoint.error = ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        await behind.call()
    assert behind.gate.leases[0].released == [(EndReason.BUG, "")]


@pytest.mark.parametrize("reason", list(DenyReason))
async def test_denied_request_never_reaches_the_endpoint(reason: DenyReason) -> None:
    behind = Behind()
    behind.gate.denial = Denial(reason=reason, detail="secret")
    await behind.call()

    assert not behind.endpoint.scopes
    assert behind.status in {401, 403, 429, 503}
    assert "secret" not in repr(behind.sent)


async def test_proxy_authorization_is_answered_in_kind() -> None:
    behind = Behind()
    behind.gate.denial = Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="")
    await behind.call(headers=[(b"proxy-authorization", b"nonsense")])

    assert behind.gate.requests[0].credentials == (MalformedCredential(scheme=""),)
    assert behind.status == 407


@pytest.mark.parametrize(
    ("host", "port"),
    [("", "53"), ("a b", "53"), ("192.0.2.7", "0"), ("192.0.2.7", "70000"), ("127.1", "53")],
)
async def test_impossible_target_is_400_before_the_gate(host: str, port: str) -> None:
    behind = Behind()
    await behind.call(path_params={"target_host": host, "target_port": port})

    assert behind.status == 400
    assert not behind.gate.requests


async def test_mapped_address_reaches_the_gate_unwrapped() -> None:
    behind = Behind()
    await behind.call(path_params={"target_host": "::ffff:10.0.0.1", "target_port": "53"})

    target = behind.gate.requests[0].target
    assert target is not None
    assert target.host == ip_address("10.0.0.1")


@pytest.mark.parametrize("kind", ["websocket", "lifespan", "webtransport", "masque"])
async def test_unknown_scope_type_is_refused(kind: str) -> None:
    behind = Behind()

    with pytest.raises(RuntimeError, match=kind):
        await behind.call(type=kind)
    assert not behind.endpoint.scopes


async def test_client_certificate_reaches_the_gate_as_der() -> None:
    behind = Behind()
    pem = ssl.DER_cert_to_PEM_cert(b"not really a certificate")
    await behind.call(extensions={"tls": {"client_cert_chain": [pem]}})

    assert behind.gate.requests[0].credentials[-1] == ClientCertificate(
        chain_der=(b"not really a certificate",)
    )


@pytest.mark.parametrize(
    ("version", "transport"),
    [("3", Transport.HTTP3), ("2", Transport.HTTP2), ("1.1", Transport.HTTP1)],
)
async def test_transport_is_the_http_version(version: str, transport: Transport) -> None:
    behind = Behind()
    await behind.call(http_version=version)

    assert behind.gate.requests[0].transport is transport


async def test_server_without_state_or_client_is_served_too() -> None:
    behind = Behind()
    await behind.call(client=None, state={})

    (request,) = behind.gate.requests
    assert len(request.request_id) == 16
    assert str(request.source) == "0.0.0.0:0"


class TestWebSocket:
    """A WebSocket is admitted before it is accepted."""

    @staticmethod
    def behind() -> Behind:
        return Behind(scope_type="websocket", transport=Transport.WEBSOCKET)

    @pytest.mark.parametrize("kind", ["http", "lifespan", "webtransport"])
    async def test_another_scope_type_is_refused(self, kind: str) -> None:
        behind = self.behind()

        with pytest.raises(RuntimeError, match=kind):
            await behind.call(type=kind)
        assert not behind.endpoint.scopes

    async def test_it_counts_as_the_transport_that_the_route_says(self) -> None:
        behind = self.behind()
        await behind.call(type="websocket")

        assert behind.gate.requests[0].transport is Transport.WEBSOCKET

    async def test_a_denial_is_an_ordinary_response(self) -> None:
        behind = self.behind()
        behind.gate.denial = Denial(reason=DenyReason.CREDENTIAL_MISSING, detail="secret")
        await behind.call(type="websocket", extensions={"websocket.http.response": {}})

        start, body = behind.sent
        assert start["type"] == "websocket.http.response.start"
        assert start["status"] == 401
        assert dict(start["headers"])[b"www-authenticate"].startswith(b"B")
        assert body["type"] == "websocket.http.response.body"
        assert not behind.endpoint.scopes
        assert "secret" not in repr(behind.sent)

    async def test_a_server_that_cannot_say_more_closes(self) -> None:
        behind = self.behind()
        behind.gate.denial = Denial(reason=DenyReason.POLICY, detail="")
        await behind.call(type="websocket")

        assert behind.sent == [{"type": "websocket.close"}]

    @pytest.mark.parametrize(
        ("reason", "code"),
        [(EndReason.REVOKED, 1008), (EndReason.LIFETIME, 1008), (EndReason.DRAINED, 1001)],
    )
    async def test_the_end_of_the_lease_closes_it(self, reason: EndReason, code: int) -> None:
        behind, ends = self.behind(), []

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            behind.gate.leases[0].end(reason)

        behind.middleware.app = endpoint
        end = lambda code, reason: ends.append((code, reason))  # noqa: E731
        await behind.call(type="websocket", extensions={"websocket.end": end})

        assert ends == [(code, str(reason))]

    async def test_an_endpoint_that_knows_no_admission_ended_as_its_client_did(self) -> None:
        behind = self.behind()

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            return

        behind.middleware.app = endpoint
        await behind.call(type="websocket")

        assert behind.gate.leases[0].released == [(EndReason.PEER_CLOSED, "")]


class TestFallback:
    """What the client takes instead where the policy refuses the first (bound UDP)."""

    @staticmethod
    def behind(reason: DenyReason) -> Behind:
        def read(scope: Scope) -> Asked:
            plain = asks_for_target(Method.CONNECT_UDP)(scope)
            return Asked(method=Method.BIND_UDP, fallback=plain)

        class PickyGate(FakeGate):
            async def admit(self, request: RelayRequest) -> Lease | Denial:
                if request.method is Method.BIND_UDP:
                    self.requests.append(request)
                    return Denial(reason=reason, detail="no")
                return await super().admit(request)

        behind = Behind()
        behind.gate = PickyGate()
        behind.middleware = GateMiddleware(
            behind.endpoint, gate=behind.gate, read_asked=read, proxy_name="ghostwire"
        )
        return behind

    async def test_refused_by_policy_the_second_is_asked_for(self) -> None:
        behind = self.behind(DenyReason.POLICY)
        await behind.call()

        asked = [(request.method, str(request.target)) for request in behind.gate.requests]
        assert asked == [
            (Method.BIND_UDP, "None"),
            (Method.CONNECT_UDP, "example.org:443"),
        ]
        lease = behind.endpoint.scopes[0]["state"]["admission"].lease
        assert lease.request.method is Method.CONNECT_UDP

    @pytest.mark.parametrize("reason", sorted(set(DenyReason) - {DenyReason.POLICY}))
    async def test_any_other_refusal_is_final(self, reason: DenyReason) -> None:
        behind = self.behind(reason)
        await behind.call()

        assert len(behind.gate.requests) == 1
        assert not behind.endpoint.scopes
