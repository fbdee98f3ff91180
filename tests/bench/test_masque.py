"""Tests that the benchmark of the MASQUE methods runs from end to end; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.masque import CASES, PLAIN

ROOT = Path(__file__).parent.parent.parent
CONNECTS = {"CONNECT H1", "CONNECT H2", "CONNECT H3"}


@pytest.mark.bench_smoke
@pytest.mark.timeout(300)
def test_the_smoke_run_measures_every_case(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bench.masque", "--smoke", "--json", str(out)]
    for case in ("tcp-throughput", "idle-memory-h1", "idle-memory-h2", "idle-memory-h3"):
        assert case in CASES
        command += ["--case", case]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_figure: dict[str, set[str]] = {}
    for row in json.loads(out.read_text())["figures"]:
        assert "memory" in row["figure"] or row["median"] > 0
        by_figure.setdefault(row["figure"], set()).add(row["subject"])
    assert by_figure == {
        "TCP down, 1 streams, Mbit/s": {PLAIN, *CONNECTS},
        "TCP down, 4 streams, Mbit/s": {PLAIN, *CONNECTS},
        "memory per idle tunnel, 10 tunnels, KiB": CONNECTS,
    }
    assert "TCP down" in done.stdout
