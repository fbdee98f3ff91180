"""Owns a relay as a newcomer starts it: ``ghostctl relay run --dev`` in a process of its own."""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support.processes import run_process


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRelay:
    """Where a relay listens and what its clients need."""

    host: str
    port: int
    admin_url: str
    ca_file: Path
    token: str
    admin_token: str
    log_file: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the HTTP/3 listener."""
        return self.host, self.port

    def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics; the name with its labels is the key."""
        answer = httpx.get(
            f"{self.admin_url}/metrics",
            headers={"Authorization": f"Bearer {self.admin_token}"},
            timeout=10,
            trust_env=False,
        )
        lines = answer.raise_for_status().text.splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples if name}


@contextmanager
def run_relay(
    directory: Path,
    *,
    listen: str = "127.0.0.1:0",
    prefix: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Generator[RunningRelay]:
    """Run a dev-mode relay while the block runs; ``prefix`` may be ``ip netns exec NAME``."""
    directory.mkdir(parents=True, exist_ok=True)
    ready_file = directory / "ready.json"
    command = [*prefix, sys.executable, "-m", "masque_relay.cli.main", "relay", "run", "--dev"]
    command += ["--state-dir", str(directory / "state"), "--listen", listen]
    command += ["--admin", "127.0.0.1:0", "--ready-file", str(ready_file), *arguments]
    log_file = directory / "relay.log"
    with run_process(command, log=log_file, ready=lambda: ready_file.exists() or None):
        told = json.loads(ready_file.read_text(encoding="utf-8"))
        host, _, port = told["h3"].rpartition(":")
        yield RunningRelay(
            host=host.strip("[]"),
            port=int(port),
            admin_url=told["admin"].rstrip("/"),
            ca_file=Path(told["ca_file"]),
            token=Path(told["token_file"]).read_text(encoding="utf-8").strip(),
            admin_token=Path(told["admin_token_file"]).read_text(encoding="utf-8").strip(),
            log_file=log_file,
        )
