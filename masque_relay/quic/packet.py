"""Owns the look at a packet before any connection knows it: RFC 8999 invariants, Initial's token.

Nothing here is authenticated; whatever a function returns is a peer's claim.
"""

import secrets
from dataclasses import dataclass
from enum import IntEnum

CONNECTION_ID_BYTES = 8
"""Every connection ID that we issue has this length: short headers carry none of their own."""
MAX_CONNECTION_ID_BYTES = 20
"""RFC 9000 section 17.2; of known versions. Longer ones in unknown versions are not answered."""
MIN_INITIAL_CONNECTION_ID_BYTES = 8
"""RFC 9000 section 7.2: a client's first Destination Connection ID."""
MIN_INITIAL_DATAGRAM_BYTES = 1_200
"""RFC 9000 section 14.1: a smaller datagram with an Initial is dropped."""

VERSION_1 = 0x00000001
VERSION_2 = 0x6B3343CF
SUPPORTED_VERSIONS = (VERSION_1, VERSION_2)


class Kind(IntEnum):
    """What a first byte says on a UDP port that QUIC shares with others (RFC 9443 section 3)."""

    DROP = 0
    SHORT = 1
    """64..127: QUIC 1-RTT, or TURN ChannelData: only the connection ID tells them apart."""
    LONG = 2
    """192..255."""
    STUN = 3
    """0..3. Nothing of ours answers it yet."""


def _kind(first_byte: int) -> Kind:
    if first_byte >= 0xC0:
        return Kind.LONG
    if 64 <= first_byte < 128:
        return Kind.SHORT
    if first_byte < 4:
        return Kind.STUN
    # 20..63 is DTLS, 128..191 RTP; QUIC with a zero fixed bit is not taken (RFC 9287 not offered).
    return Kind.DROP


KIND_BY_FIRST_BYTE: tuple[Kind, ...] = tuple(_kind(first_byte) for first_byte in range(256))
"""Index with the first byte: one look-up on the packet path."""


class LongType(IntEnum):
    """Long header packet types, numbered as in QUIC v1 (RFC 9000 section 17.2)."""

    INITIAL = 0
    ZERO_RTT = 1
    HANDSHAKE = 2
    RETRY = 3


@dataclass(slots=True)
class LongHeader:
    """The readable part of a long header packet."""

    version: int
    packet_type: LongType | None
    """None for a version that we do not speak."""
    destination_cid: bytes
    source_cid: bytes
    token: bytes
    """Of an Initial; else empty."""


def peek_long_header(data: bytes) -> LongHeader | None:
    """Return what a long header says, or None when it is cut short or breaks its version's rules.

    Raises nothing, whatever the bytes are. Connection IDs of unknown versions may have up to 255
    bytes (RFC 8999 section 5.1).
    """
    size = len(data)
    if size < 7:
        return None
    version = int.from_bytes(data[1:5], "big")
    source_at = 6 + data[5]
    end = source_at + 1 + data[source_at] if source_at < size else size + 1
    if end > size:
        return None
    destination_cid = data[6:source_at]
    source_cid = data[source_at + 1 : end]
    if version not in SUPPORTED_VERSIONS:
        return LongHeader(version, None, destination_cid, source_cid, b"")
    if max(len(destination_cid), len(source_cid)) > MAX_CONNECTION_ID_BYTES:
        return None
    type_bits = (data[0] & 0x30) >> 4
    # RFC 9369 section 3.2: version 2 rotates the four types by one.
    packet_type = LongType((type_bits - 1) & 3 if version == VERSION_2 else type_bits)
    token = _initial_token(data, end) if packet_type is LongType.INITIAL else b""
    if token is None:
        return None
    return LongHeader(version, packet_type, destination_cid, source_cid, token)


def _initial_token(data: bytes, offset: int) -> bytes | None:
    if offset >= len(data):
        return None
    length_bytes = 1 << (data[offset] >> 6)
    start = offset + length_bytes
    if start > len(data):
        return None
    token_bytes = int.from_bytes(data[offset:start], "big") & ((1 << (8 * length_bytes - 2)) - 1)
    end = start + token_bytes
    if end > len(data):
        return None
    return data[start:end]


def encode_version_negotiation(
    *, destination_cid: bytes, source_cid: bytes, refused_version: int
) -> bytes:
    """Return a Version Negotiation packet (RFC 9000 section 17.2.1) with our versions.

    Args:
        destination_cid: the Source Connection ID of the packet that is answered.
        source_cid: its Destination Connection ID.
        refused_version: its version: a client ignores an answer that offers it (section 6.2).
    """
    # RFC 9000 section 17.2.1: unused bits are random, but 0x40 is set for demultiplexers.
    first_byte = 0xC0 | secrets.randbits(6)
    # RFC 9368 section 6.3: a version nobody speaks keeps clients tolerant (0x?a?a?a?a).
    reserved_version = (secrets.randbits(32) & 0xF0F0F0F0) | 0x0A0A0A0A
    if reserved_version == refused_version:
        reserved_version ^= 0x10101010
    return b"".join(
        (
            bytes((first_byte, 0, 0, 0, 0, len(destination_cid))),
            destination_cid,
            bytes((len(source_cid),)),
            source_cid,
            *(v.to_bytes(4, "big") for v in (reserved_version, *SUPPORTED_VERSIONS)),
        )
    )
