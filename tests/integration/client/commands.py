"""Owns the running of `ghostctl tunnel` as a user's process, and what it says."""

import json
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.managed_relay import ManagedRelay
from tests.support.processes import GHOSTCTL, TIMESCALE, start_process

WAIT_S = 30.0 * TIMESCALE


def way_to(relay: ManagedRelay) -> list[str]:
    """The options with which a relay lets us in."""
    return [
        "--relay", relay.url, "--ca", str(relay.ca_file),
        "--token-file", str(relay.token_file),
    ]  # fmt: skip


def ghostctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*GHOSTCTL, *arguments], capture_output=True, text=True, timeout=WAIT_S, check=False
    )


@dataclass(kw_only=True)
class RunningTunnel:
    """A running `ghostctl tunnel udp --json`."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    output: Path

    def door(self, index: int = 0) -> tuple[str, int]:
        """Where a forward listens."""
        host, _, port = self.ready["forwards"][index]["listen"].rpartition(":")
        return host.strip("[]"), int(port)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What it has said of one kind so far."""
        lines = [json.loads(line) for line in self.output.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def wait_for(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it has said something of a kind so often."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if len(found := self.events(kind)) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no {count} x {kind}:\n{self.output.read_text()}")

    def end(self) -> int:
        """Send SIGTERM; return the exit code."""
        self.process.terminate()
        return self.process.wait(WAIT_S)


@contextmanager
def running_tunnel(
    relay: ManagedRelay, directory: Path, forwards: Sequence[str]
) -> Generator[RunningTunnel]:
    """Run a tunnel while the block runs; it must end with 0."""
    ready_file, output = directory / "tunnel.json", directory / "tunnel.out"
    ready_file.unlink(missing_ok=True)
    command = [*GHOSTCTL, "tunnel", "udp", *way_to(relay), "--json"]
    with start_process(
        [*command, "--ready-file", str(ready_file), *forwards],
        log=output,
        ready=lambda: json.loads(ready_file.read_text()) if ready_file.exists() else None,
    ) as (process, ready):
        tunnel = RunningTunnel(process=process, ready=ready, output=output)
        yield tunnel
        if process.poll() is None:
            assert tunnel.end() == 0, output.read_text()
