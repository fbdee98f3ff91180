"""Bytes in pieces with offsets: once, in order, bounded; and what is kept for another try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.tunnels.resumable import (
    BUCKETS_BYTES,
    MAX_PIECES,
    OffsetReceiver,
    ReplayBuffer,
    pad,
)
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import FrameType


def receiver(max_waiting_bytes: int = 1_000) -> tuple[OffsetReceiver, bytearray]:
    received = bytearray()
    return OffsetReceiver(received.extend, max_waiting_bytes=max_waiting_bytes), received


def test_duplicates_and_overlaps_are_delivered_once() -> None:
    taking, received = receiver()
    for offset, data in ((0, b"abc"), (0, b"abc"), (1, b"bcde"), (0, b"ab"), (5, b"f")):
        assert taking.take(offset, data)

    assert received == b"abcdef"
    assert taking.next_offset == 6


def test_pieces_behind_a_gap_wait_for_it() -> None:
    taking, received = receiver()
    assert taking.take(4, b"ef")
    assert taking.take(2, b"cd")
    assert not received
    assert taking.waiting_bytes == 4
    assert taking.take(0, b"ab")

    assert received == b"abcdef"
    assert taking.waiting_bytes == 0


def test_piece_that_grew_replaces_the_shorter_one() -> None:
    taking, received = receiver()
    taking.take(1, b"b")
    taking.take(1, b"bcd")
    taking.take(1, b"bc")
    assert taking.waiting_bytes == 3
    taking.take(0, b"a")

    assert received == b"abcd"


def test_gap_buffer_is_bounded_in_bytes_and_in_pieces() -> None:
    taking, _ = receiver(max_waiting_bytes=10)
    assert not taking.take(1, bytes(11))
    assert taking.take(1, bytes(10))
    assert not taking.take(50, b"x")

    many, received = receiver()
    assert all(many.take(2 * at + 1, b"x") for at in range(MAX_PIECES))
    assert not many.take(999, b"x")
    assert many.take(0, b"y"), "what is wanted is always taken"
    assert received == b"yx"


@given(data=st.binary(min_size=1, max_size=200), draw=st.data())
def test_any_order_of_overlapping_pieces_gives_the_stream(data: bytes, draw: st.DataObject) -> None:
    cuts = st.tuples(st.integers(0, len(data) - 1), st.integers(1, len(data)))
    pieces = draw.draw(st.lists(cuts, max_size=12))
    taking, received = receiver()
    for start, size in pieces:
        assert taking.take(start, data[start : start + size])
    assert taking.take(0, data)

    assert received == data
    assert taking.waiting_bytes == 0


def test_replay_gives_again_what_was_not_acknowledged() -> None:
    kept = ReplayBuffer()
    kept.append(b"abc")
    kept.append(b"def")
    kept.acknowledge(2)

    assert kept.since(2, 100) == b"cdef"
    assert kept.since(4, 1) == b"e"
    assert kept.since(6, 100) == b""
    assert (kept.base, kept.end, len(kept)) == (2, 6, 4)


@pytest.mark.parametrize("offset", [1, 7])
def test_offsets_that_were_forgotten_or_never_were_are_refused(offset: int) -> None:
    kept = ReplayBuffer()
    kept.append(b"abcdef")
    kept.acknowledge(2)
    with pytest.raises(WireError):
        kept.acknowledge(offset)
    assert kept.base == 2


@pytest.mark.parametrize(
    "size", [0, 1, 60, 182, 185, 240, 247, 248, 249, 256, 950, 1_015, 4_090, 16_377, 16_384, 70_000]
)
def test_padding_fills_a_bucket_and_is_one_frame(size: int) -> None:
    frame = encode_capsule(FrameType.DATA, bytes(size)) if size else b""
    padded = pad(frame)
    decoder = CapsuleDecoder(
        max_capsule_bytes=100_000, known_types={FrameType.DATA, FrameType.PADDING}
    )
    capsules = decoder.feed(padded)
    decoder.finish()

    assert len(padded) in BUCKETS_BYTES or len(padded) % BUCKETS_BYTES[-1] == 0
    assert [capsule.type for capsule in capsules][-1] == FrameType.PADDING
    assert padded.startswith(frame)
