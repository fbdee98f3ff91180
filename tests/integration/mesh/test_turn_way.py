"""A session through a TURN server, the last carrier: every transport, and what goes wrong."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.errors import (
    ClientError,
    CredentialError,
    RelayTimeout,
    RelayUnreachable,
    RelayUntrusted,
    TunnelRefused,
)
from masque_relay.client.mesh.turn_way import open_turn_way
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.turn import allocation
from masque_relay.client.turn.server import TurnLogin, TurnRoute, TurnServer, TurnTransport
from masque_relay.wire.ghostwire import ChannelKind
from tests.integration.client.commands import ghostctl
from tests.support.ghostwire_world import Recorder
from tests.support.mesh_arrival import arriving, eventually
from tests.support.mesh_peer import MeshPeer
from tests.support.site_certificate import write_site_certificate
from tests.support.turn_relay import TurnRelay, turn_relay

POLICY = """
[[rule]]
name = "mesh"
action = "allow"
who = ["*"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["*"]

[[rule]]
name = "turn-to-the-relay"
action = "allow"
who = ["dev"]
methods = ["bind-udp"]
targets = ["127.0.0.0/8:*"]
"""
TRANSPORTS = list(TurnTransport)


@pytest.fixture(scope="module")
def turn(tmp_path_factory: pytest.TempPathFactory) -> Generator[TurnRelay]:
    with turn_relay(tmp_path_factory.mktemp("relay"), policy=POLICY) as running:
        yield running


def server_of(turn: TurnRelay, transport: TurnTransport) -> TurnServer:
    host, port = turn.address(str(transport))
    return TurnServer(host=host, port=port, transport=transport)


def route_by(turn: TurnRelay, *transports: TurnTransport, subject: str = "dev") -> TurnRoute:
    made = turn.credentials(subject)
    return TurnRoute(
        servers=tuple(server_of(turn, transport) for transport in transports),
        login=TurnLogin(username=made.username, password=made.password),
    )


async def fail(turn: TurnRelay, route: TurnRoute, ca_file: Path | None = None) -> None:
    """Try to come in where nothing leads in."""
    relay = turn.relay
    options = RelayOptions(ca_file=ca_file or relay.ca_file, credential=Bearer(token=relay.token))
    await open_turn_way(RelayAddress.parse(relay.url), options, MeshPeer().make, route=route)
    pytest.fail("it came in")


async def talk(turn: TurnRelay, route: TurnRoute, token: str | None = None) -> None:
    """Let a peer come in by TURN and send datagrams, small and large, to one who is there."""
    async with (
        arriving(turn.relay, WayKind.TURN, turn=route, token=token) as alice,
        arriving(turn.relay, WayKind.H3) as bob,
    ):
        call = Recorder()
        channel = alice.session.open_channel(
            ChannelKind.DATAGRAMS, call, peer_id=bob.peer.identity.peer_id
        )
        await eventually(lambda: call.is_open)
        sent = [bytes([n]) * (30 + 50 * n) for n in range(20)]
        channel.send_datagrams(sent)
        await eventually(lambda: len(bob.peer.calls[0].datagrams) == len(sent))
        assert sorted(bob.peer.calls[0].datagrams) == sorted(sent)
        assert alice.way is not None
        assert str(route.servers[-1]) in alice.way.remote


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_peers_talk_by_every_transport(turn: TurnRelay, transport: TurnTransport) -> None:
    await talk(turn, route_by(turn, transport))


async def test_token_for_the_relay_does_for_its_own_turn_server_by_tls(turn: TurnRelay) -> None:
    route = TurnRoute(servers=(server_of(turn, TurnTransport.TLS),))
    await talk(turn, route, turn.relay.token)  # one that is bound to a key proves nothing by itself


async def test_token_is_shown_to_nobody_without_tls(turn: TurnRelay) -> None:
    route = TurnRoute(servers=(server_of(turn, TurnTransport.TCP),))
    with pytest.raises(CredentialError, match="no user name and password"):
        await fail(turn, route)


async def test_next_server_is_tried_where_one_is_away(turn: TurnRelay) -> None:
    route = route_by(turn, TurnTransport.TCP)
    away = TurnServer(host="127.0.0.1", port=9, transport=TurnTransport.TCP)
    await talk(turn, TurnRoute(servers=(away, *route.servers), login=route.login))


async def test_server_that_goes_away_sends_to_another(turn: TurnRelay, tmp_path: Path) -> None:
    host, port = turn.address("udp")
    more = f'alternate_servers = ["{host}:{port}"]\n'
    with (
        turn_relay(tmp_path, policy=POLICY, more=more) as leaving,
        leaving.client("udp") as client,
    ):
        client.allocate()  # somebody is there, so that the drain takes its time
        route = route_by(leaving, TurnTransport.UDP)
        with leaving.relay.admin() as admin:
            admin.drain(deadline_s=20)
        await talk(turn, route)
        client.refresh(0)


async def test_allocation_ends_with_the_way(turn: TurnRelay) -> None:
    def allocations() -> int:
        with turn.relay.admin() as admin:
            counted = admin.status()["turn"]
        assert isinstance(counted, dict)
        return int(counted["allocations"])

    before = await asyncio.to_thread(allocations)
    async with arriving(turn.relay, WayKind.TURN, turn=route_by(turn, TurnTransport.UDP)):
        assert await asyncio.to_thread(allocations) == before + 1
    assert await asyncio.to_thread(allocations) == before


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_wrong_password_is_refused(turn: TurnRelay, transport: TurnTransport) -> None:
    servers = (server_of(turn, transport),)
    route = TurnRoute(servers=servers, login=TurnLogin(username="1:dev", password="wrong"))
    with pytest.raises(TunnelRefused, match="401 Unauthenticated"):
        await fail(turn, route)


async def test_policy_that_does_not_let_it_reach_the_relay_refuses(turn: TurnRelay) -> None:
    with pytest.raises(TunnelRefused, match="403 Forbidden") as refused:
        await fail(turn, route_by(turn, TurnTransport.TCP, subject="mallory"))
    assert "bind-udp" in (refused.value.hint or "")


async def test_server_that_is_no_turn_server(
    turn: TurnRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation, "WAITS_S", (0.1, 0.2))
    login = TurnLogin(username="dev", password="none")
    host, port = turn.relay.ready["https"].rpartition(":")[::2]
    strangers: list[tuple[TurnServer, type[ClientError]]] = [
        (TurnServer(host=host, port=9, transport=TurnTransport.TCP), RelayUnreachable),
        (TurnServer(host=host, port=int(port), transport=TurnTransport.TCP), RelayTimeout),
        (TurnServer(host="127.0.0.1", port=9, transport=TurnTransport.UDP), RelayTimeout),
    ]
    for stranger, error in strangers:
        with pytest.raises(error):
            await fail(turn, TurnRoute(servers=(stranger,), login=login))


async def test_server_with_another_certificate_is_not_trusted(
    turn: TurnRelay, tmp_path: Path
) -> None:
    stranger = write_site_certificate(tmp_path)
    with pytest.raises(RelayUntrusted, match="TLS with turns:"):
        await fail(turn, route_by(turn, TurnTransport.TLS), ca_file=stranger.ca_file)


def test_netcheck_says_whether_turn_works(turn: TurnRelay, tmp_path: Path) -> None:
    relay = turn.relay
    file = tmp_path / "turn.json"
    secret = ["--secret", str(turn.secret_file), "--subject", "dev", "--json"]
    uri = str(server_of(turn, TurnTransport.TLS))
    file.write_text(ghostctl("token", "turn", *secret, "--uri", uri).stdout)
    way = ["--relay", relay.url, "--ca", str(relay.ca_file), "--token-file", str(relay.token_file)]

    found = json.loads(ghostctl("netcheck", *way, "--turn", str(file), "--json").stdout)

    by_turn = found["ways"][-1]
    assert by_turn["way"] == "turn"
    assert by_turn["state"] == "works", by_turn
    assert uri in by_turn["remote"]


def test_file_that_names_no_server_is_told_with_the_next_step(tmp_path: Path) -> None:
    file = tmp_path / "turn.json"
    file.write_text('{"urls": ["http://relay.example"], "credential": "secret"}')
    done = ghostctl("netcheck", "--relay", "https://localhost:1", "--turn", str(file))
    assert done.returncode == 2
    assert "names no TURN server" in done.stderr
    assert "iceServers" in done.stderr
    assert "secret" not in done.stderr
