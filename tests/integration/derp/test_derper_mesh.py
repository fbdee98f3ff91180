"""A server of derper's own parts and our relay in one region: each dials the other."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fallbacks.derp.wire import FrameType
from tests.support.derp_region import WAIT_S, DerpRegion, mesh_status, until_status
from tests.support.derp_relay import MESH_KEY
from tests.support.derp_socket import DerpSocket
from tests.support.go_programs import build_go_program
from tests.support.managed_relay import ManagedRelay
from tests.support.processes import start_process, wait_until

pytestmark = [pytest.mark.needs_tool("go"), pytest.mark.timeout(400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Derper:
    """The other server of the region, ``b``."""

    log_file: Path

    def says(self, line: str) -> None:
        """Wait until it has said this of its connection to our relay."""

        def said() -> bool | None:
            return line in self.log_file.read_text().splitlines() or None

        wait_until(said, deadline_s=WAIT_S, what=line)


@pytest.fixture(scope="module")
def program() -> Path:
    return build_go_program("derphttp", "./server")


@contextmanager
def derper(program: Path, region: DerpRegion, *, mesh_key: str = MESH_KEY) -> Generator[Derper]:
    """Run the server; it dials ``a``."""
    home = region.directory / "b"
    node, log_file = home / "node.key", home / "derper.log"
    node.write_text(f"privkey:{bytes(region.keys['server-b']).hex()}\n")
    certificate, key = home / "state" / "cert.pem", home / "state" / "key.pem"
    address = f"127.0.0.1:{region.ports['b']}"
    command = [str(program), "-listen", address, "-cert", str(certificate), "-key", str(key)]
    command += ["-node", str(node), "-mesh", mesh_key]
    command += ["-with", region.urls["a"], "-ca", str(region.ca_file)]

    def listens() -> bool | None:
        return region.urls["b"] in log_file.read_text() or None

    with start_process(command, log=log_file, ready=listens):
        yield Derper(log_file=log_file)


def exchange(one: DerpSocket, other: DerpSocket) -> None:
    """Let two clients send each other packets and see them arrive."""
    for packet in (b"hello", bytes(65_536)):
        for sender, receiver in ((one, other), (other, one)):
            sender.send(FrameType.SEND_PACKET, receiver.public + packet)
            assert receiver.expect(FrameType.RECV_PACKET) == sender.public + packet


def meet(region: DerpRegion, a: ManagedRelay, b: Derper) -> None:
    """Let a client of each server come in, see both servers know of it, and exchange packets."""
    with region.client("alice", "a") as alice, region.client("bob", "b") as bob:
        until_status(a, region.urls["b"], state="connected", clients=1)
        b.says(f"present {alice.public.hex()}")
        exchange(alice, bob)


@pytest.mark.interop("derper", "DERP mesh", "{direction}")
@pytest.mark.parametrize("direction", ["we-dial", "it-dials"])
def test_packets_reach_clients_of_the_other_server(
    program: Path, tmp_path: Path, direction: str
) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with (
        region.relay("a") as a,
        derper(program, region) as b,
        region.client("alice", "a") as alice,
        region.client("bob", "b") as bob,
    ):
        until_status(a, region.urls["b"], state="connected", clients=1)
        b.says(f"present {alice.public.hex()}")
        sender, receiver = (alice, bob) if direction == "we-dial" else (bob, alice)
        for packet in (b"", b"hello", bytes(65_536)):
            sender.send(FrameType.SEND_PACKET, receiver.public + packet)
            assert receiver.expect(FrameType.RECV_PACKET) == sender.public + packet


def test_each_hears_of_the_others_clients_that_have_gone(program: Path, tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("a") as a, derper(program, region) as b:
        with region.client("alice", "a") as alice:
            with region.client("bob", "b") as bob:
                until_status(a, region.urls["b"], state="connected", clients=1)
                b.says(f"present {alice.public.hex()}")
                exchange(alice, bob)
            assert alice.expect(FrameType.PEER_GONE) == bob.public + b"\x00"
        b.says(f"gone {alice.public.hex()}")


def test_traffic_recovers_when_either_server_was_restarted(program: Path, tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("a") as a:
        for _ in range(2):
            with derper(program, region) as b:
                meet(region, a, b)
            until_status(a, region.urls["b"], state="away")


def test_derper_refuses_a_wrong_mesh_key_in_its_own_way(program: Path, tmp_path: Path) -> None:
    region = DerpRegion(tmp_path, "a", "b")
    with region.relay("a") as a, derper(program, region, mesh_key="5e" * 32):

        def refused() -> str | None:
            entry = next(e for e in mesh_status(a) if e["server"] == region.urls["b"])
            return entry["error"] if entry.get("error") in ended else None

        # It lets everybody in, and closes the connection of whoever then wants to watch.
        ended = {"the other server closed the connection", "the connection was lost"}
        wait_until(refused, deadline_s=WAIT_S, what="a refusal")
        assert a.metrics()["ghostwire_relay_derp_mesh_clients"] == 0
