"""Congestion control sees sizes; the pacer lets a timer tick's worth go at once."""

import pytest
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.tls import Epoch

from masque_relay.quic.congestion import (
    CUBIC,
    MAX_BURST_PACKETS,
    PACING_GAIN,
    RENO,
    RelayPacer,
    SeesSizes,
)


def packet(size: int, sent_s: float = 1.0) -> QuicSentPacket:
    return QuicSentPacket(
        epoch=Epoch.ONE_RTT,
        in_flight=True,
        is_ack_eliciting=True,
        is_crypto_packet=False,
        packet_number=0,
        packet_type=QuicPacketType.ONE_RTT,
        sent_time=sent_s,
        sent_bytes=size,
    )


@pytest.mark.parametrize("name", [RENO, CUBIC])
class TestSeesSizes:
    def test_loss_events_of_large_packets_add_up_until_one_passes(self, name: str) -> None:
        controller = create_congestion_control(name, max_datagram_size=1_280)
        assert isinstance(controller, SeesSizes)
        for _ in range(4):
            controller.on_packet_sent(packet=packet(1_280))
        controller.on_packets_lost(now=2.0, packets=[packet(1_280), packet(1_280)])
        assert controller.large_loss_events == 1
        controller.on_packets_lost(now=2.1, packets=[packet(1_280)])
        assert controller.large_loss_events == 2
        controller.on_packet_acked(now=2.2, packet=packet(1_280))
        assert controller.large_loss_events == 0
        assert controller.bytes_in_flight == 0

    def test_small_packets_say_nothing_about_the_path(self, name: str) -> None:
        controller = create_congestion_control(name, max_datagram_size=1_280)
        assert isinstance(controller, SeesSizes)
        controller.on_packets_lost(now=2.0, packets=[packet(100)])
        assert controller.large_loss_events == 0
        controller.on_packets_lost(now=2.0, packets=[packet(1_280)])
        controller.on_packet_acked(now=2.0, packet=packet(100))
        assert controller.large_loss_events == 1


class TestPacer:
    """RFC 9002 section 7.7."""

    def burst(self, pacer: QuicPacketPacer) -> int:
        count = 0
        while pacer.next_send_time(now=10.0) is None and count < 1_000:
            pacer.update_after_send(now=10.0)
            count += 1
        return count

    def test_a_fast_path_takes_a_segmentation_burst(self) -> None:
        pacer = RelayPacer(max_datagram_size=1_280)
        pacer.update_rate(congestion_window=1_000_000, smoothed_rtt=0.001)
        assert MAX_BURST_PACKETS - 2 <= self.burst(pacer) <= MAX_BURST_PACKETS + 2

    def test_a_slow_path_takes_what_aioquic_allows(self) -> None:
        ours, stock = RelayPacer(max_datagram_size=1_280), QuicPacketPacer(max_datagram_size=1_280)
        for pacer in (ours, stock):
            pacer.update_rate(congestion_window=64_000, smoothed_rtt=0.1)
        assert self.burst(ours) == self.burst(stock)

    @pytest.mark.clause("RFC 9002", "7.7", "SHOULD", "pace at a gain over window by round trip")
    def test_over_time_the_rate_is_the_window_per_round_trip_and_a_quarter(self) -> None:
        pacer = RelayPacer(max_datagram_size=1_280)
        pacer.update_rate(congestion_window=128_000, smoothed_rtt=0.1)
        sent, now_s = self.burst(pacer), 10.0
        while now_s < 11.0:
            now_s += 0.001  # a timer is no finer
            while pacer.next_send_time(now=now_s) is None:
                pacer.update_after_send(now=now_s)
                sent += 1
        assert sent == pytest.approx(PACING_GAIN * 1_000, rel=0.03)

    def test_a_timer_that_is_late_by_a_tick_costs_a_fast_path_nothing(self) -> None:
        pacer = RelayPacer(max_datagram_size=1_280)
        pacer.update_rate(congestion_window=1_280_000, smoothed_rtt=0.02)
        self.burst(pacer)
        sent, now_s = 0, 10.0
        for _ in range(100):
            now_s += 0.002
            while pacer.next_send_time(now=now_s) is None:
                pacer.update_after_send(now=now_s)
                sent += 1
        assert sent == pytest.approx(PACING_GAIN * 50_000 * 0.2, rel=0.03)
