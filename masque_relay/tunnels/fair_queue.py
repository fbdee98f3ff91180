"""Owns FairQueue: datagrams from many senders to one receiver, by deficit round robin."""

from collections import deque
from collections.abc import Sequence

QUANTUM_BYTES = 6_000
"""What a sender may send per turn: four full packets, so that a turn is worth its overhead."""


class _Sender:
    """One sender's datagrams of one priority, and what it may still send this turn."""

    __slots__ = ("byte_count", "deficit_bytes", "key", "payloads")

    def __init__(self, key: tuple[int, bytes]) -> None:
        self.key = key
        self.payloads: deque[tuple[bytes, bytes]] = deque()
        self.byte_count = 0
        self.deficit_bytes = 0


class FairQueue:
    """Bounded in datagrams and bytes. Priority 0 is served first; within one, senders take turns.

    When it is full, the oldest datagram of whoever holds most makes room: a flood pushes out its
    own and nobody else's.

    Attributes:
        dropped_count: datagrams pushed out.
    """

    __slots__ = (
        "_byte_count",
        "_count",
        "_max_bytes",
        "_max_count",
        "_senders",
        "_turns",
        "dropped_count",
    )

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._senders: dict[tuple[int, bytes], _Sender] = {}
        self._turns: dict[int, deque[_Sender]] = {}
        self._count = 0
        self._byte_count = 0
        self.dropped_count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def byte_count(self) -> int:
        """Payload bytes held."""
        return self._byte_count

    def push(self, sender: bytes, priority: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Append datagrams of one sender; return how many of anybody's were pushed out."""
        # Before it is queued: to make room is a search among all senders for each datagram.
        dropped = max(0, len(payloads) - self._max_count)
        payloads = payloads[dropped:]
        key = (priority, sender)
        queue = self._senders.get(key)
        if queue is None:
            queue = self._senders[key] = _Sender(key)
            self._turns.setdefault(priority, deque()).append(queue)
        for payload in payloads:
            queue.payloads.append((prefix, payload))
            queue.byte_count += len(payload)
            self._byte_count += len(payload)
        self._count += len(payloads)
        while self._count > self._max_count or self._byte_count > self._max_bytes:
            self._drop_one()
            dropped += 1
        self.dropped_count += dropped
        return dropped

    def pop(self) -> tuple[bytes, list[bytes]] | None:
        """Return the next datagrams to send: one channel's prefix and a run of its payloads."""
        if not self._count:
            return None
        turns = self._turns[min(self._turns)]
        queue = turns[0]
        if queue.deficit_bytes <= 0:
            queue.deficit_bytes += QUANTUM_BYTES
        prefix = queue.payloads[0][0]
        run: list[bytes] = []
        while queue.payloads and queue.deficit_bytes > 0 and queue.payloads[0][0] == prefix:
            payload = queue.payloads.popleft()[1]
            queue.deficit_bytes -= len(payload) or 1
            run.append(payload)
        size = sum(map(len, run))
        queue.byte_count -= size
        self._byte_count -= size
        self._count -= len(run)
        if not queue.payloads:
            self._forget(queue)
        elif queue.deficit_bytes <= 0:
            turns.rotate(-1)
        return prefix, run

    def _drop_one(self) -> None:
        longest = max(self._senders.values(), key=_held_bytes)
        _, payload = longest.payloads.popleft()
        longest.byte_count -= len(payload)
        self._byte_count -= len(payload)
        self._count -= 1
        if not longest.payloads:
            self._forget(longest)

    def _forget(self, queue: _Sender) -> None:
        del self._senders[queue.key]
        turns = self._turns[queue.key[0]]
        turns.remove(queue)
        if not turns:
            del self._turns[queue.key[0]]


def _held_bytes(sender: _Sender) -> int:
    """What counts when somebody must make room: bytes, and a little for each datagram."""
    return sender.byte_count + 64 * len(sender.payloads)
