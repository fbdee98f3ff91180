"""Owns the records of packets that the fast path sent: what recovery asks of a QuicSentPacket.

aioquic's own is a dataclass of eleven fields, two of them lists.
"""

from collections.abc import Callable, Sequence

from aioquic import tls
from aioquic.quic.packet import QuicPacketType

Delivery = tuple[Callable[..., None], tuple[int, int, bool]]
"""Who hears what became of a frame, and which bytes it held."""


class DatagramsSent:
    """The record of a packet of DATAGRAM frames: what recovery asks of a QuicSentPacket.

    Nobody waits to hear what became of a datagram (RFC 9221 section 5.1).
    """

    __slots__ = ("packet_number", "sent_bytes", "sent_time")

    epoch = tls.Epoch.ONE_RTT
    in_flight = True
    is_ack_eliciting = True
    is_crypto_packet = False
    packet_type = QuicPacketType.ONE_RTT
    delivery_handlers: Sequence[Delivery] = ()
    quic_logger_frames = ()

    def __init__(self, packet_number: int, sent_bytes: int, sent_time: float) -> None:
        self.packet_number = packet_number
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time


class StreamsSent(DatagramsSent):
    """The record of a packet of STREAM frames."""

    __slots__ = ("delivery_handlers",)

    def __init__(
        self,
        packet_number: int,
        sent_bytes: int,
        sent_time: float,
        delivery_handlers: Sequence[Delivery],
    ) -> None:
        self.packet_number = packet_number
        self.sent_bytes = sent_bytes
        self.sent_time = sent_time
        self.delivery_handlers = delivery_handlers
