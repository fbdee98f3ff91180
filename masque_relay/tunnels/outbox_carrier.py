"""Owns OutboxCarrier: a carrier of frames only, whose bytes somebody else takes away."""

from collections import deque
from collections.abc import Callable, Sequence

from masque_relay.contract.verdict import EndReason
from masque_relay.wire.capsule import CapsuleType, encode_capsule
from masque_relay.wire.ghostwire import MAX_FRAME_BYTES

BUSY_BYTES = 65_536
MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - 16


class OutboxCarrier:
    """A Carrier without datagrams of its own, for WebSocket messages and HTTP bodies.

    Datagrams become DATAGRAM frames while fewer than ``backlog_bytes`` wait; what comes then is
    dropped and counted. Other frames are never refused: sessions bound them by credit.

    Attributes:
        dropped_datagrams: for want of room.
        end_reason: why nothing follows what is queued; None while something may.
        is_aborted: what is queued is not worth sending.
    """

    __slots__ = (
        "_backlog_bytes",
        "_frames",
        "_wake",
        "dropped_datagrams",
        "end_reason",
        "is_aborted",
        "unsent_bytes",
    )

    max_payload_bytes = MAX_PAYLOAD_BYTES

    def __init__(self, *, wake: Callable[[], None], backlog_bytes: int) -> None:
        """Begin empty.

        Args:
            wake: called when there is something to take, or an end to tell.
            backlog_bytes: beyond which datagrams are dropped.
        """
        self._wake = wake
        self._backlog_bytes = backlog_bytes
        self._frames: deque[bytes] = deque()
        self.unsent_bytes = 0
        self.dropped_datagrams = 0
        self.end_reason: EndReason | None = None
        self.is_aborted = False

    @property
    def is_busy(self) -> bool:
        """Whether there is enough to take for one message."""
        return self.unsent_bytes >= BUSY_BYTES

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue a DATAGRAM frame for each that fits; return how many did."""
        for index, payload in enumerate(payloads):
            if self.unsent_bytes >= self._backlog_bytes:
                self.dropped_datagrams += len(payloads) - index
                return index
            self._push(encode_capsule(CapsuleType.DATAGRAM, prefix + payload))
        return len(payloads)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Queue one frame."""
        self._push(encode_capsule(capsule_type, value))

    def abort(self, reason: EndReason) -> None:
        """Send nothing more; idempotent."""
        self.is_aborted = True
        self._end(reason)

    def finish(self) -> None:
        """End after what is queued; idempotent."""
        self._end(EndReason.PEER_CLOSED)

    def take(self, max_bytes: int) -> bytes:
        """Return whole frames, at least one and then up to ``max_bytes``; empty when none wait."""
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0]) <= max_bytes):
            frame = self._frames.popleft()
            size += len(frame)
            taken.append(frame)
        self.unsent_bytes -= size
        return b"".join(taken)

    def _push(self, frame: bytes) -> None:
        if self.end_reason is None:
            self._frames.append(frame)
            self.unsent_bytes += len(frame)
            self._wake()

    def _end(self, reason: EndReason) -> None:
        if self.end_reason is None:
            self.end_reason = reason
            self._wake()
