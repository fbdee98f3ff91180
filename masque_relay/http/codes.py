"""Owns the error codes of HTTP/3 and HTTP/2, and which one tells why a tunnel ended."""

from enum import IntEnum
from typing import assert_never

from h2.errors import ErrorCodes

from masque_relay.contract.verdict import EndReason


class H3Error(IntEnum):
    """RFC 9114 section 8.1, RFC 9297 section 5.2: the codes that a front end sends."""

    NO_ERROR = 0x100
    INTERNAL_ERROR = 0x102
    EXCESSIVE_LOAD = 0x107
    REQUEST_REJECTED = 0x10B
    """Not processed at all; may be retried."""
    REQUEST_CANCELLED = 0x10C
    MESSAGE_ERROR = 0x10E
    CONNECT_ERROR = 0x10F
    """What the tunnel leads to failed."""
    DATAGRAM_ERROR = 0x33


def error_for_end(reason: EndReason) -> H3Error:
    """Return the code with which a tunnel's stream is reset for this reason."""
    match reason:
        case EndReason.TARGET_FAILED:
            return H3Error.CONNECT_ERROR
        case EndReason.PROTOCOL_ERROR:
            return H3Error.MESSAGE_ERROR
        case EndReason.BUG:
            return H3Error.INTERNAL_ERROR
        case (
            EndReason.PEER_CLOSED
            | EndReason.PEER_RESET
            | EndReason.CONNECTION_LOST
            | EndReason.IDLE
            | EndReason.LIFETIME
            | EndReason.BYTE_QUOTA
            | EndReason.REVOKED
            | EndReason.KICKED
            | EndReason.DRAINED
            | EndReason.DENIED
        ):
            return H3Error.REQUEST_CANCELLED
        case _:
            assert_never(reason)


def h2_code(error_code: int) -> ErrorCodes:
    """Return what an HTTP/3 code is in HTTP/2 (RFC 9113 section 7); CANCEL where it has none."""
    return _H2_CODES.get(error_code, ErrorCodes.CANCEL)


_H2_CODES: dict[int, ErrorCodes] = {
    H3Error.NO_ERROR: ErrorCodes.NO_ERROR,
    H3Error.INTERNAL_ERROR: ErrorCodes.INTERNAL_ERROR,
    H3Error.EXCESSIVE_LOAD: ErrorCodes.ENHANCE_YOUR_CALM,
    H3Error.REQUEST_REJECTED: ErrorCodes.REFUSED_STREAM,
    H3Error.REQUEST_CANCELLED: ErrorCodes.CANCEL,
    H3Error.MESSAGE_ERROR: ErrorCodes.PROTOCOL_ERROR,
    H3Error.CONNECT_ERROR: ErrorCodes.CONNECT_ERROR,
    # RFC 9297 section 3.3: a malformed capsule is a malformed message.
    H3Error.DATAGRAM_ERROR: ErrorCodes.PROTOCOL_ERROR,
}
