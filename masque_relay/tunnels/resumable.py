"""Owns bytes that travel in pieces: put together by offset, and kept until they have arrived.

Both ends of the HTTPS way use both (docs/protocol/ghostwire.md, "HTTPS requests").
"""

from collections.abc import Callable

from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import FrameType

MAX_PIECES = 16
"""Behind gaps. A client has few requests under way at once."""
BUCKETS_BYTES = (256, 1_024, 4_096, 16_384)
"""To which bodies are padded; beyond the last its multiples."""

_SECTION = "ghostwire: HTTPS requests"
_EMPTY_PADDING = encode_capsule(FrameType.PADDING, b"")


class OffsetReceiver:
    """Hands on bytes in order and once, however their pieces arrive.

    Attributes:
        next_offset: of the first byte that has not come.
        waiting_bytes: behind gaps.
    """

    __slots__ = ("_deliver", "_max_waiting_bytes", "_pieces", "next_offset", "waiting_bytes")

    def __init__(self, deliver: Callable[[bytes], None], *, max_waiting_bytes: int) -> None:
        self._deliver = deliver
        self._max_waiting_bytes = max_waiting_bytes
        self._pieces: dict[int, bytes] = {}
        self.next_offset = 0
        self.waiting_bytes = 0

    def take(self, offset: int, data: bytes) -> bool:
        """Take a piece; False where it lies behind a gap and there is no room to keep it.

        Raises:
            WireError: as the consumer of the bytes raises it.
        """
        if offset > self.next_offset:
            return self._keep(offset, data)
        self._advance(offset, data)
        while self._pieces:
            first = min(self._pieces)
            if first > self.next_offset:
                break
            piece = self._pieces.pop(first)
            self.waiting_bytes -= len(piece)
            self._advance(first, piece)
        return True

    def _advance(self, offset: int, data: bytes) -> None:
        fresh = data[self.next_offset - offset :]
        if fresh:
            # Counted first: a piece that breaks the consumer is not offered to it again.
            self.next_offset += len(fresh)
            self._deliver(fresh)

    def _keep(self, offset: int, data: bytes) -> bool:
        known = self._pieces.get(offset, b"")
        if len(known) >= len(data):
            return True
        more_bytes = len(data) - len(known)
        is_full = not known and len(self._pieces) >= MAX_PIECES
        if is_full or self.waiting_bytes + more_bytes > self._max_waiting_bytes:
            return False
        self._pieces[offset] = data
        self.waiting_bytes += more_bytes
        return True


class ReplayBuffer:
    """Bytes that may have to be sent again; whoever appends keeps it bounded.

    Attributes:
        base: the offset of the first byte that is kept.
    """

    __slots__ = ("_data", "base")

    def __init__(self) -> None:
        self._data = bytearray()
        self.base = 0

    def __len__(self) -> int:
        return len(self._data)

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.base + len(self._data)

    def append(self, data: bytes) -> None:
        """Add bytes."""
        self._data += data

    def acknowledge(self, offset: int) -> None:
        """Forget what is before an offset.

        Raises:
            WireError: it lies before what is kept, or after what was ever there.
        """
        if not self.base <= offset <= self.end:
            raise WireError(f"offset {offset} of {self.base} to {self.end}", section=_SECTION)
        del self._data[: offset - self.base]
        self.base = offset

    def since(self, offset: int, max_bytes: int) -> bytes:
        """Return what follows an offset that is not before ``base``."""
        start = offset - self.base
        return bytes(self._data[start : start + max_bytes])


def pad(frames: bytes) -> bytes:
    """Return whole frames with PADDING frames behind them, which fill the next bucket."""
    wanted_bytes = len(frames) + len(_EMPTY_PADDING)
    largest = BUCKETS_BYTES[-1]
    bucket_bytes = next(
        (bucket for bucket in BUCKETS_BYTES if bucket >= wanted_bytes),
        -(-wanted_bytes // largest) * largest,
    )
    missing_bytes = bucket_bytes - len(frames)
    padding = _padding(missing_bytes)
    if len(padding) < missing_bytes:  # no frame has this size: its length would be a byte longer
        padding = _padding(missing_bytes - len(_EMPTY_PADDING)) + _EMPTY_PADDING
    return frames + padding


def _padding(size_bytes: int) -> bytes:
    """Return one frame of this size, or the largest that is smaller."""
    value_bytes = size_bytes - len(_EMPTY_PADDING)
    while True:
        frame = encode_capsule(FrameType.PADDING, bytes(value_bytes))
        if len(frame) <= size_bytes:
            return frame
        value_bytes -= len(frame) - size_bytes
