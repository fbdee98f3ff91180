"""Owns the fast path's reaches into aioquic's other objects, and the check that they are there.

As ``aioquic_private.py``, for names that only the fast path needs. Where one is missing the fast
path is not used, and the relay works as before.
"""

# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001

from collections.abc import Callable
from typing import Final

import aioquic
from aioquic import tls
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketNumberWindow, QuicPacketPacer, QuicPacketRecovery
from aioquic.quic.stream import QuicStreamSender

MaskMaker = Callable[[bytes], bytes]
"""AES-ECB over whole blocks: header protection masks out of samples (RFC 9001 section 5.4.3)."""
Aead = Callable[[bytes, bytes, bytes], bytes]
"""Nonce, text, associated data -> text."""

CONNECTION_ATTRIBUTES: Final = (
    "_ack_delay",
    "_ack_eliciting_sent_since_receipt",
    "_close_at",
    "_close_pending",
    "_crypto_streams",
    "_cryptos",
    "_datagrams_pending",
    "_events",
    "_handshake_confirmed",
    "_host_cids",
    "_local_ack_delay_exponent",
    "_local_max_data",
    "_local_max_streams_bidi",
    "_local_max_streams_uni",
    "_loss",
    "_loss_at",
    "_max_datagram_size",
    "_network_paths",
    "_pacing_at",
    "_packet_number",
    "_peer_cid",
    "_ping_pending",
    "_probe_pending",
    "_quic_logger",
    "_remote_ack_delay_exponent",
    "_remote_max_data",
    "_remote_max_data_used",
    "_remote_preferred_address",
    "_spaces",
    "_spin_bit",
    "_spin_highest_pn",
    "_state",
    "_streams",
    "_streams_queue",
    "host_cid",
)
"""Of a QuicConnection: read or set."""

CONNECTION_METHODS: Final = (
    "_idle_timeout",
    "_on_ack_delivery",
    "_write_ack_frame",
    "_write_ping_frame",
)
"""Of QuicConnection: called or overridden."""

RECOVERY_ATTRIBUTES: Final = ("_pacer", "_pto_count", "_time_of_last_sent_ack_eliciting_packet")
"""Of a QuicPacketRecovery: read or set."""

PACER_ATTRIBUTES: Final = ("bucket_time", "packet_time")
"""Of a QuicPacketPacer: read or set."""

WINDOW_ATTRIBUTES: Final = ("_lower", "_received", "_size")
"""Of a QuicPacketNumberWindow: read or set."""

_RANGES: Final = "_RangeSet__ranges"
RANGES_ATTRIBUTES: Final = (_RANGES,)
"""Of a RangeSet: read and changed."""

SENDER_ATTRIBUTES: Final = ("_buffer", "_buffer_start", "_pending", "highest_offset")
"""Of a QuicStreamSender: read or set."""

AEAD_ATTRIBUTES: Final = ("_aead", "_iv")
"""Of what protects packets: read."""

HEADER_PROTECTION_ATTRIBUTES: Final = ("_encryptor", "_is_chacha20")
"""Of what protects headers: read."""


def missing_names(connection: QuicConnection) -> list[str]:
    """Return what this version of aioquic lacks; the fast path works only with an empty list."""
    context = CryptoContext()
    context.setup(cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256, secret=bytes(32), version=1)
    recovery = connection._loss
    things: tuple[tuple[object, tuple[str, ...]], ...] = (
        (connection, CONNECTION_ATTRIBUTES + CONNECTION_METHODS),
        (recovery, RECOVERY_ATTRIBUTES),
        (getattr(recovery, "_pacer", None), PACER_ATTRIBUTES),
        (QuicPacketNumberWindow(), WINDOW_ATTRIBUTES),
        (RangeSet(), RANGES_ATTRIBUTES),
        (QuicStreamSender(stream_id=0, writable=True), SENDER_ATTRIBUTES),
        (context.aead, AEAD_ATTRIBUTES),
        (context.hp, HEADER_PROTECTION_ATTRIBUTES),
    )
    missing = [
        f"{type(thing).__name__}.{name}"
        for thing, names in things
        for name in names
        if not hasattr(thing, name)
    ]
    if not aioquic.__version__.startswith("1.7."):
        missing.append(f"aioquic 1.7 (this is {aioquic.__version__})")
    return missing


def aes_masks(context: CryptoContext) -> MaskMaker | None:
    """Return what makes masks for many samples in one call; None without AES keys."""
    protection = context.hp
    if protection is None or protection._is_chacha20:
        return None
    update: MaskMaker = protection._encryptor.update
    return update


def opener(context: CryptoContext) -> tuple[Aead, int]:
    """Return decryption and IV of the current keys; they change with a key update."""
    assert context.aead is not None  # noqa: S101 - there are 1-RTT keys once it is confirmed
    return context.aead._aead.decrypt, context.aead._iv


def sealer(context: CryptoContext) -> tuple[Aead, int]:
    """Return encryption and IV of the current keys; they change with a key update."""
    assert context.aead is not None  # noqa: S101 - there are 1-RTT keys once it is confirmed
    return context.aead._aead.encrypt, context.aead._iv


def add_received(window: QuicPacketNumberWindow, first: int, last: int) -> None:
    """Record consecutive packet numbers, none of them received before, as received."""
    received = window._received
    if first == last:
        received.add(first)
    else:
        received.update(range(first, last + 1))
    lower = last - window._size + 1
    if lower > window._lower:
        window._lower = lower
        if len(received) > 2 * window._size:
            window._received = {number for number in received if number >= lower}


def extend_last_range(ranges: RangeSet, first: int, last: int) -> bool:
    """Add consecutive numbers that follow the last range; False: they do not, nothing is done."""
    inner: list[range] = getattr(ranges, _RANGES)
    if not inner or inner[-1].stop != first:
        return False
    inner[-1] = range(inner[-1].start, last + 1)
    return True


def cut_new_bytes(sender: QuicStreamSender, start: int, stop: int) -> bytes:
    """Take bytes that were never sent from what is to be sent; nothing where they do not begin it.

    Nor where they end it, for then FIN may have to go along.
    """
    ranges: list[range] = getattr(sender._pending, _RANGES)
    if not ranges or ranges[0].start != start or ranges[0].stop <= stop:
        return b""
    ranges[0] = range(stop, ranges[0].stop)
    sender.highest_offset = stop
    first = sender._buffer_start
    return bytes(sender._buffer[start - first : stop - first])


def pacer(recovery: QuicPacketRecovery) -> QuicPacketPacer:
    """Return the pacer."""
    return recovery._pacer


def probe_timeout_at(recovery: QuicPacketRecovery) -> float:
    """Return when the probe timeout of a confirmed connection comes (RFC 9002 section 6.2)."""
    timeout_s = recovery.get_probe_timeout()
    if recovery._pto_count:
        timeout_s *= 2**recovery._pto_count
    sent_at: float = recovery._time_of_last_sent_ack_eliciting_packet or 0.0
    return sent_at + timeout_s


def note_eliciting_sent(recovery: QuicPacketRecovery, now: float) -> None:
    """Restart the probe timeout."""
    recovery._time_of_last_sent_ack_eliciting_packet = now
