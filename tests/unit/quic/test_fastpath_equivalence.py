"""The fast path leaves aioquic as aioquic would have left itself: both live the same lives.

See ``docs/decisions/0004-fast-path.md``.
"""

import os
import random

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.stream import QuicStream
from aioquic.tls import CipherSuite, Epoch

from masque_relay.quic.limits import FastPath
from tests.support.quic_pair import SERVER
from tests.support.quic_worlds import World, differences, engine

pytestmark = pytest.mark.usefixtures("implementation")

SIZES_BYTES = (0, 1, 20, 63, 64, 200, 1100, 1200, 1400, 1436, 1500)


class Trace:
    """A random life: what both ends do, and how long they wait in between."""

    def __init__(self, world: World, seed: int, steps: int, *, loss: float, mischief: bool) -> None:
        self.world = world
        self.steps = steps
        self.dice = random.Random(seed)
        self.variety = 0.6 if seed % 2 else 0.05
        world.loss = loss
        world.mischief = mischief

    def step(self, number: int) -> None:  # noqa: C901 - a menu
        dice, world = self.dice, self.world
        pair = world.pair
        client, server = world.ends
        for _ in range(dice.randrange(1, 4)):
            what = dice.randrange(40) if dice.random() < self.variety else 0
            end = dice.choice(world.ends)
            if what < 22:
                size = dice.choice(SIZES_BYTES)
                count = dice.choice((1, 1, 2, 5, 30, 80))
                data = [dice.randbytes(size) for _ in range(count)]
                with world.dice():
                    end.send_datagrams(b"\x00", data)
            elif what < 28:
                with world.dice():
                    stream_id = dice.choice((0, 4, 8))
                    data = dice.randbytes(dice.choice((1, 100, 5_000)))
                    client.send_stream_data(stream_id, data, end_stream=dice.random() < 0.1)
            elif what < 31:
                with world.dice():
                    server.send_stream_data(0, dice.randbytes(3_000), end_stream=False)
            elif what == 31 and number % 5 == 0:
                engine(end).request_key_update()
            elif what == 32 and number % 4 == 0:
                engine(end).change_connection_id()
            elif what == 33 and number % 4 == 0:
                pair.client_address = (pair.client_address[0], dice.randrange(1024, 65_536))
            elif what == 34:
                end.send_ping()
            elif what == 35:
                with world.dice():
                    client.reset_stream(dice.choice((0, 4, 8)), 7)
            elif what == 36 and number > self.steps * 0.9:
                with world.dice():
                    end.close(3, "enough")
            elif what == 37:
                pair.now += dice.choice((0.05, 0.3))
        world.turn(dice.choice((0.0, 0.0001, 0.001, 0.001, 0.006, 0.02)))


def same_life(
    seed: int,
    *,
    steps: int = 120,
    loss: float = 0.0,
    mischief: bool = False,
    cipher_suite: CipherSuite = CipherSuite.AES_128_GCM_SHA256,
) -> tuple[World, World]:
    worlds = (
        World(FastPath.ON, seed, cipher_suite),
        World(FastPath.OFF, seed, cipher_suite),
    )
    assert differences(*worlds) == []
    traces = [Trace(w, seed, steps, loss=loss, mischief=mischief) for w in worlds]
    for number in range(steps):
        for trace in traces:
            trace.step(number)
        assert differences(*worlds) == [], f"after step {number} of seed {seed}"
    return worlds


@pytest.fixture(autouse=True)
def _streams_have_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # aioquic keeps streams in a set for a moment, whose order is that of their addresses in memory.
    monkeypatch.setattr(QuicStream, "__hash__", lambda stream: stream.stream_id or 0)


@pytest.mark.parametrize("seed", range(8))
def test_a_clean_network(seed: int) -> None:
    fast, _ = same_life(seed)
    for counters in (fast.pair.server_counters, fast.pair.client_counters):
        assert counters.packets_received_fast > (20 if seed % 2 else 500)
        assert counters.packets_sent_fast > (5 if seed % 2 else 500)


@pytest.mark.parametrize("seed", range(100, 108))
@pytest.mark.parametrize("loss", [0.02, 0.2])
def test_loss_reordering_and_delay(seed: int, loss: float) -> None:
    fast, _ = same_life(seed, loss=loss)
    assert fast.pair.server_counters.packets_received_fast > (5 if seed % 2 else 40)
    assert fast.pair.client_counters.packets_sent_fast > (2 if seed % 2 else 40)


@pytest.mark.parametrize("seed", range(200, 208))
@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_forged_replayed_and_damaged_packets(seed: int, loss: float) -> None:
    fast, _ = same_life(seed, loss=loss, mischief=True)
    assert fast.pair.server_counters.packets_received_fast > (5 if seed % 2 else 40)


@pytest.mark.parametrize("seed", range(300, 303))
def test_aes_256(seed: int) -> None:
    fast, _ = same_life(seed, loss=0.03, cipher_suite=CipherSuite.AES_256_GCM_SHA384)
    assert fast.pair.server_counters.packets_received_fast > (5 if seed % 2 else 40)


def test_without_aes_every_packet_is_left_to_aioquic() -> None:
    suite = CipherSuite.CHACHA20_POLY1305_SHA256
    worlds = [World(mode, 400, suite) for mode in (FastPath.ON, FastPath.OFF)]
    counters = [end for world in worlds for end in (world.pair.client_counters,)]
    before = [(c.packets_received_fast, c.packets_sent_fast) for c in counters]
    traces = [Trace(world, 400, 60, loss=0.03, mischief=True) for world in worlds]
    for number in range(60):
        for trace in traces:
            trace.step(number)
        assert differences(*worlds) == []
    assert [(c.packets_received_fast, c.packets_sent_fast) for c in counters] == before


class Forger:
    """Whoever has the client's keys and sends what no client would."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connection = engine(world.pair.client)
        self.crypto = self.connection._cryptos[Epoch.ONE_RTT]

    def packet(self, plain: bytes, *, bits: int = 0, number: int | None = None) -> bytes:
        if number is None:
            number = self.connection._packet_number
            self.connection._packet_number += 1
        first = 0x41 | bits | self.crypto.key_phase << 2
        header = bytes([first | 2]) + engine(self.world.pair.server).host_cid
        header += number.to_bytes(4, "big")  # so that even an empty packet can be sampled
        return self.crypto.encrypt_packet(header, plain, number)

    def deliver(self, *packets: bytes) -> None:
        pair = self.world.pair
        pair.server.receive_packets(packets, pair.client_address, pair.now)


GOOD = b"\x31\x05hello"
CASES = {
    "reserved bits": lambda forger: forger.packet(GOOD, bits=0x08),
    "other reserved bit": lambda forger: forger.packet(GOOD, bits=0x10),
    "unknown frame": lambda forger: forger.packet(b"\x3f\x00\x00"),
    "unknown frame behind a datagram": lambda forger: forger.packet(GOOD + b"\x40\x7f\x00"),
    "no frame": lambda forger: forger.packet(b""),
    "frame longer than its packet": lambda forger: forger.packet(b"\x31\x44\x00hello"),
    "two frames, the second cut": lambda forger: forger.packet(GOOD + b"\x31\x06hello"),
    "ACK with negative ranges": lambda forger: forger.packet(b"\x02\x01\x00\x00\x05" + GOOD),
    "ACK cut": lambda forger: forger.packet(GOOD + b"\x02\x01\x00"),
    "ACK for what was never sent": lambda forger: forger.packet(
        b"\x02\x80\x0f\xff\xff\x00\x00\x00"
    ),
    "optimistic ACK": lambda forger: forger.packet(
        b"\x02\x80\x0f\xff\xff\x00\x00\x80\x0f\xff\xff" + GOOD
    ),
    "ACK with ECN counts": lambda forger: forger.packet(b"\x03\x01\x00\x00\x00\x00\x00\x00" + GOOD),
    "PING": lambda forger: forger.packet(b"\x01"),
    "only PADDING": lambda forger: forger.packet(bytes(40)),
    "datagram, PADDING, PING": lambda forger: forger.packet(GOOD + bytes(40) + b"\x01"),
    "frame type in two bytes": lambda forger: forger.packet(b"\x40\x31\x05hello"),
    "length in four bytes": lambda forger: forger.packet(b"\x31\x80\x00\x00\x05hello"),
    "length in eight bytes": lambda forger: forger.packet(b"\x31\xc0" + bytes(6) + b"\x05hello"),
    "to the end of the packet": lambda forger: forger.packet(b"\x30hello"),
    "empty datagram": lambda forger: forger.packet(b"\x31\x00\x00"),
    "MAX_DATA": lambda forger: forger.packet(GOOD + b"\x10\x80\xff\xff\xff"),
    "close": lambda forger: forger.packet(GOOD + b"\x1d\x07\x00" + GOOD),
    "HANDSHAKE_DONE from a client": lambda forger: forger.packet(b"\x1e"),
    "an old number": lambda forger: forger.packet(GOOD, number=0),
    "a number far ahead": lambda forger: forger.packet(GOOD, number=20_000),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_no_client_sends_has_the_same_end(case: str) -> None:
    worlds = [World(mode, 500) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        forger = Forger(world)
        around = [forger.packet(GOOD) for _ in range(6)]
        bad = CASES[case](forger)
        # In the middle of a batch, twice, and once more after an answer.
        forger.deliver(*around[:2], bad, around[2], bad, around[4], around[3])
        world.turn(0.0)
        forger.deliver(bad, around[5])
    assert differences(*worlds) == []
    for _ in range(5):
        for world in worlds:
            world.turn(0.01)
        assert differences(*worlds) == []


@pytest.mark.clause("RFC 9000", "13.1", "SHOULD", "close on an ACK of what was never sent")
@pytest.mark.parametrize("mode", [FastPath.ON, FastPath.OFF])
@pytest.mark.parametrize("case", ["ACK for what was never sent", "optimistic ACK"])
def test_an_ack_of_what_was_never_sent_ends_the_connection(case: str, mode: FastPath) -> None:
    world = World(mode, 501)
    forger = Forger(world)
    forger.deliver(forger.packet(GOOD), CASES[case](forger))
    event = world.pair.server._connection.close_event
    assert event is not None
    assert event.error_code == QuicErrorCode.PROTOCOL_VIOLATION
    assert world.pair.server_counters.quic_datagrams_received >= 1


def test_a_key_update_in_the_middle_of_a_batch() -> None:
    worlds = [World(mode, 600) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        forger = Forger(world)
        before = [forger.packet(GOOD) for _ in range(5)]
        forger.connection.request_key_update()
        after = [forger.packet(GOOD) for _ in range(5)]
        forger.deliver(*before[:4], *after, before[4])
        assert engine(world.pair.server)._cryptos[Epoch.ONE_RTT].recv.key_phase == 1
    assert differences(*worlds) == []


def test_packets_from_another_address_in_the_middle_of_a_burst() -> None:
    worlds = [World(mode, 700) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        pair = world.pair
        forger = Forger(world)
        packets = [forger.packet(GOOD) for _ in range(12)]
        forger.deliver(*packets[:4])
        pair.client_address = (pair.client_address[0], 9)
        forger.deliver(*packets[4:8])
        pair.client_address = (pair.client_address[0], 10)
        forger.deliver(*packets[8:])
    assert differences(*worlds) == []
    for _ in range(6):
        for world in worlds:
            world.turn(0.01)
        assert differences(*worlds) == []


def test_more_gaps_than_an_ack_holds() -> None:
    worlds = [World(mode, 800) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        forger = Forger(world)
        packets = [forger.packet(GOOD) for _ in range(400)]
        forger.deliver(*packets[0:300:2])
        forger.deliver(*packets[101:300:6])
        forger.deliver(*packets[150:250])
        forger.deliver(*packets)
        assert world.pair.server_counters.quic_datagrams_received > 200
    assert differences(*worlds) == []


def test_a_peer_that_never_acknowledges_holds_a_window_and_a_queue_and_no_more() -> None:
    worlds = [World(mode, 900) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        pair = world.pair
        with world.dice():
            for _ in range(60):
                pair.server.send_datagrams(b"\x00", [bytes(1200)] * 100)
                pair.server.handle_timer(pair.now)
                pair.server.packets_to_send(pair.now)
                pair.now += 0.01
        server = engine(pair.server)
        assert server._loss.bytes_in_flight <= server._loss.congestion_window + 1_472
        assert len(server._datagrams_pending) <= 512
        assert pair.server_counters.quic_datagrams_overflow > 1_500
    assert differences(*worlds) == []


def test_an_ack_of_stream_data_is_followed_up_at_once() -> None:
    worlds = [World(mode, 950) for mode in (FastPath.ON, FastPath.OFF)]
    for world in worlds:
        with world.dice():
            world.pair.client.send_stream_data(0, b"question", end_stream=True)
        world.turn(0.001)
        with world.dice():
            world.pair.server.send_stream_data(0, b"answer", end_stream=True)
        world.turn(0.001)
        assert 0 in engine(world.pair.server)._streams
    assert differences(*worlds) == []
    for _ in range(3):
        for world in worlds:
            world.turn(0.01)
        assert differences(*worlds) == []
    assert 0 not in engine(worlds[0].pair.server)._streams


class Witness:
    """Whoever has a sender's keys and sees all of its packets, once each."""

    def __init__(self, world: World, sender: QuicConnection) -> None:
        ends = [engine(end) for end in world.ends]
        receiver = ends[1] if sender is ends[0] else ends[0]
        theirs = receiver._cryptos[Epoch.ONE_RTT]
        self.crypto = CryptoPair()
        for ours, known in ((self.crypto.recv, theirs.recv), (self.crypto.send, theirs.send)):
            assert known.cipher_suite is not None
            assert known.secret is not None
            ours.setup(cipher_suite=known.cipher_suite, secret=known.secret, version=1)
        self.nonces: set[tuple[bytes | None, int]] = set()
        self.expected = receiver._spaces[Epoch.ONE_RTT].expected_packet_number
        self.first = sender._packet_number
        self.count = 0

    def see(self, packet: bytes) -> None:
        _, _, number = self.crypto.decrypt_packet(packet, 9, self.expected)
        self.nonces.add((self.crypto.recv.secret, number))
        self.expected = max(self.expected, number + 1)
        self.count += 1


def test_no_packet_number_is_used_twice() -> None:
    """With streams, acknowledgements, probes and key updates in between."""
    world = World(FastPath.ON, 1000)
    pair = world.pair
    dice = random.Random(1000)
    witnesses = [Witness(world, engine(end)) for end in world.ends]
    packets = 100_000 * int(os.environ.get("RELAY_TEST_SOAK", "1"))
    turn = 0
    while witnesses[1].count < packets:
        turn += 1
        with world.dice():
            pair.server.send_datagrams(b"\x00", [bytes(1_200)] * dice.randrange(120))
            pair.client.send_datagrams(b"\x00", [bytes(40)] * dice.randrange(20))
            if turn % 7 == 0:
                pair.client.send_stream_data(0, bytes(dice.randrange(4_000)), end_stream=False)
            if turn % 5 == 0 and 0 in engine(pair.server)._streams:
                pair.server.send_stream_data(0, bytes(dice.randrange(9_000)), end_stream=False)
            if turn % 200 == 0:
                engine(dice.choice(world.ends)).request_key_update()
        pair.now += 0.002
        for sender, receiver, source, witness in (
            (pair.client, pair.server, pair.client_address, witnesses[0]),
            (pair.server, pair.client, SERVER, witnesses[1]),
        ):
            sender.handle_timer(pair.now)
            leaving = [p for group, _ in sender.packets_to_send(pair.now) for p in group]
            for packet in leaving:
                witness.see(packet)
            if leaving:
                receiver.receive_packets(leaving, source, pair.now)
        for application, _ in world.calls():
            application.datagrams.clear()
            application.streams.clear()
            application.calls.clear()
    for witness, end in zip(witnesses, world.ends, strict=True):
        assert len(witness.nonces) == witness.count
        assert witness.count == engine(end)._packet_number - witness.first
        assert end.termination is None
    assert pair.server_counters.packets_sent_fast > packets / 2
    assert pair.server_counters.packets_sent_slow > packets / 50
