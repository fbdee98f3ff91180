"""Owns ``/.well-known/pvd``: what the asking identity may use this relay for (RFC 8801)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor

import orjson
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from masque_relay.contract.policy_view import PolicyView
from masque_relay.contract.ports import Clock, PolicyDescriber
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.http.asked import Asked
from masque_relay.http.denials import refuse_denial, refuse_request
from masque_relay.http.gate_middleware import read_request, refuse
from masque_relay.http.pvd_document import MEDIA_TYPE, ProxyOffer, build_document
from masque_relay.http.tunnel import TunnelKind
from masque_relay.wire.authority import parse_authority
from masque_relay.wire.errors import WireError

PATH = "/.well-known/pvd"
_METHODS = {
    "connect-udp": Method.CONNECT_UDP,
    "connect-tcp": Method.CONNECT_TCP,
    "connect-ip": Method.CONNECT_IP,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PvdSettings:
    """What the document says, and to whom."""

    public: bool = False
    """Tell clients without a credential which proxies there are (not what they lead to); otherwise
    they get 401. Read at start only."""
    lifetime_s: float = 3_600.0
    """How long a client may use the document before it asks again; never longer than its
    credential lasts. Read at start only."""


def offers_of(kinds: Iterable[TunnelKind]) -> tuple[ProxyOffer, ...]:
    """Return what the mounted kinds of tunnel can be used for, as the draft names it."""
    offers: list[ProxyOffer] = []
    for kind in kinds:
        if kind.protocol is None:
            method, protocol, template = Method.CONNECT_TCP, "https-connect", None
        elif kind.protocol in _METHODS and kind.templates:
            method, protocol = _METHODS[kind.protocol], kind.protocol
            template = str(kind.templates[0])
        else:
            continue
        offers.append(ProxyOffer(method=method, protocol=protocol, template=template))
    return tuple(offers)


class PvdEndpoint:
    """Answers GET with the document for the identity that asks; ASGI."""

    def __init__(
        self,
        describer: PolicyDescriber,
        offers: Sequence[ProxyOffer],
        *,
        alpn: Sequence[str],
        settings: PvdSettings,
        clock: Clock,
        proxy_name: str,
    ) -> None:
        self._describer = describer
        self._offers = offers
        self._alpn = alpn
        self._settings = settings
        self._clock = clock
        self._proxy_name = proxy_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate, then write down what the policy says."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        authority = next((value for name, value in headers if name == b"host"), b"").decode(
            "latin-1"
        )
        try:
            host, _ = parse_authority(authority, default_port=443)
        except WireError:
            await refuse(
                scope, send, refuse_request(400, "bad authority"), proxy_name=self._proxy_name
            )
            return
        request = read_request(scope, Asked(method=Method.CONNECT_UDP))
        answer = await self._describer.describe(request)
        view = answer if isinstance(answer, PolicyView) else None
        if isinstance(answer, Denial) and not self._is_for_anybody(answer):
            refusal = refuse_denial(answer, speaks_to_proxy=False)
            await refuse(scope, send, refusal, proxy_name=self._proxy_name)
            return
        body = orjson.dumps(
            build_document(
                authority,
                host,
                self._offers,
                alpn=self._alpn,
                view=view,
                expires_s=self._expires_s(view),
            ),
            option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE,
        )
        await self._respond(scope, body, is_public=view is None)(scope, receive, send)

    def _is_for_anybody(self, denial: Denial) -> bool:
        return self._settings.public and denial.reason is DenyReason.CREDENTIAL_MISSING

    def _expires_s(self, view: PolicyView | None) -> float:
        """Return the same moment for a while, so that what did not change has the same ETag."""
        lifetime_s = self._settings.lifetime_s
        expires_s = (floor(self._clock.wall_s() / lifetime_s) + 2) * lifetime_s
        if view is not None and view.expires_s is not None:
            expires_s = min(expires_s, view.expires_s)
        return expires_s

    def _respond(self, scope: Scope, body: bytes, *, is_public: bool) -> Response:
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {
            "etag": etag,
            # RFC 9111 section 5.2.2.7: it is one identity's own.
            "cache-control": f"{'public' if is_public else 'private'}, no-cache",
            "vary": "authorization, proxy-authorization",
        }
        asked = b",".join(value for name, value in scope["headers"] if name == b"if-none-match")
        known = {tag.strip().removeprefix("W/") for tag in asked.decode("latin-1").split(",")}
        if etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=MEDIA_TYPE)


def pvd_route(endpoint: PvdEndpoint) -> Route:
    """Return the route at which every client looks."""
    return Route(PATH, endpoint, methods=["GET"])
