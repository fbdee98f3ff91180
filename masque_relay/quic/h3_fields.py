"""Owns the rules for HTTP/3 field sections (RFC 9114 section 4.2 and 4.3, RFC 9110 section 5)."""

import re
from collections.abc import Iterator

from aioquic.h3.connection import MessageError

from masque_relay.quic.application import Headers

FIELD_OVERHEAD_BYTES = 32
"""RFC 9114 section 4.2.2: what each field counts besides its name and value."""

_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?")
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
_RESPONSE_PSEUDO = frozenset((b":status",))
_CONNECTION_SPECIFIC = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
    )
)


def field_section_bytes(headers: Headers) -> int:
    """Return the size that SETTINGS_MAX_FIELD_SECTION_SIZE is about."""
    return sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in headers)


def check_request(headers: Headers) -> int | None:
    """Check a request head; return its content-length.

    Raises:
        MessageError: the message is malformed (RFC 9114 section 4.1.2).
    """
    _check_fields(headers, _REQUEST_PSEUDO)
    for value in _values(headers, b"te"):
        if value.lower() != b"trailers":
            raise MessageError("te other than trailers")
    return _content_length(headers)


def check_response(headers: Headers) -> tuple[int, int | None]:
    """Check a response head; return status and content-length.

    Raises:
        MessageError: the message is malformed.
    """
    _check_fields(headers, _RESPONSE_PSEUDO)
    if any(name == b"te" for name, _ in headers):
        raise MessageError("te in a response")
    status = next(_values(headers, b":status"), b"")
    if len(status) != 3 or not status.isdigit() or not 100 <= int(status) <= 599:
        raise MessageError("no valid :status")
    if status == b"101":
        raise MessageError("101 does not exist in HTTP/3")  # RFC 9114 section 4.5
    return int(status), _content_length(headers)


def check_trailers(headers: Headers) -> None:
    """Check a trailer section.

    Raises:
        MessageError: the message is malformed.
    """
    _check_fields(headers, frozenset())


def _check_fields(headers: Headers, pseudo_names: frozenset[bytes]) -> None:
    seen: set[bytes] = set()
    is_regular = False
    for name, value in headers:
        if _NAME.fullmatch(name) is None:
            raise MessageError("invalid field name")
        if _VALUE.fullmatch(value) is None:
            raise MessageError("invalid field value")
        if name[0] == 0x3A:
            if is_regular:
                raise MessageError("pseudo-header after a regular field")
            if name not in pseudo_names:
                raise MessageError("unexpected pseudo-header")
            if name in seen:
                raise MessageError("pseudo-header given twice")
            seen.add(name)
        else:
            is_regular = True
            if name in _CONNECTION_SPECIFIC:
                raise MessageError("connection-specific field")


def _content_length(headers: Headers) -> int | None:
    lengths = set(_values(headers, b"content-length"))
    if not lengths:
        return None
    text = lengths.pop()
    # Two lengths that differ, or anything but digits, is how requests are smuggled.
    if lengths or not text.isdigit() or len(text) > 18:
        raise MessageError("invalid content-length")
    return int(text)


def _values(headers: Headers, wanted: bytes) -> Iterator[bytes]:
    return (value for name, value in headers if name == wanted)
