"""Owns the check of a request head: field lines -> validated values (RFC 9114 section 4.3).

Every fault is a WireError of stream scope: RFC 9114 section 4.1.2 makes a malformed request a
stream error, and a neighbour on the same connection must not notice it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from masque_relay.http.transport import HttpVersion
from masque_relay.quic.application import Headers
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError
from masque_relay.wire.structured import parse_boolean

CAPSULE_PROTOCOLS = frozenset(
    {"connect-udp", "connect-ip", "cf-connect-ip", "connect-tcp", "ghostwire"}
)
"""Upgrade tokens that imply the capsule protocol (RFC 9297 section 3.4), whether or not the request
says ``Capsule-Protocol: ?1``: curl, h2o-httpclient and google/quiche do not say it."""

_ANY_TARGET = b"*:*"
"""Envoy puts the target of CONNECT-UDP here. That of bound UDP is any, and the path says so too."""
_PSEUDO_NAMES = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_CONNECTION_NAMES = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
_CONTENT_NAMES = (b"content-length", b"content-type", b"transfer-encoding")
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
_VISIBLE = re.compile(rb"[\x21-\x7e]+")
_BAD_VALUE = re.compile(rb"[\x00\r\n]")
_DIGITS = re.compile(rb"[0-9]{1,18}")


class ConnectForm(StrEnum):
    """How a tunnel was asked for; the words of the ASGI extension."""

    EXTENDED = "extended"
    """RFC 8441, RFC 9220: CONNECT with ``:protocol``."""
    CLASSIC = "classic"
    """RFC 9110 section 9.3.6."""
    UPGRADE = "upgrade"
    """RFC 9298 section 3.2: GET with ``Upgrade``, HTTP/1.1 only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """A request head in which everything that belongs together is together."""

    method: str
    scheme: str
    """``https`` for classic CONNECT, which has none."""
    authority: str
    """From ``:authority``, else ``Host``; as sent."""
    raw_path: bytes
    """Undecoded, without the query; empty for classic CONNECT."""
    query_string: bytes
    protocol: str | None
    """Of extended CONNECT or of an Upgrade."""
    form: ConnectForm | None
    """None for a request that asks for no tunnel."""
    content_length: int | None
    uses_capsules: bool
    """Said by ``Capsule-Protocol: ?1`` or implied by the protocol."""
    fields: Headers = field(repr=False)
    """The field lines without pseudo-headers; ``host`` is always there, as ASGI wants it."""


def parse_request_head(
    headers: Headers, *, end_stream: bool, http_version: HttpVersion = HttpVersion.HTTP3
) -> RequestHead:
    """Return the values of a request head.

    Args:
        headers: field lines as the wire had them, pseudo-headers first. A head of HTTP/1.1 comes
            with the same pseudo-headers (h1_head.py); ``:protocol`` is its Upgrade token.
        end_stream: the request ended with its head.
        http_version: HTTP/1.1 may have connection-specific fields.

    Raises:
        WireError: malformed; reset the stream with H3_MESSAGE_ERROR.
    """
    is_http1 = http_version is HttpVersion.HTTP1
    pseudo, fields = _split(headers, is_http1=is_http1)
    if not is_http1:
        fields = _join_cookies(fields)
    method = pseudo.get(b":method")
    if method is None or not _TOKEN.fullmatch(method):
        raise _bad(":method is missing or no token")
    form = _form(method, pseudo, is_http1=is_http1)
    authority = _authority(pseudo, fields, form)
    raw_path, query_string = _path(method, pseudo, form)
    content_length = _content_length(fields)
    token = pseudo.get(b":protocol")
    protocol = None if token is None else token.decode("ascii")
    uses_capsules = protocol is not None and (
        protocol in CAPSULE_PROTOCOLS or _says_capsules(fields)
    )
    if uses_capsules and any(name in _CONTENT_NAMES for name, _ in fields):
        raise _bad("content fields on the capsule protocol", section="RFC 9297 section 3.4")
    if end_stream and content_length and form is None:
        raise _bad("content-length without content", section="RFC 9114 section 4.1.2")
    return RequestHead(
        method=method.decode("ascii"),
        scheme=pseudo.get(b":scheme", b"https").decode("ascii").lower(),
        authority=authority,
        raw_path=raw_path,
        query_string=query_string,
        protocol=protocol,
        form=form,
        content_length=content_length if form is None else None,
        uses_capsules=uses_capsules,
        fields=fields,
    )


def check_trailers(headers: Headers) -> None:
    """Check a trailer section (RFC 9114 section 4.3: no pseudo-headers).

    Raises:
        WireError: malformed.
    """
    for name, value in headers:
        if name.startswith(b":"):
            raise _bad("pseudo-header in the trailers")
        _check_field(name, value)


def _bad(detail: str, *, section: str = "RFC 9114 section 4.3.1") -> WireError:
    return WireError(detail, section=section)


def _split(headers: Headers, *, is_http1: bool) -> tuple[dict[bytes, bytes], Headers]:
    """Part pseudo-headers from fields; refuse unknown, repeated and late pseudo-headers."""
    pseudo: dict[bytes, bytes] = {}
    fields: Headers = []
    for name, value in headers:
        if name.startswith(b":"):
            if fields:
                raise _bad("pseudo-header after a field", section="RFC 9114 section 4.3")
            if name not in _PSEUDO_NAMES:
                raise _bad("unknown pseudo-header", section="RFC 9114 section 4.3")
            if name in pseudo:
                raise _bad("repeated pseudo-header", section="RFC 9114 section 4.3")
            pseudo[name] = value
        else:
            _check_field(name, value, is_http1=is_http1)
            fields.append((name, value))
    return pseudo, fields


def _check_field(name: bytes, value: bytes, *, is_http1: bool = False) -> None:
    section = "RFC 9114 section 4.2"
    if not _NAME.fullmatch(name):
        raise _bad("field name is no lower-case token", section=section)
    if _BAD_VALUE.search(value) or value.strip(b" \t") != value:
        raise _bad("forbidden bytes in a field value", section="RFC 9114 section 10.3")
    if is_http1:
        return
    if name in _CONNECTION_NAMES or (name == b"te" and value.lower() != b"trailers"):
        raise _bad("connection-specific field", section=section)


def _form(method: bytes, pseudo: dict[bytes, bytes], *, is_http1: bool) -> ConnectForm | None:
    protocol = pseudo.get(b":protocol")
    if is_http1 and protocol is not None:
        return ConnectForm.UPGRADE
    if method != b"CONNECT":
        if protocol is not None:
            raise _bad(":protocol without CONNECT", section="RFC 9220 section 3")
        return None
    if protocol is None:
        if b":scheme" in pseudo or b":path" in pseudo:
            raise _bad("classic CONNECT with :scheme or :path", section="RFC 9114 section 4.4")
        return ConnectForm.CLASSIC
    if not _TOKEN.fullmatch(protocol):
        raise _bad(":protocol is no token", section="RFC 8441 section 4")
    return ConnectForm.EXTENDED


def _authority(pseudo: dict[bytes, bytes], fields: Headers, form: ConnectForm | None) -> str:
    """Return the authority; make ``host`` equal to it."""
    hosts = [value for name, value in fields if name == b"host"]
    authority = pseudo.get(b":authority")
    if len(hosts) > 1 or (hosts and authority is not None and hosts[0] != authority):
        raise _bad("host differs from :authority")
    if authority is None:
        # RFC 8441 section 4, RFC 9114 section 4.4: CONNECT needs :authority itself.
        if form is not None or not hosts:
            raise _bad(":authority is missing")
        authority = hosts[0]
    if not _VISIBLE.fullmatch(authority) or b"@" in authority:
        raise _bad("malformed :authority")
    text = authority.decode("ascii")
    is_any = authority == _ANY_TARGET and pseudo.get(b":protocol") == b"connect-udp"
    if form is not None and not is_any:
        # Port 0 cannot be parsed as a port: classic CONNECT must name one.
        parse_authority(text, default_port=443)
        if form is ConnectForm.CLASSIC and not re.search(r":[0-9]+$", text):
            raise _bad("classic CONNECT without a port", section="RFC 9110 section 9.3.6")
    if not hosts:
        fields.insert(0, (b"host", authority))
    return text


def _path(
    method: bytes, pseudo: dict[bytes, bytes], form: ConnectForm | None
) -> tuple[bytes, bytes]:
    """Return the undecoded path and the query."""
    if form is ConnectForm.CLASSIC:
        return b"", b""
    scheme, path = pseudo.get(b":scheme"), pseudo.get(b":path")
    if scheme is None or not _SCHEME.fullmatch(scheme):
        raise _bad(":scheme is missing or malformed")
    if path is None or not _VISIBLE.fullmatch(path) or b"#" in path:
        raise _bad(":path is missing or has forbidden bytes")
    if not path.startswith(b"/") and not (path == b"*" and method == b"OPTIONS"):
        raise _bad(":path is not absolute")
    raw_path, _, query_string = path.partition(b"?")
    return raw_path, query_string


def _content_length(fields: Headers) -> int | None:
    values = [value for name, value in fields if name == b"content-length"]
    if not values:
        return None
    if len(values) > 1 or not _DIGITS.fullmatch(values[0]):
        raise _bad("malformed content-length", section="RFC 9110 section 8.6")
    return int(values[0])


def _join_cookies(fields: Headers) -> Headers:
    """RFC 9114 section 4.2.1, RFC 9113 section 8.2.3: one cookie line for the application."""
    crumbs = [value for name, value in fields if name == b"cookie"]
    if len(crumbs) < 2:
        return fields
    others = [(name, value) for name, value in fields if name != b"cookie"]
    return [*others, (b"cookie", b"; ".join(crumbs))]


def _says_capsules(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """RFC 9297 section 3.4: a structured boolean; any other type is as if it were absent."""
    values = [value for name, value in fields if name == b"capsule-protocol"]
    return len(values) == 1 and parse_boolean(values[0].decode("latin-1")) is True
