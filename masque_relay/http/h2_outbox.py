"""Owns H2Outbox: what the streams of one HTTP/2 connection have to send, and whose turn it is."""

from collections import deque
from collections.abc import Callable

from h2.connection import H2Connection

from masque_relay.http.h2_frame_guard import MAX_FRAME_BYTES
from masque_relay.quic.application import Headers

WRITE_CHUNK_BYTES = 65_536
"""Frames per write: few enough for one TLS record or four, many enough to amortise the call."""


class _Queue:
    """What flow control or a full socket keeps back of one stream: DATA, then perhaps trailers."""

    __slots__ = ("ends", "h2_id", "pieces", "queued_bytes", "trailers")

    def __init__(self, h2_id: int) -> None:
        self.h2_id = h2_id
        self.pieces: deque[bytes] = deque()
        self.queued_bytes = 0
        self.trailers: Headers | None = None
        self.ends = False
        """END_STREAM follows the queue."""


class H2Outbox:
    """The queues of all streams, which take turns; frames go to the h2 library.

    It is bounded by those who send: carriers drop, responses wait (:meth:`unsent_bytes`).

    Args:
        h2: the connection.
        ended: told of a stream, by its HTTP/2 id, whose END_STREAM has been sent.
    """

    def __init__(self, h2: H2Connection, *, ended: Callable[[int], None]) -> None:
        self._h2 = h2
        self._ended = ended
        self._ready: dict[int, _Queue] = {}
        """Those with something to send, in the order of their turns."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._ready

    def send_data(self, h2_id: int, data: bytes, *, end_stream: bool) -> None:
        """Queue bytes; nothing may follow an end."""
        queue = self._queue(h2_id)
        for start in range(0, len(data), MAX_FRAME_BYTES):  # so that no frame copies the rest
            queue.pieces.append(data[start : start + MAX_FRAME_BYTES])
        queue.queued_bytes += len(data)
        queue.ends = end_stream

    def send_trailers(self, h2_id: int, headers: Headers) -> None:
        """Queue the end of a stream, with trailers."""
        queue = self._queue(h2_id)
        queue.trailers = headers
        queue.ends = True

    def ends(self, h2_id: int) -> bool:
        """Whether the end of a stream waits here."""
        queue = self._ready.get(h2_id)
        return queue is not None and queue.ends

    def unsent_bytes(self, h2_id: int) -> int:
        """Bytes that wait for window or socket; an end that waits counts as one."""
        queue = self._ready.get(h2_id)
        return 0 if queue is None else queue.queued_bytes or 1

    def drop(self, h2_id: int) -> None:
        """Forget a stream that is over."""
        self._ready.pop(h2_id, None)

    def clear(self) -> None:
        """Forget all."""
        self._ready.clear()

    def fill(self) -> bool:
        """Give every stream turns until a write is full; False when nobody could send."""
        progressed, room_bytes = False, WRITE_CHUNK_BYTES
        for queue in tuple(self._ready.values()):
            if room_bytes <= 0:
                break
            moved_bytes = self._send_frame(queue)
            if moved_bytes is None:
                continue
            progressed = True
            room_bytes -= moved_bytes
            if queue.h2_id in self._ready:  # to the end of the line
                self._ready[queue.h2_id] = self._ready.pop(queue.h2_id)
        return progressed

    def _queue(self, h2_id: int) -> _Queue:
        queue = self._ready.get(h2_id)
        if queue is None:
            queue = self._ready[h2_id] = _Queue(h2_id)
        return queue

    def _send_frame(self, queue: _Queue) -> int | None:
        """Send one DATA frame or the end of a stream; None when its window is closed."""
        size = 0
        data = b""
        if queue.pieces:
            size = min(
                self._h2.local_flow_control_window(queue.h2_id),
                self._h2.max_outbound_frame_size,
                WRITE_CHUNK_BYTES,
                queue.queued_bytes,
            )
            if size <= 0:
                return None
            data = _take(queue.pieces, size)
            queue.queued_bytes -= size
        if queue.pieces:
            self._h2.send_data(queue.h2_id, data)
            return size
        if data or (queue.ends and queue.trailers is None):
            self._h2.send_data(queue.h2_id, data, end_stream=queue.ends and queue.trailers is None)
        if queue.trailers is not None:
            self._h2.send_headers(queue.h2_id, queue.trailers, end_stream=True)
        self._ready.pop(queue.h2_id, None)
        if queue.ends:
            self._ended(queue.h2_id)
        return size


def _take(pieces: deque[bytes], size: int) -> bytes:
    """Return the first ``size`` bytes of a queue that has them."""
    first = pieces.popleft()
    if len(first) == size:
        return first
    parts = [first]
    have = len(first)
    while have < size:
        parts.append(pieces.popleft())
        have += len(parts[-1])
    joined = b"".join(parts)
    if have > size:
        pieces.appendleft(joined[size:])
    return joined[:size]
