"""Owns the quota book of several workers: counts in shared memory, exact over all of them.

Every worker writes the counts of its own segment only, and a decision adds up those of all segments
while it holds the one lock. So what a worker held is forgotten by clearing its segment when it has
died, whatever it was about to write, and the kernel frees the lock of a process that ends. Names
are stored as keyed digests.

A decision takes some microseconds per name and worker. No message, hence no wait for another event
loop: the gate decides in the middle of a call.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from masque_relay.control.quota_book import MAX_DAY_ENTRIES, Name

_DIGEST_BYTES = 16
_FREE = bytes(_DIGEST_BYTES)
_COUNT = struct.Struct("=16sq")  # digest, count or bytes
_BUCKET = struct.Struct("=16sdd")  # digest, tokens, when
_HEADER = struct.Struct("=qq")  # places of counts that are not free, the day of the bytes
_HEADER_BYTES = 64
_WINDOW = 16
"""Places that a day's entry or a bucket may be at; when all are taken the least is forgotten."""
_NAMES_PER_TUNNEL = 4
"""The relay, its subject, its rule, and both together; the first is one for all, which leaves some
for tunnels that several rules admit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BookShape:
    """How large the parts are; all workers must agree."""

    segment_count: int
    """One per slot, and one that keeps the bytes of workers that have gone."""
    count_places: int
    day_places: int
    bucket_places: int
    key: bytes
    """Of the digests."""

    @classmethod
    def for_limits(cls, slot_count: int, *, max_tunnels: int, tracked_count: int) -> "BookShape":
        """Return a shape with room for the limits in every segment."""
        return cls(
            segment_count=slot_count + 1,
            count_places=_power_of_two(max(64, max_tunnels * _NAMES_PER_TUNNEL)),
            day_places=_power_of_two(MAX_DAY_ENTRIES * 2),
            bucket_places=_power_of_two(max(64, tracked_count)),
            key=os.urandom(16),
        )

    @property
    def segment_bytes(self) -> int:
        """Size of one segment."""
        return _HEADER_BYTES + _COUNT.size * (self.count_places + self.day_places)

    @property
    def total_bytes(self) -> int:
        """Size of the file; pages that nobody has touched take no memory."""
        return self.segment_count * self.segment_bytes + _BUCKET.size * self.bucket_places


def make_book_file(shape: BookShape) -> int:
    """Return the descriptor of an empty book in memory; the caller closes it."""
    descriptor = os.memfd_create("quota book", os.MFD_CLOEXEC)
    os.truncate(descriptor, shape.total_bytes)
    return descriptor


class SharedBook:
    """The book as one process sees it; implements ``QuotaBook``.

    The descriptor is shared by all: it is locked by process (fcntl), so a process must have one
    SharedBook and close no other descriptor of the file.
    """

    def __init__(self, descriptor: int, shape: BookShape, *, segment: int) -> None:
        """Map the file; ``segment`` is the one that this process writes."""
        self._descriptor = descriptor
        self._shape = shape
        self._memory = mmap.mmap(descriptor, shape.total_bytes)
        self._segment = segment
        self._buckets_at = shape.segment_count * shape.segment_bytes

    def close(self) -> None:
        """Unmap and close; idempotent."""
        if self._descriptor >= 0:
            self._memory.close()
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Wait for the others, for as long as a decision of theirs takes."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    @property
    def is_full(self) -> bool:
        """This process holds as many names as its segment takes."""
        if not self._is_crowded:
            return False
        self._compact()
        return self._is_crowded

    def count(self, name: Name) -> int:
        """Return how many are held of a name, by everybody."""
        digest = self._digest(name)
        total = 0
        for segment in range(self._shape.segment_count):
            if self._header(segment)[0]:
                at = self._find(self._counts_at(segment), self._shape.count_places, digest)
                total += 0 if at is None else self._value(at)
        return total

    def add(self, name: Name, count: int) -> None:
        """Hold more or fewer; a name at zero leaves a place that the next name takes."""
        digest, places = self._digest(name), self._shape.count_places
        start = self._counts_at(self._segment)
        at = self._find(start, places, digest)
        if at is not None:
            _COUNT.pack_into(self._memory, at, digest, max(0, self._value(at) + count))
            return
        for at in self._places(start, places, digest, _COUNT.size):
            known, value = _COUNT.unpack_from(self._memory, at)
            if not value:
                if known == _FREE:
                    used, day = self._header(self._segment)
                    self._set_header(self._segment, used + 1, day)
                _COUNT.pack_into(self._memory, at, digest, max(0, count))
                return

    def day_bytes(self, day: int, name: Name) -> int:
        """Return the bytes of a name on a day, by everybody and by workers that have gone."""
        digest = self._digest(name)
        total = 0
        for segment in range(self._shape.segment_count):
            if self._header(segment)[1] == day:
                at = self._find(self._days_at(segment), self._shape.day_places, digest)
                total += 0 if at is None else self._value(at)
        return total

    def add_day_bytes(self, day: int, name: Name, byte_count: int) -> None:
        """Count bytes in this process."""
        self._add_day_bytes(self._segment, day, self._digest(name), byte_count)

    def take_token(
        self, subject: str, *, rate_per_s: float, burst: float, now_s: float
    ) -> float | None:
        """Take one token, or say how long to wait. All processes have one monotonic clock."""
        digest = self._digest(("bucket", subject))
        tokens, at_s, place = burst, now_s, -1
        oldest_s = float("inf")
        for at in self._window(self._buckets_at, self._shape.bucket_places, digest, _BUCKET.size):
            known, known_tokens, known_s = _BUCKET.unpack_from(self._memory, at)
            if known == digest:
                tokens, at_s, place = known_tokens, known_s, at
                break
            if known == _FREE:
                place = at
                break
            if known_s < oldest_s:
                oldest_s, place = known_s, at
        tokens = min(burst, tokens + max(0.0, now_s - at_s) * rate_per_s)
        wait_s = None if tokens >= 1 else (1 - tokens) / rate_per_s
        left = tokens - 1 if wait_s is None else tokens
        _BUCKET.pack_into(self._memory, place, digest, left, max(now_s, at_s))
        return wait_s

    def fill_buckets(self, tracked_count: int) -> None:
        """Let every subject start with a full burst; the size is the shape's."""
        size = self._shape.bucket_places * _BUCKET.size
        self._memory[self._buckets_at : self._buckets_at + size] = bytes(size)

    def clear_segment(self, segment: int) -> None:
        """Forget what a process held that has ended; its bytes of today still count.

        To be called inside :meth:`exclusive` by the process of the last segment.
        """
        _, day = self._header(segment)
        start = self._days_at(segment)
        end = start + self._shape.day_places * _COUNT.size
        if day:
            for digest, byte_count in _COUNT.iter_unpack(self._memory[start:end]):
                if byte_count:
                    self._add_day_bytes(self._segment, day, digest, byte_count)
        begin = segment * self._shape.segment_bytes
        self._memory[begin : begin + self._shape.segment_bytes] = bytes(self._shape.segment_bytes)

    # -- places ---------------------------------------------------------------------------------

    def _digest(self, name: Name) -> bytes:
        # With lengths, so that no two names make the same text.
        text = "".join(f"{len(part)}:{part}" for part in name)
        data = text.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._shape.key).digest()

    def _header(self, segment: int) -> tuple[int, int]:
        used, day = _HEADER.unpack_from(self._memory, segment * self._shape.segment_bytes)
        return used, day

    def _set_header(self, segment: int, used: int, day: int) -> None:
        _HEADER.pack_into(self._memory, segment * self._shape.segment_bytes, used, day)

    def _counts_at(self, segment: int) -> int:
        return segment * self._shape.segment_bytes + _HEADER_BYTES

    def _days_at(self, segment: int) -> int:
        return self._counts_at(segment) + self._shape.count_places * _COUNT.size

    def _value(self, at: int) -> int:
        value: int = _COUNT.unpack_from(self._memory, at)[1]
        return value

    def _places(self, start: int, places: int, digest: bytes, size: int) -> Iterator[int]:
        """Yield where an entry may be, best first."""
        first = int.from_bytes(digest[:8], "big")
        for step in range(places):
            yield start + (first + step) % places * size

    def _window(self, start: int, places: int, digest: bytes, size: int) -> Iterator[int]:
        first = int.from_bytes(digest[:8], "big")
        for step in range(_WINDOW):
            yield start + (first + step) % places * size

    def _find(self, start: int, places: int, digest: bytes) -> int | None:
        memory = self._memory
        for at in self._places(start, places, digest, _COUNT.size):
            known = memory[at : at + _DIGEST_BYTES]
            if known == digest:
                return at
            if known == _FREE:
                return None
        return None

    def _add_day_bytes(self, segment: int, day: int, digest: bytes, byte_count: int) -> None:
        used, known_day = self._header(segment)
        start, places = self._days_at(segment), self._shape.day_places
        if day < known_day:
            return
        if day > known_day:
            size = places * _COUNT.size
            self._memory[start : start + size] = bytes(size)
            self._set_header(segment, used, day)
        least, place = -1, -1
        for at in self._window(start, places, digest, _COUNT.size):
            known, value = _COUNT.unpack_from(self._memory, at)
            if known in (digest, _FREE):
                _COUNT.pack_into(self._memory, at, digest, value + byte_count)
                return
            if place < 0 or value < least:
                least, place = value, at
        _COUNT.pack_into(self._memory, place, digest, byte_count)

    @property
    def _is_crowded(self) -> bool:
        return self._header(self._segment)[0] * 4 >= self._shape.count_places * 3

    def _compact(self) -> None:
        """Make the places of names at zero free again."""
        places = self._shape.count_places
        start = self._counts_at(self._segment)
        size = places * _COUNT.size
        held = [
            (digest, count)
            for digest, count in _COUNT.iter_unpack(self._memory[start : start + size])
            if count
        ]
        self._memory[start : start + size] = bytes(size)
        for digest, count in held:
            for at in self._places(start, places, digest, _COUNT.size):
                if self._memory[at : at + _DIGEST_BYTES] == _FREE:
                    _COUNT.pack_into(self._memory, at, digest, count)
                    break
        self._set_header(self._segment, len(held), self._header(self._segment)[1])


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
