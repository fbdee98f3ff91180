"""pion/turn, the client of many WebRTC programs in Go, against our TURN."""

import shutil
import socket
import subprocess
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.turn_relay import PASSWORD, USER, TurnRelay

SOURCE = Path(__file__).parents[3] / "interop" / "peers" / "pion-turn"
BUILD_DEADLINE_S = 240.0
DEADLINE_S = 60.0
pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("pion") / "pion-turn"
    done = subprocess.run(
        [shutil.which("go") or "go", "build", "-o", str(program), "."],
        cwd=SOURCE,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_DEADLINE_S,
    )
    if done.returncode != 0:
        pytest.skip(f"pion-turn does not build here: {done.stderr[-300:]}")
    return program


@pytest.fixture(scope="module")
def echo_port() -> Generator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
        echo.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, source = echo.recvfrom(2048)
                if data == b"end":
                    return
                echo.sendto(data, source)

        thread = threading.Thread(target=serve)
        thread.start()
        port: int = echo.getsockname()[1]
        yield port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ender:
            ender.sendto(b"end", ("127.0.0.1", port))
        thread.join()


def run(pion: Path, turn: TurnRelay, kind: str, port: int, *who: str) -> str:
    host, server_port = turn.address(kind)
    command = [str(pion), "-server", f"{host}:{server_port}", "-transport", kind]
    command += ["-peer", f"127.0.0.1:{port}", "-ca", str(turn.relay.ca_file), *who]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    return done.stdout + done.stderr


@pytest.mark.interop("pion", "TURN", "{kind}")
@pytest.mark.parametrize("kind", ["udp", "tcp", "tls"])
def test_pion_reaches_a_peer(pion: Path, turn: TurnRelay, echo_port: int, kind: str) -> None:
    made = turn.credentials()
    by_secret = ("-user", made.username, "-password", made.password)
    for who in (by_secret, ("-user", USER, "-password", PASSWORD)):
        assert "received 20" in run(pion, turn, kind, echo_port, *who)


def test_pion_is_refused_with_a_wrong_password(pion: Path, turn: TurnRelay, echo_port: int) -> None:
    output = run(pion, turn, "udp", echo_port, "-user", USER, "-password", "wrong")
    assert "received" not in output
    assert "401" in output or "Unauthenticated" in output, output
