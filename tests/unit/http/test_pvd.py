"""``/.well-known/pvd``: who gets what, and caching."""

from typing import Any

import httpx
import orjson
import pytest
from starlette.applications import Starlette

from masque_relay.contract.policy_view import PolicyView, ReachRule
from masque_relay.contract.request import BearerToken, Method, RelayRequest
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.http.pvd import PATH, PvdEndpoint, PvdSettings, pvd_route
from masque_relay.http.pvd_document import MEDIA_TYPE, ProxyOffer
from tests.support.http_fakes import FakeClock

OFFER = ProxyOffer(method=Method.CONNECT_TCP, protocol="https-connect", template=None)


class Describer:
    """Knows one token."""

    def __init__(self) -> None:
        self.view = PolicyView(
            rules=(ReachRule(methods=frozenset({Method.CONNECT_TCP}), domains=("a.example",)),),
            expires_s=None,
        )

    async def describe(self, request: RelayRequest) -> PolicyView | Denial:
        if not request.credentials:
            return Denial(reason=DenyReason.CREDENTIAL_MISSING, detail="")
        if request.credentials == (BearerToken(token="good"),):
            return self.view
        return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="secret")


class Site:
    def __init__(self, **settings: Any) -> None:
        self.describer = Describer()
        self.clock = FakeClock()
        endpoint = PvdEndpoint(
            self.describer,
            [OFFER],
            alpn=["h2"],
            settings=PvdSettings(**settings),
            clock=self.clock,
            proxy_name="ghostwire",
        )
        self.app = Starlette(routes=[pvd_route(endpoint)])

    async def get(self, credential: str | None = "good", **headers: str) -> httpx.Response:
        if credential is not None:
            headers["authorization"] = f"Bearer {credential}"
        return await self.request("GET", **headers)

    async def request(self, method: str, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="https://relay.example"
        ) as client:
            return await client.request(method, PATH, headers=headers)


async def test_an_identity_gets_its_own() -> None:
    answer = await Site().get()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["cache-control"] == "private, no-cache"
    assert answer.headers["vary"] == "authorization, proxy-authorization"
    document = orjson.loads(answer.content)
    assert document["identifier"] == "relay.example"
    assert document["proxy-match"] == [{"proxies": ["tcp"], "domains": ["a.example"]}]


async def test_nobody_gets_401() -> None:
    answer = await Site().get(None)
    assert answer.status_code == 401
    assert "bearer" in answer.headers["www-authenticate"].lower()
    assert "a.example" not in answer.text


async def test_unless_the_document_is_public_and_then_without_rules() -> None:
    site = Site(public=True)
    answer = await site.get(None)
    assert answer.status_code == 200
    assert "proxy-match" not in orjson.loads(answer.content)
    assert answer.headers["cache-control"] == "public, no-cache"
    assert (await site.get("bad")).status_code == 401
    assert "proxy-match" in orjson.loads((await site.get()).content)


async def test_what_did_not_change_is_304() -> None:
    site = Site(lifetime_s=100.0)
    first = await site.get()
    etag = first.headers["etag"]
    again = await site.get(**{"if-none-match": f'"other", {etag}'})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == etag
    site.describer.view = PolicyView(rules=(), expires_s=None)
    assert (await site.get(**{"if-none-match": etag})).status_code == 200


async def test_expiry_is_between_one_and_two_lifetimes_away() -> None:
    site = Site(lifetime_s=100.0)
    seen = set()
    for _ in range(10):
        expires = orjson.loads((await site.get()).content)["expires"]
        seen.add(expires)
        site.clock.now_s += 25
    assert len(seen) == 3  # of a quarter each: the ETag holds for a while


async def test_but_never_beyond_the_credential() -> None:
    site = Site()
    site.describer.view = PolicyView(rules=(), expires_s=site.clock.now_s + 5)
    assert orjson.loads((await site.get()).content)["expires"] == "1970-01-01T00:16:45Z"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_it_is_only_read(method: str) -> None:
    assert (await Site().request(method)).status_code == 405
