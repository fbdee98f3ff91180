"""Owns the text form of an authority: a host and maybe a port (RFC 3986 section 3.2)."""

from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host, parse_port

_SECTION = "RFC 3986 section 3.2"


def parse_authority(text: str, *, default_port: int) -> tuple[str, int]:
    """Return host and port from ``host``, ``host:port``, ``[v6]`` or ``[v6]:port``.

    The host is a lower-case name or an address in its shortest form, without brackets.

    Raises:
        WireError: user information, an IPv6 address without brackets, or a host or a port that is
            none.
    """
    if "@" in text:
        raise WireError("authority with user information", section=_SECTION)
    if text.startswith("["):
        host_text, closing, rest = text[1:].partition("]")
        if not closing or ":" not in host_text or (rest and not rest.startswith(":")):
            raise WireError("malformed IPv6 authority", section=_SECTION)
        port_text = rest[1:] if rest else None
    else:
        host_text, colon, rest = text.partition(":")
        port_text = rest if colon else None
    port = default_port if port_text is None else parse_port(port_text)
    return str(parse_host(host_text)), port
