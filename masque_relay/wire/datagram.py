"""Owns the head of an HTTP Datagram in a QUIC DATAGRAM frame (RFC 9297 section 2.1)."""

from masque_relay.wire.errors import Scope, WireError
from masque_relay.wire.varint import encode_varint, peek_varint

MAX_QUARTER_STREAM_ID = (1 << 60) - 1
"""RFC 9297 section 2.1: stream ids end at 2^62-1, and every fourth one carries requests."""

_SECTION = "RFC 9297 section 2.1"


def encode_quarter_stream_id(stream_id: int) -> bytes:
    """Return the datagram head for a request stream.

    Raises:
        ValueError: not a client-initiated bidirectional stream id; a bug of the caller.
    """
    if stream_id % 4:
        message = f"stream {stream_id} is not a request stream"
        raise ValueError(message)
    return encode_varint(stream_id // 4)


def split_http_datagram(data: bytes) -> tuple[int, bytes]:
    """Return the request stream's id (already multiplied by 4) and the HTTP Datagram payload.

    Raises:
        WireError: too short, or beyond 2^60-1; both are the connection's fault
            (H3_DATAGRAM_ERROR).
    """
    found = peek_varint(data)
    if found is None:
        raise WireError(
            "datagram ends inside the quarter stream id",
            section=_SECTION,
            scope=Scope.CONNECTION,
        )
    quarter_stream_id, offset = found
    if quarter_stream_id > MAX_QUARTER_STREAM_ID:
        raise WireError("quarter stream id above 2^60-1", section=_SECTION, scope=Scope.CONNECTION)
    return quarter_stream_id * 4, data[offset:]
