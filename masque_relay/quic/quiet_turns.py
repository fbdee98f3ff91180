"""Owns QuietTurnsConnection: what a turn costs in which nothing but datagrams came in.

Finding out that nothing is to be sent costs aioquic nearly as much as a datagram, and so does the
next timer; an acknowledgement costs as much as three. On a relay with many thin tunnels each turn
brings a connection one or two packets, so these three were most of the work. Here a flag says when
something else than a datagram stirred the connection, and acknowledgements wait a little.
"""

from aioquic import tls
from aioquic.quic.connection import END_STATES
from aioquic.quic.stream import QuicStream

from masque_relay.quic.datagrams import DatagramConnection

ACK_DELAY_S = 0.005
"""A fifth of the max_ack_delay that aioquic announces, five times its own timer: with fifty
clients, nearly every datagram got an acknowledgement of its own."""
ACK_PACKETS = 10
"""A sender's initial window (RFC 9002 section 7.2): it never waits for the timer to go on."""


class QuietTurnsConnection(DatagramConnection):
    """A DatagramConnection whose turns are cheap when there is nothing to say."""

    _acknowledged_gaps: int
    _known_timer_at: float | None
    _unacknowledged: int

    def init_turns(self) -> None:
        """Set up; the subclass calls it after aioquic's own constructor."""
        self._ack_delay = ACK_DELAY_S
        self._acknowledged_gaps = 0
        self._known_timer_at = None
        self._unacknowledged = 0

    def early_timer(self) -> float | None:
        """Return :meth:`get_timer`, or something earlier that costs less to know.

        While nothing but datagrams comes in, only the acknowledgement timer is new, and the idle
        timeout moves away.
        """
        if self._is_stirred or self._known_timer_at is None or self._state in END_STATES:
            return self.get_timer()
        ack_at = self._spaces[tls.Epoch.ONE_RTT].ack_at
        return self._known_timer_at if ack_at is None else min(self._known_timer_at, ack_at)

    def note_batch(self, packet_count: int, now: float) -> None:
        """After a batch was received: acknowledge now what should not wait.

        Deviation from RFC 9000 section 13.2.2, which would have an ACK for every second packet:
        every ACK_PACKETS packets, after ACK_DELAY_S, or when a gap has opened. An ACK costs as
        much as three datagrams.
        """
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        if space is None:
            return
        gaps, before = len(space.ack_queue) - 1, self._acknowledged_gaps
        self._acknowledged_gaps = gaps
        if space.ack_at is None:
            return
        self._unacknowledged += packet_count
        if self._unacknowledged >= ACK_PACKETS or gaps > max(before, 0):
            space.ack_at = min(space.ack_at, now)

    def note_flush(self) -> None:
        """After a flush: remember whether another one would have something to say."""
        self._is_stirred = (
            self._pacing_at is not None
            or self._connection_credit_is_due()
            or any(map(self._is_busy, self._streams_queue))
        )
        self._known_timer_at = None
        if self._spaces[tls.Epoch.ONE_RTT].ack_at is None:
            self._unacknowledged = 0

    def _has_nothing_to_say(self, now: float) -> bool:
        # aioquic's flush costs 8 us to find that out, nearly as much as a datagram.
        if self._is_stirred or self._datagrams_pending or not self._handshake_confirmed:
            return False
        ack_at = self._spaces[tls.Epoch.ONE_RTT].ack_at
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

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        self._is_stirred = True
        return super()._get_or_create_stream_for_send(stream_id)
