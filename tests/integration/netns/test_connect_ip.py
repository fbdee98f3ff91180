"""Tests of CONNECT-IP with real programs: ping, iperf3 and curl through a relay."""

import re
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.processes import executable, run_process
from tests.support.relay_process import RunningRelay
from tests.support.vpn_rig import (
    RELAY_TOWARDS_TARGET,
    TARGET,
    TARGET6,
    Host,
    Row,
    iperf,
    iperf_server,
    ping,
    three_hosts,
    vpn_relay,
    vpn_tunnel,
)

ROUTES = ("--route", "10.60.0.0/16", "--route", "fd60::/16")
VERSIONS = ("3", "2", "1.1")
SOME = ("--bytes", "2M")
WEB_PORT = 8080
PAGE = "a page behind the relay\n" * 5_000


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> Generator[Row]:
    """The three hosts; on the target iperf3 and a web site."""
    directory = tmp_path_factory.mktemp("target")
    (directory / "site").mkdir()
    (directory / "site" / "page").write_text(PAGE, encoding="utf-8")
    with three_hosts() as made:
        web = [*made.target.prefix, sys.executable, "-m", "http.server", "--bind", "::"]
        web += ["--directory", str(directory / "site"), str(WEB_PORT)]
        with (
            iperf_server(made.target, directory),
            run_process(web, log=directory / "web.log", ready=lambda: listens(made.target)),
        ):
            yield made


@pytest.fixture(scope="module", params=["tun", "userspace"])
def relay(
    row: Row, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[RunningRelay]:
    with vpn_relay(row, tmp_path_factory.mktemp("relay"), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def tun_relay(row: Row, tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningRelay]:
    # Another device and other pools: it may run beside the other one.
    more = 'pools = ["10.72.0.0/16", "fd72::/64"]\n[connect_ip.tun]\ndevice = "mtu0"'
    with vpn_relay(row, tmp_path_factory.mktemp("tun"), "tun", more=more) as running:
        yield running


def listens(host: Host) -> bool | None:
    return f":{WEB_PORT} " in host.output("ss", "-ltn") or None


def fetches(host: Host, address: str) -> bool:
    command = [executable("curl"), "--silent", "--fail", "--max-time", "20", "--noproxy", "*"]
    done = host.run(*command, f"http://{address}:{WEB_PORT}/page")
    return done.stdout == PAGE


@pytest.mark.parametrize("version", VERSIONS)
def test_ping_curl_and_iperf3_reach_the_target(
    row: Row, relay: RunningRelay, version: str, tmp_path: Path
) -> None:
    with vpn_tunnel(row, relay, tmp_path, *ROUTES, "--http", version) as tunnel:
        assert tunnel.told["http_version"] == version
        assert tunnel.told["addresses"] == ["10.71.0.2/32", "fd71:6877:6970::2/128"]
        assert row.client.device_of(TARGET) == tunnel.told["device"]
        for target, url_host in ((TARGET, TARGET), (TARGET6, f"[{TARGET6}]")):
            assert ping(row.client, target)
            assert fetches(row.client, url_host)
        assert received_bytes(iperf(row.client, TARGET, *SOME)) > 100_000
        assert received_bytes(iperf(row.client, TARGET6, "--reverse", *SOME)) > 100_000


def received_bytes(report: dict[str, object]) -> int:
    received = report["sum_received"]
    assert isinstance(received, dict)
    return int(received["bytes"])


class TestPacketSizes:
    """RFC 9484 section 7.2: nobody has to guess what fits."""

    def test_the_largest_packet_passes_and_a_larger_one_is_refused_here(
        self, row: Row, tun_relay: RunningRelay, tmp_path: Path
    ) -> None:
        with vpn_tunnel(row, tun_relay, tmp_path, *ROUTES, "--http", "3") as tunnel:
            mtu_bytes = int(str(tunnel.told["mtu_bytes"]))
            assert 1280 <= mtu_bytes < 1500
            # 28 and 48 bytes of headers
            assert ping(row.client, TARGET, "-M", "do", "-s", str(mtu_bytes - 28))
            assert ping(row.client, TARGET6, "-M", "do", "-s", str(mtu_bytes - 48))
            refused = row.client.run(
                "ping", "-c", "1", "-M", "do", "-s", str(mtu_bytes - 27), TARGET
            )
            assert "message too long" in refused.stdout + refused.stderr
            # Larger ones without DF are fragmented by the client's kernel, as on any link.
            assert ping(row.client, TARGET, "-M", "dont", "-s", "3000")
            assert ping(row.client, TARGET6, "-s", "3000")

    def test_tcp_chooses_its_segments_by_the_tunnel(
        self, row: Row, tun_relay: RunningRelay, tmp_path: Path
    ) -> None:
        with vpn_tunnel(row, tun_relay, tmp_path, *ROUTES, "--http", "3") as tunnel:
            mtu_bytes = int(str(tunnel.told["mtu_bytes"]))
            start = iperf(row.client, TARGET, *SOME)["start"]
            assert isinstance(start, dict)
            assert start["tcp_mss_default"] <= mtu_bytes - 40

    def test_a_narrower_link_behind_the_relay_is_told_to_the_client(
        self, row: Row, tun_relay: RunningRelay, tmp_path: Path
    ) -> None:
        link = ("ip", "link", "set", "to-target", "mtu")
        row.relay.output(*link, "1300")
        try:
            with vpn_tunnel(row, tun_relay, tmp_path, *ROUTES, "--http", "2"):
                for target, headers_bytes in ((TARGET, 28), (TARGET6, 48)):
                    size = str(1400 - headers_bytes)
                    told = row.client.run("ping", "-c", "2", "-M", "do", "-s", size, target)
                    assert re.search(r"mtu[ =]1300", told.stdout + told.stderr)
                assert received_bytes(iperf(row.client, TARGET, *SOME)) > 100_000
        finally:
            row.relay.output(*link, "1500")


def test_the_relay_itself_is_out_of_reach(
    row: Row, tun_relay: RunningRelay, tmp_path: Path
) -> None:
    # The policy allows the address; it is the relay's own, with all that listens there.
    with vpn_tunnel(row, tun_relay, tmp_path, *ROUTES):
        assert ping(row.client, TARGET)
        unanswered = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", RELAY_TOWARDS_TARGET)
        assert row.client.run(*unanswered).returncode == 1


def test_nobody_outside_reaches_a_client_unasked(
    row: Row, tun_relay: RunningRelay, tmp_path: Path
) -> None:
    row.target.output("ip", "route", "replace", "10.72.0.0/16", "via", RELAY_TOWARDS_TARGET)
    with vpn_tunnel(row, tun_relay, tmp_path, *ROUTES) as tunnel:
        assert ping(row.client, TARGET)
        (address, *_) = tunnel.told["addresses"]  # type: ignore[misc]  # a list, from JSON
        unasked = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", address.removesuffix("/32"))
        assert row.target.run(*unasked).returncode == 1
