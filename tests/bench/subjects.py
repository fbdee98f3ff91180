"""Owns the processes of a benchmark: the subjects that are measured, and the target behind them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.config.dev_state import DevState, prepare_dev_state

ROOT = Path(__file__).parent.parent.parent
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A running process through which datagrams go to the target."""

    name: str
    pid: int
    port: int
    state: DevState | None = None
    """Whose CA and token its clients need; None: no QUIC at all."""

    def arguments(self) -> list[str]:
        """Return what tells a generator how to reach and measure it."""
        arguments = ["--pid", str(self.pid), "--port", str(self.port)]
        if self.state is not None:
            arguments += ["--ca-file", str(self.state.ca_file)]
            arguments += ["--token-file", str(self.state.token_file)]
        return arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Everything that a measurement needs, running."""

    subjects: tuple[Subject, ...]
    target_port: int


@contextmanager
def run_bench(directory: Path) -> Generator[Bench]:
    """Start the target and every subject, and stop them when the block ends.

    With two CPUs or more each subject may run on the first one only, everything else on the others.
    """
    cpus = sorted(os.sched_getaffinity(0))
    subject_cpus = frozenset(cpus[:1])
    other_cpus = frozenset(cpus[1:]) or subject_cpus
    state = prepare_dev_state(directory / "state")
    with ExitStack() as stack:
        # Inherited by every process that is not moved elsewhere.
        os.sched_setaffinity(0, other_cpus)
        stack.callback(os.sched_setaffinity, 0, frozenset(cpus))
        _, target_port = stack.enter_context(run_module("tests.bench.target"))
        plain_pid, plain_port = stack.enter_context(
            run_module("tests.bench.forwarder", str(target_port), cpus=subject_cpus)
        )
        naive_pid, naive_port = stack.enter_context(
            run_module(
                "tests.bench.naive_proxy",
                str(state.certificate_file),
                str(state.key_file),
                cpus=subject_cpus,
            )
        )
        relay_pid, relay_port = stack.enter_context(run_relay(directory, state, cpus=subject_cpus))
        yield Bench(
            subjects=(
                Subject(name="plain UDP forwarder", pid=plain_pid, port=plain_port),
                Subject(name="naive aioquic proxy", pid=naive_pid, port=naive_port, state=state),
                Subject(name="ghostwire relay", pid=relay_pid, port=relay_port, state=state),
            ),
            target_port=target_port,
        )


def run_generator(bench: Bench, subject: Subject, what: str, *options: str) -> dict[str, float]:
    """Run one measurement to its end and return what it found.

    Raises:
        RuntimeError: the generator failed; the message holds the end of what it said.
    """
    command = [sys.executable, "-m", "tests.bench.generator", what, *subject.arguments()]
    command += ["--target-port", str(bench.target_port), *options]
    return run_json(f"{subject.name}, {what}", command)


def run_json(what: str, command: Sequence[str]) -> dict[str, float]:
    """Run a program to its end and return the JSON object that it printed.

    Raises:
        RuntimeError: it failed; the message holds the end of what it said.
    """
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


@contextmanager
def run_module(
    module: str, *arguments: str, cpus: frozenset[int] | None = None
) -> Generator[tuple[int, int]]:
    """Run a module that prints its port and serves until its standard input closes."""
    command = [sys.executable, "-m", module, *arguments]
    with run_command(command, cpus=cpus) as (pid, port):
        yield pid, port


@contextmanager
def run_command(
    command: Sequence[str], *, cpus: frozenset[int] | None = None
) -> Generator[tuple[int, int]]:
    """Run a program that prints its port and serves until its standard input closes."""
    with _cpus(cpus):
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()
            _end(process)


@contextmanager
def _cpus(cpus: frozenset[int] | None) -> Generator[None]:
    """Let what is started in the block run there only; a Go program counts them when it starts."""
    before = os.sched_getaffinity(0)
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def run_relay(
    directory: Path,
    state: DevState,
    *,
    cpus: frozenset[int],
    settings: Mapping[str, str] | None = None,
) -> Iterator[tuple[int, int]]:
    """Run the relay as its users do, in dev mode.

    Args:
        directory: where its log and its ready file go.
        state: certificate and token.
        cpus: where it may run.
        settings: environment variables on top, ``GHOSTWIRE__...``.
    """
    ready_file = directory / "ready.json"
    command = [sys.executable, "-m", "masque_relay.cli.main", "relay", "run", "--dev"]
    command += ["--state-dir", str(state.directory), "--ready-file", str(ready_file)]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    log_file = directory / "relay.log"
    with log_file.open("wb") as log:
        with _cpus(cpus):
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline_s = time.monotonic() + START_DEADLINE_S
            while not ready_file.exists():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"the relay did not start:\n{log_file.read_text()[-2000:]}")
                time.sleep(0.05)
            told = json.loads(ready_file.read_text(encoding="utf-8"))
            yield process.pid, int(told["h3"].rpartition(":")[2])
        finally:
            process.terminate()
            _end(process)


def _end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
