"""Tests of CONNECT-IP with real programs: ping, iperf3 and curl through a relay."""

import re
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.vpn_rig import (
    TARGET,
    TARGET6,
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


@pytest.fixture
def row() -> Generator[Row]:
    with three_hosts() as made:
        yield made


@pytest.mark.parametrize("egress", ["tun", "userspace"])
def test_ping_curl_and_iperf3_reach_the_target_over_every_http_version(
    row: Row, egress: str, tmp_path: Path
) -> None:
    with vpn_relay(row, tmp_path / "relay", egress) as relay, iperf_server(row.target, tmp_path):
        for version in VERSIONS:
            directory = tmp_path / version
            with vpn_tunnel(row, relay, directory, *ROUTES, "--http", version) as tunnel:
                assert tunnel.told["http_version"] == version
                assert ping(row.client, TARGET)
                assert ping(row.client, TARGET6)
                assert iperf(row.client, TARGET, seconds=1)
                assert iperf(row.client, TARGET6, "--reverse", seconds=1)
