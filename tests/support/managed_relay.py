"""Owns a relay process that a test manages: its policy, its admin API, its signals, its log.

    with managed_relay(tmp_path) as relay:
        connect to relay.h3_host, relay.h3_port, with relay.ca_file and relay.token

Leaving the block sends SIGTERM and asserts that the relay exits with 0.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.admin.client import AdminClient
from masque_relay.config.dev_state import DevState, prepare_dev_state

TIMESCALE = float(os.environ.get("RELAY_TEST_TIMESCALE", "1"))
START_S = 30.0 * TIMESCALE
STOP_S = 30.0 * TIMESCALE


@dataclass(kw_only=True)
class ManagedRelay:
    """A running relay."""

    process: subprocess.Popen[bytes]
    state: DevState
    ready: dict[str, str]
    """The ready file, as it is."""
    log_file: Path
    """Standard error: one JSON object per line."""

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return f"https://{self.ready['h3']}"

    @property
    def h3_host(self) -> str:
        return self.ready["h3"].rpartition(":")[0]

    @property
    def h3_port(self) -> int:
        return int(self.ready["h3"].rpartition(":")[2])

    @property
    def ca_file(self) -> Path:
        return Path(self.ready["ca_file"])

    @property
    def token_file(self) -> Path:
        return Path(self.ready["token_file"])

    @property
    def token(self) -> str:
        """A bearer token of the subject ``dev``."""
        return self.token_file.read_text().strip()

    def admin(self) -> AdminClient:
        """Return a client of the admin API; close it."""
        return AdminClient(
            self.ready["admin"], Path(self.ready["admin_token_file"]).read_text().strip()
        )

    def log(self) -> str:
        """Return everything that the relay has logged so far."""
        return self.log_file.read_text(errors="replace")

    def records(self, event: str) -> list[dict[str, object]]:
        """Return the log records of one event."""
        records = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [record for record in records if record.get("event") == event]

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code.

        Raises:
            AssertionError: it does not end.
        """
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the relay did not end after SIGTERM:\n{self.log()}") from None


@contextmanager
def managed_relay(
    directory: Path,
    *,
    policy: str | None = None,
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
    expect_exit: int | None = 0,
) -> Generator[ManagedRelay]:
    """Run a development relay on ports of its own until the block ends.

    Args:
        directory: a temporary directory, for state, log and ready file.
        policy: the policy file's text instead of the development policy.
        config: TOML to append to the development configuration.
        environ: further environment variables, such as ``GHOSTWIRE__DRAIN__DEADLINE_S``.
        arguments: further arguments of `ghostctl relay run`.
        expect_exit: the exit code to assert after SIGTERM; None asserts nothing.
    """
    state = prepare_dev_state(directory / "state")
    if policy is not None:
        state.policy_file.write_text(policy)
    if config is not None:
        state.config_file.write_text(state.config_file.read_text() + config)
    ready_file, log_file = directory / "ready.json", directory / "relay.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "masque_relay.cli.main", "relay", "run", "--dev",
                "--state-dir", str(state.directory),
                "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
                "--ready-file", str(ready_file), "--log-format", "json", *arguments,
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "GHOSTWIRE__DRAIN__DEADLINE_S": "0.2", **(environ or {})},
        )  # fmt: skip
    try:
        ready = _wait_until_ready(process, ready_file, log_file)
        relay = ManagedRelay(process=process, state=state, ready=ready, log_file=log_file)
        yield relay
        code = relay.terminate()
        if expect_exit is not None:
            assert code == expect_exit, f"exit code {code}:\n{relay.log()}"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready_file: Path, log_file: Path
) -> dict[str, str]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(
                f"the relay ended with {process.returncode}:\n{log_file.read_text()}"
            )
        if ready_file.exists():
            ready: dict[str, str] = json.loads(ready_file.read_text())
            return ready
        time.sleep(0.02)
    raise AssertionError(f"the relay was not ready in {START_S} s:\n{log_file.read_text()}")
