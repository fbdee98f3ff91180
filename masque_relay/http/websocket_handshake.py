"""Owns the opening handshake of WebSocket: RFC 6455 section 4, over RFC 8441 and RFC 9220 too."""

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from wsproto.extensions import PerMessageDeflate
from wsproto.utilities import generate_accept_token

from masque_relay.http.request_head import ConnectForm, RequestHead
from masque_relay.http.response_head import encode_fields
from masque_relay.http.transport import HttpVersion
from masque_relay.http.websocket_settings import WebSocketSettings
from masque_relay.quic.application import Headers

PROTOCOL = "websocket"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_WEIGHTY = (b"content-length", b"transfer-encoding")


class HandshakeRefusedError(Exception):
    """The server itself refuses; the application is not asked.

    Attributes:
        status: to answer with.
        fields: to answer with.
    """

    def __init__(self, status: int, fields: Headers | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.fields: Headers = fields or []


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What a client asked for."""

    subprotocols: tuple[str, ...]
    """In the client's order."""
    deflate_offers: tuple[str, ...]
    """Each as the client wrote it; empty where compression is not configured."""
    accept_token: bytes | None = field(repr=False)
    """The answer to the key. Over HTTP/2 and HTTP/3 only an intermediary sends one: it has turned
    a client's Upgrade into extended CONNECT, which has no keys (RFC 8441 section 5), and the client
    waits for the answer."""


def check_handshake(head: RequestHead, settings: WebSocketSettings) -> Handshake:
    """Return what a request for ``websocket`` asks.

    Raises:
        HandshakeRefusedError: it is no proper handshake, or the page's origin may not connect.
    """
    is_upgrade = head.form is ConnectForm.UPGRADE
    versions = _values(head, b"sec-websocket-version")
    if versions != ["13"]:
        # RFC 6455 section 4.4; RFC 9110 section 15.5.22: a 426 names what to upgrade to.
        fields: Headers = [(b"sec-websocket-version", b"13")]
        if is_upgrade:
            fields += [(b"upgrade", b"websocket"), (b"connection", b"close, upgrade")]
        raise HandshakeRefusedError(426 if is_upgrade else 400, fields)
    if any(name in _WEIGHTY and value != b"0" for name, value in head.fields):
        raise HandshakeRefusedError(400)  # what follows the head would be content and frames
    if not _origin_is_allowed(head, settings.allowed_origins):
        raise HandshakeRefusedError(403)
    subprotocols = _words(head, b"sec-websocket-protocol")
    if len(set(subprotocols)) < len(subprotocols) or not all(map(_TOKEN.fullmatch, subprotocols)):
        raise HandshakeRefusedError(400)
    offers = _words(head, b"sec-websocket-extensions") if settings.compression else []
    return Handshake(
        subprotocols=tuple(subprotocols),
        deflate_offers=tuple(
            offer for offer in offers if offer.partition(";")[0].strip() == PerMessageDeflate.name
        ),
        accept_token=_accept_token(head, is_required=is_upgrade),
    )


def agree_deflate(handshake: Handshake) -> tuple[PerMessageDeflate | None, Headers]:
    """Return the compression that both sides use, and the field that says so."""
    for offer in handshake.deflate_offers:
        # Without context takeover a quiet connection holds no window of 32 KiB each way.
        deflate = PerMessageDeflate(
            client_no_context_takeover=True, server_no_context_takeover=True
        )
        try:
            agreed = deflate.accept(offer)
        except ValueError:  # a window that is no number
            continue
        if agreed is not None:
            value = f"{PerMessageDeflate.name}; {agreed}"
            return deflate, [(b"sec-websocket-extensions", value.encode("ascii"))]
    return None, []


def accept_fields(
    handshake: Handshake,
    *,
    subprotocol: str | None,
    headers: Sequence[tuple[bytes, bytes]],
    http_version: HttpVersion,
) -> Headers:
    """Return the fields of the accepting response.

    Raises:
        ValueError: a subprotocol that the client did not offer, or a header that is not the
            application's to set.
    """
    fields = encode_fields(headers, http_version=http_version)
    if any(name.startswith(b"sec-websocket-") for name, _ in fields):
        raise ValueError("sec-websocket-* headers are the server's: use the fields of the message")
    if handshake.accept_token is not None:
        fields.append((b"sec-websocket-accept", handshake.accept_token))
    if subprotocol is not None:
        if subprotocol not in handshake.subprotocols:
            raise ValueError("the client did not offer this subprotocol")
        fields.append((b"sec-websocket-protocol", subprotocol.encode("ascii")))
    return fields


def _origin_is_allowed(head: RequestHead, allowed: Collection[str]) -> bool:
    """RFC 6455 section 10.2: browsers say for whom they ask, and nobody else has to."""
    origins = _values(head, b"origin")
    if not origins or "*" in allowed:
        return True
    own = f"https://{head.authority}".lower().removesuffix(":443")
    return len(origins) == 1 and (
        origins[0] in allowed or origins[0].lower().removesuffix(":443") == own
    )


def _accept_token(head: RequestHead, *, is_required: bool) -> bytes | None:
    keys = _values(head, b"sec-websocket-key")
    try:
        is_good = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        is_good = False
    if not is_good and is_required:
        raise HandshakeRefusedError(400)
    if not is_good:
        return None
    return generate_accept_token(keys[0].encode("ascii"))


def _values(head: RequestHead, name: bytes) -> list[str]:
    return [value.decode("latin-1") for field_name, value in head.fields if field_name == name]


def _words(head: RequestHead, name: bytes) -> list[str]:
    """Return the comma-separated members of all lines of a field."""
    words = [word.strip(" \t") for line in _values(head, name) for word in line.split(",")]
    return [word for word in words if word]
