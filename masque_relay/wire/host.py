"""Owns the text forms of a target's host and port, as every way in sends them.

Deviation: RFC 9298 section 3 allows any reg-name. Here a host is either a literal address or a DNS
name of A-labels. Names beyond ASCII are refused, not mapped: the standard library only has the
mapping of IDNA 2003, which leads some names (with a sharp s, say) to another owner's domain than
every browser's mapping does, so the client has to send the A-label that it means.
"""

import re
from ipaddress import IPv4Address, IPv6Address

from masque_relay.wire.errors import WireError

MAX_NAME_CHARS = 253
"""RFC 1035 section 2.3.4: 255 octets on the wire, less the length octets at either end."""

_SECTION = "RFC 9298 section 3"
_EXCERPT_CHARS = 64
# The underscore is no host name in RFC 1123, but real zones have it and resolvers look it up.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_PORT = re.compile(r"0{0,4}([1-9][0-9]{0,4})", re.ASCII)


def parse_host(text: str) -> str | IPv4Address | IPv6Address:
    """Return an address, or a lower-case A-label name without the trailing dot.

    IPv6 comes without brackets; an IPv4-mapped IPv6 address becomes the IPv4 address, so that no
    rule on addresses can be walked around.

    Raises:
        WireError: empty, too long, a zone id, characters that no A-label has, or one of the old
            spellings of IPv4 (``127.1``, ``0x7f.1``, ``2130706433``), which resolvers read as
            addresses although nothing before them does.
    """
    if not text:
        raise WireError("empty host", section=_SECTION)
    if ":" in text:
        return _parse_ipv6(text)
    if len(text) > MAX_NAME_CHARS + 1:
        raise WireError(f"host of {len(text)} characters", section=_SECTION)
    if not text.isascii():
        raise WireError(
            f"host {_excerpt(text)} is not ASCII: send the A-label form", section=_SECTION
        )
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER_LABEL.fullmatch(labels[-1]):
        return _parse_ipv4(name)
    if len(name) > MAX_NAME_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise WireError(f"host {_excerpt(text)} is not a DNS name", section=_SECTION)
    return name


def parse_port(text: str) -> int:
    """Return a port from 1 to 65535.

    Raises:
        WireError: anything but ASCII digits, or out of range.
    """
    match = _PORT.fullmatch(text)
    port = int(match[1]) if match else 0
    if not 1 <= port <= 65_535:
        raise WireError(f"port {_excerpt(text)} is not 1..65535", section=_SECTION)
    return port


def _parse_ipv4(text: str) -> IPv4Address:
    """Take four decimal numbers and nothing else; leading zeros are refused (octal to some)."""
    try:
        return IPv4Address(text)
    except ValueError as error:
        raise WireError(
            f"host {_excerpt(text)} ends in a number but is not an IPv4 address", section=_SECTION
        ) from error


def _parse_ipv6(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        # RFC 9298 section 3: zone identifiers are not allowed; they mean something here only.
        raise WireError("IPv6 address with a zone id", section=_SECTION)
    try:
        address = IPv6Address(text)
    except ValueError as error:
        raise WireError(
            f"host {_excerpt(text)} is not an IPv6 address", section=_SECTION
        ) from error
    return address.ipv4_mapped or address


def _excerpt(text: str) -> str:
    """Return what a log line can bear of a peer's text: short, printable, quoted."""
    return ascii(text[:_EXCERPT_CHARS])
