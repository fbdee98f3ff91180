"""`ghostctl bench RELAY` at a real relay: HTTP versions, refusals, silence, Ctrl-C, the echo."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client.bench.probe import NONCE_BYTES, Probes
from tests.integration.client.commands import WAIT_S, ghostctl, way_to
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, start_process, wait_until
from tests.support.udp_echo import run_udp_echo

SHORT = ("--seconds", "0.1")
NO_LOOPBACK = """
[[rule]]
name = "internet"
action = "allow"
who = ["dev"]
methods = ["connect-udp"]
targets = ["*:*"]
"""


def to(relay: ManagedRelay) -> list[str]:
    """The argument and options with which a relay lets us in."""
    return ["bench", *way_to(relay)[1:]]


def told_by(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("http", "options", "sizes_bytes"),
    [("3", [], [64, 1_200]), ("2", ["--size", "1200"], [1_200]), ("1.1", ["--size", "64"], [64])],
)
def test_every_figure_is_told_over_every_http_version(
    relay: ManagedRelay, http: str, options: list[str], sizes_bytes: list[int]
) -> None:
    done = ghostctl(*to(relay), *SHORT, "--http", http, "--tunnels", "2", "--json", *options)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar where nobody sees it
    told = told_by(done)
    assert told["complete"] is True
    assert told["ended_by"] is None
    assert told["http"] == http
    assert told["reliable"] is (http != "3")
    assert told["own_echo"] is True
    assert told["next_hop"] == told["target"]
    assert told["connect_ms"] > 0
    assert told["open_tunnel"]["sample_count"] >= 2
    assert 0 < told["open_tunnel"]["p50_ms"] <= told["open_tunnel"]["p99_ms"]
    assert "client" in told["measured_by"]
    assert [size["size_bytes"] for size in told["sizes"]] == sizes_bytes
    for size in told["sizes"]:
        assert size["fits"] is True
        for way in ("relay", "direct"):
            trip = size["round_trip"][way]
            assert 0 < trip["answered_count"] <= trip["sent_count"]
            assert 0 < trip["p50_ms"] <= trip["p99_ms"]
        assert size["round_trip"]["added"] is not None
        assert size["bulk_loads"]
        for load in size["bulk_loads"]:
            assert load["under_way_count"] % 2 == 0  # two tunnels
            assert 0 <= load["answered_count"] <= load["sent_count"]
            by_rate = load["datagrams_per_s"] * size["size_bytes"] * 8 / 1e6
            assert load["mbit_per_s"] == pytest.approx(by_rate, abs=0.01)


def test_table_and_bar_are_for_people(relay: ManagedRelay) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        sizes = ["--size", "100", "--size", "40000"]
        with os.fdopen(theirs, "wb") as side:
            done = subprocess.run(
                [*GHOSTCTL, *to(relay), *SHORT, *sizes, "--http", "3"],
                stdout=subprocess.PIPE,
                stderr=side,
                text=True,
                timeout=WAIT_S,
                check=False,
                env={**os.environ, "TERM": "xterm"},
            )
        drawn = terminal.read(65_536).decode()

    assert done.returncode == 0, drawn
    # Which of the steps are drawn depends on how long each takes; that there is a bar does not.
    assert "━" in drawn
    assert "%" in drawn
    assert "round trip at 200/s, p50" in done.stdout
    assert "added by the relay" in done.stdout
    assert "Mbit/s" in done.stdout or "none below 1 % loss" in done.stdout
    assert "40000 B do not fit" in done.stdout
    assert "it bounds every figure" in done.stdout


def test_refused_target_ends_with_the_refusal_and_its_hint(relay: ManagedRelay) -> None:
    done = ghostctl(*to(relay), *SHORT, "--target", "169.254.169.254:9", "--json")

    assert done.returncode == 3
    assert "the relay refused 169.254.169.254:9: 403" in done.stderr
    assert "ghostctl policy explain" in done.stderr
    told = told_by(done)
    assert told["complete"] is False
    assert told["ended_by"] in done.stderr


def test_relay_that_does_not_lead_to_loopback_wants_an_echo_elsewhere(tmp_path: Path) -> None:
    with managed_relay(tmp_path, policy=NO_LOOPBACK) as strict:
        done = ghostctl(*to(strict), *SHORT)

    assert done.returncode == 3
    assert "--target HOST:PORT" in done.stderr
    assert "ghostctl bench --serve-echo ADDRESS:PORT" in done.stderr


def test_wrong_token_is_refused_with_a_hint(relay: ManagedRelay, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("nonsense")

    done = ghostctl("bench", relay.url, "--ca", str(relay.ca_file), "--token-file", str(token))

    assert done.returncode == 3
    assert "401" in done.stderr
    assert "ghostctl token inspect" in done.stderr


def test_absent_relay_is_unreachable(relay: ManagedRelay) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
        done = ghostctl("bench", url, *way_to(relay)[2:], "--connect-timeout", "1")

    assert done.returncode == 4
    assert "next:" in done.stderr
    assert done.stdout == ""


def test_target_that_does_not_echo_is_told_how_to(relay: ManagedRelay) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        done = ghostctl(*to(relay), *SHORT, "--target", target)

    assert done.returncode == 5
    assert f"no echo comes back from {target}" in done.stderr
    assert "ghostctl bench --serve-echo" in done.stderr


@contextmanager
def measuring(relay: ManagedRelay) -> Generator["subprocess.Popen[str]"]:
    """Run a benchmark without end while the block runs, which begins when datagrams flow."""
    with run_udp_echo() as plain:  # any echo will do
        process = subprocess.Popen(
            [*GHOSTCTL, *to(relay), "--seconds", "600", "--json",
             "--target", f"127.0.0.1:{plain.port}", "--size", "64"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        try:
            wait_until(
                lambda: plain.received_count > 10 or None, deadline_s=WAIT_S, what="round trips"
            )
            yield process
        finally:
            process.kill()
            process.communicate()


def test_interrupt_ends_with_what_was_measured_so_far(relay: ManagedRelay) -> None:
    with measuring(relay) as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0, errors
    told = json.loads(output)
    assert told["complete"] is False
    assert told["ended_by"] == "interrupted"
    assert told["open_tunnel"]["p50_ms"] > 0
    assert told["own_echo"] is False


def test_relay_that_goes_away_leaves_what_was_measured_so_far(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as leaving, measuring(leaving) as process:
        leaving.terminate()
        output, errors = process.communicate(timeout=WAIT_S)

    assert process.returncode == 4, errors
    told = json.loads(output)
    assert told["complete"] is False
    assert told["ended_by"] in errors
    assert told["open_tunnel"]["p50_ms"] > 0


@contextmanager
def serving(directory: Path, *options: str) -> Generator[tuple[int, Path]]:
    """Run `ghostctl bench --serve-echo` while the block runs; yield its port and what it says."""
    output = directory / "echo.out"

    def ready() -> int | None:
        line = output.read_text().partition("\n")[0] if output.exists() else ""
        return int(json.loads(line)["listen"].rpartition(":")[2]) if line else None

    command = [*GHOSTCTL, "bench", "--serve-echo", "127.0.0.1:0", "--json", *options]
    with start_process(command, log=output, ready=ready) as (process, port):
        yield port, output
        process.terminate()
        assert process.wait(WAIT_S) == 0, output.read_text()


def test_served_echo_is_measured_through_the_relay(relay: ManagedRelay, tmp_path: Path) -> None:
    with serving(tmp_path) as (port, output):
        options = ["--target", f"127.0.0.1:{port}", "--size", "64", "--json"]
        done = ghostctl(*to(relay), *SHORT, *options)

    told = told_by(done)
    assert told["complete"] is True
    assert told["own_echo"] is False
    ended = json.loads(output.read_text().splitlines()[-1])
    assert ended["event"] == "ended"
    sent_count = sum(load["answered_count"] for load in told["sizes"][0]["bulk_loads"])
    assert ended["answered_count"] >= sent_count > 0
    assert ended["ignored_count"] == ended["capped_count"] == 0


def test_served_echo_answers_its_own_questions_alone_and_within_its_cap(tmp_path: Path) -> None:
    probes = Probes(500, bytes(NONCE_BYTES))
    with (
        serving(tmp_path, "--max-answers", "1") as (port, output),
        socket.socket(type=socket.SOCK_DGRAM) as asker,
    ):
        asker.connect(("127.0.0.1", port))
        asker.settimeout(WAIT_S)
        asker.send(b"an echo for anybody?")
        for number in range(3):
            asker.send(probes.question(number))
        answer = asker.recv(65_536)

    assert len(answer) == 500
    assert probes.answered([answer]) == [0]
    ended = json.loads(output.read_text().splitlines()[-1])
    assert ended["ignored_count"] == 1
    assert ended["answered_count"] >= 1
    assert ended["answered_count"] + ended["capped_count"] <= 3


def test_port_that_is_taken_is_told() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        done = ghostctl("bench", "--serve-echo", f"127.0.0.1:{taken.getsockname()[1]}")

    assert done.returncode == 1
    assert "cannot listen on" in done.stderr
