"""Owns response heads: ASGI status and headers -> field lines that are safe to send."""

import re
from collections.abc import Iterable

from masque_relay.contract.counters import HttpCounters
from masque_relay.http.transport import HttpVersion
from masque_relay.quic.application import Headers

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")
_CONNECTION_NAMES = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""RFC 9114 section 4.2: not for HTTP/3; an application written for HTTP/1.1 may send them."""
_APPLICATION_NAMES = frozenset({b"connection", b"upgrade"})
"""What an application may say about an HTTP/1.1 connection; framing stays ours."""


def encode_fields(
    headers: Iterable[tuple[bytes, bytes]], *, http_version: HttpVersion = HttpVersion.HTTP3
) -> Headers:
    """Return the fields with lower-case names and without connection-specific ones.

    Over HTTP/1.1 ``connection`` and ``upgrade`` stay (a 426 must have both).

    Raises:
        ValueError: a name that is no token, or a value that would split the head.
    """
    forbidden = _CONNECTION_NAMES
    if http_version is HttpVersion.HTTP1:
        forbidden = _CONNECTION_NAMES - _APPLICATION_NAMES
    fields: Headers = []
    for raw_name, raw_value in headers:
        name, value = bytes(raw_name).lower(), bytes(raw_value)
        if not _NAME.fullmatch(name) or _BAD_VALUE.search(value):
            message = f"response header {name[:32]!r} has forbidden bytes"
            raise ValueError(message)
        if name not in forbidden:
            fields.append((name, value.strip(b" \t")))
    return fields


def encode_response_head(status: int, fields: Headers) -> Headers:
    """Return the head with its pseudo-header.

    Raises:
        ValueError: not a status, or 101: HTTP/3 does not have it (RFC 9114 section 4.5), and over
            HTTP/1.1 it is what a tunnel's 2xx becomes.
    """
    if not 100 <= status <= 599 or status == 101:
        message = f"status {status} cannot be sent"
        raise ValueError(message)
    return [(b":status", str(status).encode("ascii")), *fields]


def encode_early_hint(links: Iterable[bytes]) -> Headers:
    """Return the fields of a 103 response (RFC 8297)."""
    return encode_fields((b"link", link) for link in links)


def count_status(counters: HttpCounters, status: int) -> None:
    """Count one response by its class."""
    match status // 100:
        case 1:
            counters.responses_1xx += 1
        case 2:
            counters.responses_2xx += 1
        case 3:
            counters.responses_3xx += 1
        case 4:
            counters.responses_4xx += 1
        case _:
            counters.responses_5xx += 1
