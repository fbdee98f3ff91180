"""Rules for field sections: RFC 9114 sections 4.2, 4.3 and 4.1.2."""

import pytest
from aioquic.h3.connection import MessageError

from masque_relay.quic.application import Headers
from masque_relay.quic.h3_fields import (
    check_request,
    check_response,
    check_trailers,
    field_section_bytes,
)

CONNECT: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":path", b"/"),
    (b":authority", b"relay.test"),
]


class TestRequests:
    def test_an_extended_connect_passes(self) -> None:
        assert check_request([*CONNECT, (b"capsule-protocol", b"?1")]) is None

    def test_pseudo_headers_may_come_in_any_order(self) -> None:
        assert check_request(list(reversed(CONNECT))) is None

    def test_what_belongs_together_is_left_to_the_front_end(self) -> None:
        assert check_request([(b":method", b"GET")]) is None

    @pytest.mark.clause("RFC 9114", "4.2", "MUST", "allow TE with no other value than trailers")
    def test_te_may_say_trailers(self) -> None:
        assert check_request([*CONNECT, (b"te", b"Trailers")]) is None

    def test_the_content_length_is_read(self) -> None:
        assert check_request([*CONNECT, (b"content-length", b"12")]) == 12
        same_twice = [*CONNECT, (b"content-length", b"7"), (b"content-length", b"7")]
        assert check_request(same_twice) == 7

    def test_an_empty_value_and_a_tab_inside_pass(self) -> None:
        assert check_request([*CONNECT, (b"a", b""), (b"b", b"x\ty"), (b"c", b"\xff")]) is None

    @pytest.mark.clause(
        "RFC 9114", "10.3", "MUST", "treat invalid names and values (CR, LF, NUL) as malformed"
    )
    @pytest.mark.clause(
        "RFC 9114",
        "4.2",
        "MUST",
        "treat upper-case names and connection-specific fields as malformed",
    )
    @pytest.mark.parametrize(
        "field",
        [
            (b"Upper", b"x"),
            (b"", b"x"),
            (b":", b"x"),
            (b"a b", b"x"),
            (b"a\x00", b"x"),
            (b"a:b", b"x"),
            (b"a\xff", b"x"),
            (b"a", b"x\x00"),
            (b"a", b"x\ny"),
            (b"a", b"x\r"),
            (b"a", b"x\x7f"),
            (b"a", b" x"),
            (b"a", b"x\t"),
            (b"connection", b"close"),
            (b"keep-alive", b"1"),
            (b"proxy-connection", b"x"),
            (b"transfer-encoding", b"chunked"),
            (b"upgrade", b"h2c"),
            (b"te", b"gzip"),
            (b":status", b"200"),
            (b":unknown", b"x"),
            (b":method", b"GET"),
            (b"content-length", b"-1"),
            (b"content-length", b"+1"),
            (b"content-length", b"1_0"),
            (b"content-length", b""),
            (b"content-length", b"9" * 19),
        ],
    )
    def test_a_bad_field_is_malformed(self, field: tuple[bytes, bytes]) -> None:
        with pytest.raises(MessageError):
            check_request([*CONNECT, field])

    def test_two_content_lengths_that_differ_are_malformed(self) -> None:
        with pytest.raises(MessageError):
            check_request([*CONNECT, (b"content-length", b"7"), (b"content-length", b"8")])

    @pytest.mark.clause(
        "RFC 9114", "4.3", "MUST", "treat pseudo-headers after regular fields as malformed"
    )
    def test_a_pseudo_header_after_a_regular_field_is_malformed(self) -> None:
        with pytest.raises(MessageError):
            check_request([(b":method", b"GET"), (b"a", b"b"), (b":path", b"/")])


class TestResponses:
    @pytest.mark.parametrize("status", [100, 103, 200, 204, 407, 599])
    def test_a_status_passes(self, status: int) -> None:
        assert check_response([(b":status", b"%d" % status)]) == (status, None)

    @pytest.mark.clause("RFC 9114", "4.5", "MUST NOT", "use 101")
    @pytest.mark.parametrize("status", [b"101", b"20", b"2000", b"abc", b"", b"000", b"999"])
    def test_no_status_at_all_or_a_bad_one_is_malformed(self, status: bytes) -> None:
        with pytest.raises(MessageError):
            check_response([(b":status", status)])

    @pytest.mark.clause(
        "RFC 9114", "4.3.2", "MUST", "treat a response without :status as malformed"
    )
    def test_a_missing_status_is_malformed(self) -> None:
        with pytest.raises(MessageError):
            check_response([(b"a", b"b")])

    def test_te_is_for_requests(self) -> None:
        with pytest.raises(MessageError):
            check_response([(b":status", b"200"), (b"te", b"trailers")])


class TestTrailers:
    def test_regular_fields_pass(self) -> None:
        check_trailers([(b"x-checksum", b"1")])

    @pytest.mark.clause("RFC 9114", "4.3", "MUST", "treat pseudo-headers in trailers as malformed")
    def test_pseudo_headers_do_not(self) -> None:
        with pytest.raises(MessageError):
            check_trailers([(b":status", b"200")])


def test_each_field_counts_32_bytes_more() -> None:
    assert field_section_bytes([(b"ab", b"cde"), (b"", b"")]) == 69
