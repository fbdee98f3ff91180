"""admin/api.py: every path, what it asks of the operator, what it answers."""

import asyncio

import httpx
import pytest

from masque_relay.admin.app import build_admin_app
from masque_relay.admin.limits import AdminLimits
from masque_relay.contract.errors import OperationRefused
from masque_relay.contract.ports import ReloadReport
from tests.support.fake_operator import FakeOperator
from tests.unit.admin.conftest import TOKEN


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_probes_follow_the_operator(
    http: httpx.AsyncClient, operator: FakeOperator, path: str
) -> None:
    assert (await http.get(path)).status_code == 200
    operator.is_alive = operator.is_ready = False
    assert (await http.get(path)).status_code == 503


async def test_metrics_are_what_the_operator_says_in_the_text_format(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.get("/metrics")
    assert answer.content == b"# HELP x y\n"
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


async def test_status_and_tunnels_are_json(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/status")).json() == {"version": "1", "ready": True}
    [tunnel] = (await http.get("/api/v1/tunnels")).json()["tunnels"]
    assert tunnel["lease_id"] == "lease-1"
    assert tunnel["downlink_bytes"] == 4


async def test_answers_are_kept_by_no_cache(http: httpx.AsyncClient) -> None:
    assert (await http.get("/api/v1/tunnels")).headers["cache-control"] == "no-store"


async def test_kick_ends_one_tunnel_or_says_that_there_is_none(
    http: httpx.AsyncClient, operator: FakeOperator
) -> None:
    assert (await http.delete("/api/v1/tunnels/lease-1")).json() == {"kicked": "lease-1"}
    missing = await http.delete("/api/v1/tunnels/lease-2")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "no_such_tunnel"
    assert operator.calls == [("kick", "lease-1"), ("kick", "lease-2")]


@pytest.mark.parametrize(
    ("body", "call"),
    [
        ({"subject": "mallory"}, ("revoke", "mallory", None)),
        ({"token_id": "t1"}, ("revoke", None, "t1")),
        ({"subject": "m", "token_id": "t1"}, ("revoke", "m", "t1")),
    ],
)
async def test_revoke_names_a_subject_a_token_or_both(
    http: httpx.AsyncClient,
    operator: FakeOperator,
    body: dict[str, str],
    call: tuple[object, ...],
) -> None:
    assert (await http.post("/api/v1/revoke", json=body)).json() == {"ended_tunnels": 2}
    assert operator.calls == [call]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "nothing_to_revoke"),
        (b"{}", "nothing_to_revoke"),
        (b"[]", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff", "bad_json"),
        (b'{"subject": ""}', "bad_field"),
        (b'{"subject": 7}', "bad_field"),
        (b'{"subject": "%s"}' % (b"x" * 1_025), "body_too_large"),
        (b'{"user": "mallory"}', "unknown_field"),
    ],
)
async def test_a_bad_revocation_is_refused_and_revokes_nothing(
    http: httpx.AsyncClient, operator: FakeOperator, body: bytes, code: str
) -> None:
    answer = await http.post("/api/v1/revoke", content=body)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"] == code
    assert operator.calls == []


async def test_reload_says_what_changed(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/reload")
    assert (answer.status_code, answer.json()) == (200, {"changed": ["policy"]})


async def test_a_refused_reload_lists_every_problem(
    http: httpx.AsyncClient, operator: FakeOperator
) -> None:
    operator.report = ReloadReport(problems=("a.toml:1: x", "b.toml:2: y"), changed=())
    answer = await http.post("/api/v1/reload")
    assert answer.status_code == 422
    assert answer.json()["error"]["problems"] == ["a.toml:1: x", "b.toml:2: y"]


@pytest.mark.parametrize(
    ("body", "deadline_s"), [(None, None), ({}, None), ({"deadline_s": 3}, 3.0)]
)
async def test_drain_takes_an_optional_deadline(
    http: httpx.AsyncClient,
    operator: FakeOperator,
    body: dict[str, float] | None,
    deadline_s: float | None,
) -> None:
    answer = await http.post("/api/v1/drain", json=body)
    assert answer.status_code == 202
    assert operator.calls == [("drain", deadline_s)]


@pytest.mark.parametrize("deadline", ["-1", "true", '"3"', "1e30"])
async def test_a_bad_drain_deadline_is_refused(
    http: httpx.AsyncClient, operator: FakeOperator, deadline: str
) -> None:
    answer = await http.post("/api/v1/drain", content=f'{{"deadline_s": {deadline}}}')
    assert answer.status_code == 400
    assert operator.calls == []


async def test_a_body_that_never_ends_is_given_up(operator: FakeOperator) -> None:
    limits = AdminLimits(body_timeout_s=0.01)
    app = build_admin_app(operator, token=TOKEN, limits=limits)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/api/v1/reload", "raw_path": b"/api/v1/reload",
        "query_string": b"", "root_path": "", "http_version": "1.1", "scheme": "http",
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {TOKEN}".encode())],
    }  # fmt: skip
    await app(scope, receive, send)  # type: ignore[arg-type] (plain dicts are what ASGI sends)
    assert sent[0]["status"] == 408
    assert operator.calls == []


async def test_a_restart_is_promised_or_refused_with_the_next_step(
    http: httpx.AsyncClient, operator: FakeOperator
) -> None:
    answer = await http.post("/api/v1/restart")
    assert (answer.status_code, answer.json()) == (202, {"restarting": True})
    operator.refusal = OperationRefused("one_process", "can't", hint="set workers", problems=["p"])
    refused = await http.post("/api/v1/restart")
    assert refused.status_code == 409
    assert refused.json()["error"] == {
        "code": "one_process",
        "message": "can't",
        "hint": "set workers",
        "problems": ["p"],
    }
