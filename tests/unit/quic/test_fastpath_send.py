"""Which packets are built fast, and what holds them back."""

import random

import pytest
from aioquic.tls import Epoch

from masque_relay.quic.hardened import HardenedQuicConnection
from masque_relay.quic.limits import FastPath
from tests.support.quic_worlds import World, differences, engine
from tests.unit.quic.test_fastpath_equivalence import GOOD, Forger, Trace

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def world() -> World:
    return World(FastPath.ON, 1)


def flush(world: World) -> tuple[list[bytes], int, int]:
    """Return what the server sends, and how many packets were fast and slow."""
    counters = world.pair.server_counters
    counters.packets_sent_fast = counters.packets_sent_slow = 0
    groups = world.pair.server.packets_to_send(world.pair.now)
    packets = [packet for group, _ in groups for packet in group]
    return packets, counters.packets_sent_fast, counters.packets_sent_slow


def test_a_burst_leaves_in_packets_of_one_size(world: World) -> None:
    world.pair.now += 1
    world.pair.server.send_datagrams(b"\x00", [bytes(1_200)] * 5)
    packets, fast, slow = flush(world)
    assert (fast, slow) == (5, 0)
    assert {len(packet) for packet in packets} == {1 + 8 + 2 + 3 + 1_201 + 16}


def test_small_datagrams_share_a_packet(world: World) -> None:
    world.pair.now += 1
    world.pair.server.send_datagrams(b"\x00", [bytes(60)] * 40)
    packets, fast, _ = flush(world)
    assert fast == len(packets) == 2
    assert len(packets[0]) <= world.pair.server.path_mtu_bytes


def test_the_congestion_window_holds_a_burst_back(world: World) -> None:
    world.pair.now += 1
    recovery = engine(world.pair.server)._loss
    recovery._cc.congestion_window = 5_000
    world.pair.server.send_datagrams(b"\x00", [bytes(1_200)] * 9)
    assert flush(world)[1] == 4
    assert 0 < recovery.bytes_in_flight <= 5_000
    assert len(engine(world.pair.server)._datagrams_pending) == 5
    assert flush(world)[1] == 0


def test_the_pacer_holds_a_burst_back_and_names_the_time(world: World) -> None:
    server = engine(world.pair.server)
    pacer = server._loss._pacer
    server._loss._cc.congestion_window = 100_000
    pacer.update_rate(congestion_window=12_000, smoothed_rtt=0.1)
    world.pair.now += 1
    world.pair.server.send_datagrams(b"\x00", [bytes(1_200)] * 9)
    sent = flush(world)[1]
    assert 0 < sent < 9
    timer_at = world.pair.server.next_timer()
    assert pacer.packet_time is not None
    assert timer_at == world.pair.now + pacer.packet_time
    world.pair.now = timer_at
    world.pair.server.handle_timer(world.pair.now)
    assert flush(world)[1] == 1


def test_an_acknowledgement_alone_is_a_small_fast_packet(world: World) -> None:
    forger = Forger(world)
    forger.deliver(forger.packet(GOOD))
    assert flush(world)[0] == []
    timer_at = world.pair.server.next_timer()
    assert timer_at == pytest.approx(world.pair.now + 0.005)
    world.pair.now = timer_at + 0.0001
    world.pair.server.handle_timer(world.pair.now)
    packets, fast, slow = flush(world)
    assert (len(packets), fast, slow) == (1, 1, 0)
    assert len(packets[0]) < 40
    space = engine(world.pair.server)._spaces[Epoch.ONE_RTT]
    assert space.ack_at is None
    assert space.ack_eliciting_in_flight == 0


def test_an_acknowledgement_travels_with_datagrams(world: World) -> None:
    forger = Forger(world)
    forger.deliver(*[forger.packet(GOOD) for _ in range(12)])
    world.pair.now += 0.001
    world.pair.server.send_datagrams(b"\x00", [b"answer"])
    packets, fast, slow = flush(world)
    assert (len(packets), fast, slow) == (1, 1, 0)
    assert engine(world.pair.server)._spaces[Epoch.ONE_RTT].ack_at is None


@pytest.mark.parametrize("what", ["ping", "stream", "key update", "new connection ID"])
def test_what_else_wants_to_be_sent_is_sent_by_aioquic(world: World, what: str) -> None:
    server = engine(world.pair.server)
    if what == "ping":
        world.pair.server.send_ping()
    elif what == "stream":
        world.pair.server.send_stream_data(1, b"hello", end_stream=False)
    elif what == "key update":
        server.request_key_update()
    else:
        server._host_cids[-1].was_sent = False
        server._is_stirred = True  # as by the loss or the packet that brings it about
    world.pair.now += 1
    world.pair.server.send_datagrams(b"\x00", [b"datagram"])
    packets, fast, slow = flush(world)
    assert (fast, slow) == (0, len(packets))
    assert packets


@pytest.mark.parametrize("seed", range(5))
def test_the_timer_is_the_one_that_aioquic_would_name(seed: int) -> None:
    world = World(FastPath.ON, seed)
    trace = Trace(world, seed, 80, loss=0.1, mischief=True)
    asked = 0
    for number in range(80):
        trace.step(number)
        for end in world.ends:
            connection = end._connection
            ours = connection.get_timer()
            loss_at = engine(end)._loss_at
            theirs = HardenedQuicConnection.get_timer(connection)
            assert (ours, loss_at) == (theirs, engine(end)._loss_at)
            asked += ours is not None
    assert asked > 100


def test_two_worlds_differ_as_soon_as_one_packet_does() -> None:
    worlds = [World(mode, 7) for mode in (FastPath.ON, FastPath.OFF)]
    assert differences(*worlds) == []
    worlds[0].pair.server.send_datagrams(b"\x00", [random.Random(1).randbytes(40)])
    worlds[1].pair.server.send_datagrams(b"\x00", [random.Random(2).randbytes(40)])
    for world in worlds:
        world.turn(0.01)
    assert any(line.startswith("packets") for line in differences(*worlds))
