"""Owns IP packets for tests, made by hand so that the relay's own code does not judge itself."""

import struct
from ipaddress import ip_address


def checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total ^ 0xFFFF)


def ipv4(
    source: str,
    destination: str,
    payload: bytes = b"",
    *,
    protocol: int = 17,
    ttl: int = 64,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet; ``fragment`` is the word of flags and offset."""
    words = 5 + len(options) // 4
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | words,
        0,
        words * 4 + len(payload),
        7,
        fragment,
        ttl,
        protocol,
        0,
        ip_address(source).packed,
        ip_address(destination).packed,
    )
    head += options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(
    source: str, destination: str, payload: bytes = b"", *, protocol: int = 17, hop_limit: int = 64
) -> bytes:
    """An IPv6 packet; extension headers belong to the payload."""
    return (
        struct.pack(">IHBB", 6 << 28, len(payload), protocol, hop_limit)
        + ip_address(source).packed
        + ip_address(destination).packed
        + payload
    )


def udp(data: bytes, *, source_port: int = 4000, port: int = 53) -> bytes:
    """A UDP datagram without a checksum, which IPv4 allows."""
    return struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data


def ping4(source: str, destination: str, data: bytes = b"ping", *, ttl: int = 64) -> bytes:
    """An ICMP echo request."""
    message = struct.pack(">BBHHH", 8, 0, 0, 77, 1) + data
    message = message[:2] + struct.pack(">H", checksum(message)) + message[4:]
    return ipv4(source, destination, message, protocol=1, ttl=ttl)


def ping6(source: str, destination: str, data: bytes = b"ping", *, hop_limit: int = 64) -> bytes:
    """An ICMPv6 echo request."""
    return ipv6(
        source,
        destination,
        icmpv6(source, destination, struct.pack(">BBHHH", 128, 0, 0, 77, 1) + data),
        protocol=58,
        hop_limit=hop_limit,
    )


def icmpv6(source: str, destination: str, message: bytes) -> bytes:
    """An ICMPv6 message with its checksum."""
    pseudo = ip_address(source).packed + ip_address(destination).packed
    pseudo += struct.pack(">II", len(message), 58)
    return message[:2] + struct.pack(">H", checksum(pseudo + message)) + message[4:]


def has_good_checksums(packet: bytes) -> bool:
    """Whether the header checksum and that of an ICMP message hold."""
    if packet[0] >> 4 == 4:
        size = (packet[0] & 0xF) * 4
        icmp_holds = packet[9] != 1 or checksum(packet[size:]) == 0
        return checksum(packet[:size]) == 0 and icmp_holds
    if packet[6] != 58:
        return True
    pseudo = packet[8:40] + struct.pack(">II", len(packet) - 40, 58)
    return checksum(pseudo + packet[40:]) == 0


def source_of(packet: bytes) -> str:
    """The source address."""
    part = packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]
    return str(ip_address(part))


def icmp_kind(packet: bytes) -> tuple[int, int] | None:
    """Type and code of an ICMP message; None for other packets."""
    is_ipv4 = packet[0] >> 4 == 4
    start, protocol = (20, packet[9]) if is_ipv4 else (40, packet[6])
    if protocol != (1 if is_ipv4 else 58) or len(packet) < start + 2:
        return None
    return packet[start], packet[start + 1]
