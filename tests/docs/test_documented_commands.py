"""Owns the proof that every command in README.md and docs/ does what the page says."""

import fcntl
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.console_blocks import Console, console_blocks

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES_WITH_COMMANDS = [page for page in PAGES if console_blocks(page.read_text(encoding="utf-8"))]
FIXED_PORTS = (
    *((socket.SOCK_DGRAM, port) for port in (4433, 5353)),
    *((socket.SOCK_STREAM, port) for port in (9443, 1080, 8080, 5380)),
)
"""What the pages use, because a reader types them."""
OPTIONAL_PROGRAMS = ("curl", "openssl")
"""What the pages use and a machine may lack; `ghostctl` and `python3` are the environment's."""


def missing_program(page: Path) -> str | None:
    words = {
        word
        for block in console_blocks(page.read_text(encoding="utf-8"))
        if block.elsewhere is None
        for command in block.commands
        for word in command.split()
    }
    return next((p for p in OPTIONAL_PROGRAMS if p in words and shutil.which(p) is None), None)


def busy_port() -> int | None:
    for kind, port in FIXED_PORTS:
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return port
    return None


@pytest.fixture
def fixed_ports() -> Generator[None]:
    """Let one page at a time have the ports, on the whole machine.

    Not xdist's groups: xdist 3.8 writes a name that pytest 9.2 no longer reads, and spreads them.
    """
    with (Path(tempfile.gettempdir()) / f"ghostwire-documented-ports-{os.getuid()}.lock").open(
        "w"
    ) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("fixed_ports")
@pytest.mark.timeout(480)
@pytest.mark.parametrize(
    "page", PAGES_WITH_COMMANDS, ids=[p.relative_to(ROOT).as_posix() for p in PAGES_WITH_COMMANDS]
)
def test_commands_of_the_page_work_in_order(page: Path, tmp_path: Path, timescale: float) -> None:
    if (port := busy_port()) is not None:
        pytest.skip(f"port {port}, which the documentation uses, is taken on this machine")
    if (program := missing_program(page)) is not None:
        pytest.skip(f"needs {program}: .ci/run installs it")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    bin_directory = Path(sys.executable).parent
    with Console(tmp_path, bin_directory, timeout_s=60 * timescale) as console:
        for block in console_blocks(page.read_text(encoding="utf-8")):
            if block.elsewhere is None:
                console.run(block)


@pytest.mark.parametrize("page", PAGES, ids=[p.relative_to(ROOT).as_posix() for p in PAGES])
def test_a_block_that_is_run_elsewhere_names_where(page: Path) -> None:
    for block in console_blocks(page.read_text(encoding="utf-8")):
        if block.elsewhere is not None:
            place = block.elsewhere.split()[0]
            assert (ROOT / place).exists(), f"{page.name}:{block.line}: no {place}"
