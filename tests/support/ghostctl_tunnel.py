"""Owns ``ghostctl tunnel udp`` in a process of its own: a local UDP port that leads to a target."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import GHOSTCTL, run_process
from tests.support.relay_process import RunningRelay


@contextmanager
def run_tunnel(
    relay: RunningRelay, target: tuple[str, int], directory: Path
) -> Generator[tuple[str, int]]:
    """Forward a free local port through the relay while the block runs; yield its address."""
    directory.mkdir(parents=True, exist_ok=True)
    ready_file = directory / "tunnel-ready.json"
    command = [*GHOSTCTL, "tunnel", "udp"]
    command += ["--relay", relay.url, "--ca", str(relay.ca_file)]
    command += ["--token-file", str(relay.token_file), "--ready-file", str(ready_file)]
    command += [f"127.0.0.1:0={target[0]}:{target[1]}"]
    with run_process(
        command,
        log=directory / "tunnel.log",
        ready=lambda: ready_file.exists() or None,
        exit_code=0,
    ):
        (forward,) = json.loads(ready_file.read_text(encoding="utf-8"))["forwards"]
        host, _, port = forward["listen"].rpartition(":")
        yield host, int(port)
