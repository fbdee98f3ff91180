"""Owns child processes of tests: start with a log file, wait until ready, stop for certain."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

Ready = TypeVar("Ready")
TIMESCALE = float(os.environ.get("RELAY_TEST_TIMESCALE", "1"))
START_DEADLINE_S = 30.0 * TIMESCALE
STOP_DEADLINE_S = 30.0 * TIMESCALE
GHOSTCTL = (sys.executable, "-m", "masque_relay.cli.main")
"""The command of this tree, whatever is installed."""


class DidNotStartError(Exception):
    """A child process died or was not ready in time; the message holds the end of its log."""


class DidNotStopError(Exception):
    """A child process did not end as it should on SIGTERM; the message holds the end of its log."""


def executable(name: str) -> str:
    """Return a program's path, next to this Python first; skip the test if there is none."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs the interop extra ({name}): .ci/run installs it")
    return found


def wait_until(check: Callable[[], Ready | None], *, deadline_s: float, what: str) -> Ready:
    """Poll until ``check`` returns something that is not None, and return that.

    Raises:
        TimeoutError: it did not happen before the deadline.
    """
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if (found := check()) is not None:
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{what}: not within {deadline_s:.0f} s")


@contextmanager
def start_process(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], Ready | None],
    environment: Mapping[str, str] | None = None,
    logs_stdout: bool = True,
) -> Generator[tuple[subprocess.Popen[bytes], Ready]]:
    """Run a program while the block runs; yield its handle and what ``ready`` returned.

    The log has its standard error, and its standard output unless told not to. What still runs at
    the end gets SIGTERM, and SIGKILL when that does not help.

    Raises:
        DidNotStartError: it ended, or was not ready in time.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink if logs_stdout else subprocess.DEVNULL,
            stderr=sink,
            env={**os.environ, **(environment or {})},
        )

    def ready_or_dead() -> Ready | None:
        if process.poll() is not None:
            raise DidNotStartError(f"{command[0]} ended with {process.returncode}:\n{_tail(log)}")
        return ready()

    try:
        try:
            state = wait_until(ready_or_dead, deadline_s=START_DEADLINE_S, what=str(command[0]))
        except TimeoutError as error:
            raise DidNotStartError(f"{error}\n{_tail(log)}") from error
        yield process, state
    finally:
        stop_process(process)


def stop_process(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM, or SIGKILL when that does not end it in time; return the exit code."""
    process.terminate()  # does nothing where it has ended
    try:
        return process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@contextmanager
def run_process(
    command: Sequence[str],
    *,
    log: Path,
    ready: Callable[[], Ready | None],
    environment: Mapping[str, str] | None = None,
    exit_code: int | None = None,
) -> Generator[Ready]:
    """Run a program while the block runs; yield what ``ready`` returned.

    Raises:
        DidNotStartError: it ended, or was not ready in time.
        DidNotStopError: an ``exit_code`` is asked for, and SIGTERM did not lead to it in time.
    """
    with start_process(command, log=log, ready=ready, environment=environment) as (process, state):
        yield state
    if exit_code is not None and process.returncode != exit_code:
        message = f"{command[0]} left with {process.returncode}, not {exit_code}:\n{_tail(log)}"
        raise DidNotStopError(message)


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]
