"""Owns AcceleratedConnection: the fast path with packets opened and sealed by the accelerator.

Which packets are whose, what a packet changes, what may be sent: all that stays in
``fastpath_receive.py`` and ``fastpath_send.py``. Here only the loops over packets are replaced by
one call each, and the outcome is the same, byte for byte (``test_fastpath_equivalence.py``).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioquic import tls

from masque_relay.quic.accelerator import DirectionKeys, direction_keys, open_many, seal_many
from masque_relay.quic.fastpath_receive import SAMPLE_BYTES
from masque_relay.quic.stream_bursts import StreamBurstConnection

if TYPE_CHECKING:
    from aioquic.quic.recovery import QuicPacketSpace

    from masque_relay.quic.fastpath_private import MaskMaker

_NATIVE_MASKS = bytes(SAMPLE_BYTES)
"""Stands for the masks that the accelerator makes itself."""


class AcceleratedConnection(StreamBurstConnection):
    """A connection whose packets go through compiled code, a batch at a time."""

    _receive_keys: DirectionKeys | None = None
    _send_keys: DirectionKeys | None = None

    @property
    def uses_accelerator(self) -> bool:
        """Whether batches are opened and sealed by the accelerator."""
        return self._receive_keys is not None

    def _update_traffic_key(
        self,
        direction: tls.Direction,
        epoch: tls.Epoch,
        cipher_suite: tls.CipherSuite,
        secret: bytes,
    ) -> None:
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        if epoch is tls.Epoch.ONE_RTT:
            self.take_first_keys()

    def take_first_keys(self) -> None:
        """Take over the first 1-RTT keys, each direction's as soon as it has one."""
        self._receive_keys = direction_keys(self._crypto.recv)
        self._send_keys = direction_keys(self._crypto.send)

    def _header_masks(self, packets: Sequence[bytes]) -> bytes:
        return _NATIVE_MASKS if self._receive_keys is not None else super()._header_masks(packets)

    def _open_packets(
        self, packets: Sequence[bytes], masks: bytes, start_index: int, now: float
    ) -> int:
        keys = self._receive_keys
        if keys is None:
            return super()._open_packets(packets, masks, start_index, now)
        batch = packets if isinstance(packets, list) else list(packets)
        index = self._open_run(keys, batch, start_index, now)
        while self._is_client and index < len(batch) and self._follows_peer_to(batch[index]):
            start_index, index = index, self._open_run(keys, batch, index, now)
            if index == start_index:
                break
        return index

    def _follows_peer_to(self, packet: bytes) -> bool:
        """Whether a server came by another of our IDs, as it may; then packets with it are ours."""
        cid = packet[1 : 1 + len(self.host_cid)]
        if cid == self._last_cid or cid not in self.host_connection_ids:
            return False
        self._last_cid = cid
        return True

    def _open_run(
        self, keys: DirectionKeys, packets: list[bytes], start_index: int, now: float
    ) -> int:
        """Handle packets from an index on; return the index of the first that is not ours."""
        space = self._space
        context = self._crypto.recv
        items = open_many(
            keys.header_key,
            keys.packet_key(context),
            packets,
            start_index,
            (self._is_client and self._last_cid) or self.host_cid,
            context.key_phase << 2,
            space.expected_packet_number,
        )
        index = start_index
        spin_number, spin_byte = self._spin_highest_pn, -1
        for number, count, byte, content, expected in items:
            if content is None:
                self._counters.packets_forged += 1
                index += 1
            elif not isinstance(content, list):
                if not self._take_plain(space, number, content, now):
                    break
                index += 1
            elif number > space.largest_received_packet:
                self._events.extend(content)  # type: ignore[arg-type] # take_events tells them apart
                self._record_run(space, number, number + count - 1, now, is_eliciting=True)
                index += count
            else:
                self._take_late(space, number, content, now)
                index += count
            space.expected_packet_number = expected
            if content is not None and number + max(count, 1) - 1 > spin_number:
                spin_number, spin_byte = number + max(count, 1) - 1, byte
        if spin_byte >= 0:
            self._reflect_spin(spin_number, spin_byte)
        self._counters.packets_received_fast += index - start_index
        return index

    def _take_plain(self, space: "QuicPacketSpace", number: int, plain: bytes, now: float) -> bool:
        """Handle a packet of frames; False: it is aioquic's."""
        if number <= space.largest_received_packet and number in space.received_packets:
            return True
        found = self._read_frames(plain)
        if found is None:
            return False
        frames, is_eliciting, is_mixed = found
        self._is_pacer_due = self._is_pacer_due or is_mixed
        self._take_frames(space, frames, now)
        self._record_run(space, number, number, now, is_eliciting=is_eliciting)
        return True

    def _take_late(
        self, space: "QuicPacketSpace", first: int, payloads: list[bytes], now: float
    ) -> None:
        """Handle packets of one datagram each that may have come before."""
        for number, payload in enumerate(payloads, first):
            if number > space.largest_received_packet or number not in space.received_packets:
                self._events.append(payload)  # type: ignore[arg-type] # take_events tells them apart
                self._record_run(space, number, number, now, is_eliciting=True)

    def _seal_packets(self, plains: list[bytes], make_masks: "MaskMaker") -> list[bytes]:
        keys = self._send_keys
        if keys is None:
            return super()._seal_packets(plains, make_masks)
        return seal_many(
            keys.header_key,
            keys.packet_key(self._crypto.send),
            plains,
            self._packet_number,
            self._first_byte(),
            self._peer_cid.cid,
        )
