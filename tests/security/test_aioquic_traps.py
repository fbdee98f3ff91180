"""The traps of aioquic 1.7.2: each attack against ours (holds) and stock (falls).

A test that passes on the stock library too would prove nothing, so each one shows the fault there.
"""

import tracemalloc

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, encode_frame
from aioquic.quic.events import StreamReset
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.credit import MAX_CONNECTION_GAPS
from masque_relay.quic.stream_receiver import PieceReceiver
from tests.support.aioquic_relays import Attacker, OurRelay, StockRelay

REQUEST = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/"),
]


def buffered_stream_bytes(attacker: Attacker) -> int:
    """What the relay's QUIC engine has allocated to put streams in order."""
    receivers = [stream.receiver for stream in attacker.relay.quic._streams.values()]
    return sum(
        r.waiting_bytes if isinstance(r, PieceReceiver) else len(r._buffer) for r in receivers
    )


class TestSparseStream:
    """A byte just below the window, again and again, whenever the window moved."""

    ROUNDS = 5

    def attack(self, attacker: Attacker) -> int:
        attacker.quic.send_stream_data(0, b"\x00")
        attacker.settle()
        windows_bytes = attacker.quic._streams[0].max_stream_data_remote
        for _ in range(self.ROUNDS):
            edge = min(
                attacker.quic._streams[0].max_stream_data_remote, attacker.quic._remote_max_data
            )
            attacker.send_frames(
                b"\x0e" + encode_uint_var(0) + encode_uint_var(edge - 256) + b"\x01x"
            )
            attacker.settle(5)
        return buffered_stream_bytes(attacker) // windows_bytes

    def test_a_stream_never_holds_more_than_its_window(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker) <= 1
        assert not attacker.is_closed

    def test_stock_aioquic_allocates_a_multiple_of_the_window(self) -> None:
        assert self.attack(Attacker(StockRelay)) >= 8


class TestByteAtTheEndOfAnEmptyWindow:
    """A byte just below the window on each of four streams: 40 bytes, without any credential."""

    STREAMS = 4

    def attack(self, attacker: Attacker) -> int:
        attacker.settle()
        tracemalloc.start()
        try:
            before_bytes, _ = tracemalloc.get_traced_memory()
            attacker.send_frames(
                b"".join(
                    b"\x0e" + encode_uint_var(4 * n) + encode_uint_var(250_000) + b"\x01x"
                    for n in range(self.STREAMS)
                )
            )
            after_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(attacker.relay.quic._streams) >= self.STREAMS
        return after_bytes - before_bytes

    def test_what_is_kept_is_what_came(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker) < 40_000
        assert not attacker.is_closed
        assert buffered_stream_bytes(attacker) == self.STREAMS

    def test_stock_aioquic_allocates_the_windows(self) -> None:
        attacker = Attacker(StockRelay)
        assert self.attack(attacker) > self.STREAMS * 200_000
        assert not attacker.is_closed


class TestManyPiecesInManyStreams:
    """Every other byte of every stream: each stream within its bound, all together far beyond."""

    STREAMS, PIECES = 40, 64

    def attack(self, attacker: Attacker) -> int:
        for stream_number in range(self.STREAMS):
            attacker.send_frames(
                b"".join(
                    b"\x0e"
                    + encode_uint_var(4 * stream_number)
                    + encode_uint_var(100 + 2 * n)
                    + b"\x01x"
                    for n in range(self.PIECES)
                )
            )
        return buffered_stream_bytes(attacker)

    def test_the_connection_ends_before_they_are_many(self) -> None:
        attacker = Attacker(OurRelay)
        # Until it has said so at the end of the turn, a packet may still bring one.
        assert self.attack(attacker) <= MAX_CONNECTION_GAPS + self.STREAMS
        attacker.settle(5)
        assert attacker.close_code == QuicErrorCode.INTERNAL_ERROR

    def test_stock_aioquic_takes_them_all(self) -> None:
        attacker = Attacker(StockRelay)
        self.attack(attacker)
        attacker.settle(5)
        assert not attacker.is_closed
        streams = attacker.relay.quic._streams.values()
        assert sum(len(s.receiver._ranges) for s in streams) == self.STREAMS * self.PIECES


class TestQpackBomb:
    """One large entry in the dynamic table, then a header section of one-byte references to it."""

    REFERENCES = 1_000

    def attack(self, attacker: Attacker) -> int:
        assert attacker.h3 is not None
        value = b"v" * 4_000
        capacity_4096 = b"\x3f\xe1\x1f"
        insert = b"\x41a" + b"\x7f" + encode_prefixed(len(value) - 127) + value
        attacker.quic.send_stream_data(
            attacker.h3._local_encoder_stream_id or 0, capacity_4096 + insert
        )
        pseudo = b"\xd1\xd7\xc1" + b"\x50\x01a"  # GET, https, /, and an authority
        section = b"\x02\x00" + pseudo + b"\x80" * self.REFERENCES
        attacker.quic.send_stream_data(0, encode_frame(0x1, section), end_stream=True)
        attacker.settle()
        return sum(
            len(name) + len(value) for request in attacker.relay.requests for name, value in request
        )

    @pytest.mark.clause("RFC 9114", "10.5.1", "SHOULD", "bound what a field section may cost")
    def test_the_dynamic_table_does_not_exist(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker) == 0
        assert attacker.close_code in {
            ErrorCode.QPACK_ENCODER_STREAM_ERROR,
            ErrorCode.QPACK_DECOMPRESSION_FAILED,
        }

    def test_stock_aioquic_unpacks_a_thousandfold(self) -> None:
        assert self.attack(Attacker(StockRelay)) > 4_000_000


def encode_prefixed(value: int) -> bytes:
    """The rest of an integer that filled its prefix (RFC 7541 section 5.1)."""
    out = bytearray()
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    out.append(value)
    return bytes(out)


class TestWholeFrameBuffering:
    """A HEADERS frame that announces a gigabyte and keeps coming; the same for SETTINGS."""

    SENT_BYTES = 600_000

    def http_buffer_bytes(self, attacker: Attacker) -> int:
        return sum(len(stream.buffer) for stream in attacker.relay.h3._stream.values())

    def attack_headers(self, attacker: Attacker) -> int:
        head = encode_uint_var(0x1) + encode_uint_var(1 << 30)
        attacker.quic.send_stream_data(0, head + bytes(self.SENT_BYTES))
        attacker.settle(150)
        return self.http_buffer_bytes(attacker)

    def attack_settings(self, attacker: Attacker) -> int:
        head = encode_uint_var(0x0) + encode_uint_var(0x4) + encode_uint_var(1 << 30)
        attacker.quic.send_stream_data(2, head + bytes(self.SENT_BYTES))
        attacker.settle(150)
        return self.http_buffer_bytes(attacker)

    def test_a_header_frame_above_the_limit_is_not_buffered(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack_headers(attacker) == 0
        assert not attacker.is_closed
        assert StreamReset(error_code=ErrorCode.H3_MESSAGE_ERROR, stream_id=0) in attacker.events

    def test_settings_above_the_limit_end_the_connection(self) -> None:
        attacker = Attacker(OurRelay, opens_http=False)
        assert self.attack_settings(attacker) == 0
        assert attacker.close_code == ErrorCode.H3_EXCESSIVE_LOAD

    def test_stock_aioquic_buffers_a_header_frame_of_any_length(self) -> None:
        assert self.attack_headers(Attacker(StockRelay)) > 500_000

    def test_stock_aioquic_buffers_settings_of_any_length(self) -> None:
        assert self.attack_settings(Attacker(StockRelay, opens_http=False)) > 500_000


class TestOversizeDatagram:
    """A datagram that no packet can hold, then five that fit."""

    def attack(self, attacker: Attacker) -> int:
        for size in (1_500, 100, 100, 100, 100, 100):
            attacker.relay.send_datagram(b"\x00" * size)
        attacker.settle(200)
        return len(attacker.datagrams)

    def test_it_is_refused_and_counted_and_those_behind_it_arrive(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker) == 5
        assert isinstance(attacker.relay, OurRelay)
        assert attacker.relay.counters.quic_datagrams_oversize == 1

    def test_it_blocks_the_queue_of_stock_aioquic_for_ever(self) -> None:
        attacker = Attacker(StockRelay)
        assert self.attack(attacker) == 0
        assert len(attacker.relay.quic._datagrams_pending) == 6


class TestDatagramQueue:
    """A target that sends faster than the client's path takes."""

    SENT = 20_000

    def attack(self, attacker: Attacker) -> int:
        for number in range(self.SENT):
            attacker.relay.send_datagram(number.to_bytes(4, "big") + bytes(1_000))
        attacker.relay.flush(attacker.now)
        return len(attacker.relay.quic._datagrams_pending)

    def test_it_is_bounded_and_drops_the_oldest(self) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker) <= 512
        newest = attacker.relay.quic._datagrams_pending[-1]
        assert newest[:4] == (self.SENT - 1).to_bytes(4, "big")
        assert isinstance(attacker.relay, OurRelay)
        assert attacker.relay.counters.quic_datagrams_overflow == self.SENT - 512

    def test_it_has_no_bound_in_stock_aioquic(self) -> None:
        assert self.attack(Attacker(StockRelay)) > 19_000


class TestMalformedRequest:
    """One bad request beside a good one, as behind a front that pools its users' requests."""

    def attack(self, attacker: Attacker, bad: list[tuple[bytes, bytes]]) -> int:
        assert attacker.h3 is not None
        attacker.h3.send_headers(0, bad, end_stream=False)
        attacker.settle()
        attacker.h3.send_headers(4, REQUEST, end_stream=True)
        attacker.settle()
        return len(attacker.relay.requests)

    BAD = (
        pytest.param([*REQUEST, (b"Bad", b"x")], id="upper-case name"),
        pytest.param([*REQUEST, (b"a b", b"x")], id="space in a name"),
        pytest.param([*REQUEST, (b"a", b"x\ny")], id="newline in a value"),
        pytest.param([*REQUEST, (b":method", b"GET")], id="pseudo-header after a field"),
        pytest.param([*REQUEST, (b"connection", b"close")], id="connection-specific field"),
    )

    @pytest.mark.parametrize("bad", BAD)
    def test_it_resets_its_stream_and_the_neighbour_is_served(
        self, bad: list[tuple[bytes, bytes]]
    ) -> None:
        attacker = Attacker(OurRelay)
        assert self.attack(attacker, bad) == 1
        assert not attacker.is_closed
        assert StreamReset(error_code=ErrorCode.H3_MESSAGE_ERROR, stream_id=0) in attacker.events

    @pytest.mark.parametrize("bad", BAD)
    def test_it_closes_the_connection_of_stock_aioquic(
        self, bad: list[tuple[bytes, bytes]]
    ) -> None:
        attacker = Attacker(StockRelay)
        assert self.attack(attacker, bad) == 0
        assert attacker.close_code == ErrorCode.H3_MESSAGE_ERROR
