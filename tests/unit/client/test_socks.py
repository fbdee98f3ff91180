"""Owns the tests of the SOCKS5 bytes: whole, byte by byte, and broken."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.client.address import parse_target
from masque_relay.client.socks import (
    MAX_HANDSHAKE_BYTES,
    Login,
    SocksCommand,
    SocksHandshake,
    SocksReply,
    decode_udp_datagram,
    encode_reply,
    encode_udp_header,
)
from masque_relay.contract.address import Endpoint
from masque_relay.wire.errors import WireError

NAME = b"\x03\x0bexample.org\x01\xbb"
CONNECT_NAME = b"\x05\x01\x00" + NAME
CONNECT_V4 = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x50"
CONNECT_V6 = b"\x05\x01\x00\x04" + ip_address("2001:db8::7").packed + b"\x00\x50"
LOGIN = Login(user="ann", password="s3cret")
SHOWN = b"\x01\x03ann\x06s3cret"


def feed(handshake: SocksHandshake, data: bytes, *, step: int = 1_000_000) -> bytes:
    return b"".join(
        handshake.feed(data[start : start + step]) for start in range(0, len(data), step)
    )


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
@pytest.mark.parametrize(
    ("request_bytes", "target"),
    [
        (CONNECT_NAME, "example.org:443"),
        (CONNECT_V4, "192.0.2.7:80"),
        (CONNECT_V6, "[2001:db8::7]:80"),
    ],
)
class TestConnect:
    """RFC 1928 sections 3 to 5."""

    def test_a_request_is_read_in_any_pieces(
        self, step: int, request_bytes: bytes, target: str
    ) -> None:
        handshake = SocksHandshake()
        assert feed(handshake, b"\x05\x01\x00" + request_bytes, step=step) == b"\x05\x00"
        assert handshake.request is not None
        assert handshake.request.command is SocksCommand.CONNECT
        assert handshake.request.target == parse_target(target)
        assert handshake.rest == b""

    def test_a_login_is_asked_for_and_accepted(
        self, step: int, request_bytes: bytes, target: str
    ) -> None:
        handshake = SocksHandshake(login=LOGIN)
        data = b"\x05\x02\x00\x02" + SHOWN + request_bytes
        assert feed(handshake, data, step=step) == b"\x05\x02\x01\x00"
        assert handshake.request is not None
        assert handshake.request.target == parse_target(target)


class TestRefusals:
    """RFC 1928 sections 3 and 6, RFC 1929 section 2."""

    @pytest.mark.parametrize(
        "shown", [b"\x01\x03ann\x05wrong", b"\x01\x03bob\x06s3cret", b"\x01\x00\x00"]
    )
    def test_a_wrong_login_is_refused(self, shown: bytes) -> None:
        handshake = SocksHandshake(login=LOGIN)
        assert feed(handshake, b"\x05\x01\x02" + shown) == b"\x05\x02\x01\x01"
        assert handshake.is_login_refused
        assert handshake.request is None

    def test_no_login_where_one_is_wanted_is_refused(self) -> None:
        handshake = SocksHandshake(login=LOGIN)
        assert feed(handshake, b"\x05\x01\x00" + CONNECT_NAME) == b"\x05\xff"
        assert handshake.is_login_refused
        assert handshake.request is None

    def test_a_program_that_insists_on_a_login_is_refused_where_none_is_set(self) -> None:
        handshake = SocksHandshake()
        assert feed(handshake, b"\x05\x01\x02") == b"\x05\xff"
        assert handshake.failure is not None
        assert not handshake.is_login_refused

    @pytest.mark.parametrize("first", [b"\x04\x01\x00\x50", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"])
    def test_another_protocol_gets_no_answer(self, first: bytes) -> None:
        handshake = SocksHandshake()
        assert feed(handshake, first) == b""
        assert handshake.failure is not None

    @pytest.mark.parametrize(
        ("request_bytes", "reply"),
        [
            (b"\x05\x02\x00\x01\xc0\x00\x02\x07\x00\x50", SocksReply.COMMAND_NOT_SUPPORTED),
            (b"\x05\x01\x00\x02\xc0\x00\x02\x07\x00\x50", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x00\x01\xc0\x00\x02\x07\x00\x00", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x00\x03\x00\x00\x50", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x00\x03\x02\xc3\xa9\x00\x50", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x05\x01\x00\x03\x03a b\x00\x50", SocksReply.ADDRESS_TYPE_NOT_SUPPORTED),
            (b"\x04\x01\x00\x01\xc0\x00\x02\x07\x00\x50", SocksReply.GENERAL_FAILURE),
        ],
    )
    def test_a_bad_request_is_told_why(self, request_bytes: bytes, reply: SocksReply) -> None:
        handshake = SocksHandshake()
        answer = feed(handshake, b"\x05\x01\x00" + request_bytes)
        assert answer[:4] == bytes([5, 0, 5, reply])
        assert handshake.request is None
        assert handshake.failure is not None

    @given(st.binary(max_size=4_000))
    def test_no_bytes_break_it(self, data: bytes) -> None:
        for login in (None, LOGIN):
            handshake = SocksHandshake(login=login)
            feed(handshake, b"\x05\x01\x00" + data, step=100)
            assert handshake.is_over or len(data) <= MAX_HANDSHAKE_BYTES


def test_what_follows_the_request_is_kept_for_the_target() -> None:
    handshake = SocksHandshake()
    handshake.feed(b"\x05\x01\x00" + CONNECT_V4 + b"first bytes")
    assert handshake.rest == b"first bytes"


def test_udp_associate_needs_no_target() -> None:
    handshake = SocksHandshake()
    handshake.feed(b"\x05\x01\x00\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00")
    assert handshake.request is not None
    assert handshake.request.command is SocksCommand.UDP_ASSOCIATE


def test_an_ipv4_mapped_address_is_the_ipv4_address() -> None:
    handshake = SocksHandshake()
    packed = ip_address("::ffff:127.0.0.1").packed
    handshake.feed(b"\x05\x01\x00\x05\x01\x00\x04" + packed + b"\x00\x50")
    assert handshake.request is not None
    assert handshake.request.target == parse_target("127.0.0.1:80")


def test_a_reply_names_the_bound_address() -> None:
    bound = Endpoint(address=ip_address("127.0.0.1"), port=4_660)
    assert encode_reply(SocksReply.SUCCEEDED, bound) == b"\x05\x00\x00\x01\x7f\x00\x00\x01\x12\x34"
    assert encode_reply(SocksReply.NOT_ALLOWED) == b"\x05\x02\x00\x01\0\0\0\0\0\0"


class TestUdpHeader:
    """RFC 1928 section 7."""

    @pytest.mark.parametrize("text", ["example.org:53", "192.0.2.7:53", "[2001:db8::7]:53"])
    def test_a_header_round_trips(self, text: str) -> None:
        target = parse_target(text)
        assert decode_udp_datagram(encode_udp_header(target) + b"query") == (target, b"query")
        assert decode_udp_datagram(encode_udp_header(target)) == (target, b"")

    @pytest.mark.parametrize(
        "datagram",
        [
            b"",
            b"\0\0\0\x01\x7f\0\0",
            b"\0\0\x01\x01\x7f\0\0\x01\0\x35query",
            b"\0\0\0\x05\x7f\0\0\x01\0\x35query",
            b"\0\0\0\x03\x40name\0\x35",
            b"\0\0\0\x01\x7f\0\0\x01\0\0query",
        ],
        ids=["empty", "short", "fragment", "type", "cut name", "port 0"],
    )
    def test_a_bad_header_is_refused(self, datagram: bytes) -> None:
        with pytest.raises(WireError):
            decode_udp_datagram(datagram)

    @given(st.binary(max_size=300))
    def test_no_bytes_break_it(self, datagram: bytes) -> None:
        try:
            decode_udp_datagram(datagram)
        except WireError:
            return


def test_a_password_is_not_in_a_repr() -> None:
    assert "s3cret" not in repr(LOGIN)
