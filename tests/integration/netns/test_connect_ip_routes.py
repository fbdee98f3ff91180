"""Tests of the split tunnel on the client's machine: routes, exclusions, name servers, its end."""

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.processes import GHOSTCTL, stop_process
from tests.support.relay_process import RunningRelay
from tests.support.vpn_rig import (
    RELAY_ADDRESS,
    RELAY_ADDRESS6,
    RESOLV_CONF,
    TARGET,
    TARGET6,
    Row,
    eventually,
    ping,
    three_hosts,
    tunnel_command,
    vpn_relay,
    vpn_tunnel,
)


@pytest.fixture(scope="module")
def row() -> Generator[Row]:
    with three_hosts() as made:
        yield made


@pytest.fixture(scope="module")
def relay(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningRelay]:
    with vpn_relay(row, tmp_path_factory.mktemp("relay"), "tun") as running:
        yield running


def test_what_is_not_named_stays_out(row: Row, relay: RunningRelay, tmp_path: Path) -> None:
    routes = ("--route", "10.60.0.0/16", "--exclude", "10.60.9.0/24", "--exclude", "10.60.0.77")
    with vpn_tunnel(row, relay, tmp_path, *routes) as tunnel:
        device = tunnel.told["device"]
        assert row.client.device_of(TARGET) == device
        assert row.client.device_of("10.60.8.1") == device
        for outside in ("10.60.9.1", "10.60.0.77", "10.61.0.1", "198.51.100.1", TARGET6):
            assert row.client.device_of(outside) == ""


def test_a_route_that_holds_the_relay_makes_no_loop(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    routes = ("--route", "0.0.0.0/0", "--route", "::/0")
    with vpn_tunnel(row, relay, tmp_path, *routes) as tunnel:
        assert row.client.device_of(RELAY_ADDRESS) == "to-relay"
        # The network of the client itself stays where it was, too.
        assert row.client.device_of("10.50.0.200") == "to-relay"
        assert row.client.device_of("198.51.100.1") == tunnel.told["device"]
        assert row.client.device_of("2001:db8::1") == tunnel.told["device"]
        assert ping(row.client, TARGET)
        assert ping(row.client, TARGET6)


def test_a_relay_on_ipv6_is_left_out_of_its_routes(row: Row, tmp_path: Path) -> None:
    more = 'pools = ["10.73.0.0/16", "fd73::/64"]\n[connect_ip.tun]\ndevice = "six0"'
    with vpn_relay(row, tmp_path / "relay", "tun", ipv6=True, more=more) as relay:
        routes = ("--route", "fd00::/8", "--route", "10.0.0.0/8")
        with vpn_tunnel(row, relay, tmp_path, *routes):
            assert row.client.device_of(RELAY_ADDRESS6) == "to-relay"
            assert ping(row.client, TARGET6)
            assert ping(row.client, TARGET)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_takes_everything_back(
    row: Row, relay: RunningRelay, number: signal.Signals, tmp_path: Path
) -> None:
    before = row.client.network_state()
    arguments = ("--route", "10.60.0.0/16", "--dns", TARGET)
    with vpn_tunnel(row, relay, tmp_path, *arguments) as tunnel:
        assert row.client.network_state() != before
        text = row.resolv_conf.read_text(encoding="utf-8")
        assert f"nameserver {TARGET}" in text
        assert "192.0.2.53" not in text
        tunnel.process.send_signal(number)
        assert tunnel.process.wait(30) == 0
        assert tunnel.events("status"), "the totals are told at the end"
    assert row.client.network_state() == before
    assert row.resolv_conf.read_text(encoding="utf-8") == RESOLV_CONF


def test_a_crash_leaves_the_name_servers_only_and_undo_takes_them_back(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    before = row.client.network_state()
    arguments = ("--route", "10.60.0.0/16", "--dns", TARGET)
    undo = (*GHOSTCTL, "tunnel", "ip", "--undo")
    with vpn_tunnel(row, relay, tmp_path, *arguments) as tunnel:
        running = row.client.run(*undo)
        assert running.returncode == 1, "a tunnel that runs is not undone"
        kill_for_certain(tunnel.process.pid)
        tunnel.process.wait(30)
    eventually(lambda: row.client.network_state() == before, "the kernel removed the device")
    assert row.resolv_conf.read_text(encoding="utf-8") != RESOLV_CONF
    assert "as before" in row.client.output(*undo)
    assert row.resolv_conf.read_text(encoding="utf-8") == RESOLV_CONF
    assert "nothing" in row.client.output(*undo)


def test_the_next_start_cleans_up_after_a_crash(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    arguments = ("--route", "10.60.0.0/16")
    with vpn_tunnel(row, relay, tmp_path / "first", *arguments, "--dns", TARGET) as tunnel:
        kill_for_certain(tunnel.process.pid)
        tunnel.process.wait(30)
    with vpn_tunnel(row, relay, tmp_path / "second", *arguments):
        assert row.resolv_conf.read_text(encoding="utf-8") == RESOLV_CONF


def test_name_servers_are_reached_through_the_tunnel_without_a_route(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    arguments = ("--route", "10.60.9.0/24", "--dns", TARGET)
    with vpn_tunnel(row, relay, tmp_path, *arguments) as tunnel:
        assert row.client.device_of(TARGET) == tunnel.told["device"]
        assert row.client.device_of("10.60.0.3") == ""


def test_a_device_that_somebody_deletes_ends_the_command_with_a_reason(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    with vpn_tunnel(row, relay, tmp_path, "--route", "10.60.0.0/16") as tunnel:
        row.client.output("ip", "link", "delete", str(tunnel.told["device"]))
        assert tunnel.process.wait(30) == 1
        (failure,) = tunnel.events("failed")
        assert "was deleted" in str(failure["message"])


def test_without_privileges_the_command_says_what_it_needs(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    command = tunnel_command(relay, ("--route", "10.60.0.0/16"), tmp_path / "ready.json")
    without = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
    done = row.client.run(*without, *command)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr


def test_a_refusal_leaves_nothing_and_has_its_exit_code(
    row: Row, relay: RunningRelay, tmp_path: Path
) -> None:
    before = row.client.network_state()
    (tmp_path / "token").write_text("not.a.token", encoding="utf-8")
    command = tunnel_command(relay, ("--route", "10.60.0.0/16"), tmp_path / "ready.json")
    command[command.index("--token-file") + 1] = str(tmp_path / "token")
    done = row.client.run(*command)
    assert done.returncode == 3
    assert row.client.network_state() == before


def test_a_name_that_is_taken_is_refused(row: Row, relay: RunningRelay, tmp_path: Path) -> None:
    arguments = ("--route", "10.60.0.0/16", "--device", "vpn0")
    with vpn_tunnel(row, relay, tmp_path, *arguments) as tunnel:
        assert tunnel.told["device"] == "vpn0"
        again = row.client.run(*tunnel_command(relay, arguments, tmp_path / "second.json"))
        assert again.returncode == 1
        assert "in use by another process" in again.stderr
        stop_process(tunnel.process)


def kill_for_certain(pid: int) -> None:
    """Kill the command itself: `ip netns exec` has become it (execve)."""
    os.kill(pid, signal.SIGKILL)
