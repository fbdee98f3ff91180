"""Owns ICMP messages about packets that were not forwarded (RFC 792, RFC 4443), and echo replies.

How often errors are sent is for the sender to bound (RFC 1812 section 4.3.2.8, RFC 4443 section
2.4 f).
"""

import struct
from enum import Enum, auto

from masque_relay.wire.ip_packet import (
    IPV6_HEADER_BYTES,
    MIN_IPV4_HEADER_BYTES,
    IpProtocol,
    internet_checksum,
    is_fragment_tail,
    walk_extensions,
)

MAX_ICMPV4_ERROR_BYTES = 576
"""RFC 1812 section 4.3.2.3: as much of the packet as fits into this, headers included."""

MAX_ICMPV6_ERROR_BYTES = 1280
"""RFC 4443 section 3: as much of the packet as fits into the minimum MTU."""

_HOP_LIMIT = 64
_ICMP_HEADER_BYTES = 8
_IPV4_HEAD = struct.Struct(">BBHHHBBHII")
_IPV6_HEAD = struct.Struct(">IHBB16s16s")
_ICMP_HEAD = struct.Struct(">BBHI")
_ECHO_REQUEST_V4, _ECHO_REPLY_V4 = 8, 0
_ECHO_REQUEST_V6, _ECHO_REPLY_V6 = 128, 129
_ICMPV4_ERRORS = frozenset({3, 4, 5, 11, 12})  # RFC 1122 section 3.2.2; redirect is one here
_ICMPV6_REDIRECT = 137  # RFC 4443 section 2.4 e.2
_ICMPV6_INFORMATIONAL = 128
_V4_GROUP_NET = 224  # and above: multicast, reserved, broadcast
_V4_LOOPBACK = 127
_V6_MULTICAST = 0xFF


class IcmpError(Enum):
    """Why a packet was not forwarded, in the words that both versions have."""

    NO_ROUTE = auto()
    PROHIBITED = auto()
    BAD_SOURCE = auto()
    """RFC 9484 section 7.2.1; version 4 has no code of its own for it."""
    HOP_LIMIT = auto()
    TOO_BIG = auto()
    ADDRESS_UNREACHABLE = auto()


_TYPES_V4 = {
    IcmpError.NO_ROUTE: (3, 0),
    IcmpError.PROHIBITED: (3, 13),
    IcmpError.BAD_SOURCE: (3, 13),
    IcmpError.HOP_LIMIT: (11, 0),
    IcmpError.TOO_BIG: (3, 4),
    IcmpError.ADDRESS_UNREACHABLE: (3, 1),
}
_TYPES_V6 = {
    IcmpError.NO_ROUTE: (1, 0),
    IcmpError.PROHIBITED: (1, 1),
    IcmpError.BAD_SOURCE: (1, 5),
    IcmpError.HOP_LIMIT: (3, 0),
    IcmpError.TOO_BIG: (2, 0),
    IcmpError.ADDRESS_UNREACHABLE: (1, 3),
}


def icmp_error(error: IcmpError, packet: bytes, *, source: int, mtu_bytes: int = 0) -> bytes | None:
    """Return the IP packet that tells a packet's sender why it went no further.

    Args:
        error: what happened.
        packet: the one that was not forwarded; ``read_packet`` has found it well-formed.
        source: our own address, of the packet's version, as an int.
        mtu_bytes: the largest packet that would have passed; with TOO_BIG only.

    Returns:
        None where no error may be sent: see :func:`may_be_answered`.
    """
    if not may_be_answered(packet, error):
        return None
    if packet[0] >> 4 == 4:
        kind, code = _TYPES_V4[error]
        quoted = packet[: MAX_ICMPV4_ERROR_BYTES - MIN_IPV4_HEADER_BYTES - _ICMP_HEADER_BYTES]
        # RFC 1191 section 4: the MTU is in the lower 16 bits of the second word.
        message = _icmpv4(kind, code, min(mtu_bytes, 0xFFFF), quoted)
        return _ipv4(source, int.from_bytes(packet[12:16], "big"), message)
    kind, code = _TYPES_V6[error]
    quoted = packet[: MAX_ICMPV6_ERROR_BYTES - IPV6_HEADER_BYTES - _ICMP_HEADER_BYTES]
    return _ipv6(source.to_bytes(16, "big"), packet[8:24], kind, code, mtu_bytes, quoted)


def may_be_answered(packet: bytes, error: IcmpError) -> bool:
    """Return whether an ICMP error may be sent about a well-formed packet.

    Never about an ICMP error, a later fragment, a packet to a group, or one whose source is no
    single host (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e).
    """
    if packet[0] >> 4 == 4:
        return _may_be_answered_v4(packet)
    return _may_be_answered_v6(packet, to_group=error is IcmpError.TOO_BIG)


def _may_be_answered_v4(packet: bytes) -> bool:
    source_net, destination_net = packet[12], packet[16]
    if source_net in {0, _V4_LOOPBACK} or source_net >= _V4_GROUP_NET:
        return False
    if destination_net >= _V4_GROUP_NET or is_fragment_tail(packet):
        return False
    return packet[9] != IpProtocol.ICMP or not _is_icmpv4_error(packet)


def _may_be_answered_v6(packet: bytes, *, to_group: bool) -> bool:
    if packet[8] == _V6_MULTICAST or not any(packet[8:23]):  # unspecified and loopback too
        return False
    # RFC 4443 section 2.4 e.3: Packet Too Big goes out for groups too, for path MTU discovery.
    if packet[24] == _V6_MULTICAST and not to_group:
        return False
    walked = walk_extensions(packet)
    if walked is None or walked[1] == 0:
        return False
    protocol, offset = walked
    if protocol != IpProtocol.ICMPV6:
        return True
    # Without the type nobody can say that it is no error.
    kind = packet[offset] if offset < len(packet) else 0
    return kind >= _ICMPV6_INFORMATIONAL and kind != _ICMPV6_REDIRECT


def echo_reply(packet: bytes, *, source: bytes | None = None) -> bytes | None:
    """Return the answer to an ICMP or ICMPv6 echo request; None when a packet is none.

    ``source`` is the packed address that answers, where the request went to a group.
    """
    if packet[0] >> 4 == 4:
        offset = (packet[0] & 0xF) * 4
        if packet[9] != IpProtocol.ICMP or (packet[6] << 8 | packet[7]) & 0x3FFF:
            return None
        message = packet[offset:]
        if len(message) < _ICMP_HEADER_BYTES or message[0] != _ECHO_REQUEST_V4:
            return None
        (rest,) = struct.unpack_from(">I", message, 4)
        reply = _icmpv4(_ECHO_REPLY_V4, 0, rest, message[_ICMP_HEADER_BYTES:])
        answering = int.from_bytes(source or packet[16:20], "big")
        return _ipv4(answering, int.from_bytes(packet[12:16], "big"), reply)
    message = packet[IPV6_HEADER_BYTES:]
    is_echo = len(message) >= _ICMP_HEADER_BYTES and message[0] == _ECHO_REQUEST_V6
    if packet[6] != IpProtocol.ICMPV6 or not is_echo:
        return None
    (rest,) = struct.unpack_from(">I", message, 4)
    data = message[_ICMP_HEADER_BYTES:]
    return _ipv6(source or packet[24:40], packet[8:24], _ECHO_REPLY_V6, 0, rest, data)


def echo_reply_identifier(packet: bytes) -> int | None:
    """Return the identifier of an ICMPv6 echo reply; None when a packet is none."""
    message = packet[IPV6_HEADER_BYTES : IPV6_HEADER_BYTES + _ICMP_HEADER_BYTES]
    if packet[6] != IpProtocol.ICMPV6 or len(message) < _ICMP_HEADER_BYTES:
        return None
    return message[4] << 8 | message[5] if message[0] == _ECHO_REPLY_V6 else None


def echo_request(source: bytes, destination: bytes, *, identifier: int, data: bytes) -> bytes:
    """Return an echo request between two packed addresses of one version."""
    rest = identifier << 16 | 1
    if len(source) == 4:
        message = _icmpv4(_ECHO_REQUEST_V4, 0, rest, data)
        return _ipv4(int.from_bytes(source, "big"), int.from_bytes(destination, "big"), message)
    return _ipv6(source, destination, _ECHO_REQUEST_V6, 0, rest, data)


def _is_icmpv4_error(packet: bytes) -> bool:
    offset = (packet[0] & 0xF) * 4
    return offset >= len(packet) or packet[offset] in _ICMPV4_ERRORS


def _icmpv4(kind: int, code: int, rest: int, data: bytes) -> bytes:
    checksum = internet_checksum(_ICMP_HEAD.pack(kind, code, 0, rest) + data)
    return _ICMP_HEAD.pack(kind, code, checksum, rest) + data


def _ipv4(source: int, destination: int, message: bytes) -> bytes:
    fields = (0x45, 0, MIN_IPV4_HEADER_BYTES + len(message), 0, 0, _HOP_LIMIT, IpProtocol.ICMP)
    checksum = internet_checksum(_IPV4_HEAD.pack(*fields, 0, source, destination))
    return _IPV4_HEAD.pack(*fields, checksum, source, destination) + message


def _ipv6(source: bytes, destination: bytes, kind: int, code: int, rest: int, data: bytes) -> bytes:
    length = _ICMP_HEADER_BYTES + len(data)
    # RFC 4443 section 2.3: the checksum covers a pseudo-header.
    pseudo = source + destination + struct.pack(">II", length, IpProtocol.ICMPV6)
    message = _ICMP_HEAD.pack(kind, code, 0, rest) + data
    checksum = internet_checksum(pseudo + message)
    head = _IPV6_HEAD.pack(6 << 28, length, IpProtocol.ICMPV6, _HOP_LIMIT, source, destination)
    return head + _ICMP_HEAD.pack(kind, code, checksum, rest) + data
