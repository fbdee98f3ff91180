"""A machine whose address changes: its peers notice, come back, and a live stream goes on."""

import asyncio
import secrets
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.errors import ConnectionLost
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.mesh.uplink import UplinkChange, UplinkSettings, UplinkState
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import ways_to
from tests.integration.client.commands import WAIT_S
from tests.support.machine import MACHINE as OLD
from tests.support.machine import RELAY, ip, machine_on_a_cable
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.netns import NamespaceEnd

NEW = "10.83.7.3"


@pytest.fixture
def machine() -> Generator[NamespaceEnd]:
    with machine_on_a_cable() as machine:
        yield machine


async def exchange(stream: PeerStream) -> None:
    """Send something and wait until all of it has come back."""
    payload = secrets.token_bytes(50_000)
    received = bytearray()
    await stream.write(payload)
    while len(received) < len(payload):
        received += await stream.read()
    assert received == payload


async def talk_and_move(relay: ManagedRelay, machine: NamespaceEnd, kind: WayKind) -> None:
    parsed = RelayAddress.parse(f"https://localhost:{relay.port}")
    address = replace(parsed, addresses=(ip_address(RELAY),))
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    settings = UplinkSettings(
        ways=ways_to(address, options, kinds=[kind]), token=relay.token, relay_name=address.host
    )
    changes: list[UplinkChange] = []

    async def echo(stream: PeerStream) -> None:
        # Bob closes when the test fails; his words must not hide what it failed of.
        with suppress(ConnectionLost):
            while data := await stream.read():
                await stream.write(data)
            stream.write_eof()

    async with (
        asyncio.TaskGroup() as tasks,
        MeshNode(PeerIdentity.generate(), settings, direct=False) as bob,
        MeshNode(
            PeerIdentity.generate(), settings, direct=False, on_change=changes.append
        ) as alice,
        asyncio.timeout(WAIT_S),
    ):
        await bob.wait_up()
        await alice.wait_up()
        bob.serve(b"echo", lambda _, stream: tasks.create_task(echo(stream)))
        stream = await alice.open_stream(bob.identity.peer_id, b"echo")
        await exchange(stream)
        assert [change.state for change in changes] == [UplinkState.UP]

        ip("-n", machine.name, "address", "add", f"{NEW}/24", "dev", machine.address)
        ip("-n", machine.name, "address", "delete", f"{OLD}/24", "dev", machine.address)
        ip("-n", machine.name, "address", "replace", f"{NEW}/24", "dev", machine.address)
        ip("-n", machine.name, "route", "replace", "default", "via", RELAY)
        await exchange(stream)
        while len(changes) < 2:  # noqa: ASYNC110  (seen from outside)
            await asyncio.sleep(0.05)
        await exchange(stream)
        stream.write_eof()
        assert not await stream.read()


@pytest.mark.parametrize("kind", [WayKind.H3, WayKind.WEBSOCKET])
def test_live_stream_survives_another_address(
    machine: NamespaceEnd, tmp_path: Path, kind: WayKind
) -> None:
    with managed_relay(tmp_path, arguments=["--listen", f"{RELAY}:0"]) as relay:
        machine.call(lambda: asyncio.run(talk_and_move(relay, machine, kind)))
