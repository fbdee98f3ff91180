"""Owns the values of attributes: addresses, error codes, algorithms and numbers <-> bytes."""

import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.stun.codepoints import (
    MAGIC_COOKIE,
    AddressFamily,
    ErrorCode,
    PasswordAlgorithm,
)
from masque_relay.wire.errors import WireError

CHANNEL_MIN = 0x4000
CHANNEL_MAX = 0x7FFF
"""Deviation: RFC 8656 section 12 reserves 0x5000 and above, which RFC 5766 gave to channels; many
clients still choose from there. Only ports that are ours alone take them."""

_COOKIE_BYTES = struct.pack("!I", MAGIC_COOKIE)


def family_of(address: IPAddress) -> AddressFamily:
    """Return the family of an address."""
    return AddressFamily.IPV4 if isinstance(address, IPv4Address) else AddressFamily.IPV6


def encode_address(endpoint: Endpoint) -> bytes:
    """Return the value of MAPPED-ADDRESS and its like (RFC 8489 section 14.1)."""
    packed = endpoint.address.packed
    return struct.pack("!BBH", 0, family_of(endpoint.address), endpoint.port) + packed


def decode_address(value: bytes) -> Endpoint:
    """Return the endpoint of an attribute that is not XORed.

    Raises:
        WireError: length and family do not agree.
    """
    return _decode(value, b"")


def encode_xor_address(endpoint: Endpoint, transaction_id: bytes) -> bytes:
    """Return the value of XOR-MAPPED-ADDRESS and its like (RFC 8489 section 14.2)."""
    packed = endpoint.address.packed
    head = struct.pack("!BBH", 0, family_of(endpoint.address), endpoint.port ^ 0x2112)
    return head + _xor(packed, _COOKIE_BYTES + transaction_id)


def decode_xor_address(value: bytes, transaction_id: bytes) -> Endpoint:
    """Return the endpoint of a XORed attribute. IPv4-mapped IPv6 becomes IPv4.

    Raises:
        WireError: length and family do not agree.
    """
    return _decode(value, _COOKIE_BYTES + transaction_id)


def _decode(value: bytes, mask: bytes) -> Endpoint:
    section = "RFC 8489 section 14.1"
    if len(value) < 4:
        raise WireError("an address of fewer than 4 bytes", section=section)
    _, family, port = struct.unpack_from("!BBH", value)
    packed = value[4:]
    if mask:
        port ^= 0x2112
        packed = _xor(packed, mask)
    if family == AddressFamily.IPV4 and len(packed) == 4:
        return Endpoint(address=IPv4Address(packed), port=port)
    if family == AddressFamily.IPV6 and len(packed) == 16:
        address = IPv6Address(packed)
        return Endpoint(address=address.ipv4_mapped or address, port=port)
    raise WireError(f"family {family} with {len(packed)} bytes", section=section)


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(data, mask, strict=False)) if len(data) <= 16 else b""


def encode_error(code: ErrorCode) -> bytes:
    """Return the value of ERROR-CODE (RFC 8489 section 14.8)."""
    return bytes((0, 0, code // 100, code % 100)) + code.reason.encode("ascii")


def encode_address_error(family: AddressFamily, code: ErrorCode) -> bytes:
    """Return the value of ADDRESS-ERROR-CODE (RFC 8656 section 18.12)."""
    return bytes((family, 0, code // 100, code % 100)) + code.reason.encode("ascii")


def decode_error(value: bytes) -> int:
    """Return the number in ERROR-CODE.

    Raises:
        WireError: it is too short.
    """
    if len(value) < 4:
        raise WireError("ERROR-CODE of fewer than 4 bytes", section="RFC 8489 section 14.8")
    return (value[2] & 7) * 100 + value[3]


def encode_types(kinds: Iterable[int]) -> bytes:
    """Return the value of UNKNOWN-ATTRIBUTES (RFC 8489 section 14.9)."""
    return b"".join(kind.to_bytes(2, "big") for kind in kinds)


def encode_algorithms(algorithms: Sequence[PasswordAlgorithm]) -> bytes:
    """Return the value of PASSWORD-ALGORITHMS, best last as section 14.11 leaves the order open."""
    return b"".join(struct.pack("!HH", algorithm, 0) for algorithm in algorithms)


def decode_algorithm(value: bytes) -> PasswordAlgorithm:
    """Return the one algorithm of PASSWORD-ALGORITHM (RFC 8489 section 14.12).

    Raises:
        WireError: unknown, or with parameters that it does not have.
    """
    section = "RFC 8489 section 14.12"
    if len(value) != 4:
        raise WireError(f"PASSWORD-ALGORITHM of {len(value)} bytes", section=section)
    number, parameter_bytes = struct.unpack("!HH", value)
    try:
        algorithm = PasswordAlgorithm(number)
    except ValueError:
        raise WireError(f"unknown password algorithm {number}", section=section) from None
    if parameter_bytes:
        raise WireError("parameters for an algorithm that has none", section=section)
    return algorithm


def decode_u32(value: bytes, *, section: str) -> int:
    """Return a 32-bit number.

    Raises:
        WireError: not four bytes.
    """
    if len(value) != 4:
        raise WireError(f"{len(value)} bytes instead of 4", section=section)
    return int.from_bytes(value, "big")


def decode_channel(value: bytes) -> int:
    """Return the number in CHANNEL-NUMBER (RFC 8656 section 18.1), in range or not.

    Raises:
        WireError: not four bytes.
    """
    return decode_u32(value, section="RFC 8656 section 18.1") >> 16


def decode_family(value: bytes, *, section: str = "RFC 8656 section 18.6") -> int:
    """Return the number of the family in REQUESTED- and ADDITIONAL-ADDRESS-FAMILY.

    Raises:
        WireError: not four bytes.
    """
    return decode_u32(value, section=section) >> 24


def decode_text(value: bytes, *, max_bytes: int, section: str) -> str:
    """Return UTF-8 text.

    Raises:
        WireError: too long, or not UTF-8.
    """
    if len(value) > max_bytes:
        raise WireError(f"{len(value)} bytes of text", section=section)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WireError("not UTF-8", section=section) from None


def encode_icmp(icmp_type: int, code: int, data: int) -> bytes:
    """Return the value of ICMP (RFC 8656 section 18.13)."""
    return struct.pack("!HBBI", 0, icmp_type, code, data)
