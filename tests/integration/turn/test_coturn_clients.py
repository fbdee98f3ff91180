"""coturn's own clients against our server: every transport, form, family and credential they have.

A client takes some seconds by design, so all of them run at the same time.
"""

import re
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.turn_relay import PASSWORD, SECRET, STREAMS, USER, TurnRelay, turn_relay

DEADLINE_S = 90.0
SHARED = ("-W", SECRET, "-u", "dev")
LONG_TERM = ("-u", USER, "-w", PASSWORD)

pytestmark = [
    pytest.mark.needs_tool("turnutils_uclient"),
    pytest.mark.timeout(200),
    pytest.mark.xdist_group("coturn"),
]

RUNS: dict[str, tuple[str, bool, tuple[str, ...]]] = {
    # name: listener, by IPv6, options
    "udp, channels": ("udp", False, SHARED),
    "udp, send method": ("udp", False, ("-s", *SHARED)),
    "udp, long-term user": ("udp", False, LONG_TERM),
    "udp, client to client": ("udp", False, ("-y", *SHARED)),
    "udp, DONT-FRAGMENT": ("udp", False, ("-g", *SHARED)),
    "udp, mobility": ("udp", False, ("-M", *SHARED)),
    "udp, both families": ("udp", False, ("-Z", *SHARED)),
    "udp, IPv6 relay": ("udp", False, ("-x", "-y", *SHARED)),
    "udp by IPv6, IPv6 relay": ("udp", True, ("-x", "-y", *SHARED)),
    "udp by IPv6, IPv4 relay": ("udp", True, ("-X", "-y", *SHARED)),
    "udp, extra requests": ("udp", False, ("-G", *SHARED)),
    "udp, padded channels": ("udp", False, ("-D", *SHARED)),
    "udp, access tokens": ("udp", False, ("-J", *LONG_TERM)),
    "tls, access tokens": ("tls", False, ("-J", "-t", "-S", *LONG_TERM)),
    "tcp, channels": ("tcp", False, ("-t", *SHARED)),
    "tcp, send method": ("tcp", False, ("-t", "-s", *LONG_TERM)),
    "tcp by IPv6": ("tcp", True, ("-t", "-x", "-y", *SHARED)),
    "tcp relay": ("tcp", False, ("-T", *SHARED)),
    "tls, channels": ("tls", False, ("-t", "-S", *SHARED)),
    "tls, long-term user": ("tls", False, ("-t", "-S", *LONG_TERM)),
    "tls, tcp relay": ("tls", False, ("-T", "-S", *SHARED)),
}
PEERLESS = {"-y", "-T"}


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[TurnRelay]:
    directory = tmp_path_factory.mktemp("turn")
    with turn_relay(directory) as running:
        yield running


@pytest.fixture(scope="module")
def outputs(
    relay: TurnRelay, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Mapping[str, str]]:
    """What each client said, once all have ended."""
    logs = tmp_path_factory.mktemp("logs")
    with echoing_peer() as peer_port:
        clients = {
            name: _start(relay, name, logs / f"{index}.log", peer_port)
            for index, name in enumerate(RUNS)
        }
        yield {name: _finish(*client) for name, client in clients.items()}


@contextmanager
def echoing_peer() -> Generator[int]:
    """Coturn's own peer, which sends everything back; the block gets its port."""
    peer_port = _free_port()
    peer = subprocess.Popen(
        ["turnutils_peer", "-L", "127.0.0.1", "-p", str(peer_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield peer_port
    finally:
        peer.kill()
        peer.wait()


ALONE = 3
"""So often a client is asked again by itself: twenty at once on two cores give up on some, and the
allocations that they leave behind may be in the way of the next one (437) for their lifetime."""


def _has_all(output: str) -> bool:
    received = re.findall(r"tot_recv_msgs=(\d+)", output)
    return bool(received) and int(received[-1]) == 6


def _start(
    relay: TurnRelay, name: str, log_file: Path, peer_port: int
) -> tuple[subprocess.Popen[bytes], Path]:
    kind, by_ipv6, options = RUNS[name]
    host, port = relay.address(kind, ipv6=by_ipv6)
    command = ["turnutils_uclient", "-p", str(port), "-n", "3", "-m", "2", "-c", "-l", "170"]
    if not PEERLESS & set(options):
        command += ["-e", "127.0.0.1", "-r", str(peer_port)]
    with log_file.open("wb") as log:
        process = subprocess.Popen([*command, *options, host], stdout=log, stderr=log)
    return process, log_file


def _finish(process: subprocess.Popen[bytes], log_file: Path) -> str:
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return log_file.read_text(errors="replace")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.interop("coturn", "TURN", "{name}")
@pytest.mark.parametrize("name", RUNS)
def test_uclient_loses_nothing(
    relay: TurnRelay, outputs: Mapping[str, str], name: str, tmp_path: Path
) -> None:
    output = outputs[name]
    for attempt in range(ALONE):
        if _has_all(output):
            break
        with echoing_peer() as peer_port:
            output = _finish(*_start(relay, name, tmp_path / f"{attempt}.log", peer_port))
    received = re.findall(r"tot_recv_msgs=(\d+)", output)
    assert received, output[-2000:]
    assert int(received[-1]) == 6, output[-2000:]
    assert "Total lost packets 0 (0.000000%)" in output, output[-2000:]


@pytest.mark.needs_tool("turnutils_stunclient")
def test_stunclient_hears_its_address(relay: TurnRelay) -> None:
    host, port = relay.address("udp")
    done = _run("turnutils_stunclient", "-p", str(port), host)
    assert "UDP reflexive addr: 127.0.0.1:" in done


@pytest.mark.needs_tool("turnutils_natdiscovery")
def test_natdiscovery_finds_no_nat_with_two_addresses(tmp_path: Path) -> None:
    other = f'other_address = "127.0.0.2:{_free_port()}"\n'
    own = f'udp = ["127.0.0.1:{_free_port()}"]'
    with turn_relay(tmp_path, listen=own + STREAMS, more=other) as relay:
        host, port = relay.address("udp")
        mapping = _run("turnutils_natdiscovery", "-m", "-p", str(port), host)
        assert "NAT with Endpoint Independent Mapping!" in mapping
        filtering = _run("turnutils_natdiscovery", "-f", "-p", str(port), host)
        assert "NAT with Endpoint Independent Filtering!" in filtering
        everything = _run("turnutils_stunclient", "-p", str(port), host)
        assert "RFC 5780 response 3" in everything


def _run(*command: str) -> str:
    """Run a program of coturn; again where it chose a port that somebody else has."""
    for _ in range(3):
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        if "errno=98" not in done.stdout + done.stderr:
            break
    return done.stdout + done.stderr
