"""Tests of what CONNECT-IP does when something dies, vanishes or lies, and of what is left then."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.processes import executable, start_process
from tests.support.relay_process import RunningRelay, read_ready_file, relay_command
from tests.support.vpn_rig import (
    RELAY_ADDRESS,
    TARGET,
    TARGET6,
    Row,
    eventually,
    ping,
    prepare_vpn_state,
    three_hosts,
    vpn_relay,
    vpn_tunnel,
)

ROUTES = ("--route", "10.60.0.0/16", "--route", "fd60::/16")
BAD_SOURCE = 'ghostwire_relay_ip_packets_dropped_total{cause="bad_source",direction="up"}'


@pytest.fixture(scope="module")
def row() -> Generator[Row]:
    with three_hosts() as made:
        yield made


@contextmanager
def relay_process(
    row: Row, directory: Path, egress: str, *, port: int = 0, prefix: tuple[str, ...] = ()
) -> Generator[tuple[subprocess.Popen[bytes], RunningRelay]]:
    """Run a relay that the test may kill, and start again on the same port."""
    state = prepare_vpn_state(directory, egress)
    ready_file, log = directory / "ready.json", directory / "relay.log"
    ready_file.unlink(missing_ok=True)
    command = relay_command(
        [str(state.config_file)],
        ready_file=ready_file,
        listen=f"{RELAY_ADDRESS}:{port}",
        prefix=[*row.relay.prefix, *prefix],
    )
    known = {"token_file": str(state.token_file), "ca_file": str(state.ca_file)}
    with start_process(command, log=log, ready=lambda: read_ready_file(ready_file)) as (
        process,
        ready,
    ):
        yield process, RunningRelay(ready=known | ready, log_file=log)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the program itself: `ip netns exec` has become it (execve)."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)


def passt_pids(relay: subprocess.Popen[bytes]) -> list[int]:
    children = Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text(encoding="ascii")
    return [int(pid) for pid in children.split()]


@pytest.mark.parametrize("egress", ["tun", "userspace"])
def test_a_relay_that_ends_leaves_nothing_behind(row: Row, egress: str, tmp_path: Path) -> None:
    before, switches = row.relay.network_state(), row.relay.switches()
    with (
        vpn_relay(row, tmp_path / "relay", egress) as relay,
        vpn_tunnel(row, relay, tmp_path, *ROUTES),
    ):
        assert ping(row.client, TARGET)
        assert (row.relay.network_state() != before) == (egress == "tun")
    assert row.relay.network_state() == before
    assert row.relay.switches() == switches


def test_a_killed_relay_leaves_no_device_route_or_rule_and_its_client_comes_back(
    row: Row, tmp_path: Path
) -> None:
    before, switches = row.relay.network_state(), row.relay.switches()
    with (
        relay_process(row, tmp_path / "relay", "tun") as (process, relay),
        # TCP tells the client at once; HTTP/3 would have it wait for eight seconds of silence.
        vpn_tunnel(row, relay, tmp_path, *ROUTES, "--http", "2") as tunnel,
    ):
        addresses, device = tunnel.told["addresses"], tunnel.told["device"]
        assert ping(row.client, TARGET)
        kill(process)
        eventually(lambda: row.relay.network_state() == before, "the kernel cleaned up")
        assert row.relay.switches() != switches, "only the next start knows how they were"
        eventually(lambda: bool(tunnel.events("relay_away")), "the client noticed")
        again = relay_process(row, tmp_path / "relay", "tun", port=relay.port)
        with again as (second, _):
            eventually(lambda: ping(row.client, TARGET, count=1), "the tunnel is back")
            assert ping(row.client, TARGET6)
            assert tunnel.told["addresses"] == addresses
            assert tunnel.told["device"] == device
            second.terminate()
            assert second.wait(30) == 0
    assert row.relay.network_state() == before
    assert row.relay.switches() == switches


def test_a_killed_relay_takes_its_passt_processes_along(row: Row, tmp_path: Path) -> None:
    with (
        relay_process(row, tmp_path / "relay", "userspace") as (process, relay),
        vpn_tunnel(row, relay, tmp_path, *ROUTES),
    ):
        (pid,) = passt_pids(process)
        kill(process)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), "passt has left")


def test_a_passt_that_is_killed_is_started_again(row: Row, tmp_path: Path) -> None:
    with relay_process(row, tmp_path / "relay", "userspace") as (process, relay):
        with vpn_tunnel(row, relay, tmp_path, *ROUTES) as tunnel:
            assert ping(row.client, TARGET)
            (pid,) = passt_pids(process)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: ping(row.client, TARGET, count=1), "another passt serves")
            assert passt_pids(process) != [pid]
            assert not tunnel.events("tunnel_down"), "the tunnel itself went on"
        eventually(lambda: not passt_pids(process), "no passt outlives its tunnel")


def test_a_device_deleted_under_the_relay_ends_its_tunnels_which_come_back(
    row: Row, tmp_path: Path
) -> None:
    with vpn_relay(row, tmp_path / "relay", "tun") as relay:
        with vpn_tunnel(row, relay, tmp_path, *ROUTES) as tunnel:
            assert ping(row.client, TARGET)
            row.relay.output("ip", "link", "delete", "ghostwire0")
            eventually(lambda: ping(row.client, TARGET, count=1), "device and tunnel are back")
            assert tunnel.process.poll() is None
        assert "was deleted; its tunnels end" in relay.log_file.read_text(encoding="utf-8")
    trail = (tmp_path / "relay" / "state" / "audit.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in trail.splitlines()]
    assert "target_failed" in {record.get("reason") for record in records}


def test_a_source_that_the_client_was_not_given_goes_nowhere(row: Row, tmp_path: Path) -> None:
    with (
        vpn_relay(row, tmp_path / "relay", "tun") as relay,
        vpn_tunnel(row, relay, tmp_path, *ROUTES) as tunnel,
    ):
        device = str(tunnel.told["device"])
        for address, target in (
            ("10.71.99.99/32", TARGET),
            ("fd71:6877:6970::99/128", TARGET6),
        ):
            row.client.output("ip", "address", "add", address, "dev", device)
            source = address.partition("/")[0]
            spoofed = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", "-I", source, target)
            assert row.client.run(*spoofed).returncode == 1
        assert row.relay.call(relay.metrics)[BAD_SOURCE] >= 4
        (ours, _) = tunnel.told["addresses"]  # type: ignore[misc]  # a list, from JSON
        assert ping(row.client, TARGET, "-I", ours.removesuffix("/32"))


def test_a_relay_without_privileges_names_the_way_without(row: Row, tmp_path: Path) -> None:
    state = prepare_vpn_state(tmp_path, "tun")
    without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    command = relay_command(
        [str(state.config_file)], ready_file=tmp_path / "ready.json", prefix=without
    )
    before = row.relay.network_state()
    done = row.relay.run(*command)
    assert done.returncode == 2
    assert "connect_ip.egress" in done.stderr
    assert 'egress = "userspace"' in done.stderr
    assert row.relay.network_state() == before


@pytest.mark.parametrize(
    ("program", "explained"),
    [("no-such-passt", "apt install passt"), ("false", "passt does not run here")],
)
def test_a_missing_or_broken_passt_is_told_at_the_start(
    row: Row, program: str, explained: str, tmp_path: Path
) -> None:
    more = f'[connect_ip.userspace]\nprogram = "{program}"'
    state = prepare_vpn_state(tmp_path, "userspace", more=more)
    command = relay_command([str(state.config_file)], ready_file=tmp_path / "ready.json")
    done = row.relay.run(*command)
    assert done.returncode == 2
    assert explained in done.stderr


def test_the_userspace_relay_needs_no_privileges(row: Row, tmp_path: Path) -> None:
    executable("passt")
    if shutil.which("setpriv") is None:
        pytest.skip("needs the program setpriv (util-linux)")
    no_privileges = ("setpriv", "--bounding-set", "-all,+setuid,+setgid", "--inh-caps", "-all")
    with (
        relay_process(row, tmp_path / "relay", "userspace", prefix=no_privileges) as (_, relay),
        vpn_tunnel(row, relay, tmp_path, *ROUTES),
    ):
        assert ping(row.client, TARGET)
        assert ping(row.client, TARGET6)
