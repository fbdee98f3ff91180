"""Which packets are received fast, and which are left to aioquic."""

import pytest

from masque_relay.quic.limits import FastPath
from tests.support.quic_pair import SERVER, RecordingApplication
from tests.support.quic_worlds import World, engine
from tests.unit.quic.test_fastpath_equivalence import GOOD, Forger

pytestmark = pytest.mark.usefixtures("implementation")


@pytest.fixture
def world() -> World:
    return World(FastPath.ON, 1)


def received(world: World) -> tuple[list[bytes], int, int]:
    """Return the datagrams that the server saw, and how many packets were fast and slow."""
    counters = world.pair.server_counters
    application = world.pair.server_app
    assert isinstance(application, RecordingApplication)
    answer = application.datagrams, counters.packets_received_fast, counters.packets_received_slow
    counters.packets_received_fast = counters.packets_received_slow = 0
    application.datagrams = []
    return answer


def test_a_batch_of_datagrams_reaches_the_application_in_one_call(world: World) -> None:
    received(world)
    application = world.pair.server_app
    assert isinstance(application, RecordingApplication)
    application.calls.clear()
    forger = Forger(world)
    forger.deliver(*[forger.packet(b"\x31\x01" + bytes([n])) for n in range(50)])
    assert received(world) == ([bytes([n]) for n in range(50)], 50, 0)
    assert application.calls == [("datagrams", 50)]


@pytest.mark.parametrize(
    "plain",
    [GOOD, GOOD * 3, GOOD + bytes(1_200), b"\x01" + GOOD, b"\x30hello", b"\x01" + bytes(1_400)],
    ids=["one", "three", "padded", "with PING", "to the end", "path MTU probe"],
)
def test_packets_of_datagrams_ping_and_padding_are_fast(world: World, plain: bytes) -> None:
    received(world)
    forger = Forger(world)
    forger.deliver(forger.packet(plain))
    assert received(world)[1:] == (1, 0)


@pytest.mark.parametrize(
    "plain",
    [b"\x08\x00hello", GOOD + b"\x10\x44\x00", b"\x40\x31\x05hello", b"\x31\x06hello"],
    ids=["stream", "datagram and MAX_DATA", "long frame type", "cut"],
)
def test_everything_else_is_slow(world: World, plain: bytes) -> None:
    received(world)
    forger = Forger(world)
    forger.deliver(forger.packet(plain))
    counters = world.pair.server_counters
    assert (counters.packets_received_fast, counters.packets_received_slow) == (0, 1)


def test_packets_around_a_slow_one_stay_in_order_and_fast(world: World) -> None:
    received(world)
    forger = Forger(world)
    forger.deliver(
        *[forger.packet(b"\x31\x01a") for _ in range(3)],
        forger.packet(b"\x10\x44\x00" + b"\x31\x01b"),
        *[forger.packet(b"\x31\x01c") for _ in range(3)],
    )
    assert received(world) == ([b"a"] * 3 + [b"b"] + [b"c"] * 3, 6, 1)


def test_a_replayed_packet_is_dropped(world: World) -> None:
    received(world)
    forger = Forger(world)
    packet, other = forger.packet(GOOD), forger.packet(GOOD)
    forger.deliver(packet, packet, other, packet)
    forger.deliver(other)
    assert received(world) == ([b"hello"] * 2, 5, 0)


def test_a_packet_too_short_to_sample_spoils_nothing(world: World) -> None:
    received(world)
    forger = Forger(world)
    good = [forger.packet(GOOD) for _ in range(3)]
    forger.deliver(good[0], good[1][:15], good[1], good[2])
    assert received(world)[0] == [b"hello"] * 3


def test_another_source_address_is_not_fast_until_it_is_validated(world: World) -> None:
    received(world)
    pair = world.pair
    forger = Forger(world)
    packet = forger.packet(GOOD)
    pair.client_address = (pair.client_address[0], 9)
    forger.deliver(packet)
    assert received(world) == ([b"hello"], 0, 1)
    for _ in range(5):
        world.turn(0.01)
    received(world)
    forger.deliver(forger.packet(GOOD))
    assert received(world) == ([b"hello"], 1, 0)


def test_nothing_is_fast_before_the_handshake_is_confirmed(world: World) -> None:
    received(world)
    forger = Forger(world)
    engine(world.pair.server)._handshake_confirmed = False
    forger.deliver(forger.packet(GOOD))
    assert received(world) == ([b"hello"], 0, 1)


def test_a_client_whom_the_server_calls_by_another_id_stays_fast(world: World) -> None:
    pair = world.pair
    counters = pair.client_counters
    engine(pair.server).change_connection_id()
    world.turn(0.01)
    counters.packets_received_fast = counters.packets_received_slow = 0
    pair.server.send_datagrams(b"\x00", [bytes(1_000)] * 8)
    pair.client.receive_packets(
        [p for group, _ in pair.server.packets_to_send(pair.now) for p in group], SERVER, pair.now
    )
    assert counters.packets_received_fast > 2
    assert counters.packets_received_slow == 0
