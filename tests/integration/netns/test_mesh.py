"""Two peers behind NATs, real programs between them, and a network that changes under them."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.impairment import Impairment
from tests.support.mesh_lab import WAIT_S, Lab, Nat, PeerCommand, mesh_lab
from tests.support.mesh_traffic import (
    CHAT_PORT,
    WEB_PORT,
    Conversation,
    downloading,
    talking,
    tcp_echo,
    web_site,
)
from tests.support.processes import TIMESCALE, wait_until
from tests.support.vpn_rig import iperf, iperf_server

IPERF_PORT = 5201
TCP_WAYS = ("h2", "h1", "websocket", "https")
UDP_WAYS = ("h3", "quic")
FILE_BYTES = 3_000_000

pytestmark = pytest.mark.timeout(180 * TIMESCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A lab whose Bob offers a web site, an echo and iperf3, to which Alice has local ports."""

    lab: Lab
    directory: Path
    sha256: str
    bob: PeerCommand
    alice: PeerCommand

    @property
    def web(self) -> str:
        return str(self.alice.told["forwards"][0]["listen"])

    @property
    def chat(self) -> str:
        return str(self.alice.told["forwards"][1]["listen"])

    @property
    def iperf_port(self) -> str:
        return str(self.alice.told["forwards"][2]["listen"]).rpartition(":")[2]

    def fetch(self) -> None:
        """Fetch the file; not a byte of it may be lost."""
        with downloading(
            self.lab.alice.machine, self.web, self.directory, bytes_per_s=100_000_000
        ) as download:
            assert download.finish() == self.sha256


@contextmanager
def stage(
    directory: Path,
    *,
    nats: tuple[Nat, Nat] = (Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED),
    impairment: Impairment | None = None,
    blocks_udp: bool = False,
    file_bytes: int = FILE_BYTES,
) -> Generator[Stage]:
    with ExitStack() as stack:
        lab = stack.enter_context(mesh_lab(directory, nats=nats, impairment=impairment))
        if blocks_udp:
            lab.alice.block_udp()
        machine = lab.bob.machine
        sha256 = stack.enter_context(web_site(machine, directory / "web", size_bytes=file_bytes))
        stack.enter_context(tcp_echo(machine))
        stack.enter_context(iperf_server(machine, directory))
        ports = {"web": WEB_PORT, "chat": CHAT_PORT, "iperf": IPERF_PORT}
        bob = lab.listen(*(f"{name}=127.0.0.1:{port}" for name, port in ports.items()))
        alice = lab.forward(bob.told["peer_id"], [f"127.0.0.1:0={name}" for name in ports])
        yield Stage(lab=lab, directory=directory, sha256=sha256, bob=bob, alice=alice)


@pytest.mark.parametrize(
    "nats",
    [
        (Nat.ADDRESS_RESTRICTED, Nat.ADDRESS_RESTRICTED),
        (Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED),
        (Nat.FULL_CONE, Nat.SYMMETRIC),
    ],
    ids=" and ".join,
)
def test_peers_behind_nats_that_open_go_past_the_relay(
    tmp_path: Path, nats: tuple[Nat, Nat]
) -> None:
    with stage(tmp_path, nats=nats) as there:
        there.fetch()
        there.alice.wait_direct()
        there.lab.stop_relay(gently=False)
        there.fetch()


def test_peers_behind_symmetric_nats_stay_at_the_relay(tmp_path: Path) -> None:
    with stage(tmp_path, nats=(Nat.SYMMETRIC, Nat.SYMMETRIC)) as there:
        there.fetch()
        with talking(there.lab.alice.machine, there.chat) as conversation:
            until_lines(conversation, 40)
        assert conversation.trouble is None
        assert not there.alice.events("path")


def until_lines(conversation: Conversation, more: int) -> None:
    """Wait until so many more lines were echoed."""
    goal = conversation.line_count + more
    wait_until(
        lambda: conversation.line_count >= goal or conversation.trouble,
        deadline_s=2 * WAIT_S,
        what=f"{more} more lines",
    )
    assert conversation.trouble is None


def test_nothing_is_lost_when_udp_is_blocked_in_mid_transfer(tmp_path: Path) -> None:
    # The way back up takes longer: `make demo-mesh` shows it.
    with stage(tmp_path) as there:
        machine = there.lab.alice.machine
        # On a busy machine the first race may go to another; it moves up by itself.
        there.alice.wait_for_way(*UDP_WAYS)
        with talking(machine, there.chat) as conversation:
            there.alice.wait_direct()
            until_lines(conversation, 5)
            # Begun only now: however long that took, the transfer is in its middle.
            with downloading(machine, there.web, tmp_path, bytes_per_s=300_000) as download:
                until_lines(conversation, 2)
                download.assert_running()
                there.lab.alice.block_udp()
                there.alice.wait_direct(is_direct=False)
                there.alice.wait_for_way(*TCP_WAYS)
                until_lines(conversation, 5)
                assert download.finish() == there.sha256
        assert conversation.trouble is None


def test_network_without_udp_carries_iperf3(tmp_path: Path) -> None:
    with stage(tmp_path, blocks_udp=True) as there:
        assert there.alice.way in TCP_WAYS
        for direction in ((), ("--reverse",)):
            end = iperf(
                there.lab.alice.machine,
                "127.0.0.1", "--port", there.iperf_port, "--time", "2", *direction,
            )  # fmt: skip
            received = end["sum_received"]
            assert isinstance(received, dict)
            assert received["bytes"] > 1_000_000
        assert there.alice.way in TCP_WAYS


def test_path_of_1280_bytes_carries_everything(tmp_path: Path) -> None:
    # Our QUIC begins with UDP payloads of 1,280 bytes, which this path does not take: TCP does.
    impairment = Impairment(mtu_bytes=1280)
    nats = (Nat.SYMMETRIC, Nat.SYMMETRIC)
    with stage(tmp_path, nats=nats, impairment=impairment) as there:
        assert there.alice.way in TCP_WAYS
        there.fetch()
        assert there.lab.path is not None
        assert there.lab.path.backward.counts.largest_bytes == 1280


def test_loss_and_delay_lose_nothing(tmp_path: Path) -> None:
    impairment = Impairment(loss=0.05, delay_s=0.1)
    nats = (Nat.SYMMETRIC, Nat.SYMMETRIC)
    with stage(tmp_path, nats=nats, impairment=impairment, file_bytes=100_000) as there:
        there.fetch()
        with talking(there.lab.alice.machine, there.chat) as conversation:
            until_lines(conversation, 5)
        assert conversation.trouble is None
        assert there.lab.path is not None
        assert there.lab.path.forward.counts.lost > 0


def test_nothing_is_lost_when_the_relay_restarts_and_the_address_changes(tmp_path: Path) -> None:
    with stage(tmp_path, nats=(Nat.SYMMETRIC, Nat.SYMMETRIC)) as there:
        machine = there.lab.alice.machine
        with (
            talking(machine, there.chat) as conversation,
            downloading(machine, there.web, tmp_path, bytes_per_s=200_000) as download,
        ):
            until_lines(conversation, 5)
            download.assert_running()
            there.lab.stop_relay(gently=True)
            there.lab.start_relay()
            until_lines(conversation, 5)
            there.lab.stop_relay(gently=False)
            there.lab.start_relay()
            until_lines(conversation, 5)
            there.lab.alice.move("198.51.100.77")
            until_lines(conversation, 5)
            assert download.finish() == there.sha256
        assert conversation.trouble is None
