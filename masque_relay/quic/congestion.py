"""Owns what the relay adds to aioquic's congestion control: sight of lost sizes, longer bursts."""

from collections.abc import Iterable

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

from masque_relay.quic.path_mtu import BASE_DATAGRAM_BYTES

BURST_S = 0.002
"""The event loop's timers are no finer than a millisecond and round up, so what is due within two
goes at once: about what Linux does for TCP. Half of it would be half of the rate when the timer
alone drives."""
MAX_BURST_PACKETS = 256
"""Four GSO sends; reached beyond 128,000 packets/s only."""
PACING_GAIN = 1.25
"""RFC 9002 section 7.7 suggests it: at exactly window over round trip the window is never used up,
for every late timer is lost for good. aioquic paces at exactly that."""


class SeesSizes(QuicCongestionControl):
    """Stands before a congestion controller and watches what becomes of large packets."""

    large_loss_events: int = 0
    """Loss events with large packets since one of them passed."""

    def on_packet_acked(self, *, now: float, packet: QuicSentPacket) -> None:
        """See that the path takes the size."""
        if packet.sent_bytes > BASE_DATAGRAM_BYTES:
            self.large_loss_events = 0
        super().on_packet_acked(now=now, packet=packet)  # type: ignore[safe-super]  # a controller follows

    def on_packets_lost(self, *, now: float, packets: Iterable[QuicSentPacket]) -> None:
        """See whether large packets were among them."""
        packets = list(packets)
        self.large_loss_events += any(p.sent_bytes > BASE_DATAGRAM_BYTES for p in packets)
        super().on_packets_lost(now=now, packets=packets)  # type: ignore[safe-super]  # as above


class RelayReno(SeesSizes, RenoCongestionControl):
    """NewReno (RFC 9002 section 7)."""


class RelayCubic(SeesSizes, CubicCongestionControl):
    """CUBIC (RFC 9438)."""


class RelayPacer(QuicPacketPacer):
    """aioquic's pacer (RFC 9002 section 7.7), with a gain and a burst as long as a timer tick."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Set the rate; the burst is what aioquic allows, or BURST_S if that is more."""
        super().update_rate(
            congestion_window=congestion_window, smoothed_rtt=smoothed_rtt / PACING_GAIN
        )
        if self.packet_time is not None:
            burst_s = min(BURST_S, MAX_BURST_PACKETS * self.packet_time)
            self.bucket_max = max(self.bucket_max, burst_s)

    def update_after_send(self, now: float) -> None:
        """Take a packet out of the bucket, on credit if it is not full enough.

        aioquic forgives what is missing. With a timer that comes once in a millisecond that is a
        packet too many each time, twice the rate on a path of 10 Mbit/s.
        """
        if self.packet_time is not None:
            self.update_bucket(now=now)
            self.bucket_time -= self.packet_time


RENO = "ghostwire-reno"
CUBIC = "ghostwire-cubic"
register_congestion_control(RENO, RelayReno)
register_congestion_control(CUBIC, RelayCubic)
