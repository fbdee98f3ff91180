"""Owns the figures of CONNECT-IP: iperf3 between namespaces, by a TUN device and by passt.

Needs root, ip, iperf3 and passt; where one is missing nothing is measured, and it says so.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bench.report import Report
from tests.support.relay_process import RunningRelay
from tests.support.vpn_rig import (
    TARGET,
    Host,
    Row,
    iperf,
    iperf_server,
    three_hosts,
    vpn_relay,
    vpn_tunnel,
)

EGRESSES = ("tun", "userspace")
DIRECTIONS = {"up": (), "down": ("--reverse",)}
ROUTE = ("--route", "10.60.0.0/16")
SUBJECTS = {"1.1": "CONNECT H1", "2": "CONNECT H2", "3": "CONNECT H3"}
PLAIN = "plain TCP"


def measure_vpn(report: Report, *, versions: Sequence[str], seconds: int) -> None:
    """Add the throughput of one TCP connection, each way, through each egress and HTTP version.

    Plain TCP goes from the relay's namespace to the target's, over the same kind of cable.
    """
    try:
        with three_hosts() as row, tempfile.TemporaryDirectory() as directory:
            _measure(report, row, Path(directory), versions, seconds)
    except pytest.skip.Exception as missing:
        sys.stderr.write(f"CONNECT-IP is not measured: it {missing}\n")


def _measure(
    report: Report, row: Row, directory: Path, versions: Sequence[str], seconds: int
) -> None:
    with iperf_server(row.target, directory):
        for egress in EGRESSES:
            for direction in DIRECTIONS:
                _add(report, row.relay, egress, direction, PLAIN, seconds)
            with vpn_relay(row, directory / egress, egress) as relay:
                for version in versions:
                    _measure_version(report, row, relay, egress, version, seconds)


def _measure_version(
    report: Report, row: Row, relay: RunningRelay, egress: str, version: str, seconds: int
) -> None:
    directory = relay.log_file.parent / version
    with vpn_tunnel(row, relay, directory, *ROUTE, "--http", version):
        for direction in DIRECTIONS:
            _add(report, row.client, egress, direction, SUBJECTS[version], seconds)


def _add(
    report: Report, host: Host, egress: str, direction: str, subject: str, seconds: int
) -> None:
    end = iperf(host, TARGET, "--time", str(seconds), *DIRECTIONS[direction])
    received = end["sum_received"]
    assert isinstance(received, dict)
    rate = float(received["bits_per_second"]) / 1e6
    report.add(f"CONNECT-IP by {egress}, TCP {direction}, Mbit/s", subject, rate)
