"""Owns FastReceiveConnection: 1-RTT packets of DATAGRAM, STREAM and ACK frames in batches.

aioquic 1.7.2 spends 15 us on a packet with one DATAGRAM frame, most of it on questions whose answer
is the same for the whole batch. Here they are asked once: the header protection masks of a batch
come out of one cipher call, each packet is opened once, and what a run of consecutive packets
changes in aioquic's packet number space is written once at its end, as aioquic would have left it.

aioquic owns all state. A packet is either handled completely here or given to aioquic untouched,
with its space up to date: other frames, a key update, another connection ID, reserved bits, another
source address. ``docs/decisions/0004-fast-path.md`` says why this is sound, and
``tests/unit/quic/test_fastpath_equivalence.py`` holds both ways to the same outcome.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioquic import tls
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.packet import (
    QuicFrameType,
    QuicStreamFrame,
    decode_packet_number,
    pull_ack_frame,
)
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import MAX_ACK_RANGES
from cryptography.exceptions import InvalidTag

from masque_relay.quic import aioquic_private, fastpath_private
from masque_relay.quic.ack_policy import AckPolicyConnection
from masque_relay.quic.aioquic_private import Buffer
from masque_relay.quic.congestion import SeesSizes
from masque_relay.quic.credit import MAX_CONNECTION_GAPS, MAX_STREAM_GAPS
from masque_relay.quic.stream_receiver import gap_count, is_near_end

if TYPE_CHECKING:
    from aioquic.quic.crypto import CryptoPair
    from aioquic.quic.events import QuicEvent, StreamDataReceived
    from aioquic.quic.recovery import QuicPacketSpace

Address = tuple[str, int]

SAMPLE_BYTES = 16
SLOW_RUN_MASK = 7
"""After two packets in a row that were aioquic's (busy streams), only two of every eight are tried:
an attempt that comes to nothing costs 4 us, a fifth of what aioquic takes."""
_MAX_PACKET_NUMBER_BYTES = 4
_SHORT_HEADER_MASK = 0xC0
_SHORT_HEADER = 0x40
_RESERVED_AND_PHASE = 0x1C
_SPIN_BIT = 0x20
_NO_LIMIT_BYTES = 65_535  # a DATAGRAM frame in a UDP datagram is always shorter
_DATAGRAM_WITH_LENGTH = int(QuicFrameType.DATAGRAM_WITH_LENGTH)
_ONE_BYTE_VARINT_END = 0x40
_TWO_BYTE_VARINT_END = 0x80
_OFFSET_BIT = 4
_LENGTH_BIT = 2
_STREAM_MASK = 0xF9  # all but the bits for offset and length; a frame with FIN is aioquic's

StreamPart = tuple[int, int, bytes]
"""A STREAM frame without FIN: stream ID, offset, data."""
Frames = list["bytes | tuple[RangeSet, int] | StreamPart"]
"""What a packet holds, in order: payloads of DATAGRAM frames, ranges and encoded delays of ACK
frames, and parts of streams."""


class FastReceiveConnection(AckPolicyConnection):
    """A connection that takes batches of packets; see :meth:`receive_batch`."""

    _crypto: "CryptoPair"
    _first_fast_packet: int = 0
    """Every packet from this number on was built by the fast path: datagrams, ACKs."""
    _slow_run: int = 0
    """How many packets in a row were aioquic's."""
    _is_pacer_due: bool = False
    """Something else than datagrams came: aioquic would look at its pacer in the next flush."""
    _idle_s: float | None = None
    """The idle timeout; None: to be asked for anew, as a round trip was measured."""
    _last_cid: bytes = b""
    """Client only: by which of its IDs the server came last; compared with first."""

    _joining: "dict[int, tuple[StreamDataReceived, list[bytes]]]"
    """What this batch brought, by streams, until somebody looks or a packet is aioquic's."""

    def init_turns(self) -> None:
        """Set up; see QuietTurnsConnection."""
        super().init_turns()
        self._joining = {}

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._crypto = self._cryptos[tls.Epoch.ONE_RTT]

    @property
    def uses_fast_path(self) -> bool:
        """Whether packets of datagrams are handled in batches; asked once there are 1-RTT keys."""
        return fastpath_private.aes_masks(self._crypto.recv) is not None

    def receive_batch(self, packets: Sequence[bytes], source: Address, now: float) -> None:
        """Take packets from one source in order, as receive_datagram would one by one."""
        masks: bytes | None = None
        index, count = 0, len(packets)
        while index < count:
            if self._slow_run & SLOW_RUN_MASK > 1:
                self._slow_run += 1
            elif self._opens_fast(source):
                if masks is None:
                    masks = self._header_masks(packets)
                if masks:
                    start, index = index, self._open_packets(packets, masks, index, now)
                    if index == count:
                        self._slow_run = 0
                        return
                    self._slow_run = 1 if index > start else self._slow_run + 1
            self._idle_s = None
            if self._joining:
                self._join_stream_data()
            self._receive_one(packets[index], source, now)
            index += 1

    def _opens_fast(self, source: Address) -> bool:
        """Whether a packet from there changes nothing but what this module knows how to change."""
        path = self._network_paths[0] if self._network_paths else None
        return (
            self._handshake_confirmed
            and path is not None
            and path.addr == source
            and path.is_validated
            and self._state is QuicConnectionState.CONNECTED
            and not self._close_pending
            and self._quic_logger is None
            and self._configuration.max_datagram_frame_size == _NO_LIMIT_BYTES
        )

    def _header_masks(self, packets: Sequence[bytes]) -> bytes:
        """Return 16 bytes for each packet; nothing where the cipher or a packet is not for us.

        A key update never changes the header protection key (RFC 9001 section 6.1).
        """
        make_masks = fastpath_private.aes_masks(self._crypto.recv)
        if make_masks is None:
            return b""
        # RFC 9001 section 5.4.2: as if the packet number had four bytes.
        start = 1 + len(self.host_cid) + _MAX_PACKET_NUMBER_BYTES
        if len(packets) == 1:
            samples = packets[0][start : start + SAMPLE_BYTES]
        else:
            samples = b"".join([packet[start : start + SAMPLE_BYTES] for packet in packets])
        return make_masks(samples) if len(samples) == SAMPLE_BYTES * len(packets) else b""

    def _open_packets(  # noqa: C901, PLR0912, PLR0915 - the hot loop: a call costs as much as a line
        self, packets: Sequence[bytes], masks: bytes, start_index: int, now: float
    ) -> int:
        """Handle packets from an index on; return the index of the first that is aioquic's."""
        space = self._space
        context = self._crypto.recv
        unseal, iv = fastpath_private.opener(context)
        key_phase = context.key_phase << 2
        cid = self._last_cid if self._is_client else self.host_cid
        number_at = 1 + len(self.host_cid)
        seen = space.received_packets
        expected = space.expected_packet_number
        highest = space.largest_received_packet
        add_event = self._events.append
        first, last = 0, -1  # the run that is not recorded yet
        is_eliciting = False
        opened = 0
        index = start_index
        spin_number, spin_byte = self._spin_highest_pn, -1
        for index in range(start_index, len(packets)):
            packet = packets[index]
            mask = masks[SAMPLE_BYTES * index : SAMPLE_BYTES * index + 5]
            byte = packet[0]
            if byte & _SHORT_HEADER_MASK != _SHORT_HEADER:
                break
            if packet[1:number_at] != cid:
                if not self._is_client or packet[1:number_at] not in self.host_connection_ids:
                    break
                # To a client the server may come by any of its IDs, and nothing follows from it.
                cid = self._last_cid = packet[1:number_at]
            byte ^= mask[0] & 0x1F
            if byte & _RESERVED_AND_PHASE != key_phase:
                break
            size = (byte & 3) + 1
            end = number_at + size
            truncated = int.from_bytes(packet[number_at:end], "big") ^ int.from_bytes(
                mask[1 : 1 + size], "big"
            )
            window = 1 << size * 8
            number = (expected & -window) | truncated
            if not -window < 2 * (number - expected) < window:
                number = decode_packet_number(truncated, size * 8, expected)
            header = b"%c%b%b" % (byte, cid, truncated.to_bytes(size, "big"))
            try:
                plain = unseal((iv ^ number).to_bytes(12, "big"), packet[end:], header)
            except InvalidTag:
                opened += 1
                self._counters.packets_forged += 1
                continue
            if number <= highest:
                if last >= first:
                    self._record_run(space, first, last, now, is_eliciting=is_eliciting)
                    first, last = 0, -1
                if number in seen:
                    opened += 1
                    continue
            # One DATAGRAM frame to the end of the packet; anything else is looked at below.
            start = 0
            if len(plain) > 2 and plain[0] == _DATAGRAM_WITH_LENGTH:
                length = plain[1]
                if length < _ONE_BYTE_VARINT_END:
                    start = 2
                elif length < _TWO_BYTE_VARINT_END:
                    length, start = (length & 0x3F) << 8 | plain[2], 3
                if start + length != len(plain):
                    start = 0
            frames: Frames = []
            is_run_eliciting = True
            if start:
                add_event(plain[start:])  # type: ignore[arg-type] # take_events tells them apart
            else:
                found = self._read_frames(plain)
                if found is None:
                    break
                frames, is_run_eliciting, is_mixed = found
                self._is_pacer_due = self._is_pacer_due or is_mixed
            opened += 1
            if number > expected:
                expected = number + 1
            if number > spin_number:
                spin_number, spin_byte = number, byte
            if start and number == last + 1 and last >= first:
                last = number
                is_eliciting = True
            else:
                if last >= first:
                    self._record_run(space, first, last, now, is_eliciting=is_eliciting)
                first, last, is_eliciting = number, number, is_run_eliciting
                if frames:
                    self._take_frames(space, frames, now)
            highest = max(highest, number)
        else:
            index = len(packets)
        space.expected_packet_number = expected
        if spin_byte >= 0:
            self._reflect_spin(spin_number, spin_byte)
        if last >= first:
            self._record_run(space, first, last, now, is_eliciting=is_eliciting)
        self._counters.packets_received_fast += opened
        return index

    def _reflect_spin(self, number: int, first_byte: int) -> None:
        """Take the spin bit of the packet with the highest number."""
        self._spin_highest_pn = number
        # RFC 9000 section 17.4: a server reflects, a client inverts.
        self._spin_bit = bool(first_byte & _SPIN_BIT) != self._is_client

    def _record_run(
        self, space: "QuicPacketSpace", first: int, last: int, now: float, *, is_eliciting: bool
    ) -> None:
        """Record consecutive packet numbers as received."""
        idle_s = self._idle_s
        if idle_s is None:
            idle_s = self._idle_s = self._idle_timeout()
        self._close_at = now + idle_s
        self._ack_eliciting_sent_since_receipt = False
        if last > space.largest_received_packet:
            space.largest_received_packet = last
            space.largest_received_time = now
        ranges = space.ack_queue
        if fastpath_private.extend_last_range(ranges, first, last):
            pass
        elif len(ranges) < MAX_ACK_RANGES:
            ranges.add(first, last + 1)
        else:
            # One by one: the run may touch a range above it, and the oldest is dropped before.
            for number in range(first, last + 1):
                ranges.add(number)
                if len(ranges) > MAX_ACK_RANGES:
                    ranges.shift()
        fastpath_private.add_received(space.received_packets, first, last)
        if is_eliciting and space.ack_at is None:
            space.ack_at = now + self._ack_delay

    def _read_frames(self, plain: bytes) -> tuple[Frames, bool, bool] | None:
        """Return what :func:`read_frames` does; None also where a part of a stream is aioquic's.

        That is the first one of a stream, the last one, and all that break a limit.
        """
        found = read_frames(plain, self._packet_number)
        if found is None or not found[2]:
            return found
        stream_bytes = stream_count = 0
        for frame in found[0]:
            if isinstance(frame, bytes) or len(frame) == 2:
                continue
            stream_id, offset, data = frame
            end = offset + len(data)
            stream = self._streams.get(stream_id)
            if stream is None or end > stream.max_stream_data_local:
                return None
            stream_count += 1
            stream_bytes += max(0, end - stream.receiver.highest_offset)
            if is_near_end(stream) or gap_count(stream) + stream_count > MAX_STREAM_GAPS:
                return None
        limit = self._local_max_data
        if stream_count and (
            limit.used + stream_bytes > limit.value
            or self._stream_gaps.total + stream_count > MAX_CONNECTION_GAPS
        ):
            return None
        return found

    def _take_stream_part(self, part: StreamPart) -> None:
        stream_id, offset, data = part
        receiver = self._streams[stream_id].receiver
        highest_offset = receiver.highest_offset
        event = receiver.handle_frame(QuicStreamFrame(data=data, offset=offset))
        self._local_max_data.used += receiver.highest_offset - highest_offset
        self._has_stream_data = True
        if event is None:
            return
        joining = self._joining.get(stream_id)
        if joining is None:
            self._joining[stream_id] = event, [event.data]
            self._events.append(event)
        else:
            joining[1].append(event.data)

    def _join_stream_data(self) -> None:
        """Let what a batch brought of a stream be one event: each walk up costs as much as ten."""
        for event, pieces in self._joining.values():
            if len(pieces) > 1:
                event.data = b"".join(pieces)
        self._joining.clear()

    def take_events(self) -> "list[QuicEvent | bytes]":
        """Return and forget what happened; see HardenedQuicConnection."""
        if self._joining:
            self._join_stream_data()
        return super().take_events()

    def _take_frames(self, space: "QuicPacketSpace", frames: Frames, now: float) -> None:
        for frame in frames:
            if isinstance(frame, bytes):
                self._events.append(frame)  # type: ignore[arg-type] # take_events tells them apart
                continue
            if len(frame) == 3:
                self._take_stream_part(frame)
                continue
            ranges, delay = frame
            controller = aioquic_private.congestion_control(self._loss)
            window_bytes = controller.congestion_window
            oldest = next(iter(space.sent_packets), None)
            if oldest is not None and oldest < self._first_fast_packet:
                # It may have held anything, and be lost.
                self._is_stirred = True
            self._loss.on_ack_received(
                ack_rangeset=ranges,
                ack_delay=(delay << self._remote_ack_delay_exponent) / 1_000_000,
                now=now,
                space=space,
            )
            self.acknowledgements_seen = True
            self._known_timer_at = self._idle_s = None
            has_large_losses = (
                isinstance(controller, SeesSizes) and controller.large_loss_events > 0
            )
            if (
                controller.congestion_window < window_bytes
                or has_large_losses  # the path may be a black hole for them
                or self._path_mtu.next_probe_bytes(now) is not None
            ):
                self._is_stirred = True


def read_frames(  # noqa: C901 - a branch for each kind of frame
    plain: bytes, next_packet_number: int
) -> tuple[Frames, bool, bool] | None:
    """Return what a packet holds; None: it is aioquic's.

    Beside it: whether the packet is ack-eliciting, and whether it holds anything but DATAGRAM
    frames with a length. A packet is aioquic's for other frames, for frame types not in their
    shortest form, and for all with which the connection is going to end: anything malformed,
    nothing at all, an ACK of what we have not sent.
    """
    if not plain:
        return None
    frames: Frames = []
    is_eliciting = is_mixed = False
    buffer = Buffer(data=plain)
    try:
        while not buffer.eof():
            kind = buffer.pull_uint8()
            if kind == QuicFrameType.DATAGRAM_WITH_LENGTH:
                frames.append(buffer.pull_bytes(buffer.pull_uint_var()))
                is_eliciting = True
                continue
            is_mixed = True
            if kind == QuicFrameType.ACK:
                ranges, delay = pull_ack_frame(buffer)
                if ranges.bounds().stop > next_packet_number:
                    return None
                frames.append((ranges, delay))
            elif kind & _STREAM_MASK == QuicFrameType.STREAM_BASE:
                frames.append(_pull_stream_part(buffer, kind))
                is_eliciting = True
            elif kind == QuicFrameType.DATAGRAM:
                frames.append(buffer.pull_bytes(buffer.capacity - buffer.tell()))
                is_eliciting = True
            elif kind == QuicFrameType.PING:
                is_eliciting = True
            elif kind == QuicFrameType.PADDING:
                # At a stroke: a path MTU probe holds a thousand of them.
                rest = plain[buffer.tell() :]
                buffer.seek(len(plain) - len(rest.lstrip(b"\x00")))
            else:
                return None
    except (ValueError, AssertionError):
        return None  # aioquic says what is wrong with it
    return frames, is_eliciting, is_mixed


def _pull_stream_part(buffer: Buffer, kind: int) -> StreamPart:
    stream_id = buffer.pull_uint_var()
    offset = buffer.pull_uint_var() if kind & _OFFSET_BIT else 0
    length = buffer.pull_uint_var() if kind & _LENGTH_BIT else buffer.capacity - buffer.tell()
    return stream_id, offset, buffer.pull_bytes(length)
