"""Silent streams cost nothing per packet, and nobody notices that they were left out."""

import pytest

from masque_relay.quic.busy_streams import BusyStreamsConnection
from masque_relay.quic.credit import CreditedConnection
from masque_relay.quic.hardened import HardenedQuicConnection
from tests.support.quic_pair import Pair, RecordingApplication, make_pair

STREAMS = range(0, 4 * 50, 4)


def pair_with_streams() -> Pair:
    """A pair with fifty open streams, of which neither end says anything more."""
    pair = make_pair()
    for stream_id in STREAMS:
        pair.client.send_stream_data(stream_id, b"open", end_stream=False)
    pair.settle()
    return pair


def recorded(pair: Pair) -> RecordingApplication:
    app = pair.server_app
    assert isinstance(app, RecordingApplication)
    return app


def test_datagrams_do_not_walk_over_silent_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pair_with_streams()
    walked: list[int | None] = []
    original = HardenedQuicConnection._write_stream_limits

    def count(self: HardenedQuicConnection, **arguments: object) -> None:
        walked.append(1)
        original(self, **arguments)  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(HardenedQuicConnection, "_write_stream_limits", count)
    pair.client.send_datagrams(b"", [bytes(1000)] * 100)
    pair.settle()
    assert len(recorded(pair).datagrams) == 100
    assert len(walked) < 10


def test_every_stream_still_speaks_when_it_has_something_to_say() -> None:
    pair = pair_with_streams()
    for stream_id in (100, 0, 196):
        pair.client.send_stream_data(stream_id, b"x" * 5_000, end_stream=False)
        pair.client.send_datagrams(b"", [bytes(1000)] * 10)
    pair.settle()
    received = recorded(pair).streams
    assert {i for i in received if len(received[i]) == 5_004} == {0, 100, 196}
    assert len(recorded(pair).datagrams) == 30


def test_streams_are_served_in_turn() -> None:
    pair = pair_with_streams()
    # More than one window of congestion, so that several flushes are needed.
    for stream_id in (0, 4, 8):
        pair.client.send_stream_data(stream_id, bytes(100_000), end_stream=True)
    for _ in range(200):
        pair.turn()
        sizes = [len(recorded(pair).streams[stream_id]) for stream_id in (0, 4, 8)]
        if min(sizes) < 100_004:
            assert max(sizes) - min(sizes) <= 40_000, sizes
    assert sizes == [100_004] * 3


def test_finished_streams_are_forgotten_and_let_new_ones_open() -> None:
    pair = pair_with_streams()
    for stream_id in STREAMS:
        pair.client.send_stream_data(stream_id, b"", end_stream=True)
        pair.server.send_stream_data(stream_id, b"", end_stream=True)
    pair.settle()
    for end in (pair.client, pair.server):
        assert end._connection._streams == {}
        assert end._connection._streams_queue == []
    opened = 0
    for _ in range(150):
        stream_id = pair.client.next_stream_id(unidirectional=False)
        pair.client.send_stream_data(stream_id, b"again", end_stream=True)
        pair.settle()
        pair.server.send_stream_data(stream_id, b"", end_stream=True)
        pair.settle()
        opened += recorded(pair).streams.get(stream_id) == b"again"
    assert opened == 150


def test_credit_of_a_stream_that_only_reads_is_still_granted() -> None:
    pair = pair_with_streams()
    pair.client.send_stream_data(0, bytes(1_000_000), end_stream=True)
    pair.settle(max_turns=2_000)
    assert len(recorded(pair).streams[0]) == 1_000_004


def test_resets_and_stops_of_silent_streams_are_sent() -> None:
    pair = pair_with_streams()
    pair.client.reset_stream(8, 7)
    pair.client.stop_stream(12, 9)
    pair.settle()
    assert ("reset", 8, 7) in recorded(pair).calls
    assert ("stop", 12, 9) in recorded(pair).calls


def test_the_relays_connection_is_one() -> None:
    assert issubclass(HardenedQuicConnection, BusyStreamsConnection)
    assert BusyStreamsConnection.__base__ is CreditedConnection
