"""Owns the reading of IP packets (RFC 791, RFC 8200), without an object per packet.

Everything works on ``bytes`` and plain ints: this runs for every packet of every tunnel.
"""

import struct
from enum import IntEnum

MIN_IPV4_HEADER_BYTES = 20
IPV6_HEADER_BYTES = 40
MAX_PACKET_BYTES = 65_535 + IPV6_HEADER_BYTES
"""An IPv6 packet without the jumbo option (RFC 8200 section 3)."""

MAX_EXTENSION_HEADERS = 8
"""RFC 8200 section 4.1 lists seven in its order; more is an attempt to hide something."""


class IpProtocol(IntEnum):
    """The IP protocols that this project tells apart."""

    HOP_BY_HOP = 0
    ICMP = 1
    TCP = 6
    UDP = 17
    DCCP = 33
    ROUTING = 43
    FRAGMENT = 44
    ESP = 50
    AUTHENTICATION = 51
    ICMPV6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60
    SCTP = 132
    MOBILITY = 135
    UDP_LITE = 136
    HIP = 139
    SHIM6 = 140


EXTENSION_HEADERS = frozenset(
    {
        IpProtocol.HOP_BY_HOP,
        IpProtocol.ROUTING,
        IpProtocol.FRAGMENT,
        IpProtocol.AUTHENTICATION,
        IpProtocol.DESTINATION_OPTIONS,
        IpProtocol.MOBILITY,
        IpProtocol.HIP,
        IpProtocol.SHIM6,
    }
)
"""IANA's "IPv6 Extension Header Types" that can be walked. ESP is one too, but nobody can look
behind it, so it counts as what the packet carries."""

PacketFacts = tuple[int, int, int, int, int, int]
"""Version, source, destination, IP protocol after extension headers, destination port, hop limit.
The port is 0 where the protocol has none or a fragment hides it."""

_IPV4 = struct.Struct(">BxHxxHBBxxII")
_IPV6 = struct.Struct(">BxxxHBBQQQQ")
_PORT = struct.Struct(">H")
_TTL_TO_CHECKSUM = struct.Struct(">BBH")
_PORTED = frozenset({6, 17, 33, 132, 136})  # TCP, UDP, DCCP, SCTP, UDP-Lite as plain ints: speed
_FRAGMENT_OFFSET_MASK = 0x1FFF
_MORE_FRAGMENTS = 0x2000
_SOURCE_ROUTES = frozenset({131, 137})  # RFC 791: loose and strict source route


def read_packet(packet: bytes) -> PacketFacts | None:  # noqa: PLR0911 (the hot path)
    """Return what forwarding needs to know of one whole IP packet; None if it is malformed.

    Malformed is also what must not be forwarded whatever the policy: source routes (RFC 7126,
    RFC 5095, RFC 8754), jumbograms, and more extension headers than anybody needs. Checksums are
    not checked: a packet whose own checksum is wrong is dropped by whoever reads it next.
    """
    size = len(packet)
    if size < MIN_IPV4_HEADER_BYTES:
        return None
    first = packet[0]
    if first == 0x45:
        length, fragment, ttl, protocol, source, destination = _IPV4.unpack_from(packet)[1:]
        if length != size:
            return None
        if protocol in _PORTED:
            # A first fragment that ends before the port hides it too (RFC 1858).
            if fragment & _FRAGMENT_OFFSET_MASK or size < 24:
                return 4, source, destination, protocol, 0, ttl
            return 4, source, destination, protocol, packet[22] << 8 | packet[23], ttl
        return 4, source, destination, protocol, 0, ttl
    if first >> 4 == 6:
        return _read_ipv6(packet, size)
    return _read_ipv4_with_options(packet, size)


def _read_ipv4_with_options(packet: bytes, size: int) -> PacketFacts | None:
    first, length, fragment, ttl, protocol, source, destination = _IPV4.unpack_from(packet)
    header_bytes = (first & 0xF) * 4
    if first >> 4 != 4 or length != size or not MIN_IPV4_HEADER_BYTES < header_bytes <= size:
        return None
    if not _options_are_harmless(packet, header_bytes):
        return None
    port = 0
    if protocol in _PORTED and not fragment & _FRAGMENT_OFFSET_MASK and size >= header_bytes + 4:
        (port,) = _PORT.unpack_from(packet, header_bytes + 2)
    return 4, source, destination, protocol, port, ttl


def _options_are_harmless(packet: bytes, end: int) -> bool:
    """Tell whether IPv4 options are well-formed and hold no source route."""
    offset = MIN_IPV4_HEADER_BYTES
    while offset < end:
        kind = packet[offset]
        if kind == 0:  # end of options
            return True
        if kind == 1:  # no operation
            offset += 1
            continue
        length = packet[offset + 1] if offset + 1 < end else 0
        if kind in _SOURCE_ROUTES or length < 2 or offset + length > end:
            return False
        offset += length
    return True


def _read_ipv6(packet: bytes, size: int) -> PacketFacts | None:
    if size < IPV6_HEADER_BYTES:
        return None
    _, length, protocol, hop_limit, source_high, source_low, high, low = _IPV6.unpack_from(packet)
    if length + IPV6_HEADER_BYTES != size:
        return None
    source, destination = source_high << 64 | source_low, high << 64 | low
    if protocol in _PORTED:
        port = packet[42] << 8 | packet[43] if size >= 44 else 0
        return 6, source, destination, protocol, port, hop_limit
    walked = walk_extensions(packet)
    if walked is None:
        return None
    protocol, offset = walked
    port = 0
    if offset and protocol in _PORTED and size >= offset + 4:
        (port,) = _PORT.unpack_from(packet, offset + 2)
    return 6, source, destination, protocol, port, hop_limit


def walk_extensions(packet: bytes) -> tuple[int, int] | None:  # noqa: PLR0911 (one per way out)
    """Return the protocol after an IPv6 packet's extension headers, and where its header begins.

    The offset is 0 behind the header of a fragment that is not the first: what follows is the
    middle of something. None: the chain is broken, too long, or has a source route.
    """
    protocol, offset, size = packet[6], IPV6_HEADER_BYTES, len(packet)
    for count in range(MAX_EXTENSION_HEADERS + 1):
        if protocol not in EXTENSION_HEADERS:
            return protocol, offset
        if protocol == IpProtocol.HOP_BY_HOP and count:
            return None  # RFC 8200 section 4.1: only directly behind the IPv6 header
        if offset + 8 > size:
            return None
        if protocol == IpProtocol.FRAGMENT:
            (fragment,) = _PORT.unpack_from(packet, offset + 2)
            if fragment & 0xFFF8:
                return packet[offset], 0
            header_bytes = 8
        elif protocol == IpProtocol.AUTHENTICATION:
            header_bytes = (packet[offset + 1] + 2) * 4  # RFC 4302 section 2.2
        else:
            header_bytes = (packet[offset + 1] + 1) * 8
            if protocol == IpProtocol.ROUTING and not _routing_is_done(packet, offset):
                return None
        protocol = packet[offset]
        offset += header_bytes
        if offset > size:
            return None
    return None


def _routing_is_done(packet: bytes, offset: int) -> bool:
    """Tell whether a routing header of any type has no segments left (RFC 8200 section 4.4).

    One that has some sends the packet on to a place that no rule was asked about: type 0 (RFC 5095)
    and segment routing (RFC 8754) alike.
    """
    return packet[offset + 3] == 0


def is_fragment_tail(packet: bytes) -> bool:
    """Return whether a well-formed packet is a fragment other than the first."""
    if packet[0] >> 4 == 4:
        return bool((packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET_MASK)
    walked = walk_extensions(packet)
    return walked is not None and walked[1] == 0


def fragment_ipv4(packet: bytes, mtu_bytes: int) -> list[bytes]:
    """Return the fragments of a well-formed packet (RFC 791 section 3.2), none larger than the MTU.

    Empty where only the sender may make it smaller: IPv6, IPv4 with DF set; and, because their
    options would need care, IPv4 with options.
    """
    step = (mtu_bytes - MIN_IPV4_HEADER_BYTES) // 8 * 8
    if packet[0] != 0x45 or packet[6] & 0x40 or step <= 0:
        return []
    word = packet[6] << 8 | packet[7]
    fragments: list[bytes] = []
    for start in range(MIN_IPV4_HEADER_BYTES, len(packet), step):
        data = packet[start : start + step]
        more = word & _MORE_FRAGMENTS if start + step >= len(packet) else _MORE_FRAGMENTS
        offset = (word & _FRAGMENT_OFFSET_MASK) + (start - MIN_IPV4_HEADER_BYTES) // 8
        head = b"".join(
            (
                packet[:2],
                _PORT.pack(MIN_IPV4_HEADER_BYTES + len(data)),
                packet[4:6],
                _PORT.pack(more | offset),
                packet[8:10],
                b"\0\0",
                packet[12:MIN_IPV4_HEADER_BYTES],
            )
        )
        checksum = _PORT.pack(internet_checksum(head))
        fragments.append(head[:10] + checksum + head[12:] + data)
    return fragments


def decrement_hop_limit(packet: bytes) -> bytes | None:
    """Return a well-formed packet with one hop less; None when none would be left.

    The IPv4 header checksum is updated, not computed anew (RFC 1624).
    """
    if packet[0] >> 4 == 6:
        hop_limit = packet[7]
        if hop_limit <= 1:
            return None
        return packet[:7] + bytes((hop_limit - 1,)) + packet[8:]
    ttl, protocol, checksum = _TTL_TO_CHECKSUM.unpack_from(packet, 8)
    if ttl <= 1:
        return None
    checksum += 0x100  # the TTL is the upper byte of its word
    if checksum >= 0xFFFF:
        checksum -= 0xFFFF
    return packet[:8] + _TTL_TO_CHECKSUM.pack(ttl - 1, protocol, checksum) + packet[12:]


def internet_checksum(data: bytes) -> int:
    """Return the one's complement of the one's complement sum of 16-bit words (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    # 2^16 is 1 modulo 65,535, so one big remainder adds up all words with their carries.
    total = int.from_bytes(data, "big")
    folded = total % 0xFFFF
    return 0xFFFF ^ (0xFFFF if total and not folded else folded)
