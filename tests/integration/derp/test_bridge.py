"""A Ghostwire peer and a DERP client at one real relay."""

import asyncio
from collections.abc import Generator

import pytest

from fallbacks.derp.wire import FrameType
from masque_relay.client.mesh.way import WayKind
from masque_relay.wire.ghostwire import ChannelKind
from tests.integration.mesh.test_ways import arriving, eventually
from tests.support.derp_relay import DerpRelay, derp_relay
from tests.support.derp_socket import DerpSocket
from tests.support.ghostwire_world import Recorder
from tests.support.mesh_peer import MeshPeer


@pytest.fixture(scope="module")
def derp(tmp_path_factory: pytest.TempPathFactory) -> Generator[DerpRelay]:
    with derp_relay(tmp_path_factory.mktemp("derp")) as relay:
        yield relay


def connect(derp: DerpRelay, name: str) -> DerpSocket:
    return DerpSocket(derp.relay.ready["https"], derp.relay.ca_file, derp.keys[name])


@pytest.mark.parametrize("kind", [WayKind.H3, WayKind.H1])
async def test_either_calls_the_other_and_is_answered(derp: DerpRelay, kind: WayKind) -> None:
    peer = MeshPeer()
    async with arriving(derp.relay, kind, peer):
        with await asyncio.to_thread(connect, derp, "alice") as alice:
            await asyncio.to_thread(alice.enter)
            await asyncio.to_thread(
                alice.send, FrameType.SEND_PACKET, peer.identity.peer_id + b"from derp"
            )
            await eventually(lambda: peer.calls and peer.calls[0].datagrams)
            assert peer.calls[0].datagrams == [b"from derp"]
            assert peer.calls[0].channel is not None
            peer.calls[0].channel.send_datagrams([b"back"])
            got = await asyncio.to_thread(alice.expect, FrameType.RECV_PACKET)
            assert got == peer.identity.peer_id + b"back"
        with await asyncio.to_thread(connect, derp, "bob") as bob:
            await asyncio.to_thread(bob.enter)
            assert peer.session is not None
            call = Recorder()
            channel = peer.session.open_channel(
                ChannelKind.DATAGRAMS, call, peer_id=bob.public, service=b""
            )
            await eventually(lambda: call.is_open)
            channel.send_datagrams([b"from ghostwire"])
            got = await asyncio.to_thread(bob.expect, FrameType.RECV_PACKET)
            assert got == peer.identity.peer_id + b"from ghostwire"


async def test_policy_keeps_a_derp_client_and_a_ghostwire_peer_apart(derp: DerpRelay) -> None:
    peer = MeshPeer()
    async with arriving(derp.relay, WayKind.H3, peer):
        with await asyncio.to_thread(connect, derp, "carol") as carol:
            await asyncio.to_thread(carol.enter)
            await asyncio.to_thread(
                carol.send, FrameType.SEND_PACKET, peer.identity.peer_id + b"hello"
            )
            gone = await asyncio.to_thread(carol.expect, FrameType.PEER_GONE)
            assert gone == peer.identity.peer_id + b"\x01"
            assert peer.calls == []
