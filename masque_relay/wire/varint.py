"""Owns variable-length integers (RFC 9000 section 16)."""

from masque_relay.wire.errors import WireError

MAX_VARINT = (1 << 62) - 1
"""RFC 9000 section 16: two of the 64 bits tell the length."""

_SECTION = "RFC 9000 section 16"
_VALUE_MASKS = (0x3F, 0x3FFF, 0x3FFF_FFFF, MAX_VARINT)


def encode_varint(value: int) -> bytes:
    """Return the shortest encoding.

    Raises:
        ValueError: the value is negative or above 2^62-1; a bug of the caller, not of a peer.
    """
    if value < 0 or value > MAX_VARINT:
        message = f"{value} does not fit a variable-length integer"
        raise ValueError(message)
    if value <= 0x3F:
        return value.to_bytes(1, "big")
    if value <= 0x3FFF:
        return (value | 0x4000).to_bytes(2, "big")
    if value <= 0x3FFF_FFFF:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


def peek_varint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int] | None:
    """Return the value at ``offset`` and the offset after it; None when its end is not there yet.

    Longer encodings than necessary are accepted, as RFC 9000 section 16 asks.
    """
    if offset >= len(data):
        return None
    first = data[offset]
    if first <= 0x3F:  # most context and capsule types: no slice for these
        return first, offset + 1
    exponent = first >> 6
    end = offset + (1 << exponent)
    if end > len(data):
        return None
    return int.from_bytes(data[offset:end], "big") & _VALUE_MASKS[exponent], end


def decode_varint(data: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, int]:
    """Return the value at ``offset`` and the offset after it.

    Raises:
        WireError: the data ends before the integer does.
    """
    found = peek_varint(data, offset)
    if found is None:
        raise WireError("truncated variable-length integer", section=_SECTION)
    return found
