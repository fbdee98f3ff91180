"""Tests that the figures of CONNECT-IP are measured from end to end; none is asserted."""

import shutil

import pytest

from tests.bench.report import Report
from tests.bench.vpn import PLAIN, measure_vpn
from tests.support.netns import skip_without_namespaces


@pytest.mark.bench_smoke
@pytest.mark.timeout(120)
def test_every_egress_is_measured_both_ways_beside_plain_tcp() -> None:
    skip_without_namespaces()
    for program in ("iperf3", "passt"):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}: .ci/run installs it")
    report = Report()
    measure_vpn(report, versions=("3",), seconds=1)
    by_figure: dict[str, set[str]] = {}
    for (figure, subject), samples in report.samples.items():
        assert all(sample > 0 for sample in samples)
        by_figure.setdefault(figure, set()).add(subject)
    assert by_figure == {
        f"CONNECT-IP by {egress}, TCP {way}, Mbit/s": {PLAIN, "CONNECT H3"}
        for egress in ("tun", "userspace")
        for way in ("up", "down")
    }
