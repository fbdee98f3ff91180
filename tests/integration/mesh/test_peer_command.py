"""`ghostctl peer` as people use it: two machines' commands at a real relay."""

import http.server
import json
import os
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.commands import WAIT_S, way_to
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, start_process
from tests.support.udp_echo import run_udp_echo


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with managed_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running


def peer(command: str, relay: ManagedRelay, key: Path, *more: str) -> list[str]:
    return [*GHOSTCTL, "peer", command, *way_to(relay), "--key", str(key), *more]


def run(command: list[str], stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=stdin, capture_output=True, timeout=WAIT_S, check=False)


@contextmanager
def listening(relay: ManagedRelay, directory: Path, *exposed: str) -> Generator[tuple[str, Path]]:
    """Run `ghostctl peer listen`; the block gets the peer id and the log."""
    ready, log = directory / "listen.json", directory / "listen.log"
    command = peer("listen", relay, directory / "b.pem", "--json", "--ready-file", str(ready))
    with start_process(
        [*command, *exposed],
        log=log,
        ready=lambda: json.loads(ready.read_text()) if ready.exists() else None,
    ) as (_, told):
        yield told["peer_id"], log


@contextmanager
def web_site(body: bytes) -> Generator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_id_is_made_once_and_kept(tmp_path: Path) -> None:
    key = tmp_path / "deep" / "peer.pem"
    command = [*GHOSTCTL, "peer", "id", "--key", str(key), "--json"]
    first, second = run(command), run(command)

    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == json.loads(second.stdout)
    assert len(json.loads(first.stdout)["peer_id"]) == 52
    assert key.stat().st_mode & 0o077 == 0


def test_key_that_others_can_read_is_refused_with_the_next_step(tmp_path: Path) -> None:
    key = tmp_path / "peer.pem"
    run([*GHOSTCTL, "peer", "id", "--key", str(key)])
    key.chmod(0o644)
    refused = run([*GHOSTCTL, "peer", "id", "--key", str(key)])

    assert refused.returncode != 0
    assert b"chmod 600" in refused.stderr


def test_ping_send_connect_and_forward_reach_the_listener(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    inbox, photo = tmp_path / "inbox", tmp_path / "photo.bin"
    photo.write_bytes(os.urandom(700_000))
    page = os.urandom(50_000)
    with web_site(page) as port, run_udp_echo() as echo:
        offers = [f"web=127.0.0.1:{port}", f"echo=udp:127.0.0.1:{echo.port}"]
        with listening(relay, tmp_path, *offers, "--inbox", str(inbox)) as (other, _):
            mine = tmp_path / "a.pem"
            pinged = run(peer("ping", relay, mine, "--count", "2", "--json", other))
            assert pinged.returncode == 0, pinged.stderr
            events = [json.loads(line) for line in pinged.stdout.splitlines()]
            assert [event["event"] for event in events] == ["session", "ping", "ping"]
            assert all(event["rtt_ms"] > 0 for event in events[1:])

            sent = run(peer("send", relay, mine, other, str(photo)))
            assert sent.returncode == 0, sent.stderr
            assert (inbox / "photo.bin").read_bytes() == photo.read_bytes()
            again = run(peer("send", relay, mine, other, str(photo)))
            assert again.returncode == 0, again.stderr
            assert (inbox / "photo-1.bin").exists(), "nothing is overwritten"
            assert not list(inbox.glob("*.part"))

            request = b"GET / HTTP/1.0\r\n\r\n"
            connected = run(peer("connect", relay, mine, other, "web"), stdin=request)
            assert connected.stdout.endswith(page)

            nobody = run(peer("connect", relay, mine, other, "nothing"), stdin=b"x")
            assert nobody.returncode != 0
            assert b"no such service" in nobody.stderr

            with forwarding(relay, tmp_path, other, "127.0.0.1:0=web") as local:
                assert fetch(local) == page
            with forwarding(relay, tmp_path, other, "127.0.0.1:0=echo", "--udp") as local:
                assert ask_udp(local, b"hello").endswith(b"hello")


def fetch(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=WAIT_S) as got:
        data: bytes = got.read()
        return data


def ask_udp(port: int, payload: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(WAIT_S)
        asking.sendto(payload, ("127.0.0.1", port))
        return asking.recv(65_535)


@contextmanager
def forwarding(
    relay: ManagedRelay, directory: Path, other: str, forward: str, *more: str
) -> Generator[int]:
    ready = directory / f"forward{len(more)}.json"
    command = peer("forward", relay, directory / "a.pem", "--ready-file", str(ready), *more)
    with start_process(
        [*command, other, forward],
        log=directory / "forward.log",
        ready=lambda: json.loads(ready.read_text()) if ready.exists() else None,
    ) as (_, told):
        yield int(told["forwards"][0]["listen"].rpartition(":")[2])


def test_peer_that_nobody_knows_and_text_that_is_none(relay: ManagedRelay, tmp_path: Path) -> None:
    bad = run(peer("ping", relay, tmp_path / "a.pem", "not-a-peer"))
    assert bad.returncode == 2
    assert b"ghostctl peer id" in bad.stderr


def test_stranger_hears_that_the_relay_does_not_let_it_in(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("nonsense")
    way = ["--relay", relay.url, "--ca", str(relay.ca_file), "--token-file", str(token)]
    for carrier in ("h3", "quic", "websocket"):
        command = [*GHOSTCTL, "peer", "ping", *way, "--way", carrier, "--key"]
        refused = run([*command, str(tmp_path / "a.pem"), "a" * 52])
        assert refused.returncode == 3, (carrier, refused.stderr)


def test_pipe_copies_both_ways(relay: ManagedRelay, tmp_path: Path) -> None:
    waiting = subprocess.Popen(
        peer("pipe", relay, tmp_path / "b.pem"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert waiting.stderr is not None
    other = ""
    while "waiting as" not in other:
        other = waiting.stderr.readline().decode()
    data = os.urandom(100_000)
    piped = run(peer("pipe", relay, tmp_path / "a.pem", other.split()[-1]), stdin=data)
    output, _ = waiting.communicate(timeout=WAIT_S)

    assert piped.returncode == 0, piped.stderr
    assert output == data
