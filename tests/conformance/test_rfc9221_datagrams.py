"""RFC 9221, one test per MUST that a relay can break."""

from dataclasses import replace

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode

from masque_relay.quic.limits import QuicLimits
from tests.support.aioquic_relays import Attacker, OurRelay
from tests.support.quic_pair import RecordingApplication, make_pair, pair_with_limits


@pytest.mark.clause(
    "RFC 9221", "3", "MUST NOT", "send DATAGRAM frames to a peer that announced none"
)
def test_section_3_no_datagram_is_sent_to_a_peer_that_announced_none() -> None:
    pair = make_pair()
    pair.server._connection._remote_max_datagram_frame_size = None
    assert pair.server.send_datagrams(b"", [b"", b"x"]) == 0


@pytest.mark.clause("RFC 9221", "3", "MUST NOT", "send a frame larger than the peer takes")
def test_section_3_no_frame_is_larger_than_the_peer_takes() -> None:
    pair = pair_with_limits(client=replace(QuicLimits(), max_datagram_frame_bytes=200))
    pair.server.send_datagrams(b"", [bytes(size) for size in range(180, 220)])
    pair.settle()
    client = pair.client_app
    assert isinstance(client, RecordingApplication)
    assert max(len(payload) for payload in client.datagrams) == 197
    assert pair.client.termination is None


@pytest.mark.clause("RFC 9221", "3", "MUST", "PROTOCOL_VIOLATION for a frame larger than announced")
def test_section_3_a_larger_frame_than_announced_is_a_protocol_violation() -> None:
    attacker = Attacker(OurRelay)
    attacker.relay.quic._configuration.max_datagram_frame_size = 100
    attacker.send_frames(b"\x31" + encode_uint_var(200) + bytes(200))
    attacker.settle(5)
    assert attacker.close_code == QuicErrorCode.PROTOCOL_VIOLATION


@pytest.mark.clause("RFC 9221", "4", "MUST", "read frames with and without a length")
def test_section_4_both_frame_types_are_read() -> None:
    attacker = Attacker(OurRelay)
    assert isinstance(attacker.relay, OurRelay)
    attacker.send_frames(b"\x31" + encode_uint_var(3) + b"\x00ab" + b"\x30" + b"\x00cd")
    attacker.settle(5)
    assert attacker.relay.application.datagrams == [(0, [b"ab", b"cd"])]


@pytest.mark.clause("RFC 9221", "4", "MUST", "FRAME_ENCODING_ERROR for a length beyond the packet")
def test_section_4_a_length_beyond_the_packet_is_a_frame_encoding_error() -> None:
    attacker = Attacker(OurRelay)
    attacker.send_frames(b"\x31" + encode_uint_var(300) + b"short")
    attacker.settle(5)
    assert attacker.close_code == QuicErrorCode.FRAME_ENCODING_ERROR


@pytest.mark.clause("RFC 9221", "5.2", "MUST", "acknowledge packets with datagrams")
def test_section_5_2_datagrams_are_acknowledged() -> None:
    pair = make_pair()
    pair.client.send_datagrams(b"", [b"x"])
    pair.settle()
    assert pair.client._connection._loss.bytes_in_flight == 0


@pytest.mark.clause("RFC 9221", "5.2", "MUST NOT", "send a lost datagram again by itself")
def test_section_5_2_lost_datagrams_are_not_sent_again() -> None:
    pair = make_pair()
    pair.to_server = lambda _: []
    pair.client.send_datagrams(b"", [b"lost"])
    pair.turn()
    pair.to_server = lambda packet: [packet]
    pair.client.send_datagrams(b"", [b"arrives"])
    pair.wait(2.0)
    server = pair.server_app
    assert isinstance(server, RecordingApplication)
    assert server.datagrams == [b"arrives"]


@pytest.mark.clause(
    "RFC 9221", "5.4", "MUST", "hold datagrams until the congestion window allows them"
)
@pytest.mark.clause("RFC 9298", "6", "MUST NOT", "switch congestion control off")
def test_section_5_4_datagrams_wait_for_the_congestion_window() -> None:
    pair = make_pair()
    pair.to_client = lambda _: []
    pair.server.send_datagrams(b"", [bytes(1_200)] * 400)
    for _ in range(3):
        pair.turn()
    loss = pair.server._connection._loss
    assert loss.bytes_in_flight <= loss.congestion_window
    assert len(pair.server._connection._datagrams_pending) > 100
