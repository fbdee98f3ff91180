"""The benchmark of the mesh runs and finds something in every cell."""

import json
from pathlib import Path

import pytest

from tests.bench.ghostwire import MEASURED, SMOKE, main
from tests.bench.mesh_fairness import jain


@pytest.mark.bench_smoke
def test_smoke_run_fills_the_table_and_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "figures.json"
    assert main(["--smoke", "--json", str(report)]) == 0
    figures = json.loads(report.read_text())

    assert [one["carrier"] for one in figures["carriers"]] == [str(kind) for kind in MEASURED]
    for one in figures["carriers"]:
        assert all(one[name] > 0 for name in ("datagrams_per_s", "stream_mbit_per_s", "rtt_p50_ms"))
    assert figures["straight"]["rtt_p50_ms"] > 0
    assert figures["idle"]["peers"] == SMOKE.peers
    assert figures["idle"]["lost"] == 0
    assert figures["idle"]["bytes_per_peer"] > 0
    told = capsys.readouterr().out
    assert "memory per idle peer" in told
    assert "recovery: not measured: left out" in told

    for one in figures["fairness"]:
        # The queue was full, and what it dropped was the flooding sender's for the most part.
        lost = one["flooder_sent"] - one["flooder_arrived"]
        assert one["queue_dropped"] > lost / 2 > 0
        share = one["flooder_arrived"] / one["flooder_sent"]
        assert share < one["others_arrived"] / one["others_sent"] / 2
    # In the order of arrival it would be 0.13.
    assert figures["fairness"][-1]["index"] > 0.5


def test_jains_index_is_one_for_equals_and_a_share_for_one_that_has_all() -> None:
    assert jain([7, 7, 7, 7]) == 1
    assert jain([9, 0, 0, 0]) == 0.25
    assert jain([0, 0]) == 0
