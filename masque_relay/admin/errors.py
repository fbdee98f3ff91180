"""Owns the admin API's answers: JSON by orjson, and errors that name the next step."""

from collections.abc import Mapping, Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response


class ApiError(Exception):
    """A request that the API refuses.

    Attributes:
        status: the HTTP status.
        code: a word for programs; docs/reference/admin-api.md lists them.
        message: what is wrong.
        hint: what to do next.
        problems: one line each, where several things are wrong at once.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)


def json_response(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a JSON response that no cache keeps."""
    return Response(
        orjson.dumps(value),
        status_code=status,
        media_type="application/json",
        headers={"cache-control": "no-store", **(headers or {})},
    )


def error_response(error: ApiError) -> Response:
    """Return ``{"error": {"code", "message", "hint", "problems"}}``."""
    body: dict[str, object] = {"code": error.code, "message": error.message}
    if error.hint is not None:
        body["hint"] = error.hint
    if error.problems:
        body["problems"] = error.problems
    headers = {"www-authenticate": 'Bearer realm="ghostwire-admin"'} if error.status == 401 else {}
    return json_response({"error": body}, status=error.status, headers=headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """Starlette's exception handler for ApiError."""
    if not isinstance(error, ApiError):
        raise error
    return error_response(error)
