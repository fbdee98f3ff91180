"""draft-ietf-intarea-proxy-config-14 and RFC 8801 section 4, between a whole relay and a client."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.routing import BaseRoute

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.address import parse_target
from masque_relay.client.pvd import PvdDocument, PvdError, fetch_pvd
from masque_relay.client.split import Way
from masque_relay.contract.request import Method
from masque_relay.control.gate import RelayGate
from masque_relay.http.pvd import PvdEndpoint, PvdSettings, pvd_route
from masque_relay.http.pvd_document import ProxyOffer
from masque_relay.server.clock import SystemClock
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from tests.support.h3_client import H3Client
from tests.support.relay import InProcessRelay, running_relay
from tests.support.tcp_clients import H1Client, H2Client

POLICY = """
[[rule]]
name = "never"
action = "deny"
who = ["*"]
methods = ["connect-udp", "connect-tcp"]
targets = ["secret.corp.example:*"]

[[rule]]
name = "corp"
action = "allow"
who = ["alice"]
methods = ["connect-udp", "connect-tcp"]
targets = ["*.corp.example:443", "10.1.0.0/16:*"]

[[rule]]
name = "bobs"
action = "allow"
who = ["bob"]
methods = ["connect-udp", "connect-tcp"]
targets = ["bob.example:*"]
"""

OFFERS = (
    ProxyOffer(method=Method.CONNECT_UDP, protocol="connect-udp", template=DEFAULT_TEMPLATE),
    ProxyOffer(method=Method.CONNECT_TCP, protocol="https-connect", template=None),
)


def site(gate: RelayGate) -> Sequence[BaseRoute]:
    endpoint = PvdEndpoint(
        gate,
        OFFERS,
        alpn=["h3", "h2", "http/1.1"],
        settings=PvdSettings(),
        clock=SystemClock(),
        proxy_name="ghostwire",
    )
    return [pvd_route(endpoint)]


async def ask(relay: InProcessRelay, version: str, token: str) -> tuple[int | None, Any]:
    """GET the document over one HTTP version; return status and JSON."""
    if version == "1.1":
        h1 = await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")
        request = (
            "GET /.well-known/pvd HTTP/1.1\r\nHost: localhost\r\n"
            f"Accept: application/pvd+json\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        answer = await h1.request(request.encode())
        return answer.status, orjson.loads(await h1.body(answer))
    client: H2Client | H3Client = (
        await H2Client.connect(relay.https_address, relay.ca_pem)
        if version == "2"
        else await relay.connect()
    )
    head = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/.well-known/pvd"),
        (b"authorization", f"Bearer {token}".encode()),
    ]
    _, exchange = await client.request(head, end=True)
    await client.until(lambda: exchange.ended)
    return exchange.status, orjson.loads(exchange.data)


async def fetched(relay: InProcessRelay, directory: Path, subject: str = "alice") -> PvdDocument:
    token_file = directory / f"{subject}.token"
    token_file.write_text(relay.token(subject))
    options = RelayOptions(ca_file=relay.site.ca_file, credential=Bearer(file=token_file))
    return await fetch_pvd(RelayAddress.parse(f"https://localhost:{relay.address.port}"), options)


@pytest.mark.clause("proxy-config-14", "2", "MUST", "fetch the document over https")
@pytest.mark.clause("RFC 8801", "4.3", "MUST", "give identifier, expires and prefixes")
@pytest.mark.clause("RFC 8801", "4.1", "MUST", "answer GET on /.well-known/pvd")
@pytest.mark.parametrize("version", ["1.1", "2", "3"])
async def test_the_document_over_every_http_version(tmp_path: Path, version: str) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        status, document = await ask(relay, version, relay.token())
        assert status == 200
        assert document["identifier"] == "localhost"
        assert document["prefixes"] == []
        expires = dt.datetime.fromisoformat(document["expires"])
        assert expires > dt.datetime.now(dt.UTC)
        for proxy in document["proxies"]:
            assert set(proxy) == {"protocol", "proxy", "alpn", "identifier"}
        known = {proxy["identifier"] for proxy in document["proxies"]}
        for rule in document["proxy-match"]:
            assert set(rule["proxies"]) <= known
            assert all(rule[key] for key in rule.keys() - {"proxies"})


async def test_each_identity_gets_its_own_rules(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        alice, bob = await fetched(relay, tmp_path), await fetched(relay, tmp_path, "bob")
        assert "bob.example" not in repr(alice)
        assert "*.corp.example" not in repr(bob)
        nobody = await fetched(relay, tmp_path, "mallory")
        assert nobody.rules == ()


async def test_what_the_client_makes_of_it_is_what_the_gate_decides(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        rules = (await fetched(relay, tmp_path)).split_rules()
        for target, way in {
            "www.corp.example:443": Way.PROXY,
            "www.corp.example:80": Way.DIRECT,
            "corp.example:443": Way.PROXY,  # it may resolve into the subnet: the gate will say
            "secret.corp.example:443": Way.DIRECT,
            "10.1.2.3:22": Way.PROXY,
            "10.2.2.3:22": Way.DIRECT,
            "elsewhere.example:443": Way.DIRECT,
        }.items():
            assert rules.way_of(parse_target(target)) is way, target


async def test_without_a_good_credential_there_is_nothing(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        token_file = tmp_path / "token"
        token_file.write_text(relay.token(audience="elsewhere"))
        options = RelayOptions(ca_file=relay.site.ca_file, credential=Bearer(file=token_file))
        with pytest.raises(PvdError, match="did not accept"):
            await fetch_pvd(RelayAddress.parse(f"https://localhost:{relay.address.port}"), options)
