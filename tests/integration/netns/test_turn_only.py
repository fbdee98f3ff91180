"""A network that lets out nothing but TURN: the mesh comes through, and back up when it may."""

import asyncio
import secrets
from collections.abc import Generator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.mesh.uplink import UplinkChange, UplinkSettings
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import ways_to
from masque_relay.client.turn.server import TurnLogin, TurnRoute, TurnServer, TurnTransport
from tests.support.machine import RELAY, firewall, machine_on_a_cable
from tests.support.mesh_arrival import WAIT_S
from tests.support.netns import NamespaceEnd
from tests.support.turn_relay import TurnRelay, turn_relay

POLICY = f"""
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
targets = ["{RELAY}/32:*"]
"""
PROBE_UP_S = (2.0, 2.0)


@pytest.fixture
def machine() -> Generator[NamespaceEnd]:
    with machine_on_a_cable() as machine:
        yield machine


async def exchange(stream: PeerStream) -> None:
    """Send something and wait until all of it has come back."""
    payload = secrets.token_bytes(200_000)
    received = bytearray()
    await stream.write(payload)
    while len(received) < len(payload):
        received += await stream.read()
    assert received == payload


async def talk(turn: TurnRelay, port: int, machine: NamespaceEnd) -> None:
    relay, made = turn.relay, turn.credentials()
    address = replace(
        RelayAddress.parse(f"https://localhost:{relay.port}"), addresses=(ip_address(RELAY),)
    )
    route = TurnRoute(
        servers=(TurnServer(host="localhost", port=port, transport=TurnTransport.TLS),),
        login=TurnLogin(username=made.username, password=made.password),
    )
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    settings = UplinkSettings(
        ways=ways_to(address, options, turn=route),
        token=relay.token,
        relay_name=address.host,
        probe_up_s=PROBE_UP_S,
    )
    changes: list[UplinkChange] = []

    async def echo(stream: PeerStream) -> None:
        while data := await stream.read():
            await stream.write(data)
        stream.write_eof()

    firewall(machine, f"tcp dport {port}")
    async with (
        asyncio.TaskGroup() as tasks,
        MeshNode(PeerIdentity.generate(), settings, direct=False) as bob,
        MeshNode(
            PeerIdentity.generate(), settings, direct=False, on_change=changes.append
        ) as alice,
        asyncio.timeout(2 * WAIT_S),
    ):
        await bob.wait_up()
        await alice.wait_up()
        assert [change.kind for change in changes] == [WayKind.TURN]
        bob.serve(b"echo", lambda _, stream: tasks.create_task(echo(stream)))
        stream = await alice.open_stream(bob.identity.peer_id, b"echo")
        await exchange(stream)
        firewall(machine, "meta l4proto { tcp, udp, icmp }")
        while changes[-1].kind is not WayKind.H3:  # noqa: ASYNC110  (seen from outside)
            await asyncio.sleep(0.05)
        await exchange(stream)
        stream.write_eof()
        assert not await stream.read()


def test_mesh_comes_through_by_turn_and_moves_up_when_it_may(
    machine: NamespaceEnd, tmp_path: Path
) -> None:
    with turn_relay(
        tmp_path,
        policy=POLICY,
        listen=f'tls = ["{RELAY}:0"]',
        h3=f"{RELAY}:0",
    ) as turn:
        port = turn.address("tls")[1]  # asked here: the machine does not see the admin API
        machine.call(lambda: asyncio.run(talk(turn, port, machine)))
