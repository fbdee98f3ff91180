"""Owns the test of docs/howto/mtls.md: its commands, then a tunnel by the certificate they made."""

import json
import subprocess
import sys
from pathlib import Path

from masque_relay.cli.output import ExitCode
from masque_relay.config.dev_state import DevState
from tests.support.console_blocks import Console, console_blocks
from tests.support.envoy import exchange
from tests.support.processes import executable, run_process
from tests.support.relay_process import RunningRelay, run_changed_relay
from tests.support.udp_echo import run_udp_echo

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "mtls.md"


def tunnel_command(relay: RunningRelay, target_port: int, *credential: str) -> list[str]:
    command = [sys.executable, "-m", "masque_relay.cli.main", "tunnel", "udp"]
    command += ["--relay", f"https://{relay.host}:{relay.port}", "--ca", str(relay.ca_file)]
    return [*command, *credential, f"127.0.0.1:0=127.0.0.1:{target_port}"]


def test_a_certificate_made_as_the_page_says_carries_a_tunnel(
    tmp_path: Path, timescale: float
) -> None:
    executable("openssl")

    def follow_the_page(state: DevState) -> None:
        assert state.directory == tmp_path / "state"
        with Console(tmp_path, Path(sys.executable).parent, timeout_s=60 * timescale) as console:
            for block in console_blocks(PAGE.read_text(encoding="utf-8")):
                console.run(block)

    ready_file = tmp_path / "tunnel.json"
    certificate = ("--client-cert", str(tmp_path / "alice.pem"))
    certificate += ("--client-key", str(tmp_path / "alice.key"))
    with (
        run_changed_relay(tmp_path, follow_the_page) as relay,
        run_udp_echo() as echo,
        run_process(
            tunnel_command(relay, echo.port, *certificate, "--ready-file", str(ready_file)),
            log=tmp_path / "tunnel.log",
            ready=lambda: ready_file.exists() or None,
            exit_code=0,
        ),
    ):
        (forward,) = json.loads(ready_file.read_text(encoding="utf-8"))["forwards"]
        host, _, port = forward["listen"].rpartition(":")
        answer = exchange((host, int(port)), b"hello", deadline_s=20 * timescale)
    logs = "\n".join((tmp_path / name).read_text() for name in ("tunnel.log", "relay.log"))
    assert answer == b"hello", logs
    lines = (tmp_path / "state" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    admitted = next(record for record in records if record["event"] == "decision")
    assert (admitted["subject"], admitted["credential"]) == ("alice@example.org", "mtls")
    assert admitted["token_id"].startswith("cert:")
    assert records[-1]["event"] == "tunnel_end", (records, logs)


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path, timescale: float) -> None:
    executable("openssl")

    def follow_the_page_with_two_cas(state: DevState) -> None:
        with Console(tmp_path, Path(sys.executable).parent, timeout_s=60 * timescale) as console:
            first, second = console_blocks(PAGE.read_text(encoding="utf-8"))
            console.run(first)
            for file in tmp_path.glob("alice.*"):
                file.rename(file.with_stem("foreign"))
            console.run(first)
            console.run(second)

    certificate = ("--client-cert", str(tmp_path / "foreign.pem"))
    certificate += ("--client-key", str(tmp_path / "foreign.key"))
    with run_changed_relay(tmp_path, follow_the_page_with_two_cas) as relay:
        done = subprocess.run(
            tunnel_command(relay, 9, *certificate),
            capture_output=True,
            text=True,
            timeout=60 * timescale,
            check=False,
        )
    # The handshake knows the CAs too, so the gate is not even asked.
    assert done.returncode == ExitCode.UNREACHABLE, done.stderr
    assert '"allow"' not in (tmp_path / "state" / "audit.jsonl").read_text(encoding="utf-8")
