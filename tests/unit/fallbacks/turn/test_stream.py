"""A client's TCP or TLS connection."""

import pytest

from fallbacks.turn.path import PathKind, Splice
from fallbacks.turn.stream import TurnStream
from masque_relay.stun.codepoints import MessageClass, Method
from masque_relay.stun.message import encode_message
from tests.support.turn_rig import PEER, RigClient, TurnRig

BINDING = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12))


class FakeWire:
    def __init__(self) -> None:
        self.is_congested = False
        self.written: list[bytes] = []
        self.is_reading = True
        self.is_closed = False
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class RecordingSplice:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def client_bytes(self, data: bytes) -> None:
        self.heard.append(data)

    def client_end(self) -> None:
        self.heard.append("end")

    def client_writable(self) -> None:
        self.heard.append("writable")

    def client_lost(self) -> None:
        self.heard.append("lost")


@pytest.fixture
def wire() -> FakeWire:
    return FakeWire()


@pytest.fixture
def stream(rig: TurnRig, wire: FakeWire) -> TurnStream:
    path = rig.path()
    made = TurnStream(rig.session, wire, kind=PathKind.TCP, client=path.client, server=path.server)
    made.start()
    return made


class StreamClient(RigClient):
    """Sends its messages byte by byte through the stream."""

    def __init__(self, rig: TurnRig, stream: TurnStream, wire: FakeWire) -> None:
        super().__init__(rig, rig.path(kind=PathKind.TCP), rig.credentials())
        self.stream, self.wire = stream, wire

    def deliver(self, data: bytes) -> list[bytes]:
        before = len(self.wire.written)
        for index in range(len(data)):
            self.stream.data_received(data[index : index + 1])
        return self.wire.written[before:]


def test_requests_are_answered_however_they_are_cut(
    rig: TurnRig, stream: TurnStream, wire: FakeWire
) -> None:
    client = StreamClient(rig, stream, wire)
    client.allocate()
    assert client.bind_channel(0x4000, PEER).ok
    wire.written.clear()
    rig.relay_sockets[0].arrive(PEER, b"abcde", b"f")
    rig.readable(rig.relay_sockets[0])
    assert b"".join(wire.written) == b"\x40\0\0\5abcde\0\0\0\x40\0\0\1f\0\0\0"


def test_channel_data_behind_a_request_in_one_segment(
    rig: TurnRig, stream: TurnStream, wire: FakeWire
) -> None:
    client = StreamClient(rig, stream, wire)
    client.allocate()
    client.bind_channel(0x4000, PEER)
    refresh = client.build(Method.REFRESH)
    stream.data_received(refresh + b"\x40\0\0\3abc\0" + b"\x40\0\0\3def\0")
    assert rig.relay_sockets[0].sent == [([b"abc", b"def"], ("8.8.8.8", 5000), False)]


def test_what_is_neither_stun_nor_channel_data_ends_the_connection(
    rig: TurnRig, stream: TurnStream, wire: FakeWire
) -> None:
    stream.data_received(b"\x16\x03\x01\x02")
    stream.data_received(bytes(800))
    assert wire.is_aborted
    assert rig.counters.malformed >= 1


def test_a_reader_that_does_not_read_loses_datagrams_not_our_memory(
    rig: TurnRig, stream: TurnStream, wire: FakeWire
) -> None:
    client = StreamClient(rig, stream, wire)
    client.allocate()
    client.bind_channel(0x4000, PEER)
    wire.is_congested = True
    rig.relay_sockets[0].arrive(PEER, b"x")
    rig.readable(rig.relay_sockets[0])
    assert rig.counters.client_dropped == 1
    stream.data_received(BINDING)
    assert not wire.is_reading
    wire.is_congested = False
    stream.writable()
    assert wire.is_reading


def test_a_connection_that_holds_nothing_is_overdue(rig: TurnRig, stream: TurnStream) -> None:
    timeout_s = rig.services.settings.limits.unused_connection_timeout_s
    assert not stream.overdue(rig.clock.monotonic_s() + timeout_s)
    assert stream.overdue(rig.clock.monotonic_s() + timeout_s + 1)


def test_one_with_an_allocation_is_not(rig: TurnRig, stream: TurnStream, wire: FakeWire) -> None:
    StreamClient(rig, stream, wire).allocate()
    assert not stream.overdue(rig.clock.monotonic_s() + 1e6)
    stream.expire()
    assert wire.is_aborted


def test_the_end_of_the_client_closes_the_connection(
    rig: TurnRig, stream: TurnStream, wire: FakeWire
) -> None:
    StreamClient(rig, stream, wire).allocate()
    stream.end_received()
    assert wire.is_closed
    stream.wire_lost()
    assert stream.is_lost
    assert rig.session.allocations == set()
    stream.send(b"nobody hears it")
    assert stream.send_batch([b"x"]) == 0


def test_a_spliced_connection_carries_plain_bytes(stream: TurnStream, wire: FakeWire) -> None:
    splice = RecordingSplice()
    as_port: Splice = splice
    stream.data_received(b"\0")
    stream.begin_splice(as_port)
    stream.data_received(b"anything")
    stream.writable()
    stream.end_received()
    stream.wire_lost()
    assert splice.heard == [b"\0", b"anything", "writable", "end", "lost"]
    assert not stream.overdue(1e9)
    stream.pause_reading()
    assert not wire.is_reading
    stream.resume_reading()
    assert wire.is_reading


def test_strangers_beyond_the_budget_are_not_read(rig: TurnRig, stream: TurnStream) -> None:
    burst = rig.services.settings.limits.replies_burst_per_source
    stream.data_received(BINDING * (burst + 10))
    assert rig.counters.over_budget == 10
