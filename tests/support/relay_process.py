"""Owns a relay as a newcomer starts it: ``ghostctl relay run --dev`` in a process of its own."""

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from masque_relay.config.dev_state import DevState, prepare_dev_state
from masque_relay.control.auth.basic import hash_password
from tests.support.processes import GHOSTCTL, run_process
from tests.support.site_certificate import SiteCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRelay:
    """Where a relay listens and what its clients need."""

    ready: Mapping[str, str]
    """The ready file; where it names no file of the state directory, that file is added."""
    log_file: Path

    @property
    def host(self) -> str:
        """Address of the HTTP/3 listener, without brackets."""
        return self.ready["h3"].rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.ready["h3"].rpartition(":")[2])

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the HTTP/3 listener."""
        return self.host, self.port

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return f"https://{self.ready['h3']}"

    @property
    def ca_file(self) -> Path:
        return Path(self.ready["ca_file"])

    @property
    def token_file(self) -> Path:
        return Path(self.ready["token_file"])

    @property
    def token(self) -> str:
        """A bearer token of the subject ``dev``."""
        return self.token_file.read_text(encoding="utf-8").strip()

    @property
    def admin_url(self) -> str:
        return self.ready["admin"].rstrip("/")

    @property
    def admin_token(self) -> str:
        return Path(self.ready["admin_token_file"]).read_text(encoding="utf-8").strip()

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
    with _run(directory, command, listen=listen, prefix=prefix) as ready:
        yield RunningRelay(ready=ready, log_file=directory / "relay.log")


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
    with _run(directory, [str(state.config_file)], listen=listen, prefix=prefix) as ready:
        known = {"token_file": str(state.token_file), "ca_file": str(state.ca_file)}
        yield RunningRelay(ready=known | ready, log_file=directory / "relay.log")


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


def relay_command(
    arguments: Sequence[str],
    *,
    ready_file: Path,
    listen: str = "127.0.0.1:0",
    prefix: Sequence[str] = (),
) -> list[str]:
    """Return the command that runs a relay which says in ``ready_file`` where it listens."""
    command = [*prefix, *GHOSTCTL, "relay", "run", "--listen", listen, "--admin", "127.0.0.1:0"]
    # The arguments come last, so that an option among them counts.
    return [*command, "--ready-file", str(ready_file), *arguments]


def read_ready_file(path: Path) -> dict[str, str] | None:
    """Return what a relay wrote; None as long as there is nothing."""
    if not path.exists():
        return None
    ready: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return ready


@contextmanager
def _run(
    directory: Path, arguments: Sequence[str], *, listen: str, prefix: Sequence[str]
) -> Generator[dict[str, str]]:
    directory.mkdir(parents=True, exist_ok=True)
    ready_file = directory / "ready.json"
    with run_process(
        relay_command(arguments, ready_file=ready_file, listen=listen, prefix=prefix),
        log=directory / "relay.log",
        ready=lambda: read_ready_file(ready_file),
        exit_code=0,  # SIGTERM drains
    ) as ready:
        yield ready
