"""Owns AckPolicyConnection: a side that only receives gets its own acknowledgements acknowledged.

aioquic 1.7.2 keeps a record of every packet until the peer acknowledges it, packets of nothing but
an ACK too, and those a peer need not acknowledge (RFC 9000 section 13.2.1). So on a connection
that only receives, one record per ACK stayed for as long as the connection lived. Section 13.2.4
has the remedy: a PING beside an ACK now and then; and a peer that acknowledges nothing, not even
that, costs no more than MAX_ACK_RECORDS. When to acknowledge is in ``quiet_turns.py``.
"""

from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketSpace

from masque_relay.quic.hardened import HardenedQuicConnection

MAX_UNACKNOWLEDGED_ACKS = 128
"""Records of packets that only acknowledge, before a PING asks the peer to say that it has them: a
PING per 128 ACKs is no load, and 128 records are 50 KiB."""
MAX_ACK_RECORDS = 2_048
"""Records, before the older half of those of mere ACKs is forgotten: 1 MiB, or the ACKs of 0.1 s at
full speed, so that a peer that answers the PING never comes so far. All that an ACK's record is
good for is to leave out of the next ACKs what the peer knows we have, which is bounded anyway."""


class AckPolicyConnection(HardenedQuicConnection):
    """A connection whose memory of its own acknowledgements is bounded."""

    @property
    def uses_fast_path(self) -> bool:
        """Whether packets of datagrams are handled in batches; asked once there are 1-RTT keys."""
        return False

    @property
    def uses_accelerator(self) -> bool:
        """Whether they go through compiled code; asked once there are 1-RTT keys."""
        return False

    def _ack_wants_ping(self, space: QuicPacketSpace) -> bool:
        """Whether a PING should go with the next ACK. Nothing else is in flight to be answered."""
        return (
            not space.ack_eliciting_in_flight and len(space.sent_packets) >= MAX_UNACKNOWLEDGED_ACKS
        )

    def note_batch(self, packet_count: int, now: float) -> None:
        """After a batch was received: see QuietTurnsConnection; and bound the records."""
        super().note_batch(packet_count, now)
        if not self._spaces:
            return
        space = self._space
        # What is in flight has the congestion window for a bound, which may be far beyond this one.
        sent_count = len(space.sent_packets)
        if sent_count >= MAX_ACK_RECORDS <= sent_count - space.ack_eliciting_in_flight:
            self._forget_ack_records(space)

    def _forget_ack_records(self, space: QuicPacketSpace) -> None:
        mere_acks = [p.packet_number for p in space.sent_packets.values() if self._is_mere_ack(p)]
        for packet_number in mere_acks[: MAX_ACK_RECORDS // 2]:
            del space.sent_packets[packet_number]

    def _is_mere_ack(self, packet: QuicSentPacket) -> bool:
        """Whether nobody waits for a packet: no probe of the path, and nothing in flight."""
        return not packet.in_flight and all(
            handler == self._on_ack_delivery for handler, _ in packet.delivery_handlers
        )

    def _write_ack_frame(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float
    ) -> None:
        wants_ping = self._ack_wants_ping(space)
        super()._write_ack_frame(builder=builder, space=space, now=now)
        if wants_ping:
            self._write_ping_frame(builder, comment="acknowledge our ACKs")
