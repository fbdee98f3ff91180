"""Heads of HTTP/1.1 requests: what they are, and what is refused (RFC 9112)."""

import pytest

from masque_relay.http.h1_head import H1Head, has_lone_lf, parse_h1_head
from masque_relay.http.request_head import ConnectForm, parse_request_head
from masque_relay.http.transport import HttpVersion
from masque_relay.wire.errors import WireError


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def parse(*lines: str) -> H1Head:
    return parse_h1_head(head(*lines))


UPGRADE = ("Connection: Upgrade", "Upgrade: connect-udp", "Capsule-Protocol: ?1")
PATH = "/.well-known/masque/udp/192.0.2.7/53/"


class TestForms:
    def test_origin_form(self) -> None:
        parsed = parse("GET /a%2Fb?x=1 HTTP/1.1", "Host: relay.example", "Accept:  */* ")

        assert parsed.headers == [
            (b":method", b"GET"),
            (b":authority", b"relay.example"),
            (b":scheme", b"https"),
            (b":path", b"/a%2Fb?x=1"),
            (b"host", b"relay.example"),
            (b"accept", b"*/*"),
        ]
        assert not parsed.is_tunnel

    @pytest.mark.clause(
        "RFC 9112", "3.2.2", "MUST", "take the host of an absolute-form target instead of Host"
    )
    @pytest.mark.parametrize(
        ("target", "path"),
        [
            ("https://relay.example:8443/x?y", b"/x?y"),
            ("HTTP://relay.example:8443", b"/"),
            ("https://relay.example:8443?y", b"/?y"),
        ],
    )
    def test_absolute_form_replaces_host(self, target: str, path: bytes) -> None:
        """RFC 9112 section 3.2.2."""
        parsed = parse(f"GET {target} HTTP/1.1", "Host: other.example")

        assert dict(parsed.headers)[b":authority"] == b"relay.example:8443"
        assert dict(parsed.headers)[b":path"] == path
        assert dict(parsed.headers)[b"host"] == b"relay.example:8443"

    def test_asterisk_form(self) -> None:
        assert dict(parse("OPTIONS * HTTP/1.1", "Host: a").headers)[b":path"] == b"*"

    def test_classic_connect(self) -> None:
        parsed = parse("CONNECT a.example:443 HTTP/1.1", "Host: a.example:443")
        request = parse_request_head(
            parsed.headers, end_stream=False, http_version=HttpVersion.HTTP1
        )

        assert request.form is ConnectForm.CLASSIC
        assert request.authority == "a.example:443"
        assert parsed.is_tunnel

    def test_http10_needs_no_host_in_absolute_form(self) -> None:
        parsed = parse("GET http://relay.example/ HTTP/1.0")

        assert dict(parsed.headers)[b"host"] == b"relay.example"


class TestUpgrade:
    """RFC 9298 section 3.2."""

    @pytest.mark.clause(
        "RFC 9298", "3.2", "MUST", "take GET with Upgrade: connect-udp for a tunnel"
    )
    @pytest.mark.parametrize("target", [PATH, f"https://relay.example:4433{PATH}"])
    def test_connect_udp(self, target: str) -> None:
        parsed = parse(
            f"GET {target} HTTP/1.1",
            "Host: relay.example:4433",
            "Proxy-Connection: Keep-Alive",
            *UPGRADE,
        )
        request = parse_request_head(
            parsed.headers, end_stream=False, http_version=HttpVersion.HTTP1
        )

        assert parsed.is_tunnel
        assert request.form is ConnectForm.UPGRADE
        assert request.method == "GET"
        assert request.protocol == "connect-udp"
        assert request.uses_capsules
        assert request.raw_path == PATH.encode()

    def test_words_are_lists_in_any_case(self) -> None:
        parsed = parse(
            f"GET {PATH} HTTP/1.1", "Host: a", "Connection: keep-alive, UPGRADE",
            "Upgrade: h2c, Connect-UDP",
        )  # fmt: skip

        assert dict(parsed.headers)[b":protocol"] == b"connect-udp"

    def test_unknown_token_of_the_capsule_protocol_is_a_tunnel_too(self) -> None:
        parsed = parse("GET / HTTP/1.1", "Host: a", UPGRADE[0], "Upgrade: new-thing", UPGRADE[2])

        assert dict(parsed.headers)[b":protocol"] == b"new-thing"

    def test_derp_is_a_tunnel_and_its_fast_start_expects_no_101(self) -> None:
        lines = ("GET /derp HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: DERP")
        plain, fast = parse(*lines), parse(*lines, "Derp-Fast-Start: 1")

        assert dict(plain.headers)[b":protocol"] == b"derp"
        assert plain.is_tunnel
        assert not plain.has_switched
        assert fast.has_switched
        assert not parse(*lines, "Derp-Fast-Start: 0").has_switched

    def test_no_other_tunnel_has_a_fast_start(self) -> None:
        parsed = parse("GET / HTTP/1.1", "Host: a", *UPGRADE, "Derp-Fast-Start: 1")

        assert parsed.is_tunnel
        assert not parsed.has_switched

    @pytest.mark.parametrize(
        "lines",
        [
            ("GET / HTTP/1.1", "Host: a", "Upgrade: connect-udp"),
            ("GET / HTTP/1.1", "Host: a", "Connection: Upgrade", "Upgrade: h2c"),
            ("POST / HTTP/1.1", "Host: a", *UPGRADE),
            ("GET / HTTP/1.0", "Host: a", *UPGRADE),
        ],
        ids=["no connection field", "h2c", "post", "http/1.0"],
    )
    def test_what_is_no_upgrade_of_ours_is_an_ordinary_request(
        self, lines: tuple[str, ...]
    ) -> None:
        parsed = parse(*lines)

        assert b":protocol" not in dict(parsed.headers)
        assert not parsed.is_tunnel


SMUGGLING = {
    "CL and TE": ("POST / HTTP/1.1", "Host: a", "Content-Length: 3", "Transfer-Encoding: chunked"),
    "two CL": ("POST / HTTP/1.1", "Host: a", "Content-Length: 3", "Content-Length: 3"),
    "CL list": ("POST / HTTP/1.1", "Host: a", "Content-Length: 3, 3"),
    "signed CL": ("POST / HTTP/1.1", "Host: a", "Content-Length: +3"),
    "two TE": ("POST / HTTP/1.1", "Host: a", *["Transfer-Encoding: chunked"] * 2),
    "TE list": ("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: gzip, chunked"),
    "TE unknown": ("POST / HTTP/1.1", "Host: a", "Transfer-Encoding: xchunked"),
    "TE in 1.0": ("POST / HTTP/1.0", "Host: a", "Transfer-Encoding: chunked"),
    "folded line": ("GET / HTTP/1.1", "Host: a", "X: 1", " 2"),
    "folded with a tab": ("GET / HTTP/1.1", "Host: a", "X: 1", "\t2"),
    "space before the colon": ("POST / HTTP/1.1", "Host: a", "Content-Length : 3"),
    "no colon": ("GET / HTTP/1.1", "Host: a", "X"),
    "NUL": ("GET / HTTP/1.1", "Host: a", "X: \0"),
    "bare CR": ("GET / HTTP/1.1", "Host: a", "X: 1\r2"),
    "bare LF": ("GET / HTTP/1.1", "Host: a\nX: 1"),
    "two hosts": ("GET / HTTP/1.1", "Host: a", "Host: b"),
    "no host": ("GET / HTTP/1.1", "X: 1"),
    "empty host": ("GET / HTTP/1.1", "Host: "),
    "two spaces": ("GET  / HTTP/1.1", "Host: a"),
    "a tab": ("GET\t/ HTTP/1.1", "Host: a"),
    "HTTP/2 in words": ("GET / HTTP/2.0", "Host: a"),
    "HTTP/1.2": ("GET / HTTP/1.2", "Host: a"),
    "no version": ("GET /", "Host: a"),
}


class TestRefused:
    """RFC 9112 section 11.2: whatever two parsers could read differently."""

    @pytest.mark.clause(
        "RFC 9112", "11.2", "MUST", "refuse what two parsers could read differently"
    )
    @pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
    def test_ambiguous_or_malformed_head(self, lines: tuple[str, ...]) -> None:
        with pytest.raises(WireError, match="RFC 9112"):
            parse(*lines)

    def test_lone_lf_is_seen_before_the_head_is_whole(self) -> None:
        assert has_lone_lf(b"GET / HTTP/1.1\n")
        assert has_lone_lf(b"\n")
        assert not has_lone_lf(b"GET / HTTP/1.1\r\nHost: a\r\n")


def test_what_h11_gets_has_one_spelling() -> None:
    parsed = parse("POST / HTTP/1.1", "HOST:a", "Content-Length:3")

    assert parsed.h11_head == b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n"
