"""RFC 9297 over HTTP/3, the clauses that the framing is responsible for."""

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.h3.connection import ErrorCode, encode_frame

from tests.support.aioquic_relays import Attacker, OurRelay

CONNECT = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"relay.test"),
    (b":path", b"/.well-known/masque/udp/192.0.2.9/53/"),
]


@pytest.mark.clause("RFC 9297", "2.1", "MUST", "begin with the stream ID divided by four")
def test_section_2_1_a_datagram_carries_the_quarter_stream_id() -> None:
    attacker = Attacker(OurRelay)
    assert isinstance(attacker.relay, OurRelay)
    assert attacker.h3 is not None
    attacker.h3.send_headers(0, CONNECT)
    attacker.h3.send_headers(4, CONNECT)
    attacker.settle()
    session = attacker.relay.application.session
    assert session is not None
    session.send_headers(4, [(b":status", b"200")], end_stream=False)
    session.send_datagrams(4, b"\x00", [b"payload"])
    attacker.settle()
    assert attacker.datagrams == [b"\x01\x00payload"]


@pytest.mark.clause(
    "RFC 9297", "2.1", "MUST", "H3_DATAGRAM_ERROR for an ID that is cut off or too large"
)
@pytest.mark.parametrize("frame", [b"", b"\x40", b"\x80\x00", encode_uint_var(1 << 60)])
def test_section_2_1_too_short_or_too_large_an_id_is_h3_datagram_error(frame: bytes) -> None:
    attacker = Attacker(OurRelay)
    attacker.quic.send_datagram_frame(frame)
    attacker.settle()
    assert attacker.close_code == ErrorCode.H3_DATAGRAM_ERROR


@pytest.mark.clause(
    "RFC 9297", "2.1", "MUST", "H3_DATAGRAM_ERROR for an ID that is cut off or too large"
)
def test_section_2_1_the_largest_id_is_none() -> None:
    attacker = Attacker(OurRelay)
    attacker.quic.send_datagram_frame(encode_uint_var((1 << 60) - 1))
    attacker.settle()
    assert not attacker.is_closed


@pytest.mark.clause("RFC 9297", "2.1", "MUST NOT", "send datagrams once the sending side is closed")
def test_section_2_1_nothing_is_sent_once_the_sending_side_is_closed() -> None:
    attacker = Attacker(OurRelay)
    assert isinstance(attacker.relay, OurRelay)
    assert attacker.h3 is not None
    attacker.h3.send_headers(0, CONNECT)
    attacker.settle()
    session = attacker.relay.application.session
    assert session is not None
    session.send_headers(0, [(b":status", b"200")], end_stream=True)
    assert session.send_datagrams(0, b"\x00", [b"late"]) == 0


@pytest.mark.clause(
    "RFC 9297", "2.1.1", "MUST", "H3_SETTINGS_ERROR for a value that is neither 0 nor 1"
)
def test_section_2_1_1_a_setting_other_than_0_and_1_is_h3_settings_error() -> None:
    attacker = Attacker(OurRelay, opens_http=False)
    attacker.quic.send_stream_data(2, b"\x00" + encode_frame(4, b"\x33\x02"))
    attacker.settle()
    assert attacker.close_code == ErrorCode.H3_SETTINGS_ERROR


@pytest.mark.clause(
    "RFC 9297", "2.1.1", "MUST", "H3_SETTINGS_ERROR for the setting without the transport parameter"
)
def test_section_2_1_1_the_setting_without_the_transport_parameter_is_h3_settings_error() -> None:
    attacker = Attacker(OurRelay, opens_http=False)
    attacker.relay.quic._remote_max_datagram_frame_size = None
    attacker.quic.send_stream_data(2, b"\x00" + encode_frame(4, b"\x33\x01"))
    attacker.settle()
    assert attacker.close_code == ErrorCode.H3_SETTINGS_ERROR


@pytest.mark.clause(
    "RFC 9297", "2.1.1", "MUST NOT", "send datagrams before both ends announced them"
)
def test_section_2_1_1_no_http_datagram_before_the_peers_settings() -> None:
    attacker = Attacker(OurRelay, opens_http=False)
    assert isinstance(attacker.relay, OurRelay)
    request = encode_frame(1, b"\0\0\xd1\xd7\xc1\x50\x01a")
    attacker.quic.send_stream_data(0, request)
    attacker.settle()
    session = attacker.relay.application.session
    assert session is not None
    session.send_headers(0, [(b":status", b"200")], end_stream=False)
    assert session.send_datagrams(0, b"\x00", [b"early"]) == 0
