"""Owns `ghostctl demo`: a relay and a client on this machine, and traffic between them."""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import fail, json_option, print_json, program
from masque_relay.client import Bearer, ClientError, RelayAddress, RelayOptions
from masque_relay.client.demo import Carried, DemoResult, run_demo
from masque_relay.client.mtu import describe_payload

START_TIMEOUT_S = 60.0  # a slow machine makes keys and imports the QUIC stack
STOP_TIMEOUT_S = 30.0


@click.command()
@json_option
def demo(as_json: bool) -> None:
    """Start a relay and a client here and watch traffic go through.

    A DNS query and a real HTTP/3 page (QUIC inside QUIC) go through an authenticated relay, all on
    loopback, in a temporary directory: nothing leaves this machine, nothing stays behind.

    \b
    Examples:
      ghostctl demo
      ghostctl demo --json
    """
    with tempfile.TemporaryDirectory(prefix="ghostctl-demo-") as directory:
        try:
            with _relay(Path(directory)) as (ready, start_s):
                address = RelayAddress.parse(f"https://{ready['h3']}")
                options = RelayOptions(
                    ca_file=Path(ready["ca_file"]),
                    credential=Bearer(file=Path(ready["token_file"])),
                )
                result = asyncio.run(run_demo(address, options))
        except ClientError as error:
            fail_with(error)
    if as_json:
        print_json({"ok": True, "relay_start_s": round(start_s, 2), **asdict(result)})
    else:
        _show(result, start_s)


def _show(result: DemoResult, start_s: float) -> None:
    size = describe_payload(result.max_payload_bytes, reliable=False)
    lines = (
        ("relay", f"{result.relay}, started in {start_s:.1f} s, with a CA and a token of its own"),
        ("tunnel", f"HTTP/3 connection in {result.connect_ms:.0f} ms; {size}"),
        ("DNS", f"site.demo.test is {result.dns_answer}: {_figures(result.dns)}"),
        (
            "HTTP/3",
            f"GET https://site.demo.test/ -> {result.page_status}, {result.page_bytes} bytes: "
            f"{_figures(result.page)}; QUIC inside QUIC",
        ),
    )
    for title, text in lines:
        click.echo(f"{title:<8}{text}")
    click.echo("Both went through the relay and came back.")
    click.echo(f"Next: {program()} relay run --dev --state-dir state")


def _figures(carried: Carried) -> str:
    return (
        f"{carried.elapsed_ms:.1f} ms, {carried.sent_datagrams} datagrams "
        f"({carried.sent_bytes} bytes) there, {carried.received_datagrams} "
        f"({carried.received_bytes} bytes) back"
    )


@contextmanager
def _relay(directory: Path) -> Generator[tuple[dict[str, str], float]]:
    """Run a development relay until the block ends; yield its ready file and how long it took."""
    ready_file, log_file = directory / "ready.json", directory / "relay.log"
    begin_s = time.monotonic()
    with log_file.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [
                sys.executable, "-m", "masque_relay.cli.main", "relay", "run", "--dev",
                "--state-dir", str(directory / "state"), "--listen", "127.0.0.1:0",
                "--admin", "127.0.0.1:0", "--ready-file", str(ready_file),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        while not ready_file.exists():
            if process.poll() is not None or time.monotonic() - begin_s > START_TIMEOUT_S:
                click.echo(log_file.read_text(errors="replace"), err=True)
                fail(
                    "the demo's relay did not start",
                    hint="its log stands above; `ghostctl relay run --dev` shows more",
                )
            time.sleep(0.02)
        start_s = time.monotonic() - begin_s
        ready: dict[str, str] = json.loads(ready_file.read_text(encoding="utf-8"))
        yield ready, start_s
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
