"""What a configuration key, an option or a variable asks for is what a relay process does."""

import json
import time
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from masque_relay.config.dev_pki import certificate_pem, key_pem, make_leaf, new_key
from masque_relay.config.dev_state import DEV_AUDIENCE, prepare_dev_state
from masque_relay.quic.application import Headers
from masque_relay.quic.settings import ConnectFailed
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import wait_until

SHARED_SECRET = b"0123456789abcdef0123456789abcdef"
SHARED_ISSUER = "somebody-with-a-shared-secret"

TEMPLATES = """
[connect_udp]
templates = [
  "/proxy{?target_host,target_port}",
  "/.well-known/masque/udp/{target_host}/{target_port}/",
]
proxy_name = "edge-7"
"""

HS256 = f"""
[[gate.bearer.issuers]]
issuer = "{SHARED_ISSUER}"
hs256_secret_file = "shared-secret"
"""

POLICY = """
[[rule]]
name = "echo"
action = "allow"
who = ["dev", "carol"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""


def with_path(head: Headers, path: str) -> Headers:
    return [(name, path.encode() if name == b":path" else value) for name, value in head]


async def test_templates_and_the_name_of_the_proxy_are_those_of_the_configuration(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path, config=TEMPLATES) as relay:
        client = await connect(relay)
        head = connect_udp(relay, echo_port)
        by_query = with_path(head, f"/proxy?target_host=127.0.0.1&target_port={echo_port}")
        stream_id, answer = await client.request(by_query)
        assert answer.status == 200
        assert answer.proxy_status.proxy == "edge-7"
        assert answer.proxy_status.next_hop == f"127.0.0.1:{echo_port}"
        await client.echo(stream_id, b"hello")
        await open_tunnel(client, relay, echo_port)
        _, unknown = await client.request(with_path(head, f"/other/127.0.0.1/{echo_port}/"))
        assert unknown.status == 404
        assert unknown.proxy_status.details


async def test_options_write_traces_and_keys_beside_the_caller(
    tmp_path: Path, connect: Connect, echo_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--qlog-dir", "traces", "--keylog-file", "keys.log"]
    with managed_relay(tmp_path, arguments=options) as relay:
        client = await connect(relay)
        await open_tunnel(client, relay, echo_port)
        client.session.close(0x100, "done")
        await client.until(lambda: client.lost)
    traces = list((tmp_path / "traces").iterdir())
    assert len(traces) == 1
    assert relay.token not in traces[0].read_text(errors="replace")
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys.log").read_text()


async def test_a_name_that_no_certificate_has_is_refused_if_asked_for(
    tmp_path: Path, connect: Connect
) -> None:
    state = prepare_dev_state(tmp_path / "state")
    ca = x509.load_pem_x509_certificate(state.ca_file.read_bytes())
    ca_key = load_pem_private_key(state.ca_key_file.read_bytes(), password=None)
    key = new_key()
    (state.directory / "second.key").write_bytes(key_pem(key))
    leaf = make_leaf(key, ca, ca_key)  # type: ignore[arg-type] (ours is an EC key)
    (state.directory / "second.pem").write_bytes(certificate_pem(leaf))
    text = state.config_file.read_text().replace(
        "[tls]\n", "[tls]\nrefuse_unknown_names = true\n", 1
    )
    text += '\n[[tls.more]]\ncertificate_file = "second.pem"\nkey_file = "second.key"\n'
    state.config_file.write_text(text)
    with managed_relay(tmp_path) as relay:
        await connect(relay)
        with pytest.raises(ConnectFailed, match="the name is not served here"):
            await connect(relay, server_name="stranger.example")


def shared_secret_token() -> str:
    now_s = int(time.time())
    claims = {"iss": SHARED_ISSUER, "aud": DEV_AUDIENCE, "sub": "carol", "iat": now_s}
    return jwt.encode({**claims, "exp": now_s + 600}, SHARED_SECRET, algorithm="HS256")


@pytest.mark.parametrize(("config", "status"), [(HS256, 200), ("", 401)])
async def test_a_shared_secret_counts_only_if_it_is_configured(
    tmp_path: Path, connect: Connect, echo_port: int, config: str, status: int
) -> None:
    directory = prepare_dev_state(tmp_path / "state").directory
    (directory / "shared-secret").write_bytes(SHARED_SECRET)
    with managed_relay(tmp_path, policy=POLICY, config=config) as relay:
        head = connect_udp(relay, echo_port, token=shared_secret_token())
        _, answer = await (await connect(relay)).request(head)
        assert answer.status == status


async def test_a_variable_of_the_environment_overrides_the_file(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    environ = {
        "GHOSTWIRE__CONNECT_UDP__PROXY_NAME": "from-outside",
        "GHOSTWIRE__LOG__LEVEL": "error",
    }
    with managed_relay(tmp_path, environ=environ) as relay:
        _, answer = await (await connect(relay)).request(connect_udp(relay, echo_port))
        assert answer.proxy_status.proxy == "from-outside"
        assert not relay.records("serving")


def audit(relay: ManagedRelay) -> list[dict[str, object]]:
    text = (relay.state.directory / "audit.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


async def test_the_audit_trail_has_one_record_per_decision_and_one_per_end(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        await client.request(connect_udp(relay, echo_port, token="nonsense"))
        client.session.send_data(stream_id, b"", end_stream=True)
        await client.finished(stream_id)
        records = wait_until(
            lambda: found if len(found := audit(relay)) >= 3 else None,
            deadline_s=30,
            what="three records",
        )
        token = relay.token
    assert [record["event"] for record in records] == ["decision", "decision", "tunnel_end"]
    allowed, denied, end = records
    assert (allowed["subject"], allowed["rule"]) == ("dev", "dev-loopback")
    assert denied["reason"] == "credential_invalid"
    assert end["lease_id"] == allowed["lease_id"]
    assert end["reason"] == "peer_closed"
    assert end["uplink_bytes"] == end["downlink_bytes"] == len(b"hello")
    assert token not in json.dumps(records)
