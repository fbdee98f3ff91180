"""Owns a relay as a newcomer starts it: ``ghostctl relay run --dev`` in a process of its own."""

import json
import shutil
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from masque_relay.config.dev_state import prepare_dev_state
from tests.support.processes import run_process
from tests.support.site_certificate import SiteCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRelay:
    """Where a relay listens and what its clients need."""

    host: str
    port: int
    admin_url: str
    ca_file: Path
    token_file: Path
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
    """Run a dev-mode relay while the block runs, exactly as a newcomer would."""
    command = ["--dev", "--state-dir", str(directory / "state"), *arguments]
    with _run(directory, command, listen=listen, prefix=prefix) as told:
        yield _describe(told, directory, ca_file=Path(told["ca_file"]))


@contextmanager
def run_relay_with_certificate(
    directory: Path, certificate: SiteCertificate, *, listen: str, prefix: Sequence[str] = ()
) -> Generator[RunningRelay]:
    """Run a relay with the dev-mode policy and a certificate of the caller's.

    ``prefix`` may be ``ip netns exec NAME``.
    """
    state = prepare_dev_state(directory / "state")
    shutil.copy(certificate.certificate_file, state.directory / "cert.pem")
    shutil.copy(certificate.key_file, state.directory / "key.pem")
    with _run(directory, [str(state.config_file)], listen=listen, prefix=prefix) as told:
        known = {"token_file": str(state.token_file)}
        yield _describe(known | told, directory, ca_file=certificate.ca_file)


@contextmanager
def _run(
    directory: Path, arguments: Sequence[str], *, listen: str, prefix: Sequence[str]
) -> Generator[dict[str, str]]:
    directory.mkdir(parents=True, exist_ok=True)
    ready_file = directory / "ready.json"
    command = [*prefix, sys.executable, "-m", "masque_relay.cli.main", "relay", "run", *arguments]
    command += ["--listen", listen, "--admin", "127.0.0.1:0", "--ready-file", str(ready_file)]
    with run_process(
        command,
        log=directory / "relay.log",
        ready=lambda: ready_file.exists() or None,
        exit_code=0,  # SIGTERM drains
    ):
        told: dict[str, str] = json.loads(ready_file.read_text(encoding="utf-8"))
        yield told


def _describe(told: dict[str, str], directory: Path, *, ca_file: Path) -> RunningRelay:
    host, _, port = told["h3"].rpartition(":")
    token_file = Path(told["token_file"])
    return RunningRelay(
        host=host.strip("[]"),
        port=int(port),
        admin_url=told["admin"].rstrip("/"),
        ca_file=ca_file,
        token_file=token_file,
        token=token_file.read_text(encoding="utf-8").strip(),
        admin_token=Path(told["admin_token_file"]).read_text(encoding="utf-8").strip(),
        log_file=directory / "relay.log",
    )
