"""Tailscale's own DERP client against our relay: fast start, Upgrade, WebSocket."""

import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.derp_relay import MESH_KEY, DerpRelay, derp_relay
from tests.support.go_programs import build_go_program

DEADLINE_S = 60.0
WAYS = ["fast-start", "upgrade", "websocket"]
pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def program() -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOFLAGS", "-tags=ts_debug_websockets")
        return build_go_program("derphttp", "./client")


@pytest.fixture(scope="module")
def derp(tmp_path_factory: pytest.TempPathFactory) -> Generator[DerpRelay]:
    with derp_relay(tmp_path_factory.mktemp("derp")) as relay:
        yield relay


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Generator[DerpRelay]:
    with derp_relay(tmp_path_factory.mktemp("plain"), config="fast_start = false") as relay:
        yield relay


def command(program: Path, derp: DerpRelay, trial: str, *names: str) -> list[str]:
    keys, ca = derp.key_files(*names), str(derp.relay.ca_file)
    return [str(program), "-url", derp.url, "-ca", ca, "-keys", keys, "-mesh", MESH_KEY, trial]


def run(program: Path, derp: DerpRelay, trial: str, *names: str, way: str = "fast-start") -> str:
    environment = {**os.environ}
    if way == "websocket":
        # Its WebSocket library trusts what the system trusts.
        environment |= {
            "TS_DEBUG_DERP_WS_CLIENT": "1",
            "SSL_CERT_FILE": str(derp.relay.ca_file),
        }
    done = subprocess.run(
        command(program, derp, trial, *names),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
        env=environment,
    )
    assert done.returncode == 0, done.stderr + derp.relay.log()[-2_000:]
    return done.stdout


@pytest.mark.interop("derphttp", "DERP", "{way}")
@pytest.mark.parametrize("way", WAYS)
def test_two_clients_exchange_packets_and_pings(
    program: Path, derp: DerpRelay, plain: DerpRelay, way: str
) -> None:
    relay = plain if way == "upgrade" else derp
    output = run(program, relay, "exchange", "alice", "bob", way=way)
    with relay.relay.admin() as admin:
        status = admin.status()["derp"]
    assert isinstance(status, dict)
    assert status["public_key"] in output


@pytest.mark.parametrize("way", WAYS)
def test_a_client_hears_who_has_gone_and_who_was_never_there(
    program: Path, derp: DerpRelay, plain: DerpRelay, way: str
) -> None:
    relay = plain if way == "upgrade" else derp
    assert "gone and not here" in run(program, relay, "gone", "alice", "bob", way=way)


def test_a_holder_of_the_mesh_key_watches_forwards_and_closes(
    program: Path, derp: DerpRelay
) -> None:
    assert "watched" in run(program, derp, "watch", "alice", "bob", "mesh")
    assert "closed" in run(program, derp, "close", "alice", "bob", "mesh")


def test_a_key_that_is_not_listed_hears_why(program: Path, derp: DerpRelay) -> None:
    assert "does not admit" in run(program, derp, "refused", "mallory")
    record = next(
        line
        for line in (derp.relay.state.directory / "audit.jsonl").read_text().splitlines()
        if '"derp"' in line and "not listed" in line
    )
    assert "credential_invalid" in record


def test_a_client_hears_that_the_relay_restarts(program: Path, tmp_path: Path) -> None:
    with (
        derp_relay(tmp_path) as derp,
        subprocess.Popen(
            command(program, derp, "restart", "alice"), stdout=subprocess.PIPE, text=True
        ) as client,
    ):
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        derp.relay.process.send_signal(signal.SIGTERM)
        assert client.stdout.readline().startswith("restarting")
        client.wait(DEADLINE_S)
