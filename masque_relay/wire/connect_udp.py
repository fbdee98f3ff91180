"""Owns the bytes and the target of CONNECT-UDP (RFC 9298 sections 2, 3 and 5)."""

from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host, parse_port
from masque_relay.wire.varint import peek_varint

__all__ = [
    "DEFAULT_TEMPLATE",
    "MAX_UDP_PAYLOAD_BYTES",
    "UDP_PAYLOAD_CONTEXT",
    "parse_host",
    "parse_port",
    "split_context",
]

DEFAULT_TEMPLATE = "/.well-known/masque/udp/{target_host}/{target_port}/"
"""RFC 9298 section 2: where clients look that know only the proxy's host and port."""

UDP_PAYLOAD_CONTEXT = b"\x00"
"""RFC 9298 section 5: context ID 0, encoded; in front of every UDP payload."""

MAX_UDP_PAYLOAD_BYTES = 65_527
"""RFC 9298 section 5: 65,535 less the UDP header; a longer payload aborts the stream."""

_SECTION = "RFC 9298 section 5"


def split_context(payload: bytes) -> tuple[int, bytes]:
    """Return the context ID of an HTTP Datagram payload and what follows it.

    Raises:
        WireError: the payload ends before the context ID does.
    """
    found = peek_varint(payload)
    if found is None:
        raise WireError("HTTP Datagram ends inside the context ID", section=_SECTION)
    context_id, offset = found
    return context_id, payload[offset:]
