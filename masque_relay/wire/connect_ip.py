"""Owns the bytes and the scope variables of CONNECT-IP (RFC 9484 sections 3, 4.6 and 4.7).

Where a capsule breaks a rule the receiver has to end the stream (sections 4.7.1 to 4.7.3, RFC 9297
section 3.3), so every decoder here raises WireError for the whole capsule.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host
from masque_relay.wire.ip_packet import EXTENSION_HEADERS
from masque_relay.wire.ip_range import IPAddress, IPNetwork, IpRange, find_disorder
from masque_relay.wire.varint import decode_varint, encode_varint

PROTOCOL = "connect-ip"
"""The ``:protocol`` and Upgrade token."""

DEFAULT_TEMPLATE = "/.well-known/masque/ip/{target}/{ipproto}/"
"""RFC 9484 section 3: where clients look that know only the proxy's host and port."""

TEMPLATE_VARIABLES = ("target", "ipproto")
"""Both are optional (RFC 9484 section 3); a missing one stands for ``*``."""

WILDCARD = "*"

ADDRESS_ASSIGN = 0x01
ADDRESS_REQUEST = 0x02
ROUTE_ADVERTISEMENT = 0x03
"""RFC 9484 section 12.3: the capsule types."""

IP_PACKET_CONTEXT = b"\x00"
"""RFC 9484 section 5: context ID 0, encoded; in front of every IP packet."""

MIN_IPV6_MTU_BYTES = 1280
"""RFC 8200 section 5: what every link that carries IPv6 must take."""

_SCOPE_SECTION = "RFC 9484 section 4.6"
_ASSIGN_SECTION = "RFC 9484 section 4.7.1"
_REQUEST_SECTION = "RFC 9484 section 4.7.2"
_ROUTE_SECTION = "RFC 9484 section 4.7.3"
_EXCERPT_CHARS = 64
_V4_PREFIX = re.compile(r"[0-9]{1,2}", re.ASCII)
_V6_PREFIX = re.compile(r"[0-9]{1,3}", re.ASCII)
_IPPROTO = re.compile(r"[0-9]{1,3}", re.ASCII)
_V4_MAPPED = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressEntry:
    """One Assigned Address or Requested Address."""

    request_id: int = 0
    """0 in an assignment that answers no request."""
    address: IPAddress
    prefix_length: int
    """In bits; bits of the address beyond it are zero."""

    @property
    def network(self) -> IPNetwork:
        """The prefix; a single address is a /32 or /128."""
        if isinstance(self.address, IPv4Address):
            return IPv4Network((self.address, self.prefix_length))
        return IPv6Network((self.address, self.prefix_length))

    @property
    def is_refusal(self) -> bool:
        """Whether, in ADDRESS_ASSIGN, it says that nothing was assigned for the request."""
        return int(self.address) == 0 and self.prefix_length == self.address.max_prefixlen


def refused_address(request: AddressEntry) -> AddressEntry:
    """Return the answer that refuses a request: the all-zero address, the longest prefix."""
    zero = type(request.address)(0)
    return AddressEntry(
        request_id=request.request_id, address=zero, prefix_length=zero.max_prefixlen
    )


def encode_addresses(entries: Iterable[AddressEntry]) -> bytes:
    """Return the value of an ADDRESS_ASSIGN or ADDRESS_REQUEST capsule."""
    return b"".join(
        encode_varint(entry.request_id)
        + bytes((entry.address.version,))
        + entry.address.packed
        + bytes((entry.prefix_length,))
        for entry in entries
    )


def decode_address_assign(value: bytes) -> tuple[AddressEntry, ...]:
    """Return all that is assigned from now on; empty means nothing any more.

    Raises:
        WireError: the capsule is malformed.
    """
    return tuple(_decode_entries(value, _ASSIGN_SECTION))


def decode_address_request(value: bytes) -> tuple[AddressEntry, ...]:
    """Return what is asked for, at least one entry. Ids of earlier capsules are the session's.

    Raises:
        WireError: malformed, empty, or with a request ID that is zero or occurs twice.
    """
    entries = tuple(_decode_entries(value, _REQUEST_SECTION))
    if not entries:
        raise WireError("empty ADDRESS_REQUEST", section=_REQUEST_SECTION)
    request_ids = {entry.request_id for entry in entries}
    if 0 in request_ids:
        raise WireError("request ID 0", section=_REQUEST_SECTION)
    if len(request_ids) != len(entries):
        raise WireError("a request ID occurs twice", section=_REQUEST_SECTION)
    return entries


def encode_routes(routes: Sequence[IpRange]) -> bytes:
    """Return the value of a ROUTE_ADVERTISEMENT capsule.

    Raises:
        ValueError: the ranges are not sorted and disjoint; a bug of the caller.
    """
    disorder = find_disorder(routes)
    if disorder is not None:
        raise ValueError(disorder)
    return b"".join(
        bytes((route.first.version,))
        + route.first.packed
        + route.last.packed
        + bytes((route.ip_protocol,))
        for route in routes
    )


def decode_routes(value: bytes) -> tuple[IpRange, ...]:
    """Return all that can be reached from now on.

    Raises:
        WireError: malformed, out of order, or overlapping, also across protocol 0.
    """
    routes: list[IpRange] = []
    offset = 0
    while offset < len(value):
        version = value[offset]
        first, offset = _take_address(value, offset + 1, version, _ROUTE_SECTION)
        last, offset = _take_address(value, offset, version, _ROUTE_SECTION)
        ip_protocol, offset = _take_byte(value, offset, _ROUTE_SECTION)
        routes.append(IpRange(first, last, ip_protocol))
    disorder = find_disorder(routes)
    if disorder is not None:
        raise WireError(disorder, section=_ROUTE_SECTION)
    return tuple(routes)


def parse_scope_target(text: str) -> str | IPNetwork | None:
    """Return the decoded variable ``target``: a DNS name, a prefix, or None for ``*``.

    Raises:
        WireError: empty, a zone id, host bits beyond the prefix, or none of the three.
    """
    if text == WILDCARD:
        return None
    address_text, slash, length_text = text.partition("/")
    host = parse_host(address_text)
    if not slash:
        return host if isinstance(host, str) else _whole(host)
    if isinstance(host, str):
        raise WireError(f"{_excerpt(text)} is a name with a prefix", section=_SCOPE_SECTION)
    is_ipv6 = ":" in address_text
    pattern = _V6_PREFIX if is_ipv6 else _V4_PREFIX
    length = int(length_text) if pattern.fullmatch(length_text) else 999
    if length > (128 if is_ipv6 else 32):
        raise WireError(f"prefix length {_excerpt(length_text)}", section=_SCOPE_SECTION)
    try:
        if not is_ipv6:
            return IPv4Network((address_text, length))
        network = IPv6Network((address_text, length))
    except ValueError as error:
        raise WireError(
            f"{_excerpt(text)} has bits beyond its prefix", section=_SCOPE_SECTION
        ) from error
    if network.subnet_of(_V4_MAPPED):
        # As in parse_host: no rule on IPv4 addresses can be walked around.
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, length - 96))
    return network


def parse_scope_protocol(text: str) -> int | None:
    """Return the decoded variable ``ipproto``: 0..255, or None for ``*``.

    Raises:
        WireError: neither; or the number of an IPv6 extension header, which no packet can match
            because the headers are walked (section 4.8 allows the refusal).
    """
    if text == WILDCARD:
        return None
    value = int(text) if _IPPROTO.fullmatch(text) else 999
    if value > 255:
        raise WireError(f"ipproto {_excerpt(text)} is not 0..255 or *", section=_SCOPE_SECTION)
    if value in EXTENSION_HEADERS:
        raise WireError(f"ipproto {value} is an extension header", section="RFC 9484 section 4.8")
    return value


def _decode_entries(value: bytes, section: str) -> Iterator[AddressEntry]:
    offset = 0
    while offset < len(value):
        request_id, offset = decode_varint(value, offset)
        version, offset = _take_byte(value, offset, section)
        address, offset = _take_address(value, offset, version, section)
        prefix_length, offset = _take_byte(value, offset, section)
        spare_bits = address.max_prefixlen - prefix_length
        if spare_bits < 0:
            raise WireError(f"prefix length {prefix_length}", section=section)
        if int(address) & ((1 << spare_bits) - 1):
            raise WireError("address bits beyond the prefix", section=section)
        yield AddressEntry(request_id=request_id, address=address, prefix_length=prefix_length)


def _take_byte(value: bytes, offset: int, section: str) -> tuple[int, int]:
    if offset >= len(value):
        raise WireError("truncated capsule", section=section)
    return value[offset], offset + 1


def _take_address(value: bytes, offset: int, version: int, section: str) -> tuple[IPAddress, int]:
    if version not in {4, 6}:
        raise WireError(f"IP version {version}", section=section)
    end = offset + (4 if version == 4 else 16)
    if end > len(value):
        raise WireError("truncated capsule", section=section)
    packed = value[offset:end]
    return (IPv4Address(packed) if version == 4 else IPv6Address(packed)), end


def _whole(address: IPAddress) -> IPNetwork:
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def _excerpt(text: str) -> str:
    """Return what a log line can bear of a peer's text: short, printable, quoted."""
    return ascii(text[:_EXCERPT_CHARS])
