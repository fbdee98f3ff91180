"""admin/guard.py: who gets in."""

import httpx
import pytest
from starlette.types import Message, Scope

from masque_relay.admin.app import build_admin_app
from masque_relay.admin.guard import AdminGuard
from masque_relay.admin.limits import AdminLimits
from tests.support.fake_operator import FakeOperator
from tests.unit.admin.conftest import TOKEN

CLOSED = [
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/tunnels"),
    ("DELETE", "/api/v1/tunnels/lease-1"),
    ("POST", "/api/v1/revoke"),
    ("POST", "/api/v1/reload"),
    ("POST", "/api/v1/drain"),
    ("GET", "/no/such/path"),
    ("GET", "/healthz/"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
async def test_without_the_token_every_path_but_the_probes_is_closed(
    http: httpx.AsyncClient, operator: FakeOperator, method: str, path: str, credential: str
) -> None:
    headers = [(b"authorization", credential.encode("latin-1"))]
    answer = await http.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert operator.calls == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_probes_and_metrics_need_no_token(http: httpx.AsyncClient, path: str) -> None:
    del http.headers["authorization"]
    assert (await http.get(path)).status_code == 200


async def test_metrics_can_be_closed_too(operator: FakeOperator) -> None:
    app = build_admin_app(operator, token=TOKEN, limits=AdminLimits(metrics_need_token=True))
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type] (Starlette's types are wider)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:9443", "[::1]:9443", "localhost", "LOCALHOST:1", "10.0.0.7"]
)
async def test_literal_addresses_and_localhost_are_served(
    http: httpx.AsyncClient, host: str
) -> None:
    assert (await http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io"])
@pytest.mark.parametrize("path", ["/healthz", "/api/v1/status"])
async def test_a_foreign_host_name_is_refused_even_with_the_token(
    http: httpx.AsyncClient, host: str, path: str
) -> None:
    answer = await http.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert "allowed_hosts" in answer.json()["error"]["hint"]


async def test_a_configured_host_name_is_served(operator: FakeOperator) -> None:
    limits = AdminLimits(allowed_hosts=("relay.example",))
    app = build_admin_app(operator, token=TOKEN, limits=limits)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type] (Starlette's types are wider)
    async with httpx.AsyncClient(transport=transport, base_url="http://relay.example") as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_a_unix_socket_needs_no_host(operator: FakeOperator) -> None:
    app = build_admin_app(operator, token=TOKEN, limits=AdminLimits(), over_unix_socket=True)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type] (Starlette's types are wider)
    async with httpx.AsyncClient(transport=transport, base_url="http://anything") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/api/v1/status")).status_code == 401


async def passed_on(scope: Scope) -> tuple[bool, list[Message]]:
    reached = False
    sent: list[Message] = []

    async def app(_scope: Scope, _receive: object, _send: object) -> None:
        nonlocal reached
        reached = True

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    guard = AdminGuard(app, token=TOKEN, limits=AdminLimits())
    await guard(scope, receive, send)
    return reached, sent


async def test_lifespan_passes_and_a_websocket_is_closed() -> None:
    assert await passed_on({"type": "lifespan"}) == (True, [])
    reached, sent = await passed_on({"type": "websocket", "path": "/healthz", "headers": []})
    assert not reached
    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_an_unknown_scope_type_is_refused() -> None:
    with pytest.raises(RuntimeError, match="webtransport"):
        await passed_on({"type": "webtransport", "path": "/healthz", "headers": []})


def test_an_empty_token_is_a_mistake_not_an_open_door() -> None:
    with pytest.raises(ValueError, match="empty"):
        build_admin_app(FakeOperator(), token="", limits=AdminLimits())
