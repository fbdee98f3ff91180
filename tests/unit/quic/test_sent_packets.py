"""The records of the fast path are what recovery takes for a packet of aioquic's."""

from dataclasses import fields

import pytest
from aioquic.quic.packet_builder import QuicSentPacket
from aioquic.quic.stream import QuicStreamSender

from masque_relay.quic.sent_packets import DatagramsSent, StreamsSent

SENDER = QuicStreamSender(stream_id=0, writable=True)
HANDLERS = [(SENDER.on_data_delivery, (0, 5, False))]


@pytest.mark.parametrize(
    "record", [DatagramsSent(7, 1_200, 0.5), StreamsSent(7, 1_200, 0.5, HANDLERS)]
)
def test_a_record_has_every_field_of_a_sent_packet(record: DatagramsSent) -> None:
    assert all(hasattr(record, field.name) for field in fields(QuicSentPacket))
    assert (record.packet_number, record.sent_bytes, record.sent_time) == (7, 1_200, 0.5)
    assert record.in_flight
    assert record.is_ack_eliciting


def test_of_streams_somebody_hears_what_became_of_them() -> None:
    assert StreamsSent(7, 1_200, 0.5, HANDLERS).delivery_handlers == HANDLERS
    assert DatagramsSent(7, 1_200, 0.5).delivery_handlers == ()
