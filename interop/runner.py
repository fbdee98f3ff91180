"""Owns ``make interop``: runs the tests that fill the matrix, and writes its file and its page.

``python -m interop.runner`` writes anew; with ``--check`` it compares the run with what is written.
Exit code 1: a cell failed or, with ``--check``, is not what is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from interop.matrix import Matrix, Outcome, judge
from interop.page import page, text
from interop.plugin import OPTION
from interop.versions import versions

ROOT = Path(__file__).parent.parent
PAGE_FILE = ROOT / "docs" / "reference" / "interop.md"


def run(extra: list[str]) -> Matrix:
    """Run the tests, showing their progress, and return what they have shown."""
    with tempfile.TemporaryDirectory(prefix="interop-") as directory:
        results = Path(directory) / "results.json"
        command = [sys.executable, "-m", "pytest", "-p", "interop.plugin", f"{OPTION}={results}"]
        command += ["-m", "interop", "-n", "2", "--dist", "loadgroup", "tests/integration", *extra]
        subprocess.run(command, cwd=ROOT, check=False)
        return read_run(results)


def read_run(results: Path) -> Matrix:
    """Return what a run of the tests with interop.plugin has shown."""
    lines = json.loads(results.read_text(encoding="utf-8"))
    return Matrix(versions=versions(), findings=judge(lines))


def differences(written: Matrix, found: Matrix) -> list[str]:
    """Return how a run differs from what is written; versions may."""
    before, after = written.outcomes(), found.outcomes()
    return [
        f"{cell.peer}, {cell.method}, {cell.over}: written {before.get(cell, 'nothing')},"
        f" found {after.get(cell, 'nothing')}"
        for cell in sorted(before.keys() | after.keys())
        if before.get(cell) != after.get(cell)
    ]


def main() -> int:
    """Run, print the matrix; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m interop.runner", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is written")
    parser.add_argument(
        "--from", dest="results", type=Path, metavar="FILE", help=f"of a run with {OPTION}=FILE"
    )
    parser.add_argument("pytest", nargs="*", help="further arguments of pytest, behind --")
    options = parser.parse_args()
    matrix = read_run(options.results) if options.results else run(options.pytest)
    print(text(matrix))
    print()
    failed = [one for one in matrix.findings if one.outcome in (Outcome.FAIL, Outcome.NOT_RUN)]
    for one in failed:
        cell = one.cell
        print(f"{one.outcome}: {cell.peer}, {cell.method}, {cell.over}: {one.reason}")
    if options.check:
        changed = differences(Matrix.read(), matrix)
        print("\n".join(changed) or "as written")
        return 1 if changed else 0
    matrix.write()
    PAGE_FILE.write_text(page(matrix), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
