"""Reloading a relay process: all of it or nothing, and without dropping tunnels."""

import signal
import ssl
from collections.abc import Generator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from masque_relay.admin.client import AdminRefusedError
from masque_relay.config.dev_pki import certificate_pem, key_pem, make_leaf, new_key
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.h3_client import H3Client
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import wait_until


def policy(*ports: int) -> str:
    targets = ", ".join(f'"127.0.0.1/32:{port}"' for port in ports)
    return f"""
[[rule]]
name = "echo"
action = "allow"
who = ["dev"]
methods = ["connect-udp"]
targets = [{targets}]
"""


def presented_certificate(client: H3Client) -> bytes:
    [leaf, *_] = client.session.quic.peer_certificate_chain
    return leaf


async def test_a_new_policy_ends_the_tunnels_that_it_refuses_and_keeps_the_others(
    tmp_path: Path, connect: Connect, echo_port: int, other_echo_port: int
) -> None:
    with managed_relay(tmp_path, policy=policy(echo_port, other_echo_port)) as relay:
        client = await connect(relay)
        kept = await open_tunnel(client, relay, echo_port)
        ended = await open_tunnel(client, relay, other_echo_port)
        relay.state.policy_file.write_text(policy(echo_port))
        with relay.admin() as admin:
            assert admin.reload() == {"changed": ["policy"]}
        await client.finished(ended)
        await client.echo(kept, b"still there")
        _, refused = await client.request(connect_udp(relay, other_echo_port))
        assert refused.status == 403


async def test_sighup_reloads_and_logs_what_changed(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        relay.state.policy_file.write_text(policy(echo_port))
        relay.process.send_signal(signal.SIGHUP)
        [record] = wait_until(lambda: relay.records("reloaded") or None, deadline_s=30, what="log")
        assert record["changed"] == ["policy"]
        await client.echo(stream_id, b"still there")


async def test_sighup_with_a_bad_file_changes_nothing_and_logs_why(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        relay.state.policy_file.write_text("[[rule]]\nname = 'x'\n")
        relay.process.send_signal(signal.SIGHUP)
        [record] = wait_until(
            lambda: relay.records("reload refused, nothing was changed") or None,
            deadline_s=30,
            what="log",
        )
        assert "policy.toml:1" in str(record["problems"])
        await client.echo(stream_id, b"still there")
        await open_tunnel(client, relay, echo_port)


BAD = {
    "policy": ("policy.toml", "[[rule]]\nname = 'x'\n", "policy.toml:1: rule[0]"),
    "config": ("relay.toml", "[bogus]\n", "relay.toml:1: bogus: is not a known key"),
    "certificate": ("cert.pem", "nonsense\n", "cert.pem: tls.certificate_file"),
    "key": ("signing.pub.pem", "nonsense\n", "signing.pub.pem"),
}


@pytest.mark.parametrize(("file", "text", "expected"), BAD.values(), ids=BAD.keys())
async def test_a_bad_file_changes_nothing_and_is_named(
    running: ManagedRelay, connect: Connect, echo_port: int, file: str, text: str, expected: str
) -> None:
    relay = running
    path = relay.state.directory / file
    good = path.read_bytes()
    client = await connect(relay)
    stream_id = await open_tunnel(client, relay, echo_port)
    try:
        path.write_text(text)
        with relay.admin() as admin:
            before = admin.status()["policy"]
            with pytest.raises(AdminRefusedError) as caught:
                admin.reload()
            assert admin.status()["policy"] == before
    finally:
        path.write_bytes(good)
    assert caught.value.status == 422
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
    await client.echo(stream_id, b"still there")
    await open_tunnel(await connect(relay), relay, echo_port)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    with managed_relay(tmp_path_factory.mktemp("relay")) as relay:
        yield relay


async def test_one_bad_file_of_several_changes_nothing_at_all(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        relay.state.policy_file.write_text(policy(1))  # good, and would end the tunnel
        relay.state.certificate_file.write_text("nonsense")
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        with relay.admin() as admin, pytest.raises(AdminRefusedError):
            admin.reload()
        await client.echo(stream_id, b"still there")


@pytest.mark.parametrize("by_signal", [False, True], ids=["admin", "sighup"])
async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(
    tmp_path: Path, connect: Connect, echo_port: int, by_signal: bool
) -> None:
    with managed_relay(tmp_path) as relay:
        old = await connect(relay)
        stream_id = await open_tunnel(old, relay, echo_port)
        ca = x509.load_pem_x509_certificate(relay.state.ca_file.read_bytes())
        ca_key = load_pem_private_key(relay.state.ca_key_file.read_bytes(), password=None)
        key = new_key()
        leaf = make_leaf(key, ca, ca_key)  # type: ignore[arg-type] (ours is an EC key)
        relay.state.key_file.write_bytes(key_pem(key))
        relay.state.certificate_file.write_bytes(certificate_pem(leaf))
        if by_signal:
            relay.process.send_signal(signal.SIGHUP)
            [record] = wait_until(
                lambda: relay.records("reloaded") or None, deadline_s=30, what="log"
            )
            assert record["changed"] == ["certificate"]
        else:
            with relay.admin() as admin:
                assert admin.reload() == {"changed": ["certificate"]}
                assert admin.reload() == {"changed": []}
        new_der = ssl.PEM_cert_to_DER_cert(certificate_pem(leaf).decode())
        assert presented_certificate(await connect(relay)) == new_der
        assert presented_certificate(old) != new_der
        await old.echo(stream_id, b"still there")


async def test_new_limits_count_for_new_connections_and_what_needs_a_restart_is_told(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        old = await connect(relay)
        stream_id = await open_tunnel(old, relay, echo_port)
        config = relay.state.config_file.read_text()
        relay.state.config_file.write_text(
            config + "\n[gate.limits]\nmax_tunnels = 1\n\n[dns]\nprefer = 'ipv4-only'\n"
        )
        with relay.admin() as admin:
            assert admin.reload() == {"changed": ["limits"]}
            assert admin.status()["restart_needed"] == ["dns"]
        await old.echo(stream_id, b"still there")
        _, refused = await (await connect(relay)).request(connect_udp(relay, echo_port))
        assert refused.status == 503
