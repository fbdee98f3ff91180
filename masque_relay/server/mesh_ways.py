"""Owns the ways into the mesh: which carriers an application and an endpoint serve."""

from collections.abc import Mapping

from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from fallbacks.quic_native.server import ALPN, quic_native_factory
from fallbacks.websocket.https import HttpsSessions
from fallbacks.websocket.server import GhostwireWebSocket
from masque_relay.config.ghostwire import GhostwireSection
from masque_relay.contract.ports import Gate
from masque_relay.contract.request import Method, Transport
from masque_relay.http.asked import Asked
from masque_relay.http.gate_middleware import GateMiddleware, read_request
from masque_relay.quic.application import ApplicationFactory
from masque_relay.server.mesh import Mesh

_ASKED = Asked(method=Method.GHOSTWIRE)


def mesh_routes(
    mesh: Mesh | None, section: GhostwireSection, *, gate: Gate, proxy_name: str
) -> list[BaseRoute]:
    """Return the routes of WebSockets and of plain requests; none where the mesh is off."""
    routes: list[BaseRoute] = []
    if mesh is not None and section.websocket:
        routes += _websocket_routes(mesh, section, gate=gate, proxy_name=proxy_name)
    if mesh is not None and section.https:
        routes += _https_routes(mesh, section, gate=gate, proxy_name=proxy_name)
    return routes


def _websocket_routes(
    mesh: Mesh, section: GhostwireSection, *, gate: Gate, proxy_name: str
) -> list[BaseRoute]:
    endpoint = GhostwireWebSocket(mesh.new_session)
    gated = GateMiddleware(
        endpoint,
        gate=gate,
        read_asked=lambda _: _ASKED,
        proxy_name=proxy_name,
        scope_type="websocket",
        transport=Transport.WEBSOCKET,
    )
    app = _GateWhereCredential(gated, endpoint)
    return [WebSocketRoute(path, app) for path in section.paths]


def _https_routes(
    mesh: Mesh, section: GhostwireSection, *, gate: Gate, proxy_name: str
) -> list[BaseRoute]:
    sessions = HttpsSessions(mesh.new_session, start=mesh.start)
    gated = GateMiddleware(
        sessions.hold,
        gate=gate,
        read_asked=lambda _: _ASKED,
        proxy_name=proxy_name,
    )
    endpoints = (
        ("open", "POST", sessions.opening(gated)),
        ("up", "POST", sessions.up),
        ("down", "GET", sessions.down),
        ("close", "POST", sessions.close),
    )
    return [
        Route(f"{path}https/{word}", _Application(app), methods=[method])
        for path in section.paths
        for word, method, app in endpoints
    ]


def mesh_applications(
    mesh: Mesh | None, section: GhostwireSection
) -> Mapping[str, ApplicationFactory]:
    """Return what QUIC connections may be for the mesh, by ALPN."""
    if mesh is None or not section.quic_native:
        return {}
    return {ALPN: quic_native_factory(mesh.new_session)}


class _Application:
    """Starlette takes plain functions for endpoints of another form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


class _GateWhereCredential:
    """A browser can't send a token with a WebSocket: then AUTH brings it.

    A client certificate comes in the handshake, and is the credential as on every other carrier.
    """

    def __init__(self, gated: ASGIApp, open_app: ASGIApp) -> None:
        self._gated = gated
        self._open_app = open_app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_credential = bool(read_request(scope, _ASKED).credentials)
        await (self._gated if has_credential else self._open_app)(scope, receive, send)
