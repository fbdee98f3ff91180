"""Owns the capsules DNS_ASSIGN and PREF64 of CONNECT-IP (draft-ietf-masque-connect-ip-dns-06)."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import decode_varint, encode_varint

DNS_ASSIGN = 0x1ACE79EC
PREF64 = 0x274C0FBC
"""The draft's codepoints; IANA will assign smaller ones."""

PREF64_LENGTHS = frozenset({32, 40, 48, 56, 64, 96})
"""RFC 6052 section 2.2."""

_PREF64_BYTES = 13
_PREF64_SECTION = "connect-ip-dns section 3"
_DNS_SECTION = "connect-ip-dns section 2"
_MAX_COUNT = 64  # of anything in one configuration: bounds what a peer can make us hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Nameserver:
    """One resolver."""

    priority: int = 1
    """RFC 9460 section 2.4.1; never 0."""
    addresses: tuple[IPv4Address | IPv6Address, ...] = ()
    authentication_name: str = ""
    """Empty where it only speaks unencrypted DNS."""
    service_parameters: bytes = b""
    """As in RFC 9460 section 2.2; empty for unencrypted DNS at port 53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfiguration:
    """Resolvers, and the names that they are for."""

    nameservers: tuple[Nameserver, ...] = ()
    internal_domains: tuple[str, ...] = ()
    """With all names below them; the empty string is every name."""
    search_domains: tuple[str, ...] = ()


def encode_dns_assign(configurations: Sequence[DnsConfiguration]) -> bytes:
    """Return the value of a DNS_ASSIGN capsule, which replaces every earlier one.

    Raises:
        ValueError: a name that is not ASCII; a bug of the caller.
    """
    return b"".join(
        encode_varint(len(entry.nameservers))
        + b"".join(map(_encode_nameserver, entry.nameservers))
        + _encode_domains(entry.internal_domains)
        + _encode_domains(entry.search_domains)
        for entry in configurations
    )


def decode_dns_assign(value: bytes) -> tuple[DnsConfiguration, ...]:
    """Return what a DNS_ASSIGN capsule says.

    Raises:
        WireError: malformed.
    """
    configurations: list[DnsConfiguration] = []
    offset = 0
    while offset < len(value):
        count, offset = _take_count(value, offset)
        nameservers: list[Nameserver] = []
        for _ in range(count):
            nameserver, offset = _decode_nameserver(value, offset)
            nameservers.append(nameserver)
        internal, offset = _decode_domains(value, offset)
        search, offset = _decode_domains(value, offset)
        configurations.append(
            DnsConfiguration(
                nameservers=tuple(nameservers), internal_domains=internal, search_domains=search
            )
        )
    return tuple(configurations)


def encode_pref64(prefixes: Sequence[IPv6Network]) -> bytes:
    """Return the value of a PREF64 capsule; none at all says that there is no NAT64.

    Raises:
        ValueError: a length that RFC 6052 does not have.
    """
    if any(prefix.prefixlen not in PREF64_LENGTHS for prefix in prefixes):
        raise ValueError("a NAT64 prefix has 32, 40, 48, 56, 64 or 96 bits")
    return b"".join(
        bytes((prefix.prefixlen,)) + prefix.network_address.packed[:12] for prefix in prefixes
    )


def decode_pref64(value: bytes) -> tuple[IPv6Network, ...]:
    """Return the NAT64 prefixes of a PREF64 capsule.

    Raises:
        WireError: malformed.
    """
    if len(value) % _PREF64_BYTES:
        raise WireError("PREF64 is not a multiple of 13 bytes", section=_PREF64_SECTION)
    prefixes: list[IPv6Network] = []
    for offset in range(0, len(value), _PREF64_BYTES):
        length = value[offset]
        if length not in PREF64_LENGTHS:
            raise WireError(f"NAT64 prefix of {length} bits", section=_PREF64_SECTION)
        packed = value[offset + 1 : offset + _PREF64_BYTES] + bytes(4)
        prefixes.append(IPv6Network((packed, length), strict=False))
    return tuple(prefixes)


def _encode_nameserver(nameserver: Nameserver) -> bytes:
    ipv4 = [address for address in nameserver.addresses if isinstance(address, IPv4Address)]
    ipv6 = [address for address in nameserver.addresses if isinstance(address, IPv6Address)]
    return b"".join(
        (
            nameserver.priority.to_bytes(2, "big"),
            encode_varint(len(ipv4)),
            *(address.packed for address in ipv4),
            encode_varint(len(ipv6)),
            *(address.packed for address in ipv6),
            _encode_domain(nameserver.authentication_name),
            encode_varint(len(nameserver.service_parameters)),
            nameserver.service_parameters,
        )
    )


def _decode_nameserver(value: bytes, offset: int) -> tuple[Nameserver, int]:
    packed, offset = _take(value, offset, 2)
    priority = int.from_bytes(packed, "big")
    if priority == 0:
        raise WireError("service priority 0", section=_DNS_SECTION)
    addresses: list[IPv4Address | IPv6Address] = []
    for make, size in ((IPv4Address, 4), (IPv6Address, 16)):
        count, offset = _take_count(value, offset)
        for _ in range(count):
            packed, offset = _take(value, offset, size)
            addresses.append(make(packed))
    name, offset = _decode_domain(value, offset)
    length, offset = decode_varint(value, offset)
    parameters, offset = _take(value, offset, length)
    nameserver = Nameserver(
        priority=priority,
        addresses=tuple(addresses),
        authentication_name=name,
        service_parameters=parameters,
    )
    return nameserver, offset


def _encode_domains(domains: Sequence[str]) -> bytes:
    return encode_varint(len(domains)) + b"".join(map(_encode_domain, domains))


def _decode_domains(value: bytes, offset: int) -> tuple[tuple[str, ...], int]:
    count, offset = _take_count(value, offset)
    domains: list[str] = []
    for _ in range(count):
        domain, offset = _decode_domain(value, offset)
        domains.append(domain)
    return tuple(domains), offset


def _encode_domain(domain: str) -> bytes:
    encoded = domain.encode("ascii")
    return encode_varint(len(encoded)) + encoded


def _decode_domain(value: bytes, offset: int) -> tuple[str, int]:
    length, offset = decode_varint(value, offset)
    encoded, offset = _take(value, offset, length)
    if not all(0x21 <= byte <= 0x7E for byte in encoded):
        raise WireError("a domain that is not printable ASCII", section=_DNS_SECTION)
    return encoded.decode("ascii"), offset


def _take_count(value: bytes, offset: int) -> tuple[int, int]:
    count, offset = decode_varint(value, offset)
    if count > _MAX_COUNT:
        raise WireError(f"{count} entries", section=_DNS_SECTION)
    return count, offset


def _take(value: bytes, offset: int, size: int) -> tuple[bytes, int]:
    end = offset + size
    if end > len(value):
        raise WireError("truncated capsule", section=_DNS_SECTION)
    return value[offset:end], end
