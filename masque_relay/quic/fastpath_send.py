"""Owns FastSendConnection: packets of DATAGRAM frames, and of nothing but an ACK, in one pass.

For every packet aioquic 1.7.2 asks everything that may want to be in it, builds it field by field
and registers it by itself. Here one look says that nothing but datagrams and an ACK is due; then
all packets that window and pacer allow are planned, sealed, protected with the masks of one cipher
call and registered together. The bytes are those that aioquic would have sent.

aioquic owns all state: the packet number is read at the beginning and written at the end of a pass
during which nobody else runs, and what is sent is in recovery's table before the pass returns.
"""

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import QuicFrameType, QuicPacketType, push_ack_frame
from aioquic.quic.packet_builder import QuicSentPacket

from masque_relay.quic import aioquic_private, fastpath_private
from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.congestion import RelayReno
from masque_relay.quic.datagrams import (
    DATAGRAM_FRAME_OVERHEAD_BYTES,
    PACKET_OVERHEAD_BYTES,
    STREAM_TURN_PACKETS,
)
from masque_relay.quic.fastpath_receive import FastReceiveConnection
from masque_relay.quic.outgoing import Run
from masque_relay.quic.sent_packets import DatagramsSent

if TYPE_CHECKING:
    from aioquic.quic.connection import QuicNetworkPath
    from aioquic.quic.recovery import QuicPacketSpace

_FIXED_BIT = 0x40
_TWO_BYTE_PACKET_NUMBER = 1
_SAMPLE_AT = 2  # RFC 9001 section 5.4.2: four bytes after where a packet number of two begins
_SAMPLE_END = 18
_MASKS = Struct(">BH13x")
_DATAGRAM_WITH_LENGTH = bytes([QuicFrameType.DATAGRAM_WITH_LENGTH])
_ONE_BYTE_VARINT_END = 0x40
_ACK_OF_ACK_PACKETS = 8
_HEADERS: Final[dict[int, Struct]] = {size: Struct(f">B{size}sH") for size in range(21)}
"""First byte, connection ID, packet number; by the length of the connection ID."""
_ONE_BYTE_LENGTHS = [_DATAGRAM_WITH_LENGTH + bytes([n]) for n in range(_ONE_BYTE_VARINT_END)]


class FastSendConnection(FastReceiveConnection):
    """A connection that sends bursts; see :meth:`flush`."""

    _packet_number: int
    _next_stream_turn: int

    def flush(self, now: float) -> list[Run]:
        """Return the packets that may go now, in runs of one destination."""
        is_pacer_due, self._is_pacer_due = self._is_pacer_due, False
        if self._datagrams_pending or self._is_ack_due(now):
            packets = self._flush_fast(now)
            if packets is not None:
                return packets
        elif is_pacer_due and not self._is_stirred:
            # As aioquic does it in every flush: what was saved up counts by the rate of its time.
            fastpath_private.pacer(self._loss).update_bucket(now=now)
        packets = super().flush(now)
        if packets:
            self._first_fast_packet = self._packet_number
        return packets

    def quiet_timer(self, now: float) -> float | None:
        """As QuietTurnsConnection says; with what a flush would do beside saying something."""
        ack_at = self._space.ack_at if self._handshake_confirmed else 0.0
        if (
            (ack_at is not None and ack_at <= now)
            or self._datagrams_pending
            or self._is_stirred
            or self._ping_pending
            or self._probe_pending
            or self._close_pending
            or self._close_event is not None
            or self._state is not QuicConnectionState.CONNECTED
            or len(self._network_paths) > 1
            or not self._network_paths[0].is_validated
        ):
            return None
        if self._is_pacer_due:
            self._is_pacer_due = False
            fastpath_private.pacer(self._loss).update_bucket(now=now)
        timer_at = self._known_timer_at
        if timer_at is None:
            return self.get_timer()
        return timer_at if ack_at is None or ack_at > timer_at else ack_at

    def get_timer(self) -> float | None:
        """Return when handle_timer is due; None: never."""
        if not self._is_established():
            return super().get_timer()
        # What aioquic would say, with the answers that are fixed by now left out.
        space = self._space
        recovery = self._loss
        timer_at = self._close_at
        assert timer_at is not None  # noqa: S101 - it is set before the handshake begins
        loss_at = space.loss_time
        if loss_at is None and space.ack_eliciting_in_flight:
            loss_at = fastpath_private.probe_timeout_at(recovery)
        self._loss_at = loss_at
        for at in (space.ack_at, loss_at, self._pacing_at, self._path_mtu.deadline_s):
            if at is not None and at < timer_at:
                timer_at = at
        self._known_timer_at = timer_at
        return timer_at

    def handle_timer(self, now: float) -> None:
        """Do what time asks for; an ACK that is due is the business of the next flush."""
        due = (self._close_at, self._loss_at, self._path_mtu.deadline_s)
        if self._is_established() and not any(at is not None and at <= now for at in due):
            self._known_timer_at = None
            return
        super().handle_timer(now)

    def _is_established(self) -> bool:
        """Whether only 1-RTT packets matter, on a path that is known to be the peer's."""
        return (
            self._handshake_confirmed
            and self._state is QuicConnectionState.CONNECTED
            and self._network_paths[0].is_validated
        )

    def _is_ack_due(self, now: float) -> bool:
        if not self._handshake_confirmed:
            return False
        ack_at = self._space.ack_at
        return ack_at is not None and ack_at <= now

    def _flush_fast(self, now: float) -> list[Run] | None:
        """Send datagrams and a due ACK; None: something else wants to be sent, nothing is done."""
        path = self._network_paths[0]
        if not self._may_send_fast(path):
            return None
        crypto = self._crypto
        make_masks = fastpath_private.aes_masks(crypto.send)
        if make_masks is None:
            return None
        self._prepare_flush(now)
        if crypto.key_phase != crypto.recv.key_phase:
            return None  # a key update begins with aioquic's next packet
        space = self._space
        had_in_flight = space.ack_eliciting_in_flight > 0
        ack = b""
        if space.ack_at is not None and space.ack_at <= now:
            ack = self._encode_ack(space, now)
            if not ack:
                return None
        single = b"" if ack or self._datagrams_waiting != 1 else self._send_one(make_masks, now)
        if single:
            packets = [single]
        else:
            # aioquic paces an ACK in the very moment in which it falls due, and never later.
            plains = self._plan_packets(ack, now, is_ack_paced=space.ack_at == now)
            packets = self._seal_packets(plains, make_masks)
            is_only_ack = plains[:1] == [ack]
            self._register(packets, now, has_ack=bool(ack), is_only_ack=is_only_ack)
        self.count_sent_datagrams()
        probes = self._probe_path(now)
        if probes:
            packets += [packet for packet, _ in probes]
            self._first_fast_packet = self._packet_number
        self._is_stirred = self._pacing_at is not None
        if probes or self._is_stirred or not had_in_flight:
            # Else the probe timeout has only moved away, and what was known is early enough.
            self._known_timer_at = None
        if space.ack_at is None:
            self._unacknowledged = 0
        return [(packets, path.addr)] if packets else []

    def _prepare_flush(self, now: float) -> None:
        self._flushed_at = now
        if self._is_stirred:
            self._watch_path(now)
        else:
            self._apply_path_mtu()
        self.prepare_datagrams()
        self._update_keys()

    def _may_send_fast(self, path: "QuicNetworkPath") -> bool:
        """Whether nothing that aioquic would write before or beside datagrams waits."""
        # Asking for all the rest is what costs; nothing of it has changed without a stir.
        return self._may_build_fast(path) and (
            not self._is_stirred
            or not (self._has_other_frames() or any(map(self._is_busy, self._streams.values())))
        )

    def _may_build_fast(self, path: "QuicNetworkPath") -> bool:
        """Whether the connection is in no state for which aioquic has frames of its own."""
        return not (
            not self._is_established()
            or self._close_pending
            or self._quic_logger is not None
            or len(self._network_paths) > 1
            or path.remote_challenges
            or self._ping_pending
            or self._probe_pending
            or (self._is_client and self._remote_preferred_address is not None)
        )

    def _has_other_frames(self) -> bool:
        """Whether a frame waits that is no stream's, or a stream is to be forgotten."""
        return (
            self._has_control_frames()
            or any(
                limit.value != limit.sent
                for limit in (self._local_max_streams_bidi, self._local_max_streams_uni)
            )
            or any(number not in self._streams for number in self._received_to_the_end)
        )

    def _encode_ack(self, space: "QuicPacketSpace", now: float) -> bytes:
        """Return the ACK frame; nothing where it should take a PING along, which is aioquic's."""
        if self._ack_wants_ping(space) or (
            len(space.ack_queue) > 1 and self._packet_number % _ACK_OF_ACK_PACKETS == 0
        ):
            return b""
        assert space.largest_received_time is not None  # noqa: S101 - an ACK is due
        delay_s = now - space.largest_received_time
        room_bytes = self._max_datagram_size - PACKET_OVERHEAD_BYTES - len(self._peer_cid.cid)
        buffer = Buffer(capacity=room_bytes)
        buffer.push_uint8(QuicFrameType.ACK)
        push_ack_frame(
            buffer,
            space.ack_queue,
            int(delay_s * 1_000_000) >> self._local_ack_delay_exponent,
            room_bytes - 1,
        )
        return buffer.data

    def _plan_packets(  # noqa: C901, PLR0912, PLR0915 - the hot loop: a call costs as much as a line
        self, ack: bytes, now: float, *, is_ack_paced: bool
    ) -> list[bytes]:
        """Take datagrams off the queue, as many as may go; return what the packets hold.

        The first one begins with the ACK, which waits for no window and hardly for the pacer;
        datagrams that fit beside it go along, as aioquic does it.
        """
        pending = self._datagrams_pending
        pacer = fastpath_private.pacer(self._loss)
        packet_time = pacer.packet_time
        if packet_time is not None:
            pacer.update_bucket(now=now)
        bucket = pacer.bucket_time
        overhead_bytes = PACKET_OVERHEAD_BYTES + len(self._peer_cid.cid)
        packet_bytes = self._max_datagram_size - overhead_bytes
        flight_bytes = self._loss.congestion_window - self._loss.bytes_in_flight
        number = self._packet_number
        plains: list[bytes] = []
        self._pacing_at = None
        if len(pending) > 1 and not ack:
            plains, bucket = self._plan_alike(packet_bytes, flight_bytes, bucket, packet_time)
            flight_bytes -= sum(map(len, plains)) + overhead_bytes * len(plains)
            number += len(plains)
        while pending or ack:
            if packet_time is not None and bucket <= 0 and (not ack or is_ack_paced):
                self._pacing_at = now + packet_time
                break
            if pending and number >= self._next_stream_turn:
                self._next_stream_turn = number + STREAM_TURN_PACKETS
            room_bytes = min(packet_bytes, flight_bytes - overhead_bytes)
            size = 0 if ack else len(pending[0])
            rest_bytes = room_bytes - size - DATAGRAM_FRAME_OVERHEAD_BYTES
            if (
                size >= _ONE_BYTE_VARINT_END
                and rest_bytes >= 0
                and (len(pending) == 1 or len(pending[1]) > rest_bytes)
            ):
                # It has a packet to itself, as nearly every datagram of a bulk flow.
                plains.append(b"\x31%b%b" % ((size | 0x4000).to_bytes(2, "big"), pending.popleft()))
                flight_bytes -= overhead_bytes + DATAGRAM_FRAME_OVERHEAD_BYTES + size
                number += 1
                if packet_time is not None:
                    bucket -= packet_time
                continue
            room_bytes -= len(ack)
            pieces: list[bytes] = [ack] if ack else []
            while pending:
                data = pending[0]
                size = len(data)
                if size < _ONE_BYTE_VARINT_END:
                    head = _ONE_BYTE_LENGTHS[size]
                else:
                    head = b"\x31%b" % (size | 0x4000).to_bytes(2, "big")
                room_bytes -= len(head) + size
                if room_bytes < 0:
                    break
                pieces.append(head)
                pieces.append(data)
                pending.popleft()
            if not pieces:
                break
            plain = b"".join(pieces)
            plains.append(plain)
            if len(pieces) > 1 or not ack:
                flight_bytes -= overhead_bytes + len(plain)
            ack = b""
            number += 1
            if packet_time is not None:
                bucket -= packet_time
        pacer.bucket_time = bucket
        # An empty bucket is looked at once more in the next flush, as aioquic's timer would.
        self._is_pacer_due = packet_time is not None and bucket <= 0
        return plains

    def _plan_alike(
        self, packet_bytes: int, flight_bytes: int, bucket: float, packet_time: float | None
    ) -> tuple[list[bytes], float]:
        """Take datagrams that are all of one size and one to a packet; nothing where they are not.

        A burst from a target nearly always is. The rest of the plan goes on after them; the pacer's
        bucket as it is then comes back too.
        """
        pending = self._datagrams_pending
        sizes = set(map(len, pending))
        size = sizes.pop()
        frame_bytes = size + DATAGRAM_FRAME_OVERHEAD_BYTES
        if (
            sizes
            or size < _ONE_BYTE_VARINT_END
            or not packet_bytes / 2 < frame_bytes <= packet_bytes
        ):
            return [], bucket
        sent_bytes = frame_bytes + PACKET_OVERHEAD_BYTES + len(self._peer_cid.cid)
        count = max(0, min(len(pending), flight_bytes // sent_bytes))
        if packet_time is not None:
            most, count = count, 0
            while count < most and bucket > 0:
                bucket -= packet_time
                count += 1
        turn = max(self._packet_number, self._next_stream_turn)
        past_last = self._packet_number + count
        if turn < past_last:
            # As if every packet had been asked: a turn at every STREAM_TURN_PACKETS-th.
            turns = (past_last - 1 - turn) // STREAM_TURN_PACKETS + 1
            self._next_stream_turn = turn + turns * STREAM_TURN_PACKETS
        head = b"\x31%b" % (size | 0x4000).to_bytes(2, "big")
        take = pending.popleft
        return [head + take() for _ in range(count)], bucket

    def _send_one(self, make_masks: "fastpath_private.MaskMaker", now: float) -> bytes:
        """Send the one datagram that waits, as plan, seal and register would; nothing: ask them.

        On a thin flow that is nearly every turn, and what a burst shares is most of the cost.
        """
        data = self._datagrams_pending[0]
        size = len(data)
        if size < _ONE_BYTE_VARINT_END:
            plain = _ONE_BYTE_LENGTHS[size] + data
        else:
            plain = b"\x31%b%b" % ((size | 0x4000).to_bytes(2, "big"), data)
        cid = self._peer_cid.cid
        packet_bytes = PACKET_OVERHEAD_BYTES + len(cid) + len(plain)
        controller = aioquic_private.congestion_control(self._loss)
        number = self._packet_number
        if (
            not isinstance(controller, RelayReno)
            or packet_bytes > self._max_datagram_size
            or packet_bytes > controller.congestion_window - controller.bytes_in_flight
            or number >= self._next_stream_turn
        ):
            return b""
        pacer = fastpath_private.pacer(self._loss)
        packet_time = pacer.packet_time
        bucket = pacer.bucket_time
        if packet_time is not None:
            pacer.update_bucket(now=now)
            bucket = pacer.bucket_time
            if bucket <= 0:
                return b""
            bucket = pacer.bucket_time = bucket - packet_time
        self._pacing_at = None
        self._is_pacer_due = packet_time is not None and bucket <= 0
        self._datagrams_pending.popleft()
        (packet,) = self._seal_packets([plain], make_masks)
        self._packet_number = number + 1
        self._counters.packets_sent_fast += 1
        self._network_paths[0].bytes_sent += packet_bytes
        space = self._space
        record = DatagramsSent(number, packet_bytes, now)
        space.sent_packets[number] = record  # type: ignore[assignment] # see DatagramsSent
        controller.bytes_in_flight += packet_bytes
        space.ack_eliciting_in_flight += 1
        self._note_eliciting_sent(now)
        return packet

    def _first_byte(self) -> int:
        """Return the first byte of the next packets, unprotected."""
        # No key update is under way: both directions are in the same phase.
        phase_bit = self._crypto.recv.key_phase << 2
        return _FIXED_BIT | self._spin_bit << 5 | phase_bit | _TWO_BYTE_PACKET_NUMBER

    def _seal_packets(
        self, plains: list[bytes], make_masks: "fastpath_private.MaskMaker"
    ) -> list[bytes]:
        """Encrypt packets with consecutive numbers, then protect their headers (RFC 9001 5.4)."""
        seal, iv = fastpath_private.sealer(self._crypto.send)
        cid = self._peer_cid.cid
        first_byte = self._first_byte()
        pack = _HEADERS[len(cid)].pack
        number = self._packet_number
        sealed: list[bytes] = []
        for plain in plains:
            header = pack(first_byte, cid, number & 0xFFFF)
            sealed.append(seal((iv ^ number).to_bytes(12, "big"), plain, header))
            number += 1
        masks = make_masks(b"".join([data[_SAMPLE_AT:_SAMPLE_END] for data in sealed]))
        number = self._packet_number
        packets: list[bytes] = []
        for data, (mask_byte, mask_number) in zip(sealed, _MASKS.iter_unpack(masks), strict=True):
            header = pack(first_byte ^ (mask_byte & 0x1F), cid, (number & 0xFFFF) ^ mask_number)
            packets.append(header + data)
            number += 1
        return packets

    def _register(
        self, packets: Sequence[bytes], now: float, *, has_ack: bool, is_only_ack: bool
    ) -> None:
        """Tell recovery, the idle timer and the path of the packets, all at once."""
        space = self._space
        number = self._packet_number
        self._packet_number += len(packets)
        self._counters.packets_sent_fast += len(packets)
        path = self._network_paths[0]
        sent = space.sent_packets
        controller = aioquic_private.congestion_control(self._loss)
        total_bytes = flight_bytes = sum(map(len, packets))
        eliciting_count = len(packets)
        burst = packets
        if has_ack and packets:
            size = len(packets[0])
            record = self._ack_record(space, number, size, now, is_only_ack=is_only_ack)
            sent[number] = record
            number += 1
            burst = packets[1:]
            if is_only_ack:
                eliciting_count -= 1
                flight_bytes -= size
            elif not isinstance(controller, RelayReno):
                controller.on_packet_sent(packet=record)
        for packet in burst:
            sent[number] = DatagramsSent(number, len(packet), now)  # type: ignore[assignment] # see there
            number += 1
        path.bytes_sent += total_bytes
        if not eliciting_count:
            return
        if isinstance(controller, RelayReno):
            controller.bytes_in_flight += flight_bytes
        else:
            for number in range(self._packet_number - len(burst), self._packet_number):
                controller.on_packet_sent(packet=sent[number])
        space.ack_eliciting_in_flight += eliciting_count
        self._note_eliciting_sent(now)

    def _note_eliciting_sent(self, now: float) -> None:
        """Restart the probe timeout, and the idle timer where it is our turn."""
        fastpath_private.note_eliciting_sent(self._loss, now)
        if not self._ack_eliciting_sent_since_receipt:
            # RFC 9000 section 10.1: the first ack-eliciting packet since the last one received.
            self._close_at = now + self._idle_timeout()
            self._ack_eliciting_sent_since_receipt = True

    def _ack_record(
        self, space: "QuicPacketSpace", number: int, size: int, now: float, *, is_only_ack: bool
    ) -> QuicSentPacket:
        space.ack_at = None
        return QuicSentPacket(
            epoch=tls.Epoch.ONE_RTT,
            in_flight=not is_only_ack,
            is_ack_eliciting=not is_only_ack,
            is_crypto_packet=False,
            packet_number=number,
            packet_type=QuicPacketType.ONE_RTT,
            sent_time=now,
            sent_bytes=size,
            delivery_handlers=[(self._on_ack_delivery, (space, space.largest_received_packet))],
        )
