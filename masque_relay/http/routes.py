"""Owns the relay's ASGI application: tunnel routes by template, and the plain web site."""

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from masque_relay.contract.ports import Gate
from masque_relay.http.denials import DEFAULT_PROXY_NAME, refuse_request
from masque_relay.http.gate_middleware import GateMiddleware, refuse
from masque_relay.http.request_head import ConnectForm
from masque_relay.http.tunnel import TunnelEndpoint, TunnelKind
from masque_relay.http.wrap_up import WrapUpRule
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from masque_relay.wire.errors import WireError
from masque_relay.wire.uri_template import UriTemplate

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Welcome</title></head>
<body><h1>Welcome</h1><p>Nothing to see here yet.</p></body></html>
"""


class TunnelRoute(BaseRoute):
    """Matches an extended CONNECT by ``:protocol`` and by the *undecoded* path.

    Starlette's own Route matches the decoded path, where an IPv6 target's ``%3A`` and a prefix's
    ``%2F`` are lost. A path of the template whose values are broken matches too, so that the
    client hears 400 and not 404.
    """

    def __init__(
        self, template: UriTemplate, protocol: str, app: ASGIApp, *, proxy_name: str
    ) -> None:
        self.template = template
        self.protocol = protocol
        self.app = app
        self._proxy_name = proxy_name

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a scope that has ``http.connect`` for our protocol."""
        connect = _connect_extension(scope)
        if connect is None or connect["protocol"] != self.protocol:
            return Match.NONE, {}
        try:
            variables = self.template.match(raw_target(scope))
        except WireError as error:
            return Match.FULL, {"path_params": {}, "masque.fault": error}
        if variables is None:
            return Match.NONE, {}
        return Match.FULL, {"path_params": dict(variables)}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the tunnel's application, or say what is wrong with the path."""
        fault: WireError | None = scope.get("masque.fault")
        if fault is None:
            await self.app(scope, receive, send)
            return
        text = f"bad target: {fault.detail}"
        await _refuse(scope, send, 400, text, proxy_name=self._proxy_name)


class ClassicRoute(BaseRoute):
    """Matches every classic CONNECT; its authority is the target (RFC 9110 section 9.3.6)."""

    protocol = None

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a scope that has ``http.connect`` without a protocol."""
        connect = _connect_extension(scope)
        if connect is None or connect["form"] != ConnectForm.CLASSIC:
            return Match.NONE, {}
        # The front end has checked the authority; whether it names a target is the gate's to say.
        host, _, port = connect["authority"].rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        return Match.FULL, {"path_params": {"target_host": host, "target_port": port}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the tunnel's application."""
        await self.app(scope, receive, send)


class TunnelHintRoute(BaseRoute):
    """Answers an ordinary request for a tunnel's path with what would have worked."""

    def __init__(self, template: UriTemplate, protocol: str) -> None:
        self.template = template
        self.protocol = protocol

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the template's path without ``http.connect``."""
        if scope["type"] != "http" or _connect_extension(scope) is not None:
            return Match.NONE, {}
        try:
            is_ours = self.template.match(raw_target(scope)) is not None
        except WireError:
            is_ours = True
        return (Match.FULL if is_ours else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """426 names the protocol; 501 where the client asked for it and this server can't."""
        text = (
            f"this is a tunnel: use extended CONNECT (or Upgrade in HTTP/1.1) with :protocol "
            f"{self.protocol} and the template {self.template}"
        )
        headers = {"cache-control": "no-store"}
        status = 501
        if scope["http_version"].startswith("1"):
            # RFC 9931 section 6: bytes after a refused upgrade must not become a request.
            headers["connection"] = "close"
            asked = any(name.lower() == b"upgrade" for name, _ in scope["headers"])
            if not asked:
                # RFC 9110 section 15.5.22: a 426 names what to upgrade to.
                headers |= {"upgrade": self.protocol, "connection": "close, upgrade"}
                status = 426
        await Response(f"{text}\n", status, headers, "text/plain")(scope, receive, send)


class TunnelGuard:
    """Pure ASGI, outermost: answers every CONNECT that no route knows.

    RFC 9220 section 3 and RFC 9298 section 3.2: an unknown ``:protocol`` is 501; a known one on
    an unknown path is 404. Any scope type but ``http``, ``websocket`` and ``lifespan`` raises.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: Sequence[TunnelRoute | ClassicRoute],
        proxy_name: str,
        hints: Sequence[TunnelHintRoute] = (),
    ) -> None:
        self.app = app
        self._routes = tuple(routes)
        self._proxy_name = proxy_name
        self._classic_hint = next((each for each in hints if each.protocol == "connect-tcp"), None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass ordinary requests and known tunnels on."""
        if scope["type"] not in {"http", "websocket", "lifespan"}:
            raise RuntimeError(f"unknown scope type {scope['type']!r}")
        connect = _connect_extension(scope)
        if connect is None:
            await self.app(scope, receive, send)
        elif connect["protocol"] not in {route.protocol for route in self._routes}:
            if connect["protocol"] is None and self._classic_hint is not None:
                # connect-tcp: a classic client hears of the templated form, 426 or 501
                await self._classic_hint.handle(scope, receive, send)
                return
            name = connect["protocol"] or "classic CONNECT"
            await _refuse(
                scope, send, 501, f"not supported here: {name}", proxy_name=self._proxy_name
            )
        elif not any(route.matches(scope)[0] is Match.FULL for route in self._routes):
            await _refuse(scope, send, 404, "no tunnel has this path", proxy_name=self._proxy_name)
        else:
            await self.app(scope, receive, send)


class _Nothing:
    """Answers what no route matches: Starlette would refuse a WebSocket with 403."""

    def __init__(self, not_found: ASGIApp, proxy_name: str) -> None:
        self._not_found = not_found
        self._proxy_name = proxy_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404."""
        if scope["type"] == "websocket":
            await _refuse(scope, send, 404, "nothing is here", proxy_name=self._proxy_name)
        else:
            await self._not_found(scope, receive, send)


def build_app(
    kinds: Sequence[TunnelKind],
    *,
    gate: Gate,
    proxy_name: str,
    site: Sequence[BaseRoute] = (),
    wrap_up: WrapUpRule | None = None,
    own_tunnels: Sequence[TunnelRoute] = (),
) -> ASGIApp:
    """Return the relay's application.

    Args:
        kinds: the tunnels; each passes the gate before its endpoint runs.
        gate: the one that admits them all.
        proxy_name: in ``proxy-status``.
        site: more routes beside the tunnels and the front page. What they serve behind the gate
            they bring themselves.
        wrap_up: who is sent WRAP_UP when the relay drains; None: nobody.
        own_tunnels: tunnels that ask the gate themselves, because the credential comes inside.
    """
    routes: list[TunnelRoute | ClassicRoute] = [*own_tunnels]
    hints: list[TunnelHintRoute] = []
    for kind in kinds:
        app = GateMiddleware(
            TunnelEndpoint(kind.tunnels, proxy_name=proxy_name),
            gate=gate,
            read_asked=kind.read_asked,
            proxy_name=proxy_name,
            wrap_up=wrap_up,
        )
        if kind.protocol is None:
            routes.append(ClassicRoute(app))
            continue
        for template in kind.templates:
            routes.append(TunnelRoute(template, kind.protocol, app, proxy_name=proxy_name))
            hints.append(TunnelHintRoute(template, kind.protocol))
    starlette = Starlette(routes=[*routes, *hints, *site, Route("/", _home)])
    starlette.router.default = _Nothing(starlette.router.default, proxy_name)
    return TunnelGuard(starlette, routes=routes, proxy_name=proxy_name, hints=hints)


def build_site() -> ASGIApp:
    """Return the application without tunnels, for servers that can't carry any."""
    hint = TunnelHintRoute(UriTemplate.parse(DEFAULT_TEMPLATE), "connect-udp")
    return TunnelGuard(
        Starlette(routes=[hint, Route("/", _home)]), routes=(), proxy_name=DEFAULT_PROXY_NAME
    )


def raw_target(scope: Scope) -> bytes:
    """Return the undecoded path with its query, as templates match it."""
    raw_path: bytes = scope["raw_path"]
    query_string: bytes = scope["query_string"]
    return b"%b?%b" % (raw_path, query_string) if query_string else raw_path


async def _home(_request: Request) -> Response:
    return HTMLResponse(_PAGE)


def _connect_extension(scope: Scope) -> dict[str, Any] | None:
    extensions: dict[str, Any] = scope.get("extensions") or {}
    connect: dict[str, Any] | None = extensions.get("http.connect")
    return connect


async def _refuse(
    scope: Scope,
    send: Send,
    status: int,
    explanation: str,
    *,
    proxy_name: str,
) -> None:
    await refuse(scope, send, refuse_request(status, explanation), proxy_name=proxy_name)
