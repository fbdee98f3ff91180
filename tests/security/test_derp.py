"""Bad input of DERP clients at a real relay: only the connection that sent it ends."""

import struct
from collections.abc import Generator

import pytest
from nacl.public import PrivateKey

from fallbacks.derp.wire import FrameType, encode_frame
from masque_relay.contract.verdict import DenyReason
from tests.support.derp_relay import MESH_KEY, DerpRelay, derp_relay
from tests.support.derp_socket import DerpSocket
from tests.support.derp_world import DerpClient, DerpWorld

LONG = struct.Struct("!BI")


@pytest.fixture(scope="module")
def derp(tmp_path_factory: pytest.TempPathFactory) -> Generator[DerpRelay]:
    with derp_relay(tmp_path_factory.mktemp("derp")) as relay:
        yield relay


@pytest.fixture
def neighbours(derp: DerpRelay) -> Generator[tuple[DerpSocket, DerpSocket]]:
    """Two clients that must notice nothing of whatever the test does."""
    with connect(derp, "bob") as bob, connect(derp, "mesh") as other:
        yield bob.enter(), other.enter()
        for sender, receiver in ((bob, other), (other, bob)):
            sender.send(FrameType.SEND_PACKET, receiver.public + b"still here")
            assert receiver.expect(FrameType.RECV_PACKET) == sender.public + b"still here"


def connect(derp: DerpRelay, name: str) -> DerpSocket:
    return DerpSocket(derp.relay.ready["https"], derp.relay.ca_file, derp.keys[name])


@pytest.mark.parametrize(
    "data",
    [
        LONG.pack(FrameType.SEND_PACKET, 2**32 - 1),
        LONG.pack(FrameType.SEND_PACKET, 65_536 + 65),
        LONG.pack(0x7F, 2**31),
        encode_frame(FrameType.SEND_PACKET, bytes(31)),
        encode_frame(FrameType.SEND_PACKET, bytes(32 + 65_537)),
        encode_frame(FrameType.PING, b"short"),
        encode_frame(FrameType.NOTE_PREFERRED, b"\x07"),
        encode_frame(FrameType.CLIENT_INFO, bytes(80)),
        encode_frame(FrameType.WATCH_CONNS),
        encode_frame(FrameType.CLOSE_PEER, bytes(32)),
        encode_frame(FrameType.FORWARD_PACKET, bytes(64)),
    ],
)
def test_a_frame_that_breaks_the_rules_ends_its_connection_alone(
    derp: DerpRelay, neighbours: tuple[DerpSocket, DerpSocket], data: bytes
) -> None:
    with connect(derp, "alice") as alice:
        alice.enter()
        alice.socket.sendall(data)
        assert alice.rest() == []


@pytest.mark.parametrize(
    "data",
    [
        LONG.pack(FrameType.CLIENT_INFO, 4_097),
        encode_frame(FrameType.CLIENT_INFO, bytes(10)),
        encode_frame(FrameType.SEND_PACKET, bytes(40)),
        encode_frame(FrameType.PING, bytes(8)),
    ],
)
def test_before_its_greeting_a_client_gets_nothing(
    derp: DerpRelay, neighbours: tuple[DerpSocket, DerpSocket], data: bytes
) -> None:
    with connect(derp, "alice") as alice:
        alice.request()
        alice.head()
        alice.expect(FrameType.SERVER_KEY)
        alice.socket.sendall(data)
        assert alice.rest() == []


def test_a_box_for_another_server_or_by_another_key_is_refused(derp: DerpRelay) -> None:
    for wrong in ("server", "key"):
        with connect(derp, "alice") as alice:
            alice.request()
            alice.head()
            alice.server_key = alice.expect(FrameType.SERVER_KEY)[8:]
            if wrong == "server":
                alice.server_key = bytes(PrivateKey.generate().public_key)
            else:
                alice.key = PrivateKey.generate()  # the public key stays alice's
            alice.send(FrameType.CLIENT_INFO, alice.greeting())
            assert [number for number, _ in alice.rest()] == [FrameType.HEALTH]


def test_a_mesh_key_lets_nobody_in_whose_node_key_is_not_admitted(derp: DerpRelay) -> None:
    with connect(derp, "mallory") as mallory:
        mallory.request()
        mallory.head()
        mallory.greet(meshKey=MESH_KEY)
        assert [number for number, _ in mallory.rest()] == [FrameType.HEALTH]


def test_a_frame_cut_short_by_the_end_of_the_connection_is_not_delivered(
    derp: DerpRelay, neighbours: tuple[DerpSocket, DerpSocket]
) -> None:
    bob, _ = neighbours
    with connect(derp, "alice") as alice:
        alice.enter()
        alice.socket.sendall(encode_frame(FrameType.SEND_PACKET, bob.public + bytes(100))[:-1])


def test_unknown_types_are_skipped(derp: DerpRelay) -> None:
    with connect(derp, "alice") as alice:
        alice.enter()
        for number in (0x00, 0x0B, 0x42, 0xFF, FrameType.RECV_PACKET, FrameType.SERVER_KEY):
            alice.send(number, b"whatever")
        alice.send(FrameType.PING, b"12345678")
        assert alice.expect(FrameType.PONG) == b"12345678"


def test_keys_identities_and_reasons_stay_out_of_the_log(derp: DerpRelay) -> None:
    with connect(derp, "alice") as alice:
        alice.enter()
    log = derp.relay.log()
    for secret in (MESH_KEY, alice.public.hex(), bytes(alice.key).hex(), "alice"):
        assert secret not in log


@pytest.mark.parametrize("reason", DenyReason)
def test_whoever_is_denied_is_no_member_and_hears_no_reason(reason: DenyReason) -> None:
    world = DerpWorld()
    world.refuse_with = reason
    client = DerpClient(world, "alice")
    client.feed(client.greeting())
    assert client.pipe.is_over
    assert world.board.find(client.public) is None
    assert b"secret" not in client.pipe.data
    assert reason.value.encode() not in client.pipe.data


def test_what_an_unproved_client_makes_us_keep_is_bounded() -> None:
    world = DerpWorld()
    client = DerpClient(world, "alice")
    client.feed(LONG.pack(FrameType.CLIENT_INFO, 4_096) + bytes(4_095))
    assert client.session._decoder.held_bytes == 4_100
