"""Owns the admin application under test: a recording operator behind the real routes and guard."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from masque_relay.admin.app import build_admin_app
from masque_relay.admin.limits import AdminLimits
from tests.support.fake_operator import FakeOperator

TOKEN = "admin-token-of-the-tests"


@pytest.fixture
def operator() -> FakeOperator:
    return FakeOperator()


@pytest.fixture
async def http(operator: FakeOperator) -> AsyncGenerator[httpx.AsyncClient]:
    """A client with the right token, as an operator on the same host."""
    app = build_admin_app(operator, token=TOKEN, limits=AdminLimits(body_bytes=1_000))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),  # type: ignore[arg-type] (Starlette's types are wider)
        base_url="http://127.0.0.1:9443",
        headers={"authorization": f"Bearer {TOKEN}"},
    ) as client:
        yield client
