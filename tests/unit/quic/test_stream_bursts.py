"""Packets of stream data are built and read in bursts, and aioquic would have done the same."""

import random

import pytest
from aioquic.quic.stream import QuicStream

from masque_relay.quic.limits import FastPath, QuicLimits
from tests.support.quic_pair import RecordingApplication
from tests.support.quic_worlds import World, differences, engine
from tests.unit.quic.test_fastpath_equivalence import GOOD, Forger

pytestmark = pytest.mark.usefixtures("implementation")

STREAMS = range(0, 4 * 12, 4)


@pytest.fixture(autouse=True)
def _streams_have_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # aioquic keeps streams in a set for a moment, whose order is that of their addresses in memory.
    monkeypatch.setattr(QuicStream, "__hash__", lambda stream: stream.stream_id or 0)


def worlds_with_streams(seed: int, count: int = len(STREAMS)) -> tuple[World, World]:
    """A fast one and a slow one, with streams that both ends write on."""
    worlds = World(FastPath.ON, seed), World(FastPath.OFF, seed)
    for world in worlds:
        with world.dice():
            for stream_id in STREAMS[:count]:
                world.pair.client.send_stream_data(stream_id, b"open", end_stream=False)
        for _ in range(5):
            world.turn(0.01)
    assert differences(*worlds) == []
    return worlds


def live(worlds: tuple[World, World], seed: int, steps: int) -> None:
    """Write at random on random streams, end and reset some, and compare after each turn."""
    dice = random.Random(seed)
    for number in range(steps):
        acts = [
            (
                dice.random(),
                dice.randrange(2),
                dice.choice(STREAMS),
                dice.randbytes(dice.choice((1, 60, 1_200, 9_000, 40_000))),
            )
            for _ in range(dice.randrange(5))
        ]
        wait_s = dice.choice((0.0, 0.0001, 0.001, 0.003, 0.006, 0.02))
        for world in worlds:
            for chance, who, stream_id, data in acts:
                end = world.ends[who]
                with world.dice():
                    if who and stream_id not in engine(end)._streams:
                        pass  # forgotten: a server opens no such stream
                    elif chance < 0.03:
                        end.send_stream_data(stream_id, data, end_stream=True)
                    elif chance < 0.05:
                        end.reset_stream(stream_id, 7)
                    elif chance < 0.07:
                        end.stop_stream(stream_id, 8)
                    elif chance < 0.15:
                        end.send_datagrams(b"\x00", [data[:1_000]] * 3)
                    elif chance < 0.16 and number % 4 == 0:
                        engine(end).request_key_update()
                    else:
                        end.send_stream_data(stream_id, data, end_stream=False)
            world.turn(wait_s)
        assert differences(*worlds) == [], f"after step {number} of seed {seed}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("loss", [0.0, 0.03, 0.2])
def test_many_streams_live_the_same_life(seed: int, loss: float) -> None:
    worlds = worlds_with_streams(seed)
    for world in worlds:
        world.loss = loss
        world.mischief = bool(seed % 2)
    live(worlds, seed, 100)
    fast = worlds[0].pair
    for counters in (fast.server_counters, fast.client_counters):
        assert counters.packets_sent_fast > 10
        assert counters.packets_received_fast > 10


@pytest.mark.parametrize("who", [0, 1])
def test_bulk_goes_fast(who: int) -> None:
    worlds = worlds_with_streams(1)
    data = random.Random(1).randbytes(400_000)
    for world in worlds:
        with world.dice():
            for stream_id in STREAMS[:3]:
                world.ends[who].send_stream_data(stream_id, data, end_stream=False)
    for _ in range(300):
        for world in worlds:
            world.turn(0.002)
        assert differences(*worlds) == []
    for world in worlds:
        reader = world.ends[1 - who].application
        assert isinstance(reader, RecordingApplication)
        for stream_id in STREAMS[:3]:
            assert reader.streams[stream_id][-400_000:] == data
    pair = worlds[0].pair
    counters = [pair.client_counters, pair.server_counters]
    assert counters[who].packets_sent_fast > 4 * counters[who].packets_sent_slow
    assert counters[1 - who].packets_received_fast > 4 * counters[1 - who].packets_received_slow


def test_what_a_batch_brings_of_a_stream_is_told_once() -> None:
    world, _ = worlds_with_streams(2)
    application = world.pair.server_app
    assert isinstance(application, RecordingApplication)
    application.calls.clear()
    with world.dice():
        for stream_id in STREAMS[:2]:
            world.pair.client.send_stream_data(stream_id, bytes(5_000), end_stream=False)
    world.pair.now += 1
    world.turn(0.0)
    assert application.calls == [("data", 0, 5_000, False), ("data", 4, 5_000, False)]


def test_a_stream_without_credit_waits_and_the_others_go_on() -> None:
    world, _ = worlds_with_streams(3)
    application = world.pair.server_app
    assert isinstance(application, RecordingApplication)
    application.consumes = False
    window_bytes = QuicLimits().stream_window_bytes
    with world.dice():
        world.pair.client.send_stream_data(0, bytes(2 * window_bytes), end_stream=False)
        world.pair.client.send_stream_data(4, b"small", end_stream=False)
    for _ in range(400):
        world.turn(0.002)
    assert application.streams[4] == b"opensmall"
    assert len(application.streams[0]) <= window_bytes
    assert len(application.streams[0]) > window_bytes - 2_000


def test_streams_take_turns_by_packets() -> None:
    world, _ = worlds_with_streams(4)
    with world.dice():
        for stream_id in STREAMS:
            world.pair.server.send_stream_data(stream_id, bytes(50_000), end_stream=False)
    for _ in range(3):
        world.turn(0.01)
    application = world.pair.client_app
    assert isinstance(application, RecordingApplication)
    sizes = [len(application.streams[stream_id]) for stream_id in STREAMS]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) < 5_000


CASES = {
    "in order": b"\x0e\x00\x04\x05hello",
    "in order, without a length": b"\x0c\x00\x04hello",
    "two of them": b"\x0e\x00\x04\x05hello\x0e\x00\x09\x05again",
    "a piece ahead": b"\x0e\x00\x40\x80\x05hello",
    "again": b"\x0a\x00\x04open",
    "partly again": b"\x0a\x00\x06openup",
    "nothing": b"\x0e\x00\x04\x00",
    "beside a datagram": GOOD + b"\x0e\x00\x04\x05hello",
    "with FIN": b"\x0f\x00\x04\x05hello",
    "behind FIN": b"\x0f\x00\x04\x05hello\x0e\x00\x40\x80\x05hello",
    "on a new stream": b"\x0a\x80\x00\x00\xa0\x05hello",
    "on a stream of the server's": b"\x0a\x03\x05hello",
    "on a stream that the server did not open": b"\x0a\x01\x05hello",
    "beyond the stream's limit": b"\x0e\x00\x80\x04\x00\x00\x05hello",
    "beyond the connection's limit": b"".join(
        b"\x0e%c\x80\x03\xff\xf0\x05hello" % (4 * number) for number in range(6)
    ),
    "cut": b"\x0e\x00\x04\x06hello",
    "cut offset": b"\x0e\x00\x80",
    "on too many streams": b"\x0a\x80\x01\x00\x00\x05hello",
    "an offset that cannot be": b"\x0e\x00\xff\xff\xff\xff\xff\xff\xff\xff\x05hello",
}


@pytest.mark.parametrize("case", CASES)
def test_stream_frames_of_every_kind_have_the_same_end(case: str) -> None:
    worlds = worlds_with_streams(500)
    for world in worlds:
        forger = Forger(world)
        around = [forger.packet(GOOD) for _ in range(6)]
        odd = forger.packet(CASES[case])
        # In the middle of a batch, twice, and once more after an answer.
        forger.deliver(*around[:2], odd, around[2], odd, around[4], around[3])
        world.turn(0.0)
        forger.deliver(odd, around[5])
    assert differences(*worlds) == []
    for _ in range(5):
        for world in worlds:
            world.turn(0.01)
        assert differences(*worlds) == []


def test_gaps_are_bounded_as_ever() -> None:
    worlds = worlds_with_streams(600)
    for world in worlds:
        forger = Forger(world)
        pieces = [
            forger.packet(b"\x0e\x00%b\x01x" % (0x8000_0000 | 10 + 2 * at).to_bytes(4, "big"))
            for at in range(300)
        ]
        forger.deliver(*pieces)
        world.turn(0.0)
        assert world.pair.server.termination is not None
    assert differences(*worlds) == []
