"""A relay process from its start to its end: readiness, drain, signals, the ready file."""

import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from masque_relay.quic.settings import ConnectFailed
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.managed_relay import ManagedRelay, managed_relay


def probe(relay: ManagedRelay, path: str) -> int:
    return httpx.get(f"{relay.ready['admin']}{path}", trust_env=False, timeout=10).status_code


async def test_it_serves_carries_udp_and_ends_with_0(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        assert (probe(relay, "/healthz"), probe(relay, "/readyz")) == (200, 200)
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        await client.echo(stream_id, b"x" * 1_200)
        client.session.send_data(stream_id, b"", end_stream=True)
        await client.finished(stream_id)


def test_the_ready_file_names_everything_a_script_needs_and_goes_away(tmp_path: Path) -> None:
    ready_file = tmp_path / "ready.json"
    with managed_relay(tmp_path) as relay:
        ready = json.loads(ready_file.read_text())
        assert ready["pid"] == relay.process.pid
        assert ready["admin"].startswith("http://127.0.0.1:")
        assert Path(ready["ca_file"]).read_text().startswith("-----BEGIN CERTIFICATE")
        for secret in ("token_file", "admin_token_file"):
            assert stat.S_IMODE(Path(ready[secret]).stat().st_mode) == 0o600
        assert not list(tmp_path.glob(".ready*"))
    assert not ready_file.exists()


async def test_draining_keeps_tunnels_refuses_new_ones_and_turns_readiness_off(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path, environ={"GHOSTWIRE__DRAIN__DEADLINE_S": "600"}) as relay:
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        relay.process.send_signal(signal.SIGTERM)
        await client.until(lambda: client.goaway is not None)

        assert (probe(relay, "/healthz"), probe(relay, "/readyz")) == (200, 503)
        with pytest.raises(RuntimeError, match="no new requests"):
            client.send(connect_udp(relay, echo_port))
        with pytest.raises(ConnectFailed):
            await connect(relay)
        await client.echo(stream_id, b"still there")

        client.session.send_data(stream_id, b"", end_stream=True)
        await client.until(lambda: client.lost)
        assert relay.process.wait(30) == 0


async def test_the_drain_deadline_ends_what_is_left(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path, environ={"GHOSTWIRE__DRAIN__DEADLINE_S": "0.2"}) as relay:
        client = await connect(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        relay.process.send_signal(signal.SIGTERM)
        exchange = client.exchanges[stream_id]
        await client.until(lambda: exchange.reset is not None or exchange.ended or client.lost)
        assert relay.process.wait(30) == 0


async def test_a_second_signal_ends_at_once(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path, environ={"GHOSTWIRE__DRAIN__DEADLINE_S": "600"}) as relay:
        client = await connect(relay)
        await open_tunnel(client, relay, echo_port)
        relay.process.send_signal(signal.SIGTERM)
        await client.until(lambda: client.goaway is not None)
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(30) == 0


async def test_an_operator_drains_through_the_admin_api(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path) as relay:
        await open_tunnel(await connect(relay), relay, echo_port)
        with relay.admin() as admin:
            assert admin.drain(deadline_s=0.2) == {"draining": True}
        assert relay.process.wait(30) == 0


def test_the_log_and_the_process_list_hold_no_secret(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay:
        with relay.admin() as admin:
            admin.status()
        secrets = (relay.token, Path(relay.ready["admin_token_file"]).read_text().strip())
        command = Path(f"/proc/{relay.process.pid}/cmdline").read_text()
        for secret in secrets:
            assert secret not in relay.log()
            assert secret not in command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "masque_relay.cli.main", "relay", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bad_configuration_ends_with_2_and_names_file_line_and_key(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    config.write_text("[tls]\ncertificate_file = 'c.pem'\nkey_fil = 'k.pem'\n")
    ended = run(str(config))
    assert ended.returncode == 2
    assert f"{config}:3: tls.key_fil: is not a known key" in ended.stderr
    assert "gate: is required" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_taken_port_ends_with_2_and_says_what_to_do(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay:
        taken = relay.ready["h3"]
        state = str(tmp_path / "other")
        ended = run("--dev", "--state-dir", state, "--listen", taken, "--admin", "127.0.0.1:0")
        assert ended.returncode == 2
        assert f"listen.h3: {taken}" in ended.stderr
        assert "--listen" in ended.stderr
        admin = relay.ready["admin"].removeprefix("http://")
        ended = run("--dev", "--state-dir", state, "--listen", "127.0.0.1:0", "--admin", admin)
        assert ended.returncode == 2
        assert "admin.listen" in ended.stderr


def test_a_ready_file_that_cannot_be_written_ends_with_2(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "ready.json"
    ended = run(
        "--dev", "--state-dir", str(tmp_path), "--listen", "127.0.0.1:0",
        "--admin", "127.0.0.1:0", "--ready-file", str(absent),
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"{absent}: the ready file can't be written" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_bad_option_and_no_configuration_end_with_2(tmp_path: Path) -> None:
    assert run().returncode == 2
    ended = run("--dev", "--state-dir", str(tmp_path), "--listen", "localhost:0")
    assert ended.returncode == 2
    assert "--listen: 'localhost:0' is not ADDRESS:PORT" in ended.stderr


def test_a_signal_that_comes_late_does_not_change_the_exit_code(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay:
        relay.process.send_signal(signal.SIGTERM)
        while relay.process.poll() is None:
            relay.process.send_signal(signal.SIGTERM)
        assert relay.process.returncode == 0
