"""Owns PieceReceiver: puts a stream in order, and keeps no more than what has arrived.

aioquic 1.7.2 keeps one buffer from the next byte in order to the highest one that came: a single
byte at the end of an empty window costs the whole window. Here what waits is kept in pieces: memory
is what arrived, and some hundred bytes for each separate piece. What it delivers, and when, and
what it refuses is the same, also for bytes that a peer sends twice and differently, which RFC 9000
section 2.2 lets us treat as we like: the later ones count until they are delivered.
"""

from bisect import bisect_left, bisect_right

from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver

JOINED_BYTES = 2_048
"""Neighbours that are together no longer than this become one piece. So a stream in one-byte frames
has no more pieces than one per KiB, a frame never copies more than this, and full packets (1,200
bytes and more, each) are not copied at all."""


class GapCount:
    """How many separate runs of bytes wait for what is missing before them, on several streams."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


class PieceReceiver(QuicStreamReceiver):
    """The receiving part of a stream; takes the place of aioquic's.

    ``_pieces[i]`` begins at ``_starts[i]``; they are sorted, do not overlap, and lie beyond the
    next byte in order. Neighbours may touch; those that do make one run.
    """

    _buffer_start: int
    """The offset of the next byte in order."""

    def __init__(self, stream_id: int | None, *, readable: bool, gaps: GapCount) -> None:
        super().__init__(stream_id=stream_id, readable=readable)
        # So that a method of a later version that uses them fails, and does not find nothing.
        del self._buffer, self._ranges
        self.gap_count = 0
        """Separate runs of bytes that wait for what is missing before them."""
        self._starts: list[int] = []
        self._pieces: list[bytes | bytearray] = []
        self._gaps = gaps

    @property
    def has_final_size(self) -> bool:
        """Whether the peer has said how long the stream is."""
        return self._final_size is not None

    @property
    def waiting_bytes(self) -> int:
        """What is kept because something before it is missing."""
        return sum(map(len, self._pieces))

    @property
    def piece_count(self) -> int:
        """In how many objects that is."""
        return len(self._pieces)

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Take a frame; return what is in order now, if anything is.

        Raises:
            FinalSizeError: RFC 9000 section 4.5.
        """
        start, data = frame.offset, frame.data
        self._note_size(start + len(data), is_final=frame.fin)
        if self.is_finished:  # a duplicate, or behind a reset
            return None
        next_offset = self._buffer_start
        if start > next_offset:
            if data:
                self._keep(start, data)
            return None
        if start < next_offset:
            data = data[next_offset - start :]
        if data:
            if self._starts:
                data = self._with_what_follows(data)
            self._buffer_start += len(data)
        is_end = self._buffer_start == self._final_size
        if is_end:
            self.is_finished = True
        elif not data:
            return None
        return StreamDataReceived(
            data=data,
            end_stream=is_end,
            stream_id=self._stream_id,  # type: ignore[arg-type] # None for CRYPTO, as aioquic does
        )

    def handle_reset(
        self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR
    ) -> StreamReset | None:
        """Take a RESET_STREAM frame; what waited is dropped.

        Raises:
            FinalSizeError: RFC 9000 section 4.5.
        """
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        self._starts.clear()
        self._pieces.clear()
        self._add_gaps(-self.gap_count)
        return event

    def _note_size(self, end: int, *, is_final: bool) -> None:
        """Hold a frame that ends here to the stream's final size, or learn it."""
        if self._final_size is not None:
            if end > self._final_size:
                msg = "Data received beyond final size"
                raise FinalSizeError(msg)
            if is_final and end != self._final_size:
                msg = "Cannot change final size"
                raise FinalSizeError(msg)
        if is_final:
            if end < self.highest_offset:
                msg = "Data received beyond final size"
                raise FinalSizeError(msg)
            self._final_size = end
        self.highest_offset = max(self.highest_offset, end)

    def _add_gaps(self, count: int) -> None:
        self.gap_count += count
        self._gaps.total += count

    def _with_what_follows(self, data: bytes) -> bytes:
        """Return the next bytes in order with the pieces they reach, which are kept no longer."""
        starts, pieces = self._starts, self._pieces
        ready: list[bytes | bytearray] = [data]
        end = self._buffer_start + len(data)
        taken_count = run_count = 0
        run_end = -1
        while taken_count < len(starts) and starts[taken_count] <= end:
            start, piece = starts[taken_count], pieces[taken_count]
            run_count += start != run_end
            run_end = start + len(piece)
            if run_end > end:
                ready.append(piece[end - start :])
                end = run_end
            taken_count += 1
        if not taken_count:
            return data
        del starts[:taken_count], pieces[:taken_count]
        self._add_gaps(-run_count)
        return b"".join(ready)

    def _keep(self, start: int, data: bytes) -> None:
        """Put bytes that are not in order among the pieces."""
        starts, pieces = self._starts, self._pieces
        end = start + len(data)
        # The ends may lie in pieces that reach further: these keep their place and take the bytes.
        first = bisect_right(starts, start)
        if first and (reached := self._end_of(first - 1)) > start:
            self._overwrite(first - 1, start, data[: reached - start])
            data, start = data[reached - start :], reached
        last = bisect_left(starts, end, first)
        if last > first and self._end_of(last - 1) > end:
            last -= 1
            self._overwrite(last, starts[last], data[starts[last] - start :])
            end = starts[last]
            data = data[: end - start]
        if not data:
            return
        # All from first to last are covered: the rest of the bytes takes their place.
        touches_before = first > 0 and self._end_of(first - 1) == start
        touches_behind = last < len(starts) and starts[last] == end
        new_gaps = 1 - touches_before - touches_behind
        if last > first:
            new_gaps -= self._runs_that_end(first, last)
        piece: bytes | bytearray = data
        if touches_before and len(pieces[first - 1]) + len(piece) <= JOINED_BYTES:
            first -= 1
            start, piece = starts[first], pieces[first] + piece
        if touches_behind and len(piece) + len(pieces[last]) <= JOINED_BYTES:
            piece += pieces[last]
            last += 1
        starts[first:last] = [start]
        pieces[first:last] = [piece]
        self._add_gaps(new_gaps)

    def _runs_that_end(self, first: int, last: int) -> int:
        """By how many the runs become fewer when pieces from first to before last are taken out."""
        lowest, highest = max(first, 1), min(last, len(self._starts) - 1)
        touching = sum(
            self._end_of(index - 1) == self._starts[index] for index in range(lowest, highest + 1)
        )
        return last - first - touching

    def _overwrite(self, index: int, start: int, data: bytes) -> None:
        piece = self._pieces[index]
        offset = start - self._starts[index]
        if piece.startswith(data, offset):  # an honest peer repeats itself
            return
        if not isinstance(piece, bytearray):
            piece = self._pieces[index] = bytearray(piece)
        piece[offset : offset + len(data)] = data

    def _end_of(self, index: int) -> int:
        return self._starts[index] + len(self._pieces[index])


def use_piece_receiver(stream: QuicStream, gaps: GapCount) -> None:
    """Give a stream that aioquic has just made a PieceReceiver; one that has it keeps it."""
    stock = stream.receiver
    if not isinstance(stock, PieceReceiver):
        stream.receiver = PieceReceiver(stream.stream_id, readable=not stock.is_finished, gaps=gaps)


def gap_count(stream: QuicStream) -> int:
    """Return how many separate runs of a stream's bytes wait for what is missing before them."""
    receiver = stream.receiver
    assert isinstance(receiver, PieceReceiver)  # noqa: S101 - each stream got one when it was made
    return receiver.gap_count


def is_near_end(stream: QuicStream) -> bool:
    """Whether nothing more can come of a stream, or its size is known."""
    receiver = stream.receiver
    assert isinstance(receiver, PieceReceiver)  # noqa: S101 - as above
    return receiver.is_finished or receiver.has_final_size
