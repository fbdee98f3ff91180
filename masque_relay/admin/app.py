"""Owns the admin plane's ASGI application: routes behind the guard."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from masque_relay.admin.api import AdminApi
from masque_relay.admin.errors import ApiError, error_response, on_api_error
from masque_relay.admin.guard import AdminGuard
from masque_relay.admin.limits import AdminLimits
from masque_relay.contract.ports import Operator


def build_admin_app(
    operator: Operator, *, token: str, limits: AdminLimits, over_unix_socket: bool = False
) -> ASGIApp:
    """Return the admin plane for one relay.

    Args:
        operator: the running relay.
        token: the bearer token that every path but the probes asks for; never empty.
        limits: caps and deadlines.
        over_unix_socket: skip the Host check, which guards TCP listeners from web pages.

    Raises:
        ValueError: the token is empty.
    """
    app = Starlette(
        routes=AdminApi(operator, limits).routes(),
        exception_handlers={ApiError: on_api_error, HTTPException: _on_http_exception},
    )
    return AdminGuard(app, token=token, limits=limits, over_unix_socket=over_unix_socket)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return error_response(
            ApiError(
                404,
                "not_found",
                f"there is nothing at {request.url.path[:200]}",
                hint="docs/reference/admin-api.md lists the paths",
            )
        )
    if error.status_code == 405:
        response = error_response(
            ApiError(405, "method_not_allowed", f"{request.method} is not a method of this path")
        )
        response.headers.update(error.headers or {})
        return response
    return error_response(ApiError(error.status_code, "http_error", error.detail))
