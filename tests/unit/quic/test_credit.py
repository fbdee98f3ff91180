"""Receive credit follows consumption; what a stranger can make us keep is bounded."""

from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.application import QuicTransport
from masque_relay.quic.credit import MAX_CRYPTO_GAP_BYTES, MAX_STREAM_GAPS
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.stream_receiver import PieceReceiver
from tests.support.aioquic_relays import Attacker, OurRelay
from tests.support.quic_pair import Pair, RecordingApplication, make_pair

LIMITS = QuicLimits()
WINDOW = LIMITS.stream_window_bytes


class SlowReader(RecordingApplication):
    """Reads nothing until it is told to."""

    def __init__(self, transport: QuicTransport) -> None:
        super().__init__(transport, consumes=False)


def slow_pair() -> tuple[Pair, SlowReader]:
    pair = make_pair(applications={"test": SlowReader})
    app = pair.server_app
    assert isinstance(app, SlowReader)
    return pair, app


class TestConsumption:
    """RFC 9000 section 4.1: a receiver advertises what it is willing to hold."""

    def test_a_reader_that_does_not_read_gets_one_window(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(4 * WINDOW), end_stream=False)
        pair.settle(max_turns=400)
        assert len(app.streams[0]) == WINDOW
        assert pair.client.unsent_stream_bytes(0) >= 3 * WINDOW

    def test_all_streams_together_get_the_connections_window(self) -> None:
        pair, app = slow_pair()
        for stream_id in range(0, 32, 4):
            pair.client.send_stream_data(stream_id, bytes(WINDOW), end_stream=False)
        pair.settle(max_turns=800)
        received = sum(len(data) for data in app.streams.values())
        assert received == LIMITS.connection_window_bytes

    def test_reading_lets_exactly_as_much_follow(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(3 * WINDOW), end_stream=True)
        pair.settle(max_turns=400)
        app.transport.consume_stream_bytes(0, WINDOW)
        pair.settle(max_turns=400)
        assert len(app.streams[0]) == 2 * WINDOW
        app.transport.consume_stream_bytes(0, WINDOW)
        pair.settle(max_turns=400)
        assert len(app.streams[0]) == 3 * WINDOW

    def test_credit_for_bytes_that_never_came_is_not_given(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(3 * WINDOW), end_stream=False)
        pair.settle(max_turns=400)
        for _ in range(3):
            app.transport.consume_stream_bytes(0, 100 * WINDOW)
        pair.settle(max_turns=400)
        assert len(app.streams[0]) == 2 * WINDOW

    def test_a_neighbour_is_not_held_up_by_a_reader_that_is_stuck(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(2 * WINDOW), end_stream=False)
        pair.settle(max_turns=400)
        pair.client.send_stream_data(4, b"hello", end_stream=True)
        pair.settle()
        assert bytes(app.streams[4]) == b"hello"

    def test_a_large_transfer_flows_when_it_is_read(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, bytes(12 * WINDOW), end_stream=True)
        pair.settle(max_turns=2_000)
        app = pair.server_app
        assert isinstance(app, RecordingApplication)
        assert len(app.streams[0]) == 12 * WINDOW


class TestStreamsThatEnd:
    def consumed(self, pair: Pair) -> int:
        return pair.server._connection._consumed_bytes

    def received(self, pair: Pair) -> int:
        return pair.server._connection._local_max_data.used

    def test_a_reset_gives_everything_back_whether_or_not_it_came(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(2 * WINDOW), end_stream=False)
        pair.settle(max_turns=400)
        pair.client.reset_stream(0, 7)
        pair.settle()
        assert ("reset", 0, 7) in app.calls
        assert self.consumed(pair) == self.received(pair) == WINDOW

    def test_a_stream_that_is_stopped_counts_as_read_and_is_not_delivered(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(WINDOW), end_stream=False)
        pair.settle(max_turns=400)
        app.transport.stop_stream(0, 9)
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert ("stop", 0, 9) in client.calls
        assert self.consumed(pair) == self.received(pair)

    def test_the_application_hears_the_end_of_a_stream_that_it_stopped(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, b"abc", end_stream=False)
        pair.settle()
        app.transport.stop_stream(0, 9)
        pair.client.send_stream_data(0, b"def", end_stream=True)
        pair.settle()
        assert app.calls[-1] in {("data", 0, 0, True), ("reset", 0, 9)}
        assert bytes(app.streams[0]) == b"abc"

    def test_what_nobody_read_of_a_finished_stream_comes_back_when_it_is_forgotten(self) -> None:
        pair, app = slow_pair()
        for stream_id in range(0, 40, 4):
            pair.client.send_stream_data(stream_id, bytes(1_000), end_stream=True)
            pair.settle()
            app.transport.send_stream_data(stream_id, b"done", end_stream=True)
            pair.settle()
        assert self.consumed(pair) == self.received(pair)
        assert pair.server._connection._credits == {}

    def test_reading_late_after_the_end_changes_nothing_twice(self) -> None:
        pair, app = slow_pair()
        pair.client.send_stream_data(0, bytes(1_000), end_stream=True)
        pair.settle()
        for _ in range(3):
            app.transport.consume_stream_bytes(0, 1_000)
        assert self.consumed(pair) == self.received(pair) == 1_000


class TestReceivers:
    """Every stream has the receiver that keeps only what came, whoever opened it and how."""

    def test_streams_that_a_frame_opens_have_it_and_all_below(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.send_frames(b"\x0e" + encode_uint_var(4 * 9) + encode_uint_var(5) + b"\x01x")
        attacker.send_frames(b"\x04" + encode_uint_var(4 * 12) + b"\x00\x00")  # RESET_STREAM
        attacker.send_frames(b"\x05" + encode_uint_var(4 * 15) + b"\x00")  # STOP_SENDING
        attacker.send_frames(b"\x11" + encode_uint_var(4 * 18) + b"\x05")  # MAX_STREAM_DATA
        streams = attacker.relay.quic._streams
        assert {4 * n for n in range(19)} <= streams.keys()
        assert {type(stream.receiver) for stream in streams.values()} == {PieceReceiver}

    def test_streams_of_our_own_and_handshakes_have_it(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"abc", end_stream=False)
        pair.settle()
        for end in (pair.client, pair.server):
            connection = end._connection
            streams = [*connection._streams.values(), *connection._crypto_streams.values()]
            assert {type(stream.receiver) for stream in streams} == {PieceReceiver}

    def test_gaps_count_for_the_connection_until_they_are_filled_or_reset(self) -> None:
        attacker = Attacker(OurRelay)
        relay = attacker.relay
        assert isinstance(relay, OurRelay)
        gaps = relay.adapter._connection._stream_gaps
        for stream_id in (0, 4):
            attacker.send_frames(
                b"".join(
                    b"\x0e" + encode_uint_var(stream_id) + encode_uint_var(2 * n) + b"\x01x"
                    for n in range(1, 31)
                )
            )
        assert gaps.total == 60
        attacker.send_frames(b"\x0e\x00\x00" + encode_uint_var(70) + bytes(70))
        assert gaps.total == 30
        attacker.send_frames(b"\x04\x04\x00" + encode_uint_var(61))
        assert gaps.total == 0
        assert not attacker.is_closed


class TestStrangers:
    """A peer without any credential."""

    def test_alternate_bytes_end_the_connection_before_they_cost_much(self) -> None:
        attacker = Attacker(OurRelay)
        for first in range(0, MAX_STREAM_GAPS + 64, 64):
            frames = b"".join(
                b"\x0e\x00" + encode_uint_var(0x4000 + 2 * n) + b"\x01x"
                for n in range(first, first + 64)
            )
            attacker.send_frames(frames)
        attacker.settle(5)
        assert attacker.close_code == QuicErrorCode.INTERNAL_ERROR

    def test_a_crypto_frame_far_ahead_is_refused_without_allocation(self) -> None:
        attacker = Attacker(OurRelay)
        attacker.send_frames(b"\x06" + encode_uint_var(MAX_CRYPTO_GAP_BYTES) + b"\x01x")
        attacker.settle(5)
        assert attacker.close_code == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED

    def test_loss_and_reordering_are_not_mistaken_for_an_attack(self) -> None:
        pair = make_pair()
        count = 0

        def lossy(packet: bytes) -> list[bytes]:
            nonlocal count
            count += 1
            return [] if count % 5 == 0 else [packet]

        pair.to_server = lossy
        pair.client.send_stream_data(0, bytes(2 * WINDOW), end_stream=True)
        for _ in range(400):
            pair.wait(0.1, steps=5)
            app = pair.server_app
            assert isinstance(app, RecordingApplication)
            if len(app.streams.get(0, b"")) == 2 * WINDOW:
                break
        assert len(app.streams[0]) == 2 * WINDOW
