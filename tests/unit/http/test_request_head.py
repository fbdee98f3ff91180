"""Request heads (RFC 9114 section 4.3, RFC 9220, RFC 9297 section 3.4)."""

import pytest

from masque_relay.http.request_head import ConnectForm, check_trailers, parse_request_head
from masque_relay.quic.application import Headers
from masque_relay.wire.errors import Scope, WireError
from tests.support.http_fakes import CONNECT_UDP_HEAD, GET_HEAD, head_with

CLASSIC_HEAD: Headers = [(b":method", b"CONNECT"), (b":authority", b"example.org:443")]


def refused(headers: Headers, *, end_stream: bool = False) -> WireError:
    with pytest.raises(WireError) as caught:
        parse_request_head(headers, end_stream=end_stream)
    assert caught.value.scope is Scope.STREAM
    return caught.value


class TestOrdinaryRequests:
    """RFC 9114 section 4.3.1."""

    def test_path_and_query_are_parted_and_stay_undecoded(self) -> None:
        head = parse_request_head(head_with(GET_HEAD, path=b"/a%2Fb?x=%20&y"), end_stream=True)

        assert (head.raw_path, head.query_string) == (b"/a%2Fb", b"x=%20&y")
        assert (head.method, head.scheme, head.authority) == ("GET", "https", "relay.example")
        assert head.form is None

    def test_host_field_is_made_from_authority(self) -> None:
        head = parse_request_head([*GET_HEAD, (b"accept", b"*/*")], end_stream=True)

        assert head.fields == [(b"host", b"relay.example"), (b"accept", b"*/*")]

    @pytest.mark.clause("RFC 9114", "4.3.1", "MUST", "take Host where there is no :authority")
    def test_host_alone_stands_for_authority(self) -> None:
        headers = [*head_with(GET_HEAD, authority=None), (b"host", b"other.example:8443")]

        assert parse_request_head(headers, end_stream=True).authority == "other.example:8443"

    def test_host_equal_to_authority_is_accepted(self) -> None:
        headers = [*GET_HEAD, (b"host", b"relay.example")]

        assert parse_request_head(headers, end_stream=True).fields == [(b"host", b"relay.example")]

    def test_asterisk_is_a_path_for_options_only(self) -> None:
        options = head_with(GET_HEAD, method=b"OPTIONS", path=b"*")

        assert parse_request_head(options, end_stream=True).raw_path == b"*"
        refused(head_with(GET_HEAD, path=b"*"))

    def test_content_length_is_read(self) -> None:
        headers = [*head_with(GET_HEAD, method=b"POST"), (b"content-length", b"5")]

        assert parse_request_head(headers, end_stream=False).content_length == 5

    @pytest.mark.clause(
        "RFC 9114", "4.3.1", "MUST", "have Host equal to :authority, without userinfo"
    )
    @pytest.mark.clause(
        "RFC 9114", "4.3.1", "MUST", "have exactly one :method, :scheme and non-empty :path"
    )
    @pytest.mark.clause(
        "RFC 9114",
        "4.3",
        "MUST",
        "treat undefined, repeated or misplaced pseudo-headers as malformed",
    )
    @pytest.mark.parametrize(
        "headers",
        [
            [],
            head_with(GET_HEAD, method=None),
            head_with(GET_HEAD, method=b"G T"),
            head_with(GET_HEAD, scheme=None),
            head_with(GET_HEAD, scheme=b"ht tp"),
            head_with(GET_HEAD, path=None),
            head_with(GET_HEAD, path=b""),
            head_with(GET_HEAD, path=b"relative"),
            head_with(GET_HEAD, path=b"/with space"),
            head_with(GET_HEAD, path=b"/with#fragment"),
            head_with(GET_HEAD, path=b"/nul\0"),
            head_with(GET_HEAD, path=b"/\xff"),
            head_with(GET_HEAD, authority=None),
            head_with(GET_HEAD, authority=b""),
            head_with(GET_HEAD, authority=b"user@relay.example"),
            head_with(GET_HEAD, authority=b"relay\0example"),
            head_with(GET_HEAD, protocol=b"connect-udp"),
            [*GET_HEAD, (b":status", b"200")],
            [*GET_HEAD, (b":path", b"/again")],
            [*GET_HEAD, (b":unknown", b"x")],
            [(b"accept", b"*/*"), *GET_HEAD],
            [*GET_HEAD, (b"host", b"other.example")],
            [*GET_HEAD, (b"host", b"relay.example"), (b"host", b"relay.example")],
            [*GET_HEAD, (b"Upper", b"x")],
            [*GET_HEAD, (b"bad name", b"x")],
            [*GET_HEAD, (b"", b"x")],
            [*GET_HEAD, (b"x", b"a\r\nb: c")],
            [*GET_HEAD, (b"x", b"nul\0")],
            [*GET_HEAD, (b"x", b" padded ")],
            [*GET_HEAD, (b"te", b"gzip")],
            [*GET_HEAD, (b"connection", b"close")],
            [*GET_HEAD, (b"transfer-encoding", b"chunked")],
            [*GET_HEAD, (b"upgrade", b"connect-udp")],
            [*GET_HEAD, (b"content-length", b"5x")],
            [*GET_HEAD, (b"content-length", b"-1")],
            [*GET_HEAD, (b"content-length", b"5"), (b"content-length", b"5")],
        ],
    )
    def test_malformed_request_is_refused(self, headers: Headers) -> None:
        refused(headers)

    def test_te_trailers_is_accepted(self) -> None:
        parse_request_head([*GET_HEAD, (b"te", b"trailers")], end_stream=True)

    def test_content_length_without_content_is_refused(self) -> None:
        headers = [*GET_HEAD, (b"content-length", b"5")]

        refused(headers, end_stream=True)
        assert parse_request_head(headers, end_stream=False).content_length == 5


class TestExtendedConnect:
    """RFC 8441 section 4, RFC 9220 section 3."""

    @pytest.mark.clause("RFC 8441", "4", "MUST", "recognise CONNECT with :protocol as a tunnel")
    def test_connect_udp_is_recognised(self) -> None:
        head = parse_request_head(CONNECT_UDP_HEAD, end_stream=False)

        assert head.form is ConnectForm.EXTENDED
        assert head.protocol == "connect-udp"

    @pytest.mark.parametrize("authority", [b"relay.example", b"relay.example:443", b"[::1]:4433"])
    def test_authority_with_and_without_port(self, authority: bytes) -> None:
        head = parse_request_head(
            head_with(CONNECT_UDP_HEAD, authority=authority), end_stream=False
        )

        assert head.authority == authority.decode()

    def test_target_of_bound_udp_is_taken_for_an_authority(self) -> None:
        """Envoy writes the target of CONNECT-UDP there."""
        headers = head_with(CONNECT_UDP_HEAD, authority=b"*:*")

        assert parse_request_head(headers, end_stream=False).authority == "*:*"
        with pytest.raises(WireError):
            parse_request_head(head_with(headers, protocol=b"connect-ip"), end_stream=False)

    @pytest.mark.clause(
        "RFC 8441", "4", "MUST", "have :scheme, :path and :authority beside :protocol"
    )
    @pytest.mark.clause(
        "RFC 9298",
        "3.4",
        "MUST",
        "refuse CONNECT-UDP without :scheme, :authority or :path as malformed",
    )
    @pytest.mark.parametrize(
        "headers",
        [
            head_with(CONNECT_UDP_HEAD, scheme=None),
            head_with(CONNECT_UDP_HEAD, path=None),
            head_with(CONNECT_UDP_HEAD, path=None, scheme=None),
            head_with(CONNECT_UDP_HEAD, authority=None),
            head_with(CONNECT_UDP_HEAD, authority=b"relay.example:0"),
            head_with(CONNECT_UDP_HEAD, authority=b"relay.example:70000"),
            head_with(CONNECT_UDP_HEAD, protocol=b""),
            head_with(CONNECT_UDP_HEAD, protocol=b"two words"),
            head_with(CONNECT_UDP_HEAD, method=b"GET"),
            head_with(CONNECT_UDP_HEAD, method=b"connect"),
            [*head_with(CONNECT_UDP_HEAD, authority=None), (b"host", b"relay.example")],
        ],
    )
    def test_incomplete_extended_connect_is_refused(self, headers: Headers) -> None:
        refused(headers)


class TestCapsuleProtocol:
    """RFC 9297 section 3.4."""

    @pytest.mark.parametrize("value", [b"?1", b"?1;a=b", b"?0", b"1", b"yes", b'"?1"', b"\xff"])
    def test_connect_udp_implies_capsules_whatever_the_field_says(self, value: bytes) -> None:
        headers = [*CONNECT_UDP_HEAD, (b"capsule-protocol", value)]

        assert parse_request_head(headers, end_stream=False).uses_capsules

    def test_connect_udp_without_the_field_uses_capsules(self) -> None:
        assert parse_request_head(CONNECT_UDP_HEAD, end_stream=False).uses_capsules

    @pytest.mark.clause(
        "RFC 9297", "3.4", "MUST", "ignore Capsule-Protocol of another type than Boolean"
    )
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], False),
            ([b"?1"], True),
            ([b"?1;x"], True),
            ([b"?0"], False),
            ([b"1"], False),
            ([b'"?1"'], False),
            ([b"?1", b"?1"], False),
        ],
    )
    def test_unknown_protocol_says_so_by_the_field(
        self, values: list[bytes], *, expected: bool
    ) -> None:
        headers = head_with(CONNECT_UDP_HEAD, protocol=b"unknown")
        headers += [(b"capsule-protocol", value) for value in values]

        assert parse_request_head(headers, end_stream=False).uses_capsules is expected

    @pytest.mark.clause(
        "RFC 9297",
        "3.2",
        "MUST",
        "treat content-length, content-type, transfer-encoding as malformed",
    )
    @pytest.mark.parametrize("name", [b"content-length", b"content-type"])
    def test_content_fields_are_refused(self, name: bytes) -> None:
        refused([*CONNECT_UDP_HEAD, (name, b"5")])

    def test_content_fields_are_fine_without_capsules(self) -> None:
        headers = head_with(CONNECT_UDP_HEAD, protocol=b"unknown")

        parse_request_head([*headers, (b"content-type", b"text/plain")], end_stream=False)


class TestClassicConnect:
    """RFC 9114 section 4.4: only :method and :authority."""

    def test_it_is_recognised(self) -> None:
        head = parse_request_head(CLASSIC_HEAD, end_stream=False)

        assert head.form is ConnectForm.CLASSIC
        assert (head.protocol, head.raw_path, head.scheme) == (None, b"", "https")
        assert not head.uses_capsules

    @pytest.mark.clause(
        "RFC 9114", "4.4", "MUST", "treat classic CONNECT with :scheme or :path as malformed"
    )
    @pytest.mark.parametrize(
        "headers",
        [
            head_with(CLASSIC_HEAD, path=b"/"),
            head_with(CLASSIC_HEAD, scheme=b"https"),
            head_with(CLASSIC_HEAD, authority=b"example.org"),
            head_with(CLASSIC_HEAD, authority=b"example.org:"),
            head_with(CLASSIC_HEAD, authority=None),
        ],
    )
    def test_anything_more_or_less_is_refused(self, headers: Headers) -> None:
        refused(headers)


class TestTrailers:
    """RFC 9114 section 4.3: no pseudo-headers in trailers."""

    def test_fields_pass(self) -> None:
        check_trailers([(b"checksum", b"abc")])

    @pytest.mark.parametrize("field", [(b":path", b"/"), (b"Upper", b"x"), (b"x", b"a\nb")])
    def test_bad_trailers_are_refused(self, field: tuple[bytes, bytes]) -> None:
        with pytest.raises(WireError):
            check_trailers([field])
