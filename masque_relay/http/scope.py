"""Owns the ASGI scope of a request (asgi-extension: docs/reference/asgi.md)."""

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.types import Scope

from masque_relay.http.request_head import ConnectForm
from masque_relay.http.request_stream import RequestStream
from masque_relay.http.stream import HttpStream
from masque_relay.http.transport import ClientLink, HttpVersion
from masque_relay.http.websocket_stream import WebSocketStream
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError

TLS_1_3 = 0x0304  # QUIC has no other (RFC 9001 section 4.2)


def build_scope(
    stream: HttpStream,
    link: ClientLink,
    state: Mapping[str, Any],
    *,
    http_version: HttpVersion = HttpVersion.HTTP3,
) -> Scope:
    """Return the scope for a request; ``state`` is the lifespan's, copied per request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": stream.head.method,
        "scheme": stream.head.scheme,
        **_common(stream, link, state, http_version),
        "extensions": _extensions(stream, link),
    }


def build_websocket_scope(
    stream: WebSocketStream,
    link: ClientLink,
    state: Mapping[str, Any],
    *,
    http_version: HttpVersion,
) -> Scope:
    """Return the scope for a WebSocket; ``state`` is the lifespan's, copied per connection."""
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "wss",
        "subprotocols": list(stream.handshake.subprotocols),
        **_common(stream, link, state, http_version),
        "extensions": {
            "websocket.http.response": {},
            "websocket.end": stream.end,
            "tls": _tls(link),
        },
    }


def _common(
    stream: RequestStream, link: ClientLink, state: Mapping[str, Any], http_version: HttpVersion
) -> dict[str, Any]:
    head = stream.head
    return {
        "http_version": str(http_version),
        "path": unquote(head.raw_path.decode("ascii")),
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "root_path": "",
        "headers": head.fields,
        "client": (str(link.peer.address), link.peer.port),
        "server": _server(head.authority),
        "state": {**state, "request_id": stream.request_id},
    }


def _extensions(stream: HttpStream, link: ClientLink) -> dict[str, Any]:
    head = stream.head
    extensions: dict[str, Any] = {
        "http.response.trailers": {},
        "http.response.early_hint": {},
        "http.abort": {},
        "tls": _tls(link),
    }
    if head.form is None:
        return extensions
    extensions["http.connect"] = {
        "protocol": head.protocol,
        "form": str(head.form),
        "authority": head.authority,
    }
    if head.uses_capsules:
        extensions["http.capsule"] = {}
        extensions["http.wrap_up"] = stream.want_wrap_up
    if head.form is ConnectForm.CLASSIC:
        extensions["http.splice"] = {"kinds": ["tcp"]}
    if head.protocol is not None:
        extensions["http.datagram"] = {
            "reliable": stream.carrier.uses_capsules,
            "max_size": stream.carrier.max_payload_bytes,
        }
        extensions["http.splice"] = {"kinds": ["flow", "udp", "tcp"]}
    return extensions


def _tls(link: ClientLink) -> dict[str, Any]:
    """The ASGI TLS extension, with the exporter (RFC 8446 section 7.5) beside it.

    Python's ssl has no exporter: over TCP there is None.
    """
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(der) for der in link.peer_certificate_chain],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": getattr(link, "tls_version", TLS_1_3),
        "cipher_suite": None,
        "server_name": link.server_name,
        "exporter": getattr(link, "export_keying_material", None),
    }


def _server(authority: str) -> tuple[str, int] | None:
    try:
        return parse_authority(authority, default_port=443)
    except WireError:
        return None
