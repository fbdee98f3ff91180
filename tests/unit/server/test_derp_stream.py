"""server/derp_stream.py: an Upgrade, then DERP; the other server is written out by hand."""

import pytest

from fallbacks.derp.mesh_client import MeshClient, MeshPorts
from fallbacks.derp.wire import FrameType, encode_frame, encode_server_key
from masque_relay.contract.counters import DerpMeshCounters
from masque_relay.contract.derp_limits import DerpMeshLimits
from masque_relay.contract.verdict import EndReason
from masque_relay.server.derp_stream import MAX_HEAD_BYTES, UpgradedStream
from tests.support.derp_world import MESH_KEY, DerpWorld, split_frames

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"


class FakeWire:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self.is_congested = False
        self.is_closed = False
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.data += data

    def pause_reading(self) -> None:
        raise AssertionError("nothing makes us wait")

    def resume_reading(self) -> None:
        raise AssertionError("nothing made us wait")

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class Rig:
    """A session on a stream on a wire."""

    def __init__(self) -> None:
        self.world = DerpWorld()
        self.other = DerpWorld()
        self.session = MeshClient(
            MeshPorts(
                box=self.world.box,
                mesh_key=MESH_KEY,
                elsewhere=self.world.elsewhere,
                random_bytes=bytes,
                monotonic_s=lambda: self.world.now_s,
                jitter=lambda: 0.0,
                counters=DerpMeshCounters(),
                limits=DerpMeshLimits(),
            )
        )
        self.wire = FakeWire()
        self.stream = UpgradedStream(
            self.session, self.wire, authority="other.example:8443", path="/derp"
        )
        self.stream.start()

    @property
    def greeting(self) -> bytes:
        """What the other server says first."""
        return HEAD + encode_server_key(self.other.box.public_key)

    def upgraded(self) -> "Rig":
        """Be past the greeting, and forget what we sent up to then."""
        self.stream.data_received(self.greeting)
        self.wire.data = b""
        return self


def test_the_request_is_an_upgrade_that_names_the_other_server() -> None:
    lines = Rig().wire.data.decode().split("\r\n")
    assert lines[0] == "GET /derp HTTP/1.1"
    assert {line.lower() for line in lines[1:] if line} == {
        "host: other.example:8443",
        "connection: upgrade",
        "upgrade: derp",
    }


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_the_session_begins_behind_the_head_however_it_is_cut(step: int) -> None:
    rig = Rig()
    asked_bytes = len(rig.wire.data)
    data = rig.greeting
    for start in range(0, len(data), step):
        rig.stream.data_received(data[start : start + step])
    frames = split_frames(rig.wire.data[asked_bytes:])
    assert [number for number, _ in frames] == [FrameType.CLIENT_INFO]
    assert rig.stream.changed.is_set()


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n", "answered 426"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "answered 200"),
        (HEAD.replace(b"DERP", b"websocket"), "something else"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 101 " + b"x" * MAX_HEAD_BYTES, "not HTTP"),
    ],
)
def test_an_answer_that_is_no_upgrade_ends_it_with_a_word(answer: bytes, fault: str) -> None:
    rig = Rig()
    rig.stream.data_received(answer)
    assert fault in rig.stream.fault
    assert rig.session.end_reason is EndReason.PROTOCOL_ERROR
    assert rig.wire.is_aborted


def test_a_connection_that_ends_before_the_answer_says_so() -> None:
    rig = Rig()
    rig.stream.end_received()
    assert "without an answer" in rig.stream.fault
    assert rig.session.end_reason is not None


def test_a_server_that_breaks_the_protocol_is_cut_off() -> None:
    rig = Rig().upgraded()
    rig.stream.data_received(encode_frame(FrameType.PEER_PRESENT, bytes(32)))
    assert "PEER_PRESENT" in rig.stream.fault
    assert rig.wire.is_aborted


def test_the_end_inside_a_frame_is_named() -> None:
    rig = Rig().upgraded()
    rig.stream.data_received(b"\x12")
    rig.stream.end_received()
    assert "inside a frame" in rig.stream.fault


def test_the_end_between_frames_ends_the_session() -> None:
    rig = Rig().upgraded()
    rig.stream.end_received()
    assert rig.session.end_reason is EndReason.PEER_CLOSED
    assert rig.wire.is_closed


def test_what_the_socket_does_not_take_waits_in_order() -> None:
    rig = Rig().upgraded()
    rig.wire.is_congested = True
    rig.stream.send(b"one")
    rig.stream.send(b"two")
    assert (rig.wire.data, rig.stream.unsent_bytes) == (b"", 6)
    rig.wire.is_congested = False
    rig.stream.writable()
    rig.stream.send(b"three")
    assert (rig.wire.data, rig.stream.unsent_bytes) == (b"onetwothree", 0)


def test_the_end_waits_for_what_is_queued() -> None:
    rig = Rig().upgraded()
    rig.wire.is_congested = True
    rig.stream.send(b"last")
    rig.stream.end_sending()
    rig.stream.send(b"too late")
    assert not rig.wire.is_closed
    rig.wire.is_congested = False
    rig.stream.writable()
    assert rig.wire.is_closed
    assert rig.wire.data == b"last"


def test_a_lost_connection_ends_the_session() -> None:
    rig = Rig().upgraded()
    rig.stream.changed.clear()
    rig.stream.wire_lost()
    rig.stream.send(b"nobody hears it")
    assert rig.session.end_reason is EndReason.CONNECTION_LOST
    assert rig.stream.changed.is_set()
    assert rig.wire.data == b""
    assert not rig.stream.overdue(1e9)
