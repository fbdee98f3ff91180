"""Tests that the comparison with coturn runs from end to end; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.bench_smoke
@pytest.mark.needs_tool("turnserver")
@pytest.mark.timeout(200)
def test_the_smoke_run_measures_both_servers(tmp_path: Path) -> None:
    told_file = tmp_path / "turn.json"
    command = [sys.executable, "-m", "tests.bench.turn", "--smoke", "--json", str(told_file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(told_file.read_text())["figures"]
    by_figure: dict[str, set[str]] = {}
    for row in rows:
        by_figure.setdefault(row["figure"], set()).add(row["subject"])
    assert set(map(frozenset, by_figure.values())) == {frozenset({"ghostwire relay", "coturn"})}
    assert len(by_figure) == 8 + 2 + 1
    assert all(row["median"] > 0 for row in rows if "CPU second" in row["figure"])
    assert "x coturn" in done.stdout


def test_without_coturn_it_says_so_and_is_not_a_failure() -> None:
    command = [sys.executable, "-m", "tests.bench.turn", "--smoke"]
    environment = {"PATH": "/nonexistent"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "SKIPPED: no turnserver" in done.stdout
