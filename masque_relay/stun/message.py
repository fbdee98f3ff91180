"""Owns STUN messages: header and attributes <-> bytes (RFC 8489 sections 5, 6 and 14)."""

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from masque_relay.stun.codepoints import (
    COMPREHENSION_REQUIRED,
    MAGIC_COOKIE,
    Attribute,
    MessageClass,
)
from masque_relay.wire.errors import WireError

HEADER_BYTES = 20
MAX_MESSAGE_BYTES = HEADER_BYTES + 65_532
FINGERPRINT_XOR = 0x5354554E
FINGERPRINT_BYTES = 8

_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
COOKIE = struct.pack("!I", MAGIC_COOKIE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StunMessage:
    """One decoded message. What stands behind its integrity attribute is not in ``attributes``."""

    method: int
    message_class: MessageClass
    transaction_id: bytes
    attributes: tuple[tuple[int, bytes], ...] = ()
    """In order; an attribute that must come once counts by its first occurrence (section 14)."""
    raw: bytes = b""
    """The message as received; integrity is computed over its beginning."""
    integrity_at: int | None = None
    """Offset of MESSAGE-INTEGRITY, None without."""
    integrity_sha256_at: int | None = None
    """Offset of MESSAGE-INTEGRITY-SHA256, None without."""
    has_fingerprint: bool = False

    def get(self, attribute: int) -> bytes | None:
        """Return the value of the first attribute of that type, or None."""
        for kind, value in self.attributes:
            if kind == attribute:
                return value
        return None

    def get_all(self, attribute: int) -> list[bytes]:
        """Return the values of all attributes of that type, in order."""
        return [value for kind, value in self.attributes if kind == attribute]


def unknown_required(message: StunMessage) -> list[int]:
    """Return the attributes that must be understood and are not (RFC 8489 section 6.3.1)."""
    return [
        kind
        for kind, _ in message.attributes
        if kind < 0x8000 and kind not in COMPREHENSION_REQUIRED
    ]


def is_stun(data: bytes) -> bool:
    """Return whether a datagram looks like STUN: zero bits in front, the magic cookie inside."""
    return len(data) >= HEADER_BYTES and data[0] < 0x40 and data[4:8] == COOKIE


def decode_message(data: bytes) -> StunMessage:
    """Return the one message that fills ``data``.

    Raises:
        WireError: it is none: truncated, overlong, bad padding or length, a fingerprint that is
            wrong or not the last attribute.
    """
    if len(data) < HEADER_BYTES:
        raise WireError("shorter than a header", section="RFC 8489 section 5")
    kind, length, cookie, transaction_id = _HEADER.unpack_from(data)
    if kind & 0xC000:
        raise WireError("the first two bits are not zero", section="RFC 8489 section 5")
    if cookie != MAGIC_COOKIE:
        raise WireError("wrong magic cookie", section="RFC 8489 section 5")
    if length & 3 or length + HEADER_BYTES != len(data):
        detail = f"length {length} in a message of {len(data)} bytes"
        raise WireError(detail, section="RFC 8489 section 5")
    attributes, integrity_at, sha256_at, has_fingerprint = _decode_attributes(data)
    return StunMessage(
        method=(kind & 0x000F) | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2,
        message_class=MessageClass((kind & 0x0010) >> 4 | (kind & 0x0100) >> 7),
        transaction_id=transaction_id,
        attributes=tuple(attributes),
        raw=data,
        integrity_at=integrity_at,
        integrity_sha256_at=sha256_at,
        has_fingerprint=has_fingerprint,
    )


def _decode_attributes(  # noqa: C901 (one loop over the four kinds of section 14)
    data: bytes,
) -> tuple[list[tuple[int, bytes]], int | None, int | None, bool]:
    attributes: list[tuple[int, bytes]] = []
    integrity_at: int | None = None
    sha256_at: int | None = None
    at, end = HEADER_BYTES, len(data)
    while at < end:
        kind, length = _ATTRIBUTE.unpack_from(data, at)
        value_end = at + 4 + length
        if value_end > end:
            detail = f"attribute 0x{kind:04x} announces {length} bytes"
            raise WireError(detail, section="RFC 8489 section 14")
        if kind == Attribute.FINGERPRINT:
            _check_fingerprint(data, at, length)
            return attributes, integrity_at, sha256_at, True
        if kind == Attribute.MESSAGE_INTEGRITY_SHA256:
            # Section 14.6: behind it only FINGERPRINT counts; a second one is ignored.
            if sha256_at is None:
                if not 16 <= length <= 32 or length & 3:
                    raise WireError(f"{length} bytes of HMAC", section="RFC 8489 section 14.6")
                sha256_at = at
        elif kind == Attribute.MESSAGE_INTEGRITY:
            if integrity_at is None and sha256_at is None:
                if length != 20:
                    raise WireError(f"{length} bytes of HMAC", section="RFC 8489 section 14.5")
                integrity_at = at
        elif integrity_at is None and sha256_at is None:
            # Section 14.5: what follows an integrity attribute is not covered by it: ignored.
            attributes.append((kind, data[at + 4 : value_end]))
        at = (value_end + 3) & ~3
    return attributes, integrity_at, sha256_at, False


def _check_fingerprint(data: bytes, at: int, length: int) -> None:
    """Raise unless the FINGERPRINT at an offset is right (RFC 8489 section 14.7)."""
    section = "RFC 8489 section 14.7"
    if length != 4 or at + FINGERPRINT_BYTES != len(data):
        raise WireError("FINGERPRINT is not the last attribute", section=section)
    (value,) = struct.unpack_from("!I", data, at + 4)
    if zlib.crc32(data[:at]) ^ FINGERPRINT_XOR != value:
        raise WireError("wrong FINGERPRINT", section=section)


def encode_message(
    method: int,
    message_class: MessageClass,
    transaction_id: bytes,
    attributes: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """Return a message without integrity and fingerprint.

    Raises:
        ValueError: it does not fit, or the transaction ID has not 12 bytes.
    """
    if len(transaction_id) != 12:
        raise ValueError("a transaction ID has 12 bytes")
    body = b"".join(
        _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) & 3)
        for kind, value in attributes
    )
    if len(body) > 0xFFFC:
        raise ValueError("too long for a STUN message")
    kind = (
        (method & 0x000F)
        | (method & 0x0070) << 1
        | (method & 0x0F80) << 2
        | (message_class & 1) << 4
        | (message_class & 2) << 7
    )
    return _HEADER.pack(kind, len(body), MAGIC_COOKIE, transaction_id) + body


def with_length(data: bytes, body_bytes: int) -> bytes:
    """Return a message (or the beginning of one) with another length in its header."""
    return data[:2] + body_bytes.to_bytes(2, "big") + data[4:]


def append_fingerprint(data: bytes) -> bytes:
    """Return the message with FINGERPRINT as its last attribute (RFC 8489 section 14.7)."""
    longer = with_length(data, len(data) - HEADER_BYTES + FINGERPRINT_BYTES)
    value = zlib.crc32(longer) ^ FINGERPRINT_XOR
    return longer + _ATTRIBUTE.pack(Attribute.FINGERPRINT, 4) + value.to_bytes(4, "big")
