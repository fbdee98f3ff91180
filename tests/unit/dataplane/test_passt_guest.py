"""Owns the tests of one guest of passt; the test plays passt at the other end of the socket."""

import asyncio
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from masque_relay.dataplane import passt_guest
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_egress_settings import UserspaceSettings
from masque_relay.dataplane.passt_guest import PasstGuest

OURS = IPv4Address("10.89.0.2")
PACKET = struct.pack(">BBH", 0x45, 0, 100) + bytes(96)
FRAME = struct.pack(">I", 114) + bytes(12) + b"\x08\x00" + PACKET


class FakePasst:
    """A process that is only the other end of its socket."""

    def __init__(self, number: int) -> None:
        self.pid = 1_000 + number
        self.socket, self.other_end = socket.socketpair()
        self.socket.settimeout(0.0)
        self.other_end.settimeout(0.0)
        self.closed = False

    def close(self) -> str:
        self.closed = True
        self.socket.close()
        self.other_end.close()
        return "it hurt"


class World:
    """A guest, the processes that it has started, and what it has said."""

    def __init__(self, settings: UserspaceSettings | None = None) -> None:
        self.processes: list[FakePasst] = []
        self.packets: list[bytes] = []
        self.lost: list[str] = []
        self.busy = False
        self.failure: DeviceError | None = None
        self.settings = settings or UserspaceSettings()

    def start(self, settings: UserspaceSettings, addresses: object) -> FakePasst:
        del settings, addresses
        if self.failure is not None:
            raise self.failure
        self.processes.append(FakePasst(len(self.processes)))
        return self.processes[-1]

    def guest(self) -> PasstGuest:
        return PasstGuest(
            self.settings,
            [OURS],
            on_packets=self.packets.extend,
            is_busy=lambda: self.busy,
            on_lost=self.lost.append,
        )

    @property
    def passt(self) -> FakePasst:
        return self.processes[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(passt_guest, "PasstProcess", made.start)
    return made


async def until(check: Callable[[], object]) -> None:
    for _ in range(5_000):
        if check():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not happen")


async def test_packets_go_in_and_come_out_as_frames(world: World) -> None:
    guest = world.guest()
    assert guest.send_packets([PACKET, PACKET]) == 2
    assert len(world.passt.other_end.recv(65_536)) == 2 * len(FRAME)
    world.passt.other_end.send(FRAME * 3)
    await until(lambda: world.packets)
    assert world.packets == [PACKET] * 3
    assert guest.heard
    guest.close()


async def test_a_frame_that_went_in_part_is_finished_before_anything_else(world: World) -> None:
    guest = world.guest()
    burst = [PACKET] * 64
    taken = 0
    while (sent := guest.send_packets(burst)) == len(burst):
        taken += sent
    assert sent == 0, "what finds no room is dropped whole"
    received = b""
    for _ in range(10_000):
        try:
            received += world.passt.other_end.recv(65_536)
        except BlockingIOError:
            if len(received) % 118 == 0 and len(received) >= taken * 118:
                break
        await asyncio.sleep(0)
    assert len(received) % 118 == 0, "the framing is whole"
    assert guest.send_packets([PACKET]) == 1
    guest.close()


async def test_a_question_for_our_address_is_answered(world: World) -> None:
    guest = world.guest()
    question = bytes.fromhex("0001080006040001") + bytes(6) + bytes(4) + bytes(6) + OURS.packed
    frame = bytes(12) + b"\x08\x06" + question
    world.passt.other_end.send(struct.pack(">I", len(frame)) + frame)
    await until(lambda: guest.heard)
    assert world.passt.other_end.recv(100)[18:26] == bytes.fromhex("0001080006040002")
    guest.close()


async def test_a_busy_tunnel_lets_passt_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passt_guest, "PAUSE_S", 3_600.0)
    guest = world.guest()
    world.busy = True
    world.passt.other_end.send(FRAME)
    await until(lambda: len(world.packets) == 1)
    world.passt.other_end.send(FRAME)
    await asyncio.sleep(0.01)
    assert len(world.packets) == 1
    world.busy = False
    guest._go_on()
    await until(lambda: len(world.packets) == 2)
    guest.close()


async def test_a_guest_closed_while_passt_waits_reads_no_more(world: World) -> None:
    guest = world.guest()
    world.busy = True
    world.passt.other_end.send(FRAME)
    await until(lambda: len(world.packets) == 1)
    guest.close()
    await asyncio.sleep(0.01)
    assert len(world.packets) == 1


async def test_a_process_that_dies_is_started_again(world: World) -> None:
    guest = world.guest()
    first = world.passt
    first.other_end.close()
    await until(lambda: len(world.processes) == 2)
    assert first.closed
    assert guest.pid == 1_001
    assert guest.send_packets([PACKET]) == 1
    guest.close()
    assert guest.pid is None
    assert world.lost == []


async def test_lost_framing_counts_as_death(world: World) -> None:
    guest = world.guest()
    world.passt.other_end.send(b"\xff" * 100)
    await until(lambda: len(world.processes) == 2)
    guest.close()


async def test_one_that_dies_again_and_again_is_given_up(world: World) -> None:
    world.settings = UserspaceSettings(restarts=2)
    guest = world.guest()
    for count in (1, 2, 3):
        assert len(world.processes) == count
        world.passt.other_end.close()
        await until(lambda expected=count: len(world.processes) > expected or world.lost)
    assert world.lost == ["passt dies again and again: it hurt"]
    assert guest.send_packets([PACKET]) == 0
    assert guest.pid is None


async def test_one_that_cannot_be_started_again_is_given_up(world: World) -> None:
    world.guest()
    world.failure = DeviceError("no such program")
    world.passt.other_end.close()
    await until(lambda: world.lost)
    assert world.lost == ["no such program"]


async def test_closing_ends_the_process_and_may_be_repeated(world: World) -> None:
    guest = world.guest()
    guest.close()
    guest.close()
    assert world.passt.closed
    assert guest.send_packets([PACKET]) == 0
    assert world.lost == []
