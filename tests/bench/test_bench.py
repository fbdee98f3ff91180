"""Tests that the benchmark runs from end to end and what its report says; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.messages import HEAD_BYTES, UPLINK, Message, decode_message
from tests.bench.report import Report, plot

ROOT = Path(__file__).parent.parent.parent
SUBJECTS = {"plain UDP forwarder", "naive aioquic proxy", "ghostwire relay"}


@pytest.mark.bench_smoke
@pytest.mark.timeout(300)
def test_the_smoke_run_measures_every_figure_of_every_subject(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "masque_relay.cli.main", "bench", "--smoke"]
    command += ["--json", "--plot", str(tmp_path / "figures.svg")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    rows = told["figures"]
    by_figure: dict[str, set[str]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], set()).add(row["subject"])
    for way in ("uplink", "downlink"):
        for size_bytes in (1200, 64):
            for unit in ("datagrams per CPU second", "datagrams per second"):
                assert by_figure.pop(f"{unit}, {way}, {size_bytes} B") == SUBJECTS
    for share in ("p50", "p99"):
        assert by_figure.pop(f"added round trip, {share}, 1200 B, us") == SUBJECTS
    assert by_figure.pop("plain loopback round trip, p50, us") == SUBJECTS
    for what in ("connection", "tunnel"):
        assert by_figure.pop(f"bytes per idle {what}") == SUBJECTS - {"plain UDP forwarder"}
    assert by_figure == {}
    assert all(row["median"] > 0 for row in rows if "datagrams per second" in row["figure"])
    assert len(told["ratios"]) == 4
    assert all("x naive aioquic proxy" in ratio for ratio in told["ratios"])
    assert (tmp_path / "figures.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_message_survives_encoding_and_padding() -> None:
    message = Message(UPLINK, 7, 1 << 40, 65_535, 1200, 256)
    assert len(message.encode()) == HEAD_BYTES <= 64
    assert decode_message(message.encode() + bytes(30)) == message


class TestReport:
    """Medians with their range; ratios of what is counted per CPU second."""

    @pytest.fixture
    def report(self) -> Report:
        report = Report()
        for ours, theirs in ((30.0, 11.0), (10.0, 10.0), (50.0, 12.0)):
            report.add("datagrams per CPU second, uplink", "ghostwire relay", ours)
            report.add("datagrams per CPU second, uplink", "naive", theirs)
        report.add("latency", "ghostwire relay", 1234.0)
        return report

    def test_the_table_has_median_and_range(self, report: Report) -> None:
        assert "| 30.0 (10.0..50.0)" in report.table()
        assert "1,234 (1,234..1,234)" in report.table()

    def test_ratios_are_of_medians(self, report: Report) -> None:
        ratios = report.ratios("ghostwire relay", "naive")
        assert ratios == "datagrams per CPU second, uplink: 2.7 x naive"

    def test_the_plot_has_a_bar_per_subject(self, report: Report) -> None:
        svg = plot(report.as_json(), ["datagrams per CPU second, uplink"])
        assert svg.count("<rect") == 1 + 2
        assert "latency" not in svg
