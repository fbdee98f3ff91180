"""Owns a session's way out for packets: at once, or through the fair queue."""

from collections.abc import Callable, Sequence

from fallbacks.derp.wire import MAX_PACKET_BYTES, encode_packets
from masque_relay.contract.counters import DerpCounters, DerpMeshCounters
from masque_relay.contract.derp_limits import DerpLimits, DerpMeshLimits
from masque_relay.contract.tunnel import StreamCarrier
from masque_relay.tunnels.fair_queue import FairQueue

Encode = Callable[[bytes, list[bytes]], bytes]
"""Makes the frames of packets of one source."""


class PacketOutbox:
    """Nothing waits here while the carrier has room; once it has not, the sources share it.

    The queue is bounded in packets and bytes: the oldest of whoever holds most is dropped and
    counted as ``queue_dropped``.
    """

    __slots__ = ("_counters", "_encode", "_limits", "_queue")

    def __init__(
        self,
        limits: DerpLimits | DerpMeshLimits,
        counters: DerpCounters | DerpMeshCounters,
        encode: Encode = encode_packets,
    ) -> None:
        self._limits = limits
        self._encode = encode
        self._counters = counters
        self._queue = FairQueue(max_count=limits.queue_datagrams, max_bytes=limits.queue_bytes)

    def send(self, carrier: StreamCarrier, source: bytes, packets: Sequence[bytes]) -> None:
        """Send, or queue and send what is next in turn."""
        fitting = [packet for packet in packets if len(packet) <= MAX_PACKET_BYTES]
        self._counters.oversize_dropped += len(packets) - len(fitting)
        if not fitting:
            return
        size = sum(map(len, fitting))
        if len(self._queue) or carrier.unsent_bytes + size > self._limits.busy_bytes:
            self._counters.queue_dropped += self._queue.push(source, 0, source, fitting)
            self.pump(carrier)
        else:
            self._send_now(carrier, source, fitting)

    def pump(self, carrier: StreamCarrier) -> None:
        """Send from the queue until the carrier has enough."""
        while carrier.unsent_bytes < self._limits.busy_bytes:
            run = self._queue.pop()
            if run is None:
                return
            self._send_now(carrier, *run)

    def _send_now(self, carrier: StreamCarrier, source: bytes, packets: list[bytes]) -> None:
        self._counters.packets += len(packets)
        self._counters.packet_bytes += sum(map(len, packets))
        carrier.send(self._encode(source, packets))
