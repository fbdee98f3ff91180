"""Middleware that tunnels do not survive is refused at the start."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from masque_relay.http.middleware_check import UnfitMiddlewareError, refuse_unfit_middleware
from masque_relay.http.routes import build_site


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


class Pure:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


INNER = Starlette(routes=[Route("/", home)])
UNFIT = [
    Timing(INNER),
    Pure(Timing(INNER)),
    Pure(Pure(GZipMiddleware(INNER))),
    Starlette(middleware=[Middleware(Timing)]),
    Starlette(routes=[Mount("/sub", app=Starlette(middleware=[Middleware(Timing)]))]),
    Starlette(routes=[Mount("/sub", app=INNER, middleware=[Middleware(Timing)])]),
    Starlette(routes=[Route("/", home, middleware=[Middleware(GZipMiddleware)])]),
    Pure(Starlette(routes=[Mount("/sub", routes=[Mount("/sub", app=Timing(INNER))])])),
]


@pytest.mark.parametrize("index", range(len(UNFIT)))
def test_unfit_middleware_is_found_wherever_it_hides(index: int) -> None:
    with pytest.raises(UnfitMiddlewareError, match=r"(Timing|GZipMiddleware) would break tunnels"):
        refuse_unfit_middleware(UNFIT[index])


def test_pure_middleware_passes() -> None:
    middleware = [Middleware(Pure), Middleware(TrustedHostMiddleware, allowed_hosts=["*"])]
    refuse_unfit_middleware(Pure(Starlette(routes=[Route("/", home)], middleware=middleware)))


def test_our_own_application_passes() -> None:
    refuse_unfit_middleware(build_site())


def test_application_that_wraps_itself_does_not_hang() -> None:
    pure = Pure(INNER)
    pure.app = pure

    refuse_unfit_middleware(pure)
