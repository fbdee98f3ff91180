"""Two peers at a real relay, whatever carries their sessions."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.mesh.http_way import open_http_way
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.quic_way import open_quic_way
from masque_relay.client.mesh.way import OpenWay, WayKind
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode
from tests.integration.client.commands import WAIT_S
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_peer import MeshPeer as Peer
from tests.support.udp_echo import run_udp_echo

ALL = [WayKind.H3, WayKind.H2, WayKind.H1, WayKind.QUIC]


async def eventually(condition: Any) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (what is waited for is seen from outside)
            await asyncio.sleep(0.005)


@asynccontextmanager
async def arriving(relay: ManagedRelay, kind: WayKind, peer: Peer) -> AsyncGenerator[OpenWay]:
    """Let a peer come in by one way; the block runs when its session is open or refused."""
    address = RelayAddress.parse(relay.url)
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    make = partial(peer.make, name=address.host)
    if kind is WayKind.QUIC:
        way = await open_quic_way(address, options, partial(make, token=relay.token))
    else:
        way = await open_http_way(kind, address, options, make)
    try:
        async with asyncio.timeout(WAIT_S):
            await peer.opened.wait()
        yield way
    finally:
        if peer.session is not None:
            peer.session.close()
        await way.close()


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with managed_relay(tmp_path_factory.mktemp("relay")) as running:
        yield running


@pytest.mark.parametrize("kind", ALL)
async def test_datagrams_and_bytes_pass_between_any_way_and_http3(
    relay: ManagedRelay, kind: WayKind
) -> None:
    alice, bob = Peer(), Peer()
    async with arriving(relay, kind, alice), arriving(relay, WayKind.H3, bob):
        assert alice.session is not None
        assert alice.session.is_open
        call = Recorder()
        channel = alice.session.open_channel(
            ChannelKind.DATAGRAMS, call, peer_id=bob.identity.peer_id, service=b"dns"
        )
        await eventually(lambda: call.is_open)
        sent = [bytes([n]) * (50 + n) for n in range(20)] + [bytes(4_000)]
        channel.send_datagrams(sent)
        await eventually(lambda: len(bob.calls[0].datagrams) == len(sent))
        assert sorted(bob.calls[0].datagrams) == sorted(sent)

        stream = Recorder()
        stream.channel = alice.session.open_channel(
            ChannelKind.STREAM, stream, peer_id=bob.identity.peer_id
        )
        await eventually(lambda: stream.is_open)
        payload = secrets.token_bytes(300_000)
        async with asyncio.timeout(WAIT_S):
            at = 0
            while at < len(payload):
                at += stream.channel.send(payload[at:])
                await asyncio.sleep(0.001)
        stream.channel.end()
        await eventually(lambda: bob.calls[1].has_ended)
        assert bob.calls[1].data == payload


@pytest.mark.parametrize("kind", ALL)
async def test_channel_to_a_host_is_a_request_of_its_own(
    relay: ManagedRelay, kind: WayKind
) -> None:
    alice = Peer()
    with run_udp_echo() as echo:
        async with arriving(relay, kind, alice):
            assert alice.session is not None
            udp, refused = Recorder(), Recorder()
            channel = alice.session.open_channel(
                ChannelKind.UDP, udp, host="127.0.0.1", port=echo.port
            )
            alice.session.open_channel(ChannelKind.TCP, refused, host="169.254.169.254", port=80)
            await eventually(lambda: udp.is_open and refused.closed)
            channel.send_datagrams([b"hello"])
            await eventually(lambda: udp.datagrams)

            assert udp.datagrams[0].endswith(b"hello")
            assert refused.closed is not None
            assert refused.closed[0] == ErrorCode.DENIED


async def test_newer_session_replaces_the_older_over_another_way(relay: ManagedRelay) -> None:
    identity = PeerIdentity.generate()
    older, newer = Peer(identity), Peer(identity)
    async with arriving(relay, WayKind.H2, older), arriving(relay, WayKind.H3, newer):
        await eventually(lambda: older.closed is not None)

        assert older.closed is not None
        assert older.closed[0] == ErrorCode.REPLACED
        assert newer.session is not None
        assert newer.session.is_open


async def test_stranger_is_refused_on_a_connection_of_its_own(relay: ManagedRelay) -> None:
    stranger = Peer()
    address = RelayAddress.parse(relay.url)
    options = RelayOptions(ca_file=relay.ca_file)
    way = await open_quic_way(
        address, options, partial(stranger.make, name=address.host, token="nonsense")
    )
    try:
        await eventually(lambda: stranger.closed is not None)
        assert stranger.closed == (ErrorCode.UNAUTHENTICATED, "", 0)
    finally:
        await way.close()
