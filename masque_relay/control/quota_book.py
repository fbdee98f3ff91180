"""Owns what quotas are counted in: the QuotaBook seam, and the book of a relay of one process."""

from collections import Counter, OrderedDict
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from masque_relay.control.meter import TokenBucket

Name = tuple[str, ...]
"""What is counted, such as ``("subject", "alice")``."""

MAX_DAY_ENTRIES = 65_536  # subjects with a daily byte quota; the longest unused is forgotten first


class QuotaBook(Protocol):
    """Counts that decisions depend on, of one process or of all workers together."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep others from the book; everything below is called inside. Never waits for a peer."""
        ...

    @property
    def is_full(self) -> bool:
        """There is no room for further names: refuse."""
        ...

    def count(self, name: Name) -> int:
        """Return how many are held of a name, by everybody."""
        ...

    def add(self, name: Name, count: int) -> None:
        """Hold more, or with a negative count fewer, in this process."""
        ...

    def day_bytes(self, day: int, name: Name) -> int:
        """Return the bytes of a name on a day (since the epoch), by everybody."""
        ...

    def add_day_bytes(self, day: int, name: Name, byte_count: int) -> None:
        """Count bytes in this process; an older day is forgotten."""
        ...

    def take_token(
        self, subject: str, *, rate_per_s: float, burst: float, now_s: float
    ) -> float | None:
        """Take one token of a subject's bucket, which begins full.

        Returns:
            None when there was one, else in how many seconds there will be.
        """
        ...

    def fill_buckets(self, tracked_count: int) -> None:
        """Forget all buckets; from now on remember so many."""
        ...


class LocalBook:
    """The book of a relay of one process."""

    def __init__(self, tracked_count: int) -> None:
        """Remember the buckets of so many subjects."""
        self._counts: Counter[Name] = Counter()
        self._day = -1
        self._day_bytes: OrderedDict[Name, int] = OrderedDict()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._tracked_count = tracked_count

    def exclusive(self) -> AbstractContextManager[None]:
        """Nobody else has it."""
        return nullcontext()

    @property
    def is_full(self) -> bool:
        """Never: the cap on all tunnels bounds it."""
        return False

    def count(self, name: Name) -> int:
        """Return how many are held of a name."""
        return self._counts[name]

    def add(self, name: Name, count: int) -> None:
        """Hold more or fewer; forget what is at zero, because the names come from peers."""
        self._counts[name] += count
        if self._counts[name] <= 0:
            del self._counts[name]

    def day_bytes(self, day: int, name: Name) -> int:
        """Return the bytes of a name on a day."""
        return self._day_bytes.get(name, 0) if day == self._day else 0

    def add_day_bytes(self, day: int, name: Name, byte_count: int) -> None:
        """Count bytes."""
        if day != self._day:
            self._day = day
            self._day_bytes.clear()
        self._day_bytes[name] = self._day_bytes.get(name, 0) + byte_count
        self._day_bytes.move_to_end(name)
        while len(self._day_bytes) > MAX_DAY_ENTRIES:
            self._day_bytes.popitem(last=False)

    def take_token(
        self, subject: str, *, rate_per_s: float, burst: float, now_s: float
    ) -> float | None:
        """Take one token, or say how long to wait."""
        bucket = self._buckets.get(subject)
        if bucket is None:
            bucket = TokenBucket(rate_per_s=rate_per_s, burst=burst, now_s=now_s)
            self._buckets[subject] = bucket
            while len(self._buckets) > self._tracked_count:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(subject)
        if bucket.refill(now_s) >= 1:
            bucket.take(1)
            return None
        return bucket.wait_s(1)

    def fill_buckets(self, tracked_count: int) -> None:
        """Let every subject start with a full burst."""
        self._tracked_count = tracked_count
        self._buckets.clear()
