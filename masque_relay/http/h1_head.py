"""Owns the head of an HTTP/1.1 request: bytes -> the field lines that the other versions have.

Stricter than h11, which forgives a bare LF, a folded line and Content-Length beside
Transfer-Encoding: what two parsers may read differently is how requests are smuggled (RFC 9112
section 11.2), so it is refused here before h11 sees it.
"""

import re
from dataclasses import dataclass, field

from masque_relay.http.request_head import CAPSULE_PROTOCOLS
from masque_relay.quic.application import Headers
from masque_relay.wire.errors import WireError
from masque_relay.wire.structured import parse_boolean

HEAD_END = b"\r\n\r\n"
DERP = b"derp"
"""The Upgrade token of Tailscale's relays: plain bytes, no capsules."""

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]+)([^#]*)", re.IGNORECASE)
_LONE_LF = re.compile(rb"(?<!\r)\n")
_DIGITS = re.compile(rb"[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class H1Head:
    """One request head."""

    headers: Headers = field(repr=False)
    """Pseudo-headers as HTTP/2 has them, then the fields with lower-case names; ``:protocol`` is
    the Upgrade token of a tunnel."""
    h11_head: bytes = field(repr=False)
    """The same for h11, whose business are framing and keep-alive."""
    is_tunnel: bool
    """An Upgrade or a CONNECT: what follows is no request, answered or refused (RFC 9931)."""
    has_switched: bool = False
    """The client takes its Upgrade for granted and expects no 101 (DERP's fast start)."""


def has_lone_lf(data: bytes | bytearray) -> bool:
    """Return whether a line ends with a bare LF (RFC 9112 section 2.2)."""
    return _LONE_LF.search(data) is not None


def parse_h1_head(head: bytes) -> H1Head:
    """Return a request head; ``head`` ends with its empty line.

    Raises:
        WireError: malformed or ambiguous; answer 400 and close.
    """
    if has_lone_lf(head):
        raise _bad("a line ends with a bare LF", "section 2.2")
    first, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise _bad("malformed request line", "section 3")
    method, target, minor = match.groups()
    fields: Headers = []
    for line in lines:
        if line[:1] in {b" ", b"\t"}:
            raise _bad("a folded line", "section 5.2")
        found = _FIELD_LINE.fullmatch(line)
        if found is None:
            raise _bad("malformed field line", "section 5.1")
        fields.append((found[1].lower(), found[2].rstrip(b" \t")))
    _check_framing(fields, minor)
    headers, fields = _convert(method, target, fields, is_http10=minor == b"0")
    lines_out = [first, *(b"%b: %b" % item for item in fields)]
    is_tunnel = method == b"CONNECT" or any(name == b":protocol" for name, _ in headers)
    return H1Head(
        headers=headers,
        h11_head=b"\r\n".join(lines_out) + HEAD_END,
        is_tunnel=is_tunnel,
        has_switched=(b":protocol", DERP) in headers and (b"derp-fast-start", b"1") in fields,
    )


def _bad(detail: str, section: str) -> WireError:
    return WireError(detail, section=f"RFC 9112 {section}")


def _check_framing(fields: Headers, minor: bytes) -> None:
    """Refuse every head whose body could be framed in two ways (RFC 9112 section 6)."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) > 1 or any(not _DIGITS.fullmatch(value) for value in lengths):
        raise _bad("malformed content-length", "section 6.3")
    if codings and (lengths or minor == b"0" or [c.lower() for c in codings] != [b"chunked"]):
        raise _bad("ambiguous or unknown transfer-encoding", "section 6.1")
    if sum(name == b"host" for name, _ in fields) != 1 and minor == b"1":
        raise _bad("host is missing or repeated", "section 3.2")


def _convert(
    method: bytes, target: bytes, fields: Headers, *, is_http10: bool
) -> tuple[Headers, Headers]:
    """Return the head as HTTP/2 has it, and the fields with ``host`` as it counts."""
    host = next((value for name, value in fields if name == b"host"), b"")
    absolute = _ABSOLUTE.fullmatch(target)
    if method == b"CONNECT":
        host, path = target, None
    elif absolute is not None:
        # RFC 9112 section 3.2.2: the target's authority replaces Host. curl sends this form.
        host, path = absolute[2], absolute[3]
        if not path.startswith(b"/"):
            path = b"/" + path
    else:
        path = target
    if not host:
        raise _bad("no authority", "section 3.2")
    fields = [(name, host if name == b"host" else value) for name, value in fields]
    if is_http10 and not any(name == b"host" for name, _ in fields):
        fields.insert(0, (b"host", host))
    headers: Headers = [(b":method", method), (b":authority", host)]
    if path is not None:
        headers += [(b":scheme", b"https"), (b":path", path)]
    token = None if is_http10 else _tunnel_token(method, fields)
    if token is not None:
        headers.append((b":protocol", token))
    return headers + fields, fields


def _tunnel_token(method: bytes, fields: Headers) -> bytes | None:
    """Return the Upgrade token of a tunnel; other upgrades are ignored (RFC 9110 section 7.8)."""
    if method != b"GET" or b"upgrade" not in _words(fields, b"connection"):
        return None
    tokens = _words(fields, b"upgrade")
    for token in tokens:
        if token in {b"websocket", DERP} or token.decode("latin-1") in CAPSULE_PROTOCOLS:
            return token
    says = [value for name, value in fields if name == b"capsule-protocol"]
    if len(tokens) == 1 and len(says) == 1 and parse_boolean(says[0].decode("latin-1")) is True:
        return tokens[0]
    return None


def _words(fields: Headers, name: bytes) -> list[bytes]:
    """Return the comma-separated words of all lines of a field, in lower case."""
    lines = [value for field_name, value in fields if field_name == name]
    return [word.strip(b" \t").lower() for line in lines for word in line.split(b",")]
