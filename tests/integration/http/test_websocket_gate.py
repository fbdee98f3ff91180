"""A WebSocket endpoint behind the real gate, over every HTTP version."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from masque_relay.contract.request import Method, Transport
from masque_relay.control.gate import RelayGate
from masque_relay.http.asked import Asked
from masque_relay.http.gate_middleware import GateMiddleware
from masque_relay.quic.application import Headers
from tests.integration.http.test_websocket import echo
from tests.support.h3_client import H3Client
from tests.support.relay import InProcessRelay, running_relay
from tests.support.tcp_clients import H1Client, H2Client
from tests.support.websocket_frames import EXTENDED_HEAD, TEXT, FrameReader, frame, upgrade_head

POLICY = """
[[rule]]
name = "mesh"
action = "allow"
who = ["alice"]
methods = ["ghostwire"]
targets = ["*"]
"""


def read_asked(_scope: Scope) -> Asked:
    return Asked(method=Method.GHOSTWIRE)


async def endpoint(scope: Scope, receive: object, send: object) -> None:
    await echo(WebSocket(scope, receive, send))  # type: ignore[arg-type]  # they are ASGI's


def site(gate: RelayGate) -> Sequence[BaseRoute]:
    guarded = GateMiddleware(
        endpoint,
        gate=gate,
        read_asked=read_asked,
        proxy_name="ghostwire",
        scope_type="websocket",
        transport=Transport.WEBSOCKET,
    )
    return [WebSocketRoute("/echo", guarded)]


def head(token: str) -> Headers:
    return [*EXTENDED_HEAD, (b"authorization", f"Bearer {token}".encode())]


async def status(relay: InProcessRelay, version: str, token: str) -> int | None:
    """Ask for a WebSocket; return how it was answered."""
    if version == "1.1":
        client = await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")
        answer = await client.request(upgrade_head("/echo", f"Authorization: Bearer {token}"))
        return answer.status
    multiplexed: H2Client | H3Client = (
        await H2Client.connect(relay.https_address, relay.ca_pem)
        if version == "2"
        else await relay.connect()
    )
    _, exchange = await multiplexed.request(head(token))
    return exchange.status


@pytest.mark.parametrize("version", ["1.1", "2", "3"])
async def test_a_credential_and_the_policy_decide(tmp_path: Path, version: str) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        success = 101 if version == "1.1" else 200
        assert await status(relay, version, relay.token()) == success
        assert await status(relay, version, "nonsense") == 401
        assert await status(relay, version, relay.token("mallory")) == 403
        assert relay.gate.decisions["websocket", "ghostwire", "allowed"] == 1
        assert relay.gate.decisions["websocket", "ghostwire", "policy"] == 1


async def test_a_refusal_says_what_a_tunnels_refusal_says(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        client = await relay.connect()
        _, exchange = await client.request(EXTENDED_HEAD)
        assert exchange.status == 401
        assert exchange.fields["www-authenticate"]
        assert exchange.proxy_status.error == "http_request_denied"


async def test_where_nothing_is_mounted_it_is_404(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        client = await relay.connect()
        nowhere = [(n, b"/none" if n == b":path" else value) for n, value in EXTENDED_HEAD]
        _, exchange = await client.request(nowhere)
        assert exchange.status == 404


async def test_a_revocation_closes_it_with_1008(tmp_path: Path) -> None:
    async with running_relay(tmp_path, policy=POLICY, make_site=site) as relay:
        client = await relay.connect()
        stream_id, exchange = await client.request(head(relay.token()))
        client.session.send_data(stream_id, frame(TEXT, b"hi"), end_stream=False)
        reader = FrameReader()

        def read() -> FrameReader:
            reader.feed(bytes(exchange.data))
            exchange.data.clear()
            return reader

        await client.until(lambda: len(read().messages) == 2)
        assert relay.gate.revoke(subject="alice", token_id=None) == 1
        await client.until(lambda: read().closed)
        assert reader.closed == (1008, "revoked")
        await client.until(lambda: exchange.ended)
        await relay.audit.until(relay.audit.ends)
        (end,) = relay.audit.ends()
        assert end["reason"] == "revoked"
