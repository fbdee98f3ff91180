"""Owns a relay process that a test manages: its policy, its admin API, its signals, its log.

    with managed_relay(tmp_path) as relay:
        connect to relay.host, relay.port, with relay.ca_file and relay.token

Leaving the block sends SIGTERM and asserts that the relay exits with 0.
"""

import json
import signal
import subprocess
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.admin.client import AdminClient
from masque_relay.config.dev_state import DevState, prepare_dev_state
from tests.support.processes import STOP_DEADLINE_S, start_process
from tests.support.relay_process import RunningRelay, read_ready_file, relay_command


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedRelay(RunningRelay):
    """A relay whose process and files a test holds in its hands; its log is JSON, a line each."""

    process: subprocess.Popen[bytes]
    state: DevState

    def admin(self) -> AdminClient:
        """Return a client of the admin API; close it."""
        return AdminClient(self.ready["admin"], self.admin_token)

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
            return self.process.wait(STOP_DEADLINE_S)
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
    listen: str = "127.0.0.1:0",
    prefix: Sequence[str] = (),
    change: Callable[[DevState], None] = lambda _: None,
) -> Generator[ManagedRelay]:
    """Run a development relay on ports of its own until the block ends.

    Args:
        directory: a temporary directory, for state, log and ready file.
        policy: the policy file's text instead of the development policy.
        config: TOML to append to the development configuration.
        environ: further environment variables, such as ``GHOSTWIRE__DRAIN__DEADLINE_S``.
        arguments: further arguments of `ghostctl relay run`.
        expect_exit: the exit code to assert after SIGTERM; None asserts nothing.
        listen: address and port.
        prefix: put before the command, such as ``ip netns exec NAME``.
        change: has its way with the state directory's files, such as the certificate.
    """
    state = prepare_dev_state(directory / "state")
    change(state)
    if policy is not None:
        state.policy_file.write_text(policy)
    if config is not None:
        state.config_file.write_text(state.config_file.read_text() + config)
    ready_file, log_file = directory / "ready.json", directory / "relay.log"
    dev = ["--dev", "--state-dir", str(state.directory), "--log-format", "json", *arguments]
    with start_process(
        relay_command(dev, ready_file=ready_file, listen=listen, prefix=prefix),
        log=log_file,
        ready=lambda: read_ready_file(ready_file),
        environment={"GHOSTWIRE__DRAIN__DEADLINE_S": "0.2", **(environ or {})},
        logs_stdout=False,
    ) as (process, ready):
        relay = ManagedRelay(process=process, state=state, ready=ready, log_file=log_file)
        yield relay
        code = relay.terminate()
        if expect_exit is not None:
            assert code == expect_exit, f"exit code {code}:\n{relay.log()}"
