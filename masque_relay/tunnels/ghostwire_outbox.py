"""Owns a session's way out for datagrams: at once, or through the fair queue."""

from collections.abc import Sequence

from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.fair_queue import FairQueue
from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.wire.ghostwire import MAX_FRAME_BYTES, FrameType


class DatagramOutbox:
    """Sends native datagrams where they fit, DATAGRAM frames where they do not.

    Nothing waits here while the carrier has room; once it is busy, the senders share it.
    """

    __slots__ = ("_counters", "_limits", "_queue")

    def __init__(self, limits: GhostwireLimits, counters: MeshCounters) -> None:
        self._limits = limits
        self._counters = counters
        self._queue = FairQueue(max_count=limits.queue_datagrams, max_bytes=limits.queue_bytes)

    def send(
        self,
        carrier: Carrier,
        prefix: bytes,
        payloads: Sequence[bytes],
        *,
        sender_id: bytes,
        priority: int,
    ) -> None:
        """Send, or queue and send what is next in turn."""
        if len(self._queue) or carrier.is_busy:
            self._counters.queue_dropped += self._queue.push(sender_id, priority, prefix, payloads)
            self.pump(carrier)
        else:
            self._send_now(carrier, prefix, payloads)

    def pump(self, carrier: Carrier) -> None:
        """Send from the queue until the carrier is busy."""
        while not carrier.is_busy:
            run = self._queue.pop()
            if run is None:
                return
            self._send_now(carrier, *run)

    def _send_now(self, carrier: Carrier, prefix: bytes, payloads: Sequence[bytes]) -> None:
        limit_bytes = carrier.max_payload_bytes - len(prefix)
        fitting = [payload for payload in payloads if len(payload) <= limit_bytes]
        if fitting:
            sent = carrier.send_datagrams(prefix, fitting)
            self._counters.relayed_datagrams += sent
            self._counters.relayed_bytes += sum(map(len, fitting)) * sent // len(fitting)
            self._counters.queue_dropped += len(fitting) - sent
        if len(fitting) < len(payloads):
            self._send_large(carrier, prefix, [one for one in payloads if len(one) > limit_bytes])

    def _send_large(self, carrier: Carrier, prefix: bytes, payloads: Sequence[bytes]) -> None:
        """What is too large for the carrier's datagrams goes on the frame stream, bounded."""
        for payload in payloads:
            if (
                carrier.unsent_bytes > self._limits.queue_bytes
                or len(payload) + len(prefix) > MAX_FRAME_BYTES
            ):
                self._counters.oversize_dropped += 1
                continue
            carrier.send_capsule(FrameType.DATAGRAM, prefix + payload)
            self._counters.relayed_datagrams += 1
            self._counters.relayed_bytes += len(payload)


def end_carrier(carrier: Carrier, reason: EndReason) -> None:
    """End a session's carrier from our side."""
    if reason is EndReason.BUG:
        carrier.abort(reason)
    else:
        carrier.finish()  # ERROR, which says why, has to arrive
