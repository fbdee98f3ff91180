"""The receiver that keeps pieces does what aioquic's does, and keeps no more than what came."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from random import Random
from types import FrameType
from typing import TYPE_CHECKING

import pytest
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicStopSendingFrame, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver
from hypothesis import event, given, settings
from hypothesis import strategies as st

from masque_relay.quic import stream_receiver
from masque_relay.quic.stream_receiver import (
    JOINED_BYTES,
    GapCount,
    PieceReceiver,
    gap_count,
    use_piece_receiver,
)

if TYPE_CHECKING:
    from _typeshed import TraceFunction

WINDOW_BYTES = 262_144


def piece_receiver(gaps: GapCount | None = None) -> PieceReceiver:
    return PieceReceiver(4, readable=True, gaps=gaps or GapCount())


def take(
    receiver: QuicStreamReceiver, offset: int, data: bytes, *, fin: bool = False
) -> StreamDataReceived | None:
    return receiver.handle_frame(QuicStreamFrame(offset=offset, data=data, fin=fin))


@dataclass(frozen=True)
class Data:
    offset: int
    data: bytes
    fin: bool

    def do(self, receiver: QuicStreamReceiver) -> object:
        return take(receiver, self.offset, self.data, fin=self.fin)


@dataclass(frozen=True)
class Reset:
    final_size: int

    def do(self, receiver: QuicStreamReceiver) -> object:
        return receiver.handle_reset(final_size=self.final_size, error_code=9)


@dataclass(frozen=True)
class Stop:
    is_acknowledged: bool

    def do(self, receiver: QuicStreamReceiver) -> QuicStopSendingFrame:
        receiver.stop(7)
        assert receiver.stop_pending
        frame = receiver.get_stop_frame()
        receiver.on_stop_sending_delivery(
            QuicDeliveryState.ACKED if self.is_acknowledged else QuicDeliveryState.LOST
        )
        return frame


Act = Data | Reset | Stop


def outcome(act: Act, receiver: QuicStreamReceiver) -> tuple[object, ...]:
    """What an act returns or raises, and all that others read of a receiver afterwards."""
    try:
        result = act.do(receiver)
    except FinalSizeError as error:
        result = (type(error), str(error))
    if isinstance(result, StreamDataReceived):
        assert type(result.data) is bytes
    return (
        result,
        receiver.highest_offset,
        receiver.is_finished,
        receiver.stop_pending,
        receiver.starting_offset(),
        receiver._final_size,
    )


def check_shape(receiver: PieceReceiver, gaps: GapCount, joined_bytes: int) -> None:
    """The pieces are sorted, apart and not empty; the gaps are counted right."""
    ends = [receiver._end_of(index) for index in range(receiver.piece_count)]
    assert all(receiver._pieces)
    at = receiver.starting_offset()
    runs = 0
    for index, start in enumerate(receiver._starts):
        assert start > at or (index and start == at)
        runs += start > at
        at = ends[index]
    assert receiver.gap_count == gaps.total == runs
    for index in range(1, len(ends)):
        if receiver._starts[index] == ends[index - 1]:
            both = len(receiver._pieces[index - 1]) + len(receiver._pieces[index])
            assert both > joined_bytes, "two small neighbours are not joined"
    if receiver.is_finished:
        assert receiver.piece_count == 0


def compare(acts: list[Act], *, joined_bytes: int = JOINED_BYTES) -> list[tuple[object, ...]]:
    """Do the same to both; return what stock aioquic made of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_receiver, "JOINED_BYTES", joined_bytes)
        return compare_as_it_is(acts, joined_bytes)


def compare_as_it_is(acts: Sequence[Act], joined_bytes: int) -> list[tuple[object, ...]]:
    stock = QuicStreamReceiver(stream_id=4, readable=True)
    gaps = GapCount()
    ours = piece_receiver(gaps)
    outcomes: list[tuple[object, ...]] = []
    for act in acts:
        expected = outcome(act, stock)
        assert outcome(act, ours) == expected
        if not stock.is_finished:
            assert ours.gap_count == len(stock._ranges)
        check_shape(ours, gaps, joined_bytes)
        outcomes.append(expected)
    return outcomes


def data_acts(span: int, longest: int, fin: st.SearchStrategy[bool]) -> st.SearchStrategy[Act]:
    """Frames of random bytes: where two overlap, they differ."""
    return st.builds(
        Data,
        offset=st.integers(0, span),
        data=st.integers(0, longest).flatmap(
            lambda size: st.integers(0, 255).map(
                lambda seed: bytes((seed + 7 * n) % 256 for n in range(size))
            )
        ),
        fin=fin,
    )


JOINED = st.sampled_from((0, 5, JOINED_BYTES))
"""With few or none of the neighbours joined, the short examples have all that long ones have."""
SELDOM = st.integers(0, 19).map(lambda n: n == 0)
NEVER = st.just(False)


class TestSameAsAioquic:
    """Whatever comes, both return and raise the same, and look the same to aioquic's connection."""

    @settings(max_examples=400, deadline=None)
    @given(
        st.lists(
            st.one_of(
                *[data_acts(40, 12, SELDOM)] * 12,
                st.builds(Reset, final_size=st.integers(0, 60)),
                st.builds(Stop, is_acknowledged=st.booleans()),
            ),
            max_size=60,
        ),
        JOINED,
    )
    def test_frames_fins_resets_and_stops_in_any_order(
        self, acts: list[Act], joined_bytes: int
    ) -> None:
        outcomes = compare(acts, joined_bytes=joined_bytes)
        event(f"errors: {any('FinalSizeError' in str(o) for o in outcomes)}")

    @settings(max_examples=200, deadline=None)
    @given(st.lists(data_acts(400, 90, NEVER), max_size=80), JOINED)
    def test_overlaps_that_contradict_each_other(self, acts: list[Act], joined_bytes: int) -> None:
        end = [Data(0, bytes(250), fin=False), Data(250, bytes(250), fin=True)]
        compare([*acts, *end], joined_bytes=joined_bytes)

    def test_every_sequence_of_three_short_acts(self) -> None:
        """All the edges of the final size among them: one less, equal, one more."""
        acts: list[Act] = [
            *(
                Data(offset, b"ab"[:size], fin=fin)
                for offset in range(3)
                for size in range(3)
                for fin in (False, True)
            ),
            *(Reset(size) for size in range(5)),
        ]
        for sequence in product(acts, repeat=3):
            compare_as_it_is(sequence, JOINED_BYTES)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(data_acts(12_000, 3_000, SELDOM), max_size=40))
    def test_pieces_longer_than_what_is_joined(self, acts: list[Act]) -> None:
        compare([*acts, Data(0, bytes(8_000), fin=False), Data(8_000, bytes(8_000), fin=False)])

    @settings(max_examples=200, deadline=None)
    @given(
        cuts=st.sets(st.integers(1, 4_999), max_size=60),
        order=st.randoms(use_true_random=False),
        twice=st.booleans(),
    )
    def test_an_honest_stream_in_any_order_arrives_whole(
        self, cuts: set[int], order: Random, *, twice: bool
    ) -> None:
        whole = bytes(n * n % 251 for n in range(5_000))
        edges = [0, *sorted(cuts), len(whole)]
        acts: list[Act] = [Data(a, whole[a:b], fin=b == len(whole)) for a, b in pairwise(edges)]
        acts *= 1 + twice
        order.shuffle(acts)
        delivered = b""
        for result, *_ in compare(acts):
            if isinstance(result, StreamDataReceived):
                delivered += result.data
        assert delivered == whole

    def test_a_stream_that_cannot_be_read_is_finished(self) -> None:
        ours = PieceReceiver(3, readable=False, gaps=GapCount())
        assert ours.is_finished
        assert take(ours, 0, b"abc") is None
        assert ours.highest_offset == 3


class TestDelivery:
    def test_bytes_in_order_are_handed_on_without_a_copy(self) -> None:
        receiver = piece_receiver()
        data = b"x" * 1_200
        received = take(receiver, 0, data)
        assert received is not None
        assert received.data is data
        take(receiver, 5_000, b"far ahead")
        received = take(receiver, 1_200, data)
        assert received is not None
        assert received.data is data

    def test_full_packets_that_wait_are_not_copied(self) -> None:
        receiver = piece_receiver()
        packets = [bytes([n]) * 1_200 for n in range(1, 9)]
        for number, data in enumerate(packets, 1):
            take(receiver, 1_200 * number, data)
        assert all(a is b for a, b in zip(receiver._pieces, packets, strict=True))
        assert receiver.gap_count == 1

    def test_a_reset_frees_what_waited_and_its_gaps(self) -> None:
        gaps = GapCount()
        receiver, other = piece_receiver(gaps), piece_receiver(gaps)
        take(receiver, 10, b"a")
        take(receiver, 20, b"b")
        take(other, 5, b"c")
        assert gaps.total == 3
        assert receiver.handle_reset(final_size=30) == StreamReset(error_code=0, stream_id=4)
        assert (receiver.waiting_bytes, receiver.gap_count, gaps.total) == (0, 0, 1)
        receiver.handle_reset(final_size=30)
        assert gaps.total == 1

    def test_a_reset_that_is_refused_changes_nothing(self) -> None:
        receiver = piece_receiver()
        take(receiver, 10, b"abc")
        with pytest.raises(FinalSizeError):
            receiver.handle_reset(final_size=5)
        received = take(receiver, 0, b"0123456789")
        assert received is not None
        assert received.data == b"0123456789abc"


class TestMemory:
    def test_a_byte_at_the_end_of_the_window_is_kept_as_a_byte(self) -> None:
        receiver = piece_receiver()
        take(receiver, WINDOW_BYTES - 1, b"x")
        assert (receiver.waiting_bytes, receiver.piece_count) == (1, 1)

    def test_an_end_far_ahead_is_kept_as_a_number(self) -> None:
        receiver = piece_receiver()
        take(receiver, WINDOW_BYTES, b"", fin=True)
        assert receiver.piece_count == 0

    @pytest.mark.parametrize("is_backwards", [False, True])
    def test_bytes_that_come_one_by_one_become_few_pieces(self, *, is_backwards: bool) -> None:
        receiver = piece_receiver()
        offsets = range(1, 20_001)
        for offset in reversed(offsets) if is_backwards else offsets:
            take(receiver, offset, b"x")
        assert receiver.waiting_bytes == 20_000
        assert receiver.piece_count <= 2 * 20_000 // JOINED_BYTES + 1
        assert receiver.gap_count == 1

    def test_what_comes_twice_is_kept_once(self) -> None:
        receiver = piece_receiver()
        for shift in range(1, 1_000):
            take(receiver, shift, bytes(500))
        assert receiver.waiting_bytes == 1_498
        assert receiver.piece_count <= 2

    def test_a_frame_over_many_pieces_replaces_them(self) -> None:
        receiver = piece_receiver()
        for number in range(200):
            take(receiver, 10 + 2 * number, b"x")
        assert (receiver.piece_count, receiver.gap_count) == (200, 200)
        take(receiver, 5, bytes(800))
        assert (receiver.piece_count, receiver.gap_count, receiver.waiting_bytes) == (1, 1, 800)


def lines_run(action: Callable[[], object]) -> int:
    """How many lines of Python an action takes: the same on every machine."""
    count = 0

    def trace(_frame: FrameType, what: str, _argument: object) -> "TraceFunction":
        nonlocal count
        count += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


class TestWork:
    """What one more frame costs does not depend on how many pieces wait already."""

    FEW, MANY = 8, 4_000

    def lines_of_one_more(self, receiver: QuicStreamReceiver, piece_count: int) -> int:
        for number in range(piece_count):
            take(receiver, 10 + 2 * number, b"x")
        middle = 10 + piece_count // 2 * 2
        return max(
            lines_run(lambda: take(receiver, 10 + 2 * piece_count, b"x")),  # behind all
            lines_run(lambda: take(receiver, 8, b"x")),  # before all
            lines_run(lambda: take(receiver, middle, b"y")),  # once more
            lines_run(lambda: take(receiver, middle - 1, b"z")),  # into a gap
            lines_run(lambda: take(receiver, 0, b"in order")),
        )

    def test_another_piece_costs_the_same_among_thousands(self) -> None:
        few = self.lines_of_one_more(piece_receiver(), self.FEW)
        many = self.lines_of_one_more(piece_receiver(), self.MANY)
        assert 0 < many <= 2 * few

    def test_it_costs_stock_aioquic_a_walk_over_all_of_them(self) -> None:
        stock = QuicStreamReceiver(stream_id=4, readable=True)
        assert self.lines_of_one_more(stock, self.MANY) > self.MANY

    def test_a_piece_is_walked_over_once_when_it_goes(self) -> None:
        receiver = piece_receiver()
        for number in range(self.MANY):
            take(receiver, 10 + 2 * number, b"x")
        all_at_once = lines_run(lambda: take(receiver, 0, bytes(10 + 2 * self.MANY)))
        assert self.MANY < all_at_once < 20 * self.MANY
        assert receiver.piece_count == 0


class TestSwap:
    def test_a_new_stream_gets_it_once(self) -> None:
        stream = QuicStream(stream_id=8)
        gaps = GapCount()
        use_piece_receiver(stream, gaps)
        receiver = stream.receiver
        use_piece_receiver(stream, gaps)
        assert stream.receiver is receiver
        assert take(receiver, 3, b"x") is None
        assert gap_count(stream) == gaps.total == 1
        assert not stream.is_finished

    def test_a_stream_that_only_sends_stays_finished_on_this_side(self) -> None:
        stream = QuicStream(stream_id=3, readable=False)
        use_piece_receiver(stream, GapCount())
        assert isinstance(stream.receiver, PieceReceiver)
        assert stream.receiver.is_finished
