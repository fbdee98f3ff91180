"""The benchmark of the mesh runs and finds something in every cell."""

import json
from pathlib import Path

import pytest

from tests.bench.ghostwire import main
from tests.support.mesh_arrival import CARRIERS


@pytest.mark.bench_smoke
def test_smoke_run_fills_the_table_and_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "figures.json"
    assert main(["--smoke", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())

    assert [one["carrier"] for one in figures["carriers"]] == [str(kind) for kind in CARRIERS]
    for one in figures["carriers"]:
        assert all(one[name] > 0 for name in ("datagrams_per_s", "stream_mbit_per_s", "rtt_p50_ms"))
    assert 0.5 < figures["fairness_index"] <= 1
    assert "memory per idle peer" in capsys.readouterr().out
