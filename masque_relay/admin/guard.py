"""Owns the admin plane's door: Host check and bearer token, before any handler runs."""

import hmac
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from masque_relay.admin.errors import ApiError, error_response
from masque_relay.admin.limits import AdminLimits

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""What a load balancer asks; the answer is one word and holds nothing about anyone."""

METRICS_PATH = "/metrics"


class AdminGuard:
    """Pure ASGI middleware: refuses what it does not know, so that a new route is closed first."""

    def __init__(
        self, app: ASGIApp, *, token: str, limits: AdminLimits, over_unix_socket: bool = False
    ) -> None:
        if not token:
            raise ValueError("an empty admin token would let everybody in")
        self._app = app
        self._token = token.encode()
        self._limits = limits
        self._over_unix_socket = over_unix_socket
        self._open_paths = OPEN_PATHS if limits.metrics_need_token else OPEN_PATHS | {METRICS_PATH}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass lifespan and permitted HTTP requests on; refuse the others."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            raise RuntimeError(f"refused: scope type {scope['type']!r} is not known here")
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        if refusal is not None:
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> ApiError | None:
        if not self._over_unix_socket and not self._host_is_ours(headers.get("host", "")):
            return ApiError(
                421,
                "host_not_allowed",
                "the Host header names a host that this listener does not serve",
                hint="ask by address, or add the name to admin.limits.allowed_hosts",
            )
        if path in self._open_paths:
            return None
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        presented = credential.strip().encode("utf-8", "surrogateescape")
        if scheme.lower() != "bearer" or not hmac.compare_digest(presented, self._token):
            return ApiError(
                401,
                "unauthorized",
                "the admin API asks for its own bearer token",
                hint="send `Authorization: Bearer TOKEN` with the content of admin.token_file",
            )
        return None

    def _host_is_ours(self, host: str) -> bool:
        name = _without_port(host.strip().lower())
        if name == "localhost" or name in self._limits.allowed_hosts:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
