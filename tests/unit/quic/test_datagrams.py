"""DATAGRAM frames: exact sizes, a bounded queue, and nothing that blocks it."""

from dataclasses import replace

import pytest

from masque_relay.quic.limits import QuicLimits
from tests.support.quic_pair import Pair, RecordingApplication, make_pair, pair_with_limits

LIMITS = QuicLimits()


def app_of(pair: Pair) -> RecordingApplication:
    app = pair.server_app
    assert isinstance(app, RecordingApplication)
    return app


class TestDatagramSize:
    def test_the_largest_is_exactly_what_one_packet_takes(self) -> None:
        pair = make_pair()
        size = pair.server.max_datagram_payload_bytes
        assert size == 1_472 - 30
        assert pair.server.send_datagrams(b"", [bytes(size)]) == 1
        sizes: list[int] = []
        pair.to_client = lambda packet: sizes.append(len(packet)) or [packet]
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert client.datagrams == [bytes(size)]
        assert max(sizes) == 1_472

    @pytest.mark.clause("RFC 9221", "5", "MUST NOT", "fragment a datagram over packets")
    def test_one_byte_more_is_refused_and_counted(self) -> None:
        pair = make_pair()
        size = pair.server.max_datagram_payload_bytes
        assert pair.server.send_datagrams(b"ab", [bytes(size - 1), bytes(size - 2)]) == 1
        assert pair.server_counters.quic_datagrams_oversize == 1

    def test_the_peers_limit_counts_when_it_is_the_smaller(self) -> None:
        pair = pair_with_limits(client=replace(LIMITS, max_datagram_frame_bytes=100))
        assert pair.server.max_datagram_payload_bytes == 97
        pair.server.send_datagrams(b"", [bytes(97), bytes(98)])
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert client.datagrams == [bytes(97)]
        assert pair.client.termination is None

    def test_a_peer_that_takes_none_gets_none(self) -> None:
        pair = make_pair()
        pair.server._connection._remote_max_datagram_frame_size = None
        assert pair.server.max_datagram_payload_bytes == 0
        assert pair.server.send_datagrams(b"", [b"", b"x"]) == 0
        assert pair.server_counters.quic_datagrams_oversize == 2

    def test_a_datagram_that_outgrew_the_path_while_it_waited_is_dropped(self) -> None:
        pair = make_pair()
        large, small = bytes(1_400), b"small"
        pair.server.send_datagrams(b"", [large, small])
        pair.server._connection._path_mtu.black_hole_found(pair.now)
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert client.datagrams == [small]
        assert pair.server_counters.quic_datagrams_oversize == 1

    def test_a_longer_connection_id_of_the_peer_leaves_less_room(self) -> None:
        pair = make_pair()
        before = pair.server.max_datagram_payload_bytes
        pair.server.send_datagrams(b"", [bytes(before), b"small"])
        peer_cid = pair.server._connection._peer_cid
        peer_cid.cid += bytes(12)
        assert pair.server.max_datagram_payload_bytes == before - 12
        peer_cid.cid = peer_cid.cid[:8]
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert len(client.datagrams) == 2


class TestDatagramQueue:
    def test_the_oldest_are_dropped_beyond_the_bound(self) -> None:
        pair = pair_with_limits(server=replace(LIMITS, datagram_queue_count=3))
        payloads = [bytes([n]) for n in range(5)]
        assert pair.server.send_datagrams(b"", payloads) == 5
        assert pair.server_counters.quic_datagrams_overflow == 2
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert client.datagrams == payloads[2:]
        assert pair.server_counters.quic_datagrams_sent == 3

    def test_a_full_queue_does_not_starve_streams(self) -> None:
        pair = make_pair()
        pair.client.send_stream_data(0, b"hello", end_stream=False)
        pair.settle()
        pair.server.send_datagrams(b"", [bytes(1_200)] * 500)
        app_of(pair).transport.send_stream_data(0, b"answer", end_stream=True)
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        pair.turn()
        assert bytes(client.streams[0]) == b"answer"
        assert len(client.datagrams) < 500

    def test_a_stream_that_flow_control_holds_does_not_hold_the_datagrams(self) -> None:
        pair = make_pair()
        pair.server._connection._remote_max_data = 0
        pair.server.send_stream_data(1, bytes(10_000), end_stream=False)
        pair.server.send_datagrams(b"", [bytes(1_200)] * 200)
        pair.settle()
        client = pair.client_app
        assert isinstance(client, RecordingApplication)
        assert len(client.datagrams) == 200
