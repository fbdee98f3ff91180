"""Owns StreamBurstConnection: packets of STREAM frames, built and read many at a time.

aioquic 1.7.2 builds a packet field by field, asks every stream for each of them, and registers it
by itself: with a hundred streams that want to send, a packet costs 140 us. Here one look says that
nothing but stream data and an ACK is due; then all packets that window, pacer and flow control
allow are planned, and sealed, protected and registered together. What is received is checked whole
before anything of it is taken; whatever is not plain stream data of a known stream is aioquic's.

The bytes, and what is believed afterwards, are those of aioquic (``fastpath_send.py`` says why that
is sound, ``test_fastpath_equivalence.py`` that it is so).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicFrameType

from masque_relay.quic import aioquic_private, fastpath_private
from masque_relay.quic.congestion import RelayReno
from masque_relay.quic.datagrams import PACKET_OVERHEAD_BYTES
from masque_relay.quic.fastpath_send import FastSendConnection
from masque_relay.quic.outgoing import Run
from masque_relay.quic.sent_packets import Delivery, StreamsSent

if TYPE_CHECKING:
    from aioquic.quic.packet_builder import QuicSentPacket
    from aioquic.quic.stream import QuicStream

_STREAM_WITH_LENGTH = QuicFrameType.STREAM_BASE | 2
_OFFSET_BIT = 4
_FIN_BIT = 1
_TWO_BYTE_VARINT = 0x4000
_TWO_BYTE_VARINT_END = 1 << 14
_FOUR_BYTE_VARINT = 0x8000_0000
_FOUR_BYTE_VARINT_END = 1 << 30
_MIN_FRAME_BYTES = 4
"""Type, a stream ID of one byte, no offset, a length of two."""


class StreamBurstConnection(FastSendConnection):
    """A connection that sends stream data in bursts; see :meth:`flush`."""

    def flush(self, now: float) -> list[Run]:
        """Return the packets that may go now, in runs of one destination."""
        if self._is_stirred and not self._datagrams_pending and self._handshake_confirmed:
            packets = self._flush_streams(now)
            if packets is not None:
                return packets
        return super().flush(now)

    def _flush_streams(self, now: float) -> list[Run] | None:
        """Send stream data and a due ACK; None: something else wants to be sent, as it seems."""
        path = self._network_paths[0]
        if not self._may_build_fast(path) or self._has_other_frames():
            return None
        busy = self._streams_with_data()
        make_masks = fastpath_private.aes_masks(self._crypto.send)
        if busy is None or make_masks is None:
            return None
        self._prepare_flush(now)
        crypto = self._crypto
        if crypto.key_phase != crypto.recv.key_phase:
            return None  # a key update begins with aioquic's next packet
        space = self._space
        ack = b""
        if space.ack_at is not None and space.ack_at <= now:
            ack = self._encode_ack(space, now)
            if not ack:
                return None
        self._is_pacer_due = False
        plains, deliveries = self._plan_stream_packets(busy, ack, now)
        packets = self._seal_packets(plains, make_masks) if plains else []
        self._register_streams(packets, deliveries, now, ack=ack)
        probes = self._probe_path(now)
        packets += [packet for packet, _ in probes]
        if packets:
            # What becomes of them may have to be followed up.
            self._first_fast_packet = self._packet_number
        self._is_stirred = self._pacing_at is not None or any(
            not stream.sender.buffer_is_empty for stream in busy
        )
        self._known_timer_at = None
        if space.ack_at is None:
            self._unacknowledged = 0
        return [(packets, path.addr)] if packets else []

    def _streams_with_data(self) -> "list[QuicStream] | None":
        """Return the streams that have data to send; None: one of all has something else to say."""
        if self._has_stream_credit_due():
            return None
        busy: list[QuicStream] = []
        for stream in self._streams_queue:
            sender, receiver = stream.sender, stream.receiver
            if (
                sender.reset_pending
                or receiver.stop_pending
                or stream.max_stream_data_local_sent != stream.max_stream_data_local
                or (receiver.is_finished and sender.is_finished)
            ):
                return None
            if not sender.buffer_is_empty:
                if stream.is_blocked:
                    return None
                busy.append(stream)
        return busy

    def _plan_stream_packets(  # noqa: PLR0915 - the hot loop: a call costs as much as a line
        self, busy: "list[QuicStream]", ack: bytes, now: float
    ) -> tuple[list[bytes], list[list[Delivery]]]:
        """Return what the packets hold, and who is to hear of it; streams take turns by packets."""
        pacer = fastpath_private.pacer(self._loss)
        packet_time = pacer.packet_time
        if packet_time is not None:
            pacer.update_bucket(now=now)
        bucket = pacer.bucket_time
        # aioquic paces an ACK in the very moment in which it falls due, and never later.
        is_paced = not ack or self._space.ack_at == now
        overhead_bytes = PACKET_OVERHEAD_BYTES + len(self._peer_cid.cid)
        packet_bytes = self._max_datagram_size - overhead_bytes
        flight_bytes = self._loss.congestion_window - self._loss.bytes_in_flight
        plains: list[bytes] = []
        deliveries: list[list[Delivery]] = []
        waiting = list(busy)
        served: dict[QuicStream, None] = {}
        self._pacing_at = None
        while True:
            if is_paced and packet_time is not None and bucket <= 0:
                self._pacing_at = now + packet_time
                break
            is_paced = True
            room_bytes = min(packet_bytes, flight_bytes - overhead_bytes) - len(ack)
            if not ack and waiting and (cut := self._cut_packet(room_bytes, waiting[0])):
                plain, handler = cut
                plains.append(plain)
                deliveries.append([handler])
                flight_bytes -= overhead_bytes + room_bytes
                if packet_time is not None:
                    bucket -= packet_time
                stream = waiting.pop(0)
                waiting.append(stream)
                served.pop(stream, None)
                served[stream] = None
                continue
            pieces: list[bytes] = [ack] if ack else []
            handlers = self._fill_packet(pieces, room_bytes, waiting, served)
            if not pieces:
                break
            plain = b"".join(pieces)
            plains.append(plain)
            deliveries.append(handlers)
            if handlers:
                flight_bytes -= overhead_bytes + len(plain)
            ack = b""
            if packet_time is not None:
                bucket -= packet_time
        pacer.bucket_time = bucket
        if busy:
            self._requeue(busy, served)
        return plains, deliveries

    def _requeue(self, busy: "list[QuicStream]", served: "dict[QuicStream, None]") -> None:
        """Leave the streams in the order of BusyStreamsConnection: the silent, the served last."""
        were_busy = set(busy)
        silent = [stream for stream in self._streams_queue if stream not in were_busy]
        unserved = [stream for stream in busy if stream not in served]
        self._streams_queue = silent + unserved + list(served)

    def _cut_packet(self, room_bytes: int, stream: "QuicStream") -> tuple[bytes, Delivery] | None:
        """Return a packet full of new bytes of one stream, as nearly all of a bulk transfer are.

        None: less than that waits, or flow control allows less, or some of it was sent before.
        """
        sender = stream.sender
        start = sender.highest_offset
        if not _TWO_BYTE_VARINT_END <= start < _FOUR_BYTE_VARINT_END:
            return None
        head = encode_uint_var(stream.stream_id or 0)
        size = room_bytes - 7 - len(head)
        stop = start + size
        credit_bytes = self._remote_max_data - self._remote_max_data_used
        if size <= 0 or size > credit_bytes or stop > stream.max_stream_data_remote:
            return None
        data = fastpath_private.cut_new_bytes(sender, start, stop)
        if not data:
            return None
        plain = b"%c%b%b%b%b" % (
            _STREAM_WITH_LENGTH | _OFFSET_BIT,
            head,
            (start | _FOUR_BYTE_VARINT).to_bytes(4, "big"),
            (size | _TWO_BYTE_VARINT).to_bytes(2, "big"),
            data,
        )
        self._remote_max_data_used += size
        return plain, (sender.on_data_delivery, (start, stop, False))

    def _fill_packet(
        self,
        pieces: list[bytes],
        room_bytes: int,
        waiting: "list[QuicStream]",
        served: "dict[QuicStream, None]",
    ) -> list[Delivery]:
        """Add STREAM frames to a packet; return who is to hear what became of them.

        Streams that have no data or no credit for the rest of the burst leave the waiting ones.
        """
        handlers: list[Delivery] = []
        sent: set[QuicStream] = set()
        index = 0
        while room_bytes >= _MIN_FRAME_BYTES and index < len(waiting):
            stream = waiting[index]
            sender = stream.sender
            offset = sender.next_offset
            head = encode_uint_var(stream.stream_id or 0)
            if offset:
                head += encode_uint_var(offset)
            most_bytes = room_bytes - 3 - len(head)
            highest = sender.highest_offset
            credit_bytes = self._remote_max_data - self._remote_max_data_used
            frame = sender.get_frame(
                most_bytes, min(highest + credit_bytes, stream.max_stream_data_remote)
            )
            if frame is None:
                if most_bytes > 0:
                    del waiting[index]
                else:
                    index += 1
                continue
            data = frame.data
            size = len(data)
            kind = _STREAM_WITH_LENGTH | (_OFFSET_BIT if offset else 0) | frame.fin
            pieces.append(b"%c%b%b" % (kind, head, (size | _TWO_BYTE_VARINT).to_bytes(2, "big")))
            pieces.append(data)
            handlers.append((sender.on_data_delivery, (offset, offset + size, frame.fin)))
            room_bytes = most_bytes - size
            used_bytes = sender.highest_offset - highest
            if used_bytes:
                self._remote_max_data_used += used_bytes
                sent.add(stream)
                del waiting[index]
            else:
                index += 1
        for stream in sent:
            # Whoever was served goes to the end.
            waiting.append(stream)
            served.pop(stream, None)
            served[stream] = None
        return handlers

    def _register_streams(
        self, packets: Sequence[bytes], deliveries: list[list[Delivery]], now: float, *, ack: bytes
    ) -> None:
        """Tell recovery, the idle timer and the path of the packets, all at once."""
        if not packets:
            return
        space = self._space
        number = self._packet_number
        self._packet_number += len(packets)
        self._counters.packets_sent_fast += len(packets)
        self._network_paths[0].bytes_sent += sum(map(len, packets))
        controller = aioquic_private.congestion_control(self._loss)
        flight_bytes = eliciting_count = 0
        for packet, handlers in zip(packets, deliveries, strict=True):
            size = len(packet)
            record: QuicSentPacket | StreamsSent
            if ack:
                record = self._ack_record(space, number, size, now, is_only_ack=not handlers)
                record.delivery_handlers.extend(handlers)
                ack = b""
            else:
                record = StreamsSent(number, size, now, handlers)
            space.sent_packets[number] = record  # type: ignore[assignment] # see DatagramsSent
            number += 1
            if handlers:
                eliciting_count += 1
                flight_bytes += size
                if not isinstance(controller, RelayReno):
                    controller.on_packet_sent(packet=record)  # type: ignore[arg-type] # as above
        if isinstance(controller, RelayReno):
            controller.bytes_in_flight += flight_bytes
        if eliciting_count:
            space.ack_eliciting_in_flight += eliciting_count
            self._note_eliciting_sent(now)
