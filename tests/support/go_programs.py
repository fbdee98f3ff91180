"""Owns the building of pinned Go programs under interop/peers; a skip that says why without Go."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build_go_program(peer: str, package: str) -> Path:
    """Build a package of ``interop/peers/PEER``; return the program.

    Go's own cache makes all but the first build short.
    """
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    target = ROOT / "build" / peer
    target.mkdir(parents=True, exist_ok=True)
    program = target / package.rstrip("/").rpartition("/")[2]
    done = subprocess.run(
        ["go", "build", "-o", str(program), package],
        cwd=ROOT / "interop" / "peers" / peer,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "dial tcp" in done.stderr:
        pytest.skip(f"the modules of {peer} can't be fetched: no network")
    assert done.returncode == 0, done.stderr
    return program
