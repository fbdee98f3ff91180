"""Owns DatagramConnection: DATAGRAM frames (RFC 9221) that are bounded, counted and never stuck.

Stock aioquic 1.7.2 queues without bound and without looking at the size, and one datagram that no
packet can hold blocks all behind it for ever. Here the size is checked first, against path and
peer, and again when either shrinks; the queue drops its oldest.
"""

from collections.abc import Sequence

from aioquic import tls
from aioquic.quic.connection import QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from aioquic.quic.stream import QuicStream

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic import aioquic_private
from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.busy_streams import BusyStreamsConnection
from masque_relay.wire.varint import peek_varint

DATAGRAM_FRAME_OVERHEAD_BYTES = 3
"""Type and a two-byte length; aioquic always writes the length."""
PACKET_OVERHEAD_BYTES = 1 + 2 + 16
"""First byte, packet number, AEAD tag; the connection ID comes on top."""
STREAM_TURN_PACKETS = 4
"""While datagrams wait, streams may begin every fourth packet, so that a full datagram queue does
not starve the requests and answers of its neighbours."""
_NO_LIMIT_BYTES = 65_535
_DATAGRAM_WITH_LENGTH = bytes([QuicFrameType.DATAGRAM_WITH_LENGTH])


class DatagramConnection(BusyStreamsConnection):
    """A connection whose datagram queue has a bound (``QuicLimits.datagram_queue_count``).

    What is refused for its size and what the bound pushes out are counted in ``QuicCounters``.
    """

    _counters: QuicCounters
    _datagram_queue_count: int
    _datagram_room_bytes: int
    _next_stream_turn: int
    _datagrams_waiting: int

    def init_datagrams(self, queue_count: int, counters: QuicCounters) -> None:
        """Set up; the subclass calls it after aioquic's own constructor."""
        self._counters = counters
        self._datagram_queue_count = queue_count
        self._datagram_room_bytes = 0
        self._next_stream_turn = 0
        self._datagrams_waiting = 0

    @property
    def max_datagram_payload_bytes(self) -> int:
        """The largest DATAGRAM frame payload that both path and peer take now; 0: none."""
        room_bytes = self._max_datagram_size - PACKET_OVERHEAD_BYTES - len(self._peer_cid.cid)
        peer_bytes = self._remote_max_datagram_frame_size or 0
        room_bytes = min(room_bytes, peer_bytes)
        room_bytes -= DATAGRAM_FRAME_OVERHEAD_BYTES
        return max(0, room_bytes)

    def queue_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` each, as QuicTransport.send_datagrams says."""
        most_bytes = self.max_datagram_payload_bytes
        if not most_bytes:
            # Not even an empty one: the peer would close the connection.
            self._counters.quic_datagrams_oversize += len(payloads)
            return 0
        room_bytes = most_bytes - len(prefix)
        fitting = [prefix + payload for payload in payloads if len(payload) <= room_bytes]
        self._counters.quic_datagrams_oversize += len(payloads) - len(fitting)
        pending = self._datagrams_pending
        if not pending:
            # A short burst goes before what is on the streams, as the application sent it.
            self._next_stream_turn = self._packet_number + STREAM_TURN_PACKETS
        pending.extend(fitting)
        self._datagram_room_bytes = max(self._datagram_room_bytes, most_bytes)
        overflow = len(pending) - self._datagram_queue_count
        if overflow > 0:
            self._counters.quic_datagrams_overflow += overflow
            for _ in range(overflow):
                pending.popleft()
        return len(fitting)

    @property
    def queued_datagrams(self) -> int:
        """How many wait for the congestion window."""
        return len(self._datagrams_pending)

    def prepare_datagrams(self) -> None:
        """Before a flush: drop what no longer fits."""
        # The room shrinks with the path and with a longer connection ID of the peer; one datagram
        # that no longer fits would block all behind it for ever.
        room_bytes = self.max_datagram_payload_bytes
        if room_bytes < self._datagram_room_bytes and self._datagrams_pending:
            fitting = [data for data in self._datagrams_pending if len(data) <= room_bytes]
            self._counters.quic_datagrams_oversize += len(self._datagrams_pending) - len(fitting)
            self._datagrams_pending.clear()
            self._datagrams_pending.extend(fitting)
        self._datagram_room_bytes = room_bytes
        self._datagrams_waiting = len(self._datagrams_pending)

    def count_sent_datagrams(self) -> None:
        """After a flush."""
        self._counters.quic_datagrams_sent += self._datagrams_waiting - len(self._datagrams_pending)

    def _payload_received(
        self,
        context: QuicReceiveContext,
        plain: bytes,
        crypto_frame_required: bool = False,  # noqa: FBT001, FBT002 - aioquic's own signature
    ) -> tuple[bool, bool]:
        if plain[:1] == _DATAGRAM_WITH_LENGTH and context.quic_logger_frames is None:
            datagrams = _split_datagram_frames(plain)
            if datagrams is not None and self._may_take(context.epoch):
                self._events.extend(datagrams)  # type: ignore[arg-type] # take_events tells
                return True, False  # ack-eliciting, not probing
        self._is_stirred = True
        return super()._payload_received(context, plain, crypto_frame_required)

    def _may_take(self, epoch: tls.Epoch) -> bool:
        limit_bytes = self._configuration.max_datagram_frame_size
        # A frame is never longer than a UDP payload; a smaller limit is left to the slow way.
        return epoch is tls.Epoch.ONE_RTT and limit_bytes == _NO_LIMIT_BYTES

    def _handle_datagram_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        if frame_type == QuicFrameType.DATAGRAM_WITH_LENGTH:
            length = buf.pull_uint_var()
        else:
            length = buf.capacity - start
        data = buf.pull_bytes(length)
        if self._quic_logger is not None and context.quic_logger_frames is not None:
            context.quic_logger_frames.append({"frame_type": "datagram", "length": length})
        limit_bytes = self._configuration.max_datagram_frame_size
        if limit_bytes is None or buf.tell() - start >= limit_bytes:
            raise QuicConnectionError(
                error_code=QuicErrorCode.PROTOCOL_VIOLATION,
                frame_type=frame_type,
                reason_phrase="DATAGRAM frame larger than announced",
            )
        # Bare bytes: an event object per datagram is a cost without a use.
        self._events.append(data)  # type: ignore[arg-type] # take_events tells them apart

    def _write_datagram_frame(
        self, builder: QuicPacketBuilder, data: bytes, frame_type: QuicFrameType
    ) -> bool:
        if builder.packet_number >= self._next_stream_turn:
            self._next_stream_turn = builder.packet_number + STREAM_TURN_PACKETS
            if any(self._can_send(stream) for stream in self._streams_queue):
                raise QuicPacketBuilderStop
        return super()._write_datagram_frame(builder, data, frame_type)

    def _can_send(self, stream: QuicStream) -> bool:
        sender = stream.sender
        if stream.is_blocked:
            return False
        if sender.reset_pending or stream.receiver.stop_pending:
            return True
        if sender.buffer_is_empty:
            return False
        return aioquic_private.has_sendable(
            stream,
            min(
                sender.highest_offset + self._remote_max_data - self._remote_max_data_used,
                stream.max_stream_data_remote,
            ),
        )


def _split_datagram_frames(plain: bytes) -> list[bytes] | None:
    """Return the payloads of a packet that holds DATAGRAM frames and nothing else.

    None for any other packet: aioquic reads it frame by frame. This is nearly every packet of a
    tunnel, and costs a tenth of that.
    """
    datagrams: list[bytes] = []
    offset, end = 0, len(plain)
    while offset < end:
        if plain[offset] != QuicFrameType.DATAGRAM_WITH_LENGTH:
            return None
        found = peek_varint(plain, offset + 1)
        if found is None:
            return None
        length, start = found
        offset = start + length
        if offset > end:
            return None
        datagrams.append(plain[start:offset])
    return datagrams
