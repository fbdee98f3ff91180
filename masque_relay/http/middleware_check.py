"""Owns the start-up check that no middleware in the stack would break a tunnel."""

from collections.abc import Iterator
from typing import Any

from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

_BREAKING = (BaseHTTPMiddleware, GZipMiddleware)
"""BaseHTTPMiddleware hangs a tunnel, GZipMiddleware drops its events."""
_MAX_PARTS = 10_000  # an application that wraps itself must not hang the start


class UnfitMiddlewareError(RuntimeError):
    """The application holds a middleware that tunnels do not survive."""


def refuse_unfit_middleware(app: Any) -> None:  # noqa: ANN401  (any ASGI callable)
    """Look through an application for BaseHTTPMiddleware and GZipMiddleware.

    Follows Starlette's lists of middleware and routes, and the ``app`` attribute by which
    middleware conventionally holds what it wraps.

    Raises:
        UnfitMiddlewareError: one was found; the message names it.
    """
    seen: set[int] = set()
    waiting: list[Any] = [app]
    while waiting and len(seen) < _MAX_PARTS:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        part_type: Any = part if isinstance(part, type) else type(part)
        if issubclass(part_type, _BREAKING):
            message = (
                f"{part_type.__name__} would break tunnels: use pure ASGI middleware"
                " (docs/reference/asgi.md)"
            )
            raise UnfitMiddlewareError(message)
        waiting.extend(_inner(part))


def _inner(part: Any) -> Iterator[Any]:  # noqa: ANN401  (any ASGI callable)
    """Return what an application part wraps, as far as it can be seen."""
    for name in ("app", "router", "middleware_stack"):
        inner = getattr(part, name, None)
        if inner is not None:
            yield inner
    for entry in getattr(part, "user_middleware", None) or ():
        yield entry.cls
    routes = getattr(part, "routes", None)
    if isinstance(routes, list | tuple):
        yield from routes
