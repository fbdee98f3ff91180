"""Owns a relay as a newcomer starts it: ``ghostctl relay run --dev`` in a process of its own."""

import json
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.control.auth.basic import hash_password
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
def run_changed_relay(
    directory: Path,
    change: Callable[[DevState], None],
    *,
    listen: str = "127.0.0.1:0",
    prefix: Sequence[str] = (),
) -> Generator[RunningRelay]:
    """Run a relay on a dev-mode state directory whose files ``change`` has had its way with.

    ``prefix`` may be ``ip netns exec NAME``.
    """
    state = prepare_dev_state(directory / "state")
    change(state)
    with _run(directory, [str(state.config_file)], listen=listen, prefix=prefix) as told:
        known = {"token_file": str(state.token_file)}
        yield _describe(known | told, directory, ca_file=state.ca_file)


def use_certificate(certificate: SiteCertificate) -> Callable[[DevState], None]:
    """Return a change that gives the relay this certificate."""

    def change(state: DevState) -> None:
        shutil.copy(certificate.ca_file, state.ca_file)
        shutil.copy(certificate.certificate_file, state.directory / "cert.pem")
        shutil.copy(certificate.key_file, state.directory / "key.pem")

    return change


def add_user(name: str, password: str) -> Callable[[DevState], None]:
    """Return a change that lets a user in with a password (Basic)."""

    def change(state: DevState) -> None:
        users = f'[user.{name}]\npassword_hash = "{hash_password(password)}"\n'
        (state.directory / "users.toml").write_text(users, encoding="utf-8")
        with state.config_file.open("a", encoding="utf-8") as config:
            config.write('\n[gate.basic]\nusers_file = "users.toml"\n')

    return change


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
