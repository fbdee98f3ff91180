"""Owns the bounded buffers for HTTP Datagrams that nobody can take yet."""

from collections import deque
from collections.abc import Sequence

from masque_relay.contract.ports import Clock
from masque_relay.http.limits import HttpLimits


class DatagramQueue:
    """Datagrams of one stream, bounded in count and bytes.

    Before the 2xx the newest is dropped (the first datagram of a QUIC handshake is the one that
    counts); once an application reads, the oldest is (a fresh datagram is worth more).
    """

    __slots__ = ("_bytes", "_items", "_max_bytes", "_max_count")

    def __init__(self, *, max_count: int, max_bytes: int) -> None:
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._max_count = max_count
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._items)

    @property
    def byte_count(self) -> int:
        """Payload bytes held."""
        return self._bytes

    def resize(self, *, max_count: int, max_bytes: int) -> None:
        """Change the bounds; what is there stays."""
        self._max_count = max_count
        self._max_bytes = max_bytes

    def push_or_drop_new(self, payloads: Sequence[bytes]) -> int:
        """Append while there is room; return how many were dropped."""
        for index, payload in enumerate(payloads):
            if self._is_full_for(len(payload)):
                return len(payloads) - index
            self._append(payload)
        return 0

    def push_and_drop_oldest(self, payloads: Sequence[bytes]) -> int:
        """Append all, pushing out the oldest; return how many were dropped."""
        dropped = 0
        for payload in payloads:
            while self._items and self._is_full_for(len(payload)):
                self._bytes -= len(self._items.popleft())
                dropped += 1
            self._append(payload)
        return dropped

    def pop(self) -> bytes:
        """Return the oldest; the queue must not be empty."""
        payload = self._items.popleft()
        self._bytes -= len(payload)
        return payload

    def pop_all(self) -> list[bytes]:
        """Return and forget everything, the oldest first."""
        payloads = list(self._items)
        self._items.clear()
        self._bytes = 0
        return payloads

    def _append(self, payload: bytes) -> None:
        self._items.append(payload)
        self._bytes += len(payload)

    def _is_full_for(self, size: int) -> bool:
        return len(self._items) >= self._max_count or self._bytes + size > self._max_bytes


class EarlyDatagrams:
    """Datagrams of one connection whose streams have not begun (RFC 9297 section 2.1).

    Bounded in streams, in datagrams per stream and in bytes altogether; the newest is dropped.
    What stays longer than ``early_datagram_lifetime_s`` goes when the next one comes.
    """

    __slots__ = ("_byte_count", "_clock", "_limits", "_queues")

    def __init__(self, limits: HttpLimits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._queues: dict[int, tuple[float, DatagramQueue]] = {}
        self._byte_count = 0

    def __len__(self) -> int:
        return sum(len(queue) for _, queue in self._queues.values())

    def push(self, stream_id: int, payloads: Sequence[bytes]) -> int:
        """Keep what fits; return how many datagrams were dropped, stale ones included."""
        limits = self._limits
        now_s = self._clock.monotonic_s()
        dropped = self._expire(now_s)
        if stream_id not in self._queues:
            if len(self._queues) >= limits.early_unknown_streams:
                return dropped + len(payloads)
            queue = DatagramQueue(
                max_count=limits.early_datagrams_per_stream,
                max_bytes=limits.early_datagram_bytes_per_stream,
            )
            self._queues[stream_id] = (now_s, queue)
        queue = self._queues[stream_id][1]
        for payload in payloads:
            room_bytes = limits.early_datagram_bytes_per_connection - self._byte_count
            if len(payload) > room_bytes or queue.push_or_drop_new([payload]):
                dropped += 1
            else:
                self._byte_count += len(payload)
        return dropped

    def take(self, stream_id: int) -> list[bytes]:
        """Return what came for a stream that begins now."""
        entry = self._queues.pop(stream_id, None)
        if entry is None:
            return []
        self._byte_count -= entry[1].byte_count
        return entry[1].pop_all()

    def _expire(self, now_s: float) -> int:
        """Drop queues past their lifetime; the dict is in order of arrival."""
        oldest_allowed_s = now_s - self._limits.early_datagram_lifetime_s
        dropped = 0
        while self._queues:
            stream_id, (since_s, queue) = next(iter(self._queues.items()))
            if since_s >= oldest_allowed_s:
                break
            del self._queues[stream_id]
            self._byte_count -= queue.byte_count
            dropped += len(queue)
        return dropped
