"""Owns CreditedConnection: what a peer may make us keep, per stream, connection and handshake.

Stock aioquic 1.7.2 doubles its windows when bytes arrive, whether or not anybody read them. Here
the limit is always *consumed + window*: credit comes from the application (RFC 9000 section 4.2
leaves the policy to us), so a stream holds at most one window and a connection at most its own; and
of that, only what has come (``stream_receiver.py``).
"""

from aioquic.quic.connection import QuicConnection, QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.stream_receiver import GapCount, gap_count, use_piece_receiver

MAX_HANDSHAKE_BYTES = 65_536
"""CRYPTO data per encryption level: a post-quantum ClientHello is 2 KiB, a long chain 16 KiB."""
MAX_CRYPTO_GAP_BYTES = 16_384
"""How far ahead of what has arrived in order a CRYPTO frame may be: so much a stranger may have us
keep of a message whose beginning is missing. RFC 9000 section 7.5 asks for 4,096."""
MAX_CRYPTO_GAPS = 64
"""Pieces of CRYPTO data that wait for earlier ones. Chromium cuts its ClientHello into some twenty
and shuffles them. A piece costs a hundred bytes besides its own."""
MAX_STREAM_GAPS = 256
"""Pieces of one stream that wait for earlier ones. A full window of packets, every other one lost,
makes about 110."""
MAX_CONNECTION_GAPS = 1_024
"""The same for all streams of a connection together: 128 streams with 256 pieces each would cost
3 MiB for 200 kB that a stranger sends. A full window, every other packet lost, makes 440."""


class _Credit:
    """What a peer sent on one stream, and how much of it the application is done with."""

    __slots__ = ("consumed_bytes", "delivered_bytes", "is_discarding")

    def __init__(self) -> None:
        self.delivered_bytes = 0
        self.consumed_bytes = 0
        self.is_discarding = False


class CreditedConnection(QuicConnection):
    """A QuicConnection whose receive windows move when the application has consumed bytes.

    An entry of ``_credits`` lives as long as aioquic's own record of the stream and one flush more.
    """

    _credits: dict[int, _Credit]
    _consumed_bytes: int
    _received_to_the_end: set[int]
    """Streams whose receiving side is over, until aioquic forgets them."""
    _due_credit: set[int]
    """Streams for which credit may be due; only consuming makes it so."""
    _stream_gaps: GapCount
    """Of all streams together."""
    _is_stirred: bool
    """Something besides datagrams and acknowledgements may have to be sent."""

    def init_credit(self) -> None:
        """Set up; the subclass calls it after aioquic's own constructor."""
        self._credits = {}
        self._consumed_bytes = 0
        self._due_credit = set()
        self._received_to_the_end = set()
        self._stream_gaps = GapCount()
        self._is_stirred = True

    def note_delivered(self, stream_id: int, byte_count: int, *, is_finished: bool) -> bool:
        """Count bytes that go to the application; False: it wants no more of them, drop them."""
        credit = self._credit(stream_id)
        credit.delivered_bytes += byte_count
        if credit.is_discarding:
            self._consume(credit, byte_count)
        if is_finished:
            self._received_to_the_end.add(stream_id)
        return not credit.is_discarding

    def consume(self, stream_id: int, byte_count: int) -> bool:
        """The application is done with bytes; return whether that is credit worth sending."""
        credit = self._credits.get(stream_id)
        if credit is None:
            return False
        self._consume(credit, min(byte_count, credit.delivered_bytes - credit.consumed_bytes))
        is_due = self._connection_credit_is_due()
        if self._stream_credit_is_due(self._streams.get(stream_id), credit):
            self._due_credit.add(stream_id)
            is_due = True
        self._is_stirred = self._is_stirred or is_due
        return is_due

    def discard_stream(self, stream_id: int) -> None:
        """The application wants no more of a stream: what it has not read counts as read."""
        credit = self._credit(stream_id)
        credit.is_discarding = True
        self._consume(credit, credit.delivered_bytes - credit.consumed_bytes)
        self._is_stirred = True

    def settle_reset_stream(self, stream_id: int) -> None:
        """The peer reset a stream: all that it counted goes back to the connection."""
        credit = self._credit(stream_id)
        stream = self._streams.get(stream_id)
        if stream is not None:
            # The final size counts, whether or not the bytes came (RFC 9000 section 4.5).
            credit.delivered_bytes = stream.receiver.highest_offset
        credit.is_discarding = True
        self._consume(credit, credit.delivered_bytes - credit.consumed_bytes)
        self._received_to_the_end.add(stream_id)

    def forget_ended_streams(self) -> None:
        """Drop the records of streams that aioquic has dropped; nobody will read them any more."""
        if not self._received_to_the_end:
            return
        ended = [i for i in self._received_to_the_end if i not in self._streams]
        for stream_id in ended:
            self._received_to_the_end.discard(stream_id)
            credit = self._credits.pop(stream_id)
            self._consume(credit, credit.delivered_bytes - credit.consumed_bytes)

    def _credit(self, stream_id: int) -> _Credit:
        credit = self._credits.get(stream_id)
        if credit is None:
            credit = self._credits[stream_id] = _Credit()
        return credit

    def _consume(self, credit: _Credit, byte_count: int) -> None:
        credit.consumed_bytes += byte_count
        self._consumed_bytes += byte_count

    def _has_stream_credit_due(self) -> bool:
        """Whether a MAX_STREAM_DATA frame waits that was not written yet."""
        for stream_id in tuple(self._due_credit):
            credit = self._credits.get(stream_id)
            if credit is not None and self._stream_credit_is_due(
                self._streams.get(stream_id), credit
            ):
                return True
            self._due_credit.remove(stream_id)
        return False

    def _connection_credit_is_due(self) -> bool:
        window_bytes = self._configuration.max_data
        limit_bytes = self._consumed_bytes + window_bytes
        return limit_bytes - self._local_max_data.value >= window_bytes // 2

    def _stream_credit_is_due(self, stream: QuicStream | None, credit: _Credit) -> bool:
        if stream is None or stream.receiver.is_finished or credit.is_discarding:
            return False
        window_bytes = self._configuration.max_stream_data
        limit_bytes = credit.consumed_bytes + window_bytes
        return limit_bytes - stream.max_stream_data_local >= window_bytes // 2

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit = self._local_max_data
        if self._connection_credit_is_due():
            limit.value = self._consumed_bytes + self._configuration.max_data
        # aioquic doubles the window once half of it is used; so let nothing seem to be used.
        used_bytes, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder=builder, space=space)
        finally:
            limit.used = used_bytes

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        credit = self._credits.get(stream.stream_id or 0)
        if credit is None or stream.receiver.is_finished:
            return
        if self._stream_credit_is_due(stream, credit):
            stream.max_stream_data_local = (
                credit.consumed_bytes + self._configuration.max_stream_data
            )
        if stream.max_stream_data_local_sent == stream.max_stream_data_local:
            return
        receiver = stream.receiver
        highest_offset, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)
        finally:
            receiver.highest_offset = highest_offset

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        for stream in self._crypto_streams.values():
            use_piece_receiver(stream, GapCount())

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        known_count = len(self._streams_queue)
        stream = super()._get_or_create_stream(frame_type, stream_id)
        # Not this one only: it opens all below it too (RFC 9000 section 2.1).
        for created in self._streams_queue[known_count:]:
            use_piece_receiver(created, self._stream_gaps)
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        stream = super()._get_or_create_stream_for_send(stream_id)
        use_piece_receiver(stream, self._stream_gaps)
        return stream

    def _handle_crypto_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        end_bytes = buf.pull_uint_var() + buf.pull_uint_var()
        buf.seek(start)
        in_order_bytes = self._crypto_streams[context.epoch].receiver.starting_offset()
        if end_bytes > MAX_HANDSHAKE_BYTES or end_bytes - in_order_bytes > MAX_CRYPTO_GAP_BYTES:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too much handshake data",
            )
        super()._handle_crypto_frame(context, frame_type, buf)
        stream = self._crypto_streams[context.epoch]
        if gap_count(stream) > MAX_CRYPTO_GAPS:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=frame_type,
                reason_phrase="too many gaps in the handshake data",
            )

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        is_over_own = stream is not None and gap_count(stream) > MAX_STREAM_GAPS
        if is_over_own or self._stream_gaps.total > MAX_CONNECTION_GAPS:
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=frame_type,
                reason_phrase="too many gaps in the streams",
            )
