"""Nodes: end-to-end encrypted streams between peers, at a real relay."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.errors import ConnectionLost, PeerRefused
from masque_relay.client.mesh.direct_peers import PathChange
from masque_relay.client.mesh.http_way import open_http_way
from masque_relay.client.mesh.https_way import open_https_way
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.mesh.quic_way import open_quic_way
from masque_relay.client.mesh.uplink import UplinkSettings
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.websocket_way import open_websocket_way
from tests.integration.client.commands import WAIT_S
from tests.support.managed_relay import ManagedRelay, managed_relay


def ways_to(relay: ManagedRelay, kinds: list[WayKind]) -> UplinkSettings:
    address = RelayAddress.parse(relay.url)
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    openers: dict[WayKind, Any] = {
        WayKind.QUIC: partial(open_quic_way, address, options),
        WayKind.WEBSOCKET: partial(open_websocket_way, address, options),
        WayKind.HTTPS: partial(open_https_way, address, options),
    }
    for kind in (WayKind.H3, WayKind.H2, WayKind.H1):
        openers[kind] = partial(open_http_way, kind, address, options)
    return UplinkSettings(
        ways=[(kind, openers[kind]) for kind in kinds], token=relay.token, relay_name=address.host
    )


class Echo:
    """A service that sends everything back."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.callers: list[bytes] = []

    def __call__(self, peer_id: bytes, stream: PeerStream) -> None:
        self.callers.append(peer_id)
        self.tasks.create_task(self._run(stream))

    async def _run(self, stream: PeerStream) -> None:
        while data := await stream.read():
            await stream.write(data)
        stream.write_eof()


@asynccontextmanager
async def node(
    relay: ManagedRelay, *kinds: WayKind, identity: PeerIdentity | None = None
) -> AsyncGenerator[MeshNode]:
    settings = ways_to(relay, list(kinds) or [WayKind.H3])
    async with MeshNode(identity or PeerIdentity.generate(), settings) as made:
        async with asyncio.timeout(WAIT_S):
            await made.wait_up()
        yield made


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with managed_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.mark.parametrize(
    "kind",
    [WayKind.H3, WayKind.QUIC, WayKind.H2, WayKind.H1, WayKind.WEBSOCKET, WayKind.HTTPS],
)
async def test_stream_between_peers_carries_bytes_and_their_end(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with asyncio.TaskGroup() as tasks, node(relay) as bob, node(relay, kind) as alice:
        echo = Echo(tasks)
        bob.serve(b"echo", echo)
        stream = await alice.open_stream(bob.identity.peer_id, b"echo")
        payload = secrets.token_bytes(400_000)

        async def send() -> None:
            for at in range(0, len(payload), 10_000):
                await stream.write(payload[at : at + 10_000])
            stream.write_eof()

        tasks.create_task(send())
        received = bytearray()
        async with asyncio.timeout(WAIT_S):
            while data := await stream.read():
                received += data

        assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()
        assert echo.callers == [alice.identity.peer_id]


async def test_service_that_nobody_has_is_refused(relay: ManagedRelay) -> None:
    async with node(relay) as bob, node(relay) as alice:
        stream = await alice.open_stream(bob.identity.peer_id, b"nothing")
        with pytest.raises(PeerRefused):
            async with asyncio.timeout(WAIT_S):
                await stream.read()


async def test_peer_that_is_away_is_said_to_be_away(relay: ManagedRelay) -> None:
    async with node(relay) as alice:
        with pytest.raises(ConnectionLost, match="away, or you may not call it"):
            await alice.connect(PeerIdentity.generate().peer_id, timeout_s=1.5)


async def test_transfer_survives_the_relays_restart(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        first = stack.enter_context(managed_relay(tmp_path, expect_exit=None))
        port = first.port
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        bob = await stack.enter_async_context(node(first))
        alice = await stack.enter_async_context(node(first, WayKind.H3, WayKind.H2))
        bob.serve(b"echo", Echo(tasks))
        stream = await alice.open_stream(bob.identity.peer_id, b"echo")
        payload = secrets.token_bytes(600_000)
        received = bytearray()

        async def send() -> None:
            for at in range(0, len(payload), 10_000):
                await stream.write(payload[at : at + 10_000])
                await asyncio.sleep(0.002)
            stream.write_eof()

        async def receive() -> None:
            while data := await stream.read():
                received.extend(data)

        sending = tasks.create_task(send())
        receiving = tasks.create_task(receive())
        while len(received) < 100_000:  # noqa: ASYNC110  (seen from outside)
            await asyncio.sleep(0.01)
        first.process.kill()
        first.process.wait()
        again = ["--listen", f"127.0.0.1:{port}"]
        stack.enter_context(managed_relay(tmp_path, arguments=again, expect_exit=None))
        async with asyncio.timeout(2 * WAIT_S):
            await sending
            await receiving

        assert bytes(received) == payload


async def test_peers_go_direct_and_the_relays_death_does_not_matter_then(tmp_path: Path) -> None:
    changes: list[PathChange] = []
    async with AsyncExitStack() as stack:
        relay = stack.enter_context(managed_relay(tmp_path, expect_exit=None))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        bob = await stack.enter_async_context(node(relay))
        alice = await stack.enter_async_context(
            MeshNode(PeerIdentity.generate(), ways_to(relay, [WayKind.H3]), on_path=changes.append)
        )
        async with asyncio.timeout(WAIT_S):
            await alice.wait_up()
        bob.serve(b"echo", Echo(tasks))
        stream = await alice.open_stream(bob.identity.peer_id, b"echo")
        async with asyncio.timeout(WAIT_S):
            while not changes:  # noqa: ASYNC110  (seen from outside)
                await asyncio.sleep(0.01)
        assert changes[0].peer_id == bob.identity.peer_id
        assert changes[0].address is not None
        relay.process.kill()
        relay.process.wait()
        payload = secrets.token_bytes(200_000)
        received = bytearray()
        async with asyncio.timeout(WAIT_S):
            for at in range(0, len(payload), 10_000):
                await stream.write(payload[at : at + 10_000])
                received += await stream.read()
            stream.write_eof()
            while data := await stream.read():
                received += data

        assert bytes(received) == payload
