"""Owns QuietTurnsConnection: what a turn costs in which nothing but datagrams came in.

Finding out that nothing is to be sent costs aioquic nearly as much as a datagram, and so does the
next timer; an acknowledgement costs as much as three. On a relay with many thin tunnels each turn
brings a connection one or two packets, so these three were most of the work. Here a flag says when
something else than a datagram stirred the connection, and acknowledgements wait a little.
"""

from typing import TYPE_CHECKING

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState, QuicReceiveContext
from aioquic.quic.stream import QuicStream

from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.datagrams import DatagramConnection

if TYPE_CHECKING:
    from aioquic.quic.recovery import QuicPacketSpace

ACK_DELAY_S = 0.005
"""While the sender's window may be small, and for streams: a fifth of the max_ack_delay that
aioquic announces, so that a sender with a window of two packets is slowed down by little."""
STEADY_ACK_DELAY_S = 0.020
"""For datagrams that flow steadily; 5 ms of the announced max_ack_delay are left for a late timer.
At 500 datagrams/s every tenth is acknowledged instead of every third."""
QUICK_ACK_PACKETS = 256
"""So many packets from the start, and after each gap, are acknowledged with the short delay: slow
start has outgrown ACK_PACKETS by then, and a window that a loss has cut has grown again."""
ACK_PACKETS = 10
"""A sender's initial window (RFC 9002 section 7.2): it never waits for the timer to go on."""


class QuietTurnsConnection(DatagramConnection):
    """A DatagramConnection whose turns are cheap when there is nothing to say."""

    ack_packets: int = ACK_PACKETS
    """So many packets are acknowledged at once."""
    _acknowledged_gaps: int
    _has_stream_data: bool
    _known_timer_at: float | None
    _quick_packets_left: int
    _space: "QuicPacketSpace"
    """That of 1-RTT packets, once there are keys at all: a look-up by an enum's member costs more
    than any line of the packet path."""
    _unacknowledged: int

    def init_turns(self) -> None:
        """Set up; the subclass calls it after aioquic's own constructor."""
        self._ack_delay = ACK_DELAY_S
        self._acknowledged_gaps = 0
        self._has_stream_data = False
        self._known_timer_at = None
        self._quick_packets_left = QUICK_ACK_PACKETS
        self._unacknowledged = 0

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._space = self._spaces[tls.Epoch.ONE_RTT]

    def early_timer(self) -> float | None:
        """Return :meth:`get_timer`, or something earlier that costs less to know.

        While nothing but datagrams comes in, only the acknowledgement timer is new, and the idle
        timeout moves away.
        """
        if (
            self._is_stirred
            or self._known_timer_at is None
            or self._state is not QuicConnectionState.CONNECTED
        ):
            return self.get_timer()
        ack_at = self._space.ack_at
        return self._known_timer_at if ack_at is None else min(self._known_timer_at, ack_at)

    def quiet_timer(self, now: float) -> float | None:
        """Return :meth:`early_timer` if there is nothing to be said before it.

        None: flush, and ask :meth:`early_timer` then. After most turns of a thin flow this is all
        that is asked.
        """
        if self._known_timer_at is None or self._close_event is not None:
            return None
        return self.early_timer() if self._has_nothing_to_say(now) else None

    def note_batch(self, packet_count: int, now: float) -> None:
        """After a batch was received: acknowledge now what should not wait.

        Deviation from RFC 9000 section 13.2.2, which would have an ACK for every second packet:
        every ACK_PACKETS packets, after ACK_DELAY_S or STEADY_ACK_DELAY_S, or when a gap has
        opened. An ACK costs as much as three datagrams.
        """
        if not self._spaces:
            return
        space = self._space
        has_stream_data, self._has_stream_data = self._has_stream_data, False
        gaps, before = len(space.ack_queue) - 1, self._acknowledged_gaps
        self._acknowledged_gaps = gaps
        has_new_gap = gaps > max(before, 0)
        if has_new_gap:
            self._quick_packets_left = QUICK_ACK_PACKETS
            self._ack_delay = ACK_DELAY_S
        elif self._quick_packets_left > 0:
            self._quick_packets_left -= packet_count
            if self._quick_packets_left <= 0:
                self._ack_delay = STEADY_ACK_DELAY_S
        if space.ack_at is None:
            return
        self._unacknowledged += packet_count
        if self._unacknowledged >= self.ack_packets or has_new_gap:
            space.ack_at = min(space.ack_at, now)
        elif has_stream_data:
            # It may have been a request, whose sender waits.
            space.ack_at = min(space.ack_at, now + ACK_DELAY_S)

    def note_flush(self) -> None:
        """After a flush: remember whether another one would have something to say."""
        self._is_stirred = (
            self._pacing_at is not None
            or self._has_control_frames()
            or any(map(self._is_busy, self._streams_queue))
        )
        self._known_timer_at = None
        if self._space.ack_at is None:
            self._unacknowledged = 0

    def _has_control_frames(self) -> bool:
        """Whether a frame waits that is no stream's; none comes up without a stir."""
        limit = self._local_max_data
        return (
            limit.value != limit.sent
            or self._connection_credit_is_due()
            or bool(self._retire_connection_ids)
            or self._handshake_done_pending
            or self._streams_blocked_pending
            or not self._crypto_streams[tls.Epoch.ONE_RTT].sender.buffer_is_empty
            or any(not connection_id.was_sent for connection_id in self._host_cids)
        )

    def _has_nothing_to_say(self, now: float) -> bool:
        # aioquic's flush costs 8 us to find that out, nearly as much as a datagram.
        if self._is_stirred or self._datagrams_pending or not self._handshake_confirmed:
            return False
        ack_at = self._space.ack_at
        paths = self._network_paths
        return not (
            (ack_at is not None and ack_at <= now)
            or self._close_pending
            or self._ping_pending
            or self._probe_pending
            or self._retire_connection_ids
            or len(paths) > 1
            or not paths[0].is_validated
        )

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        self._has_stream_data = True
        super()._handle_stream_frame(context, frame_type, buf)

    def change_connection_id(self) -> None:
        """Address the peer by another of its IDs from now on."""
        self._is_stirred = True
        super().change_connection_id()

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        self._is_stirred = True
        return super()._get_or_create_stream_for_send(stream_id)
