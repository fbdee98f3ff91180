"""What an operator may do to a running relay, through the API and through ghostctl."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest

from masque_relay.admin.client import AdminRefusedError
from masque_relay.config.dev_state import DEV_AUDIENCE, DEV_ISSUER
from masque_relay.control.auth.keys import load_signing_key
from masque_relay.control.auth.tokens import issue_token, read_token
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.managed_relay import ManagedRelay, managed_relay

POLICY = """
[[rule]]
name = "echo"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    with managed_relay(tmp_path_factory.mktemp("relay"), policy=POLICY) as relay:
        yield relay


def token_for(relay: ManagedRelay, subject: str, token_id: str | None = None) -> str:
    return issue_token(
        load_signing_key(relay.state.signing_key_file),
        subject=subject,
        audience=DEV_AUDIENCE,
        issuer=DEV_ISSUER,
        lifetime_s=600,
        now_s=time.time(),
        token_id=token_id,
    )


def ghostctl(relay: ManagedRelay, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "masque_relay.cli.main", "relay", *arguments,
         "--state-dir", str(relay.state.directory)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_a_live_tunnel_is_listed_with_its_traffic_and_can_be_kicked(
    relay: ManagedRelay, connect: Connect, echo_port: int
) -> None:
    client = await connect(relay)
    stream_id = await open_tunnel(client, relay, echo_port)
    other_id = await open_tunnel(client, relay, echo_port)
    with relay.admin() as admin:
        tunnel = admin.tunnels()[0]
        assert tunnel["subject"] == "dev"
        assert tunnel["rule"] == "echo"
        assert tunnel["target"] == f"127.0.0.1:{echo_port}"
        assert (tunnel["transport"], tunnel["method"]) == ("h3", "connect-udp")
        assert tunnel["uplink_bytes"] == tunnel["downlink_bytes"] == len(b"hello")
        assert admin.kick(str(tunnel["lease_id"])) == {"kicked": tunnel["lease_id"]}
        await client.finished(stream_id)
        with pytest.raises(AdminRefusedError) as caught:
            admin.kick(str(tunnel["lease_id"]))
        assert caught.value.status == 404
    await client.echo(other_id, b"the neighbour lives")


async def test_revoking_a_subject_ends_its_tunnels_and_refuses_new_ones(
    relay: ManagedRelay, connect: Connect, echo_port: int
) -> None:
    client = await connect(relay)
    kept = await open_tunnel(client, relay, echo_port)
    head = connect_udp(relay, echo_port, token=token_for(relay, "mallory"))
    stream_id, answer = await client.request(head)
    assert answer.status == 200
    with relay.admin() as admin:
        assert admin.revoke(subject="mallory", token_id=None) == {"ended_tunnels": 1}
    await client.finished(stream_id)
    _, refused = await client.request(head)
    assert refused.status in {401, 403, 407}
    await client.echo(kept, b"somebody else's")


async def test_revoking_a_token_leaves_the_subject_its_other_tokens(
    relay: ManagedRelay, connect: Connect, echo_port: int
) -> None:
    client = await connect(relay)
    bad, good = token_for(relay, "carol"), token_for(relay, "carol")
    stream_id, _ = await client.request(connect_udp(relay, echo_port, token=bad))
    other_id, _ = await client.request(connect_udp(relay, echo_port, token=good))
    with relay.admin() as admin:
        token_id = str(read_token(bad).claims["jti"])
        assert admin.revoke(subject=None, token_id=token_id) == {"ended_tunnels": 1}
    await client.finished(stream_id)
    await client.echo(other_id, b"the other token")


async def test_ghostctl_shows_status_and_sessions_as_tables_and_json(
    relay: ManagedRelay, connect: Connect, echo_port: int
) -> None:
    await open_tunnel(await connect(relay), relay, echo_port)
    status = json.loads(ghostctl(relay, "status", "--json").stdout)
    assert status["ready"] is True
    assert status["h3"] == relay.ready["h3"]
    assert relay.ready["h3"] in ghostctl(relay, "status").stdout
    sessions = json.loads(ghostctl(relay, "sessions", "--json").stdout)["tunnels"]
    lease_id = sessions[-1]["lease_id"]
    table = ghostctl(relay, "sessions").stdout
    assert f"127.0.0.1:{echo_port}" in table
    assert lease_id in table
    assert ghostctl(relay, "kick", lease_id).returncode == 0
    missing = ghostctl(relay, "kick", lease_id)
    assert missing.returncode == 1
    assert "next:" in missing.stderr


def test_ghostctl_reloads_and_says_what_changed_or_why_not(relay: ManagedRelay) -> None:
    assert json.loads(ghostctl(relay, "reload", "--json").stdout) == {"changed": []}
    relay.state.policy_file.write_text(POLICY + "bogus = 1\n")
    refused = ghostctl(relay, "reload")
    relay.state.policy_file.write_text(POLICY)
    assert refused.returncode == 1
    assert re.search(r"policy\.toml:8: rule\[0\]\.bogus", refused.stderr)


def test_ghostctl_says_what_is_wrong_with_token_and_address(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("not the admin token")
    refused = ghostctl(relay, "status", "--admin-token-file", str(wrong))
    assert refused.returncode == 3
    away = ghostctl(relay, "status", "--admin", "http://127.0.0.1:1")
    assert away.returncode == 4
    nothing = ghostctl(relay, "revoke")
    assert nothing.returncode == 2


def test_the_api_asks_for_its_own_token_and_refuses_foreign_host_names(
    relay: ManagedRelay,
) -> None:
    url = relay.ready["admin"]
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.get("/api/v1/status").status_code == 401
        user_token = {"authorization": f"Bearer {relay.token}"}
        assert http.get("/api/v1/status", headers=user_token).status_code == 401
        assert http.get("/metrics").status_code == 200
        assert http.get("/healthz", headers={"host": "evil.example"}).status_code == 421


def test_a_relay_of_one_process_can_not_be_replaced(relay: ManagedRelay) -> None:
    with relay.admin() as admin, pytest.raises(AdminRefusedError) as refused:
        admin.restart()
    assert refused.value.status == 409
    assert "workers" in str(refused.value.hint)
