"""Owns AckPolicyConnection: a side that only receives gets its own acknowledgements acknowledged.

aioquic 1.7.2 keeps a record of every packet until the peer acknowledges it, packets of nothing but
an ACK too, and those a peer need not acknowledge (RFC 9000 section 13.2.1). So on a connection
that only receives, one record per ACK stayed for as long as the connection lived. Section 13.2.4
has the remedy: a PING beside an ACK now and then. When to acknowledge is in ``hardened.py``.
"""

from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace

from masque_relay.quic.hardened import HardenedQuicConnection

MAX_UNACKNOWLEDGED_ACKS = 128
"""Records of packets that only acknowledge, before a PING asks the peer to say that it has them: a
PING per 128 ACKs is no load, and 128 records are 50 KiB."""


class AckPolicyConnection(HardenedQuicConnection):
    """A connection whose memory of its own acknowledgements is bounded."""

    def _ack_wants_ping(self, space: QuicPacketSpace) -> bool:
        """Whether a PING should go with the next ACK. Nothing else is in flight to be answered."""
        return (
            not space.ack_eliciting_in_flight and len(space.sent_packets) >= MAX_UNACKNOWLEDGED_ACKS
        )

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        wants_ping = self._ack_wants_ping(space)
        super()._write_ack_frame(builder=builder, space=space, now=now)
        if wants_ping:
            self._write_ping_frame(builder, comment="acknowledge our ACKs")
