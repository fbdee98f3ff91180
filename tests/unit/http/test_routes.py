"""Routes: tunnels by template and protocol, hints, and the plain site."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from masque_relay.contract.counters import TunnelCounters
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.limits import HttpLimits
from masque_relay.http.routes import (
    TunnelGuard,
    TunnelHintRoute,
    TunnelRoute,
    build_app,
    build_site,
)
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from masque_relay.wire.errors import WireError
from masque_relay.wire.uri_template import UriTemplate
from tests.support.http_fakes import FakeClock, FakeDataplane, FakeGate

TUNNEL_PATH = b"/.well-known/masque/udp/192.0.2.7/53/"


def scope_of(raw_path: bytes, **changes: Any) -> Scope:
    return {
        "type": "http",
        "http_version": "3",
        "method": "GET",
        "path": raw_path.decode("latin-1"),
        "raw_path": raw_path,
        "query_string": b"",
        "headers": [],
        "state": {},
        "extensions": {},
    } | changes


def connect(protocol: str | None) -> dict[str, Any]:
    form = "classic" if protocol is None else "extended"
    return {"http.connect": {"protocol": protocol, "form": form, "authority": "x:1"}}


async def call(app: Any, scope: Scope) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body


def served(**more: Any) -> tuple[Any, FakeGate]:
    gate = FakeGate()
    services = ConnectUdpServices(
        gate=gate,
        dataplane=FakeDataplane(),
        clock=FakeClock(),
        counters=TunnelCounters(),
        limits=HttpLimits(),
        proxy_name="edge-7",
    )
    kind = connect_udp_kind(services, **more)
    return build_app([kind], gate=gate, proxy_name="edge-7"), gate


async def status_of(scope: Scope) -> int:
    return (await call(served()[0], scope))[0]


class TestTunnelRoute:
    @pytest.mark.parametrize(
        ("path", "host"),
        [
            (b"/.well-known/masque/udp/2001%3Adb8%3A%3A1/53/", "2001:db8::1"),
            (b"/.well-known/masque/udp/a%2Fb/53", "a/b"),
        ],
    )
    async def test_variables_come_from_the_undecoded_path(self, path: bytes, host: str) -> None:
        seen: list[Scope] = []

        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        route = TunnelRoute(
            UriTemplate.parse(DEFAULT_TEMPLATE), "connect-udp", endpoint, proxy_name="edge-7"
        )
        scope = scope_of(path, method="CONNECT", extensions=connect("connect-udp"))
        match, child = route.matches(scope)

        assert match.name == "FULL"
        assert child["path_params"] == {"target_host": host, "target_port": "53"}

    @pytest.mark.parametrize("path", [b"/.well-known/masque/udp/%FF/53/", TUNNEL_PATH + b"%00"])
    async def test_broken_path_hears_400_or_404_and_the_gate_nothing(self, path: bytes) -> None:
        app, gate = served()
        scope = scope_of(path, method="CONNECT", extensions=connect("connect-udp"))
        status, headers, _ = await call(app, scope)

        assert status in {400, 404}
        assert headers[b"proxy-status"].startswith(b"edge-7; error=http_request_error")
        assert not gate.requests

    async def test_path_variables_in_the_query(self) -> None:
        app, gate = served(templates=["/m{?target_host,target_port}"])
        scope = scope_of(
            b"/m",
            query_string=b"target_host=192.0.2.7&target_port=0",
            method="CONNECT",
            extensions=connect("connect-udp"),
        )

        assert (await call(app, scope))[0] == 400, "port 0: so the variables were found"
        assert not gate.requests


class TestGuard:
    @pytest.mark.parametrize("protocol", ["connect-ip", "connect-ethernet", "webtransport", None])
    async def test_protocol_that_nobody_serves_is_501(self, protocol: str | None) -> None:
        scope = scope_of(TUNNEL_PATH, method="CONNECT", extensions=connect(protocol))
        status, headers, body = await call(served()[0], scope)

        assert status == 501
        assert (protocol or "classic CONNECT").encode() in body
        assert headers[b"proxy-status"].startswith(b"edge-7; error=http_request_error")

    async def test_known_protocol_on_an_unknown_path_is_404(self) -> None:
        scope = scope_of(b"/elsewhere", method="CONNECT", extensions=connect("connect-udp"))

        assert await status_of(scope) == 404

    async def test_unknown_scope_type_raises(self) -> None:
        with pytest.raises(RuntimeError, match="webtransport"):
            await status_of(scope_of(b"/", type="webtransport"))

    async def test_without_services_every_tunnel_is_501(self) -> None:
        scope = scope_of(TUNNEL_PATH, method="CONNECT", extensions=connect("connect-udp"))

        assert (await call(build_site(), scope))[0] == 501


class TestHints:
    async def test_get_on_http1_is_426_with_upgrade(self) -> None:
        app, gate = served()
        status, headers, body = await call(app, scope_of(TUNNEL_PATH, http_version="1.1"))

        assert status == 426
        assert headers[b"upgrade"] == b"connect-udp"
        assert headers[b"connection"] == b"close, upgrade"
        assert b"extended CONNECT" in body
        assert not gate.requests

    @pytest.mark.clause("connect-tcp-18", "5", "MAY", "answer a classic CONNECT with 426 or 501")
    async def test_classic_connect_hears_of_the_template_where_it_is_off(self) -> None:
        hint = TunnelHintRoute(
            UriTemplate.parse("/tcp/{target_host}/{target_port}/"), "connect-tcp"
        )
        app = TunnelGuard(Starlette(), routes=(), proxy_name="edge-7", hints=[hint])
        scope = scope_of(b"", method="CONNECT", http_version="1.1", extensions=connect(None))
        status, headers, body = await call(app, scope)

        assert status == 426
        assert headers[b"upgrade"] == b"connect-tcp"
        assert b"/tcp/{target_host}/{target_port}/" in body

    async def test_upgrade_that_this_server_lacks_is_501_and_closes(self) -> None:
        """RFC 9931: a refused upgrade must not leave the connection open."""
        scope = scope_of(TUNNEL_PATH, http_version="1.1", headers=[(b"upgrade", b"connect-udp")])
        status, headers, _ = await call(served()[0], scope)

        assert status == 501
        assert headers[b"connection"] == b"close"

    @pytest.mark.parametrize("version", ["2", "3"])
    async def test_get_on_newer_http_is_501(self, version: str) -> None:
        status, headers, _ = await call(served()[0], scope_of(TUNNEL_PATH, http_version=version))

        assert status == 501
        assert b"connection" not in headers

    async def test_broken_path_gets_the_hint_too(self) -> None:
        assert await status_of(scope_of(b"/.well-known/masque/udp/%FF/53/")) == 501


class TestSite:
    async def test_front_page_is_neutral(self) -> None:
        status, _, body = await call(served()[0], scope_of(b"/"))

        assert status == 200
        assert not any(word in body.lower() for word in [b"proxy", b"relay", b"masque", b"ghost"])

    @pytest.mark.parametrize("path", [b"/admin", b"/.well-known/masque/", b"/index.html"])
    async def test_everything_else_is_404(self, path: bytes) -> None:
        assert await status_of(scope_of(path)) == 404


@pytest.mark.parametrize("template", ["/no/variables", "relative/{target_host}/{target_port}", ""])
def test_template_that_cannot_work_is_refused(template: str) -> None:
    with pytest.raises(WireError):
        served(templates=[template])
