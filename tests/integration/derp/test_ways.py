"""What DERP looks like from outside: heads, probes, WebSocket, operators; and when it is off."""

import asyncio
import ssl
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from nacl.public import Box, PrivateKey, PublicKey
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from fallbacks.derp.wire import FrameType, encode_frame
from masque_relay.wire.node_key import format_node_key
from tests.integration.server.conftest import Connect
from tests.support.derp_relay import DerpRelay, derp_relay
from tests.support.derp_socket import WAIT_S, DerpSocket
from tests.support.derp_world import split_frames
from tests.support.managed_relay import managed_relay
from tests.support.node_key_verifier import run_verifier

CONFIG = """
[derp.bootstrap_dns]
"login.example" = ["192.0.2.1", "2001:db8::1"]
"""


@pytest.fixture(scope="module")
def derp(tmp_path_factory: pytest.TempPathFactory) -> Generator[DerpRelay]:
    with derp_relay(tmp_path_factory.mktemp("derp"), config=CONFIG) as relay:
        yield relay


def connect(derp: DerpRelay, name: str) -> DerpSocket:
    return DerpSocket(derp.relay.ready["https"], derp.relay.ca_file, derp.keys[name])


def get(derp: DerpRelay, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(derp.relay.ca_file))
    url = f"https://{derp.relay.ready['https']}{path}"
    return httpx.request(method, url, headers=headers, verify=context, timeout=WAIT_S)


def websocket_to(derp: DerpRelay, subprotocol: str) -> open_websocket:
    return open_websocket(
        derp.url.replace("https", "wss"),
        ssl=ssl.create_default_context(cafile=str(derp.relay.ca_file)),
        subprotocols=[Subprotocol(subprotocol)],
        proxy=None,
    )


class TestHeads:
    def test_the_101_names_version_and_key(self, derp: DerpRelay) -> None:
        with connect(derp, "alice") as client:
            client.request()
            head = client.head().lower()
            key = client.expect(FrameType.SERVER_KEY)[8:]
        assert head.startswith("http/1.1 101 ")
        assert "derp-version: 2" in head
        assert f"derp-public-key: {key.hex()}" in head

    def test_a_fast_start_hears_no_head_and_may_speak_at_once(self, derp: DerpRelay) -> None:
        with connect(derp, "alice") as first:
            first.enter()
            server_key = first.server_key
        with connect(derp, "alice") as client:
            client.server_key = server_key
            client.request("Derp-Fast-Start: 1")
            client.socket.sendall(encode_frame(FrameType.CLIENT_INFO, client.greeting()))
            client.expect(FrameType.SERVER_KEY)
            client.expect(FrameType.SERVER_INFO)

    def test_without_an_upgrade_a_client_hears_426(self, derp: DerpRelay) -> None:
        answer = get(derp, "/derp")
        assert answer.status_code == 426
        assert answer.headers["upgrade"] == "derp"

    def test_a_fast_start_elsewhere_is_refused_with_a_head(self, derp: DerpRelay) -> None:
        with connect(derp, "alice") as client:
            client.request("Derp-Fast-Start: 1", path="/elsewhere")
            assert client.head().startswith("HTTP/1.1 404 ")


class TestProbes:
    @pytest.mark.parametrize("path", ["/derp/probe", "/derp/latency-check"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_anybody_may_measure_the_way(self, derp: DerpRelay, path: str, method: str) -> None:
        answer = get(derp, path, method)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"

    @pytest.mark.parametrize(
        ("asked", "said"),
        [("ts_1.example-x", "response ts_1.example-x"), ("a b", None), ("a" * 65, None)],
    )
    def test_a_captive_portal_check_repeats_a_proper_challenge(
        self, derp: DerpRelay, asked: str, said: str | None
    ) -> None:
        answer = get(derp, "/generate_204", **{"X-Tailscale-Challenge": asked})
        assert answer.status_code == 204
        assert answer.headers.get("x-tailscale-response") == said

    def test_names_are_answered_as_configured(self, derp: DerpRelay) -> None:
        names = {"login.example": ["192.0.2.1", "2001:db8::1"]}
        assert get(derp, "/bootstrap-dns").json() == names
        assert get(derp, "/bootstrap-dns?q=login.example").json() == names
        assert get(derp, "/bootstrap-dns?q=other.example").json() == {}


class TestWebSocket:
    async def test_messages_are_pieces_of_the_stream(self, derp: DerpRelay) -> None:
        with connect(derp, "bob") as bob, connect(derp, "alice") as alice:
            await self.exchange(derp, alice, bob)

    @staticmethod
    async def exchange(derp: DerpRelay, alice: DerpSocket, bob: DerpSocket) -> None:
        async with asyncio.timeout(WAIT_S), websocket_to(derp, "derp") as websocket:
            first = await websocket.recv()
            assert isinstance(first, bytes)
            alice.server_key = split_frames(first)[0][1][8:]
            greeting = encode_frame(FrameType.CLIENT_INFO, alice.greeting())
            for start in range(0, len(greeting), 50):
                await websocket.send(greeting[start : start + 50])
            second = await websocket.recv()
            assert isinstance(second, bytes)
            assert split_frames(second)[0][0] == FrameType.SERVER_INFO
            bob.enter()
            await websocket.send(encode_frame(FrameType.SEND_PACKET, bob.public + b"hello"))
            assert bob.expect(FrameType.RECV_PACKET) == alice.public + b"hello"

    async def test_another_subprotocol_is_refused(self, derp: DerpRelay) -> None:
        with pytest.raises(InvalidStatus, match="403"):
            await websocket_to(derp, "other")


class TestOperators:
    def test_a_client_is_seen_kicked_and_revoked(self, derp: DerpRelay) -> None:
        with derp.relay.admin() as admin:
            with connect(derp, "alice") as alice:
                alice.enter()
                seen = [t for t in admin.tunnels() if t["transport"] == "derp"]
                assert [(t["subject"], t["method"]) for t in seen] == [("alice", "ghostwire")]
                admin.kick(str(seen[0]["lease_id"]))
                assert [number for number, _ in alice.rest()] == [FrameType.HEALTH]
            with connect(derp, "carol") as carol:
                carol.enter()
                assert admin.revoke(subject="carol", token_id=None) == {"ended_tunnels": 1}
                carol.rest()
            with connect(derp, "carol") as carol:
                carol.request()
                carol.head()
                carol.greet()
                assert [number for number, _ in carol.rest()] == [FrameType.HEALTH]

    def test_policy_keeps_groups_apart(self, derp: DerpRelay) -> None:
        with connect(derp, "alice") as alice, connect(derp, "bob") as bob:
            alice.enter()
            bob.enter()
            alice.send(FrameType.SEND_PACKET, bob.public + b"hello")
            assert bob.expect(FrameType.RECV_PACKET) == alice.public + b"hello"

    def test_a_node_taken_off_the_list_is_out_at_the_reload(self, tmp_path: Path) -> None:
        with derp_relay(tmp_path) as derp, connect(derp, "alice") as alice:
            alice.enter()
            nodes = derp.directory / "nodes.toml"
            kept = [part for part in nodes.read_text().split("[") if "node.alice" not in part]
            nodes.write_text("[".join(kept))
            with derp.relay.admin() as admin:
                admin.reload()
            alice.rest()
            with connect(derp, "alice") as again:
                again.request()
                again.head()
                again.greet()
                assert [number for number, _ in again.rest()] == [FrameType.HEALTH]


def test_a_verifier_admits_keys_that_no_list_has(tmp_path: Path) -> None:
    allowed, stranger = PrivateKey.generate(), PrivateKey.generate()
    name = format_node_key(bytes(allowed.public_key))
    policy = """
    [group.verified]
    claims = ["verified"]

    [[rule]]
    name = "verified"
    action = "allow"
    who = ["group:verified"]
    methods = ["ghostwire"]
    targets = ["*"]
    peers = ["*"]
    """
    with run_verifier(name) as verifier:
        gate = f'verifier_url = "{verifier.url}"\nverifier_groups = ["verified"]'
        with derp_relay(tmp_path, gate=gate, policy=policy) as derp:
            https, ca_file = derp.relay.ready["https"], derp.relay.ca_file
            with DerpSocket(https, ca_file, allowed) as client:
                client.enter()
            with DerpSocket(https, ca_file, stranger) as client:
                client.request()
                client.head()
                client.greet()
                assert [number for number, _ in client.rest()] == [FrameType.HEALTH]
    assert verifier.asked[0] == {"NodePublic": name, "Source": "127.0.0.1"}
    assert len(verifier.asked) == 2


async def test_beyond_the_cap_of_unproved_clients_the_answer_is_503(tmp_path: Path) -> None:
    with (
        derp_relay(tmp_path, config="limits = { max_unproved = 1 }") as derp,
        connect(derp, "alice") as waiting,
        connect(derp, "bob") as bob,
    ):
        waiting.request()
        assert waiting.head().startswith("HTTP/1.1 101 ")
        bob.request()
        assert bob.head().startswith("HTTP/1.1 503 ")
        with pytest.raises(InvalidStatus, match="503"):
            await websocket_to(derp, "derp")
        waiting.greet()
        waiting.expect(FrameType.SERVER_INFO)
        with connect(derp, "bob") as bob_again:
            bob_again.enter()


async def test_it_runs_over_http3_too(derp: DerpRelay, open_h3: Connect) -> None:
    client = await open_h3(derp.relay)
    alice = derp.keys["alice"]
    stream_id, answer = await client.request(
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"derp"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", b"/derp"),
        ]
    )
    assert answer.status == 200
    await client.until(lambda: len(answer.data) == 45)
    server_key = PublicKey(bytes(answer.data[13:]))
    box = Box(alice, server_key).encrypt(b'{"version":2}')
    greeting = encode_frame(FrameType.CLIENT_INFO, derp.public("alice") + bytes(box))
    client.session.send_data(stream_id, greeting, end_stream=False)
    await client.until(lambda: len(answer.data) > 45)
    client.session.send_data(stream_id, encode_frame(FrameType.PING, b"12345678"), end_stream=False)
    pong = encode_frame(FrameType.PONG, b"12345678")
    await client.until(lambda: answer.data.endswith(pong))
    assert [number for number, _ in split_frames(bytes(answer.data))] == [
        FrameType.SERVER_KEY,
        FrameType.SERVER_INFO,
        FrameType.PONG,
    ]


def test_without_node_keys_the_relay_says_that_nobody_can_come_in(tmp_path: Path) -> None:
    with managed_relay(tmp_path, config="[derp]\nenabled = true\n") as relay:
        assert relay.records("DERP is on, but no node key is accepted")
        derp = DerpRelay(relay=relay, keys={"alice": PrivateKey.generate()}, directory=tmp_path)
        with connect(derp, "alice") as client:
            client.request()
            client.head()
            client.greet()
            assert [number for number, _ in client.rest()] == [FrameType.HEALTH]


def test_without_derp_there_is_no_route(tmp_path: Path) -> None:
    with managed_relay(tmp_path) as relay:
        derp = DerpRelay(relay=relay, keys={"alice": PrivateKey.generate()}, directory=tmp_path)
        for path in ("/derp", "/derp/probe", "/generate_204", "/bootstrap-dns"):
            assert get(derp, path).status_code == 404
        with connect(derp, "alice") as client:
            client.request()
            assert client.head().startswith("HTTP/1.1 501 ")
        with relay.admin() as admin:
            assert admin.status()["derp"] is None
