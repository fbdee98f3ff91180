"""Owns the tests of the turns that the streams of an HTTP/2 connection take."""

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, TrailersReceived

from masque_relay.http.h2_outbox import WRITE_CHUNK_BYTES, H2Outbox

REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"r"), (b":path", b"/")]


class Rig:
    """A client whose outbox is under test, and the server that takes its frames."""

    def __init__(self, streams: int = 1) -> None:
        self.client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.ended: list[int] = []
        self.outbox = H2Outbox(self.client, ended=self.ended.append)
        self.ids = [1 + 2 * index for index in range(streams)]
        for h2_id in self.ids:
            self.client.send_headers(h2_id, REQUEST)
        self.server.receive_data(self.client.data_to_send())
        self.client.receive_data(self.server.data_to_send())

    def arrive(self) -> list[object]:
        return list(self.server.receive_data(self.client.data_to_send()))


def test_bytes_and_the_end_leave_in_order() -> None:
    rig = Rig()
    rig.outbox.send_data(1, b"one ", end_stream=False)
    rig.outbox.send_data(1, b"two", end_stream=True)
    assert rig.outbox.ends(1)
    assert rig.outbox.unsent_bytes(1) == 7
    assert rig.outbox.fill()
    events = rig.arrive()
    assert b"".join(e.data for e in events if isinstance(e, DataReceived)) == b"one two"
    assert any(isinstance(event, StreamEnded) for event in events)
    assert rig.ended == [1]
    assert rig.outbox.is_empty
    assert not rig.outbox.fill()


def test_an_end_that_waits_counts_as_one_byte() -> None:
    rig = Rig()
    rig.outbox.send_data(1, b"", end_stream=True)
    assert rig.outbox.unsent_bytes(1) == 1


def test_trailers_follow_the_bytes() -> None:
    rig = Rig()
    rig.outbox.send_data(1, b"body", end_stream=False)
    rig.outbox.send_trailers(1, [(b"proxy-status", b"g; error=connection_terminated")])
    assert rig.outbox.fill()
    events = rig.arrive()
    kinds = [type(event) for event in events]
    assert kinds.index(DataReceived) < kinds.index(TrailersReceived)
    assert rig.ended == [1]


def test_a_stream_whose_window_is_closed_does_not_hold_up_its_neighbour() -> None:
    rig = Rig(streams=2)
    rig.client.increment_flow_control_window(1)  # ours, for what comes; theirs stays at 65,535
    rig.outbox.send_data(1, bytes(65_535), end_stream=False)
    while rig.outbox.fill():
        pass
    rig.server.receive_data(rig.client.data_to_send())
    rig.server.increment_flow_control_window(65_535)  # the connection's, not the stream's
    rig.client.receive_data(rig.server.data_to_send())
    rig.outbox.send_data(1, b"stuck", end_stream=False)
    rig.outbox.send_data(3, b"goes", end_stream=False)
    assert rig.outbox.fill()
    assert [e.data for e in rig.arrive() if isinstance(e, DataReceived)] == [b"goes"]
    assert not rig.outbox.fill()
    assert rig.outbox.unsent_bytes(1) == 5


def test_streams_take_turns_and_a_write_has_a_bound() -> None:
    rig = Rig(streams=2)
    for h2_id in rig.ids:
        rig.outbox.send_data(h2_id, bytes(50_000), end_stream=False)
    assert rig.outbox.fill()
    frames = [e for e in rig.arrive() if isinstance(e, DataReceived)]
    assert [event.stream_id for event in frames[:2]] == [1, 3]
    assert sum(len(event.data) for event in frames) <= WRITE_CHUNK_BYTES


def test_a_dropped_stream_sends_nothing() -> None:
    rig = Rig()
    rig.outbox.send_data(1, b"gone", end_stream=True)
    rig.outbox.drop(1)
    assert rig.outbox.is_empty
    assert not rig.outbox.fill()
    assert rig.ended == []
