"""Owns what the relay adds to aioquic's congestion control: sight of lost sizes, longer bursts."""

from collections.abc import Iterable

from aioquic.quic.congestion.base import QuicCongestionControl, register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer

from masque_relay.quic.path_mtu import BASE_DATAGRAM_BYTES

BURST_S = 0.001
"""The event loop's timers are no finer than a millisecond, so what is due within one goes at once:
the same as Linux does for TCP (a millisecond of the pacing rate per segmentation burst)."""
MAX_BURST_PACKETS = 64
"""One GSO send (UDP_MAX_SEGMENTS)."""


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
    """aioquic's pacer (RFC 9002 section 7.7), with a burst as long as a timer tick."""

    def update_rate(self, congestion_window: int, smoothed_rtt: float) -> None:
        """Set the rate; the burst is what aioquic allows, or a millisecond if that is more."""
        super().update_rate(congestion_window=congestion_window, smoothed_rtt=smoothed_rtt)
        if self.packet_time is not None:
            burst_s = min(BURST_S, MAX_BURST_PACKETS * self.packet_time)
            self.bucket_max = max(self.bucket_max, burst_s)


RENO = "ghostwire-reno"
CUBIC = "ghostwire-cubic"
register_congestion_control(RENO, RelayReno)
register_congestion_control(CUBIC, RelayCubic)
