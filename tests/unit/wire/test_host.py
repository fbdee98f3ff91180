"""Tests of masque_relay.wire.host."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host, parse_port


class TestHost:
    """RFC 9298 section 3, RFC 3986 section 3.2.2."""

    @pytest.mark.parametrize(
        ("text", "host"),
        [
            ("example.org", "example.org"),
            ("EXAMPLE.Org", "example.org"),
            ("example.org.", "example.org"),
            ("localhost", "localhost"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("_dns.resolver.arpa", "_dns.resolver.arpa"),
            ("a-b.3com.example", "a-b.3com.example"),
            ("1.2.3.example", "1.2.3.example"),
            ("0x7f.example", "0x7f.example"),
            ("a" * 63 + ".example", "a" * 63 + ".example"),
            (".".join(["a" * 49] * 5) + ".aa", ".".join(["a" * 49] * 5) + ".aa"),
            (".".join(["a" * 49] * 5) + ".aaa.", ".".join(["a" * 49] * 5) + ".aaa"),
        ],
    )
    def test_a_name_becomes_lower_case_without_its_last_dot(self, text: str, host: str) -> None:
        assert parse_host(text) == host

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("192.0.2.1", IPv4Address("192.0.2.1")),
            ("192.0.2.1.", IPv4Address("192.0.2.1")),
            ("0.0.0.0", IPv4Address(0)),
            ("2001:db8::1", IPv6Address("2001:db8::1")),
            ("2001:DB8:0:0:0:0:0:1", IPv6Address("2001:db8::1")),
            ("::", IPv6Address("::")),
        ],
    )
    def test_a_literal_becomes_an_address(
        self, text: str, address: IPv4Address | IPv6Address
    ) -> None:
        assert parse_host(text) == address

    @pytest.mark.parametrize("text", ["::ffff:10.0.0.1", "::FFFF:a00:1", "0::ffff:0a00:0001"])
    def test_an_ipv4_mapped_address_is_unwrapped(self, text: str) -> None:
        assert parse_host(text) == IPv4Address("10.0.0.1")

    @pytest.mark.parametrize(
        "text",
        [
            "127.1",
            "0x7f.1",
            "0x7f.0.0.0x1",
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "0x",
            "017700000001",
            "0177.0.0.1",
            "127.0.0.01",
            "127.0.0.1.5",
            "256.0.0.1",
            "example.127",
        ],
    )
    def test_old_spellings_of_ipv4_are_refused(self, text: str) -> None:
        with pytest.raises(WireError, match="not an IPv4 address"):
            parse_host(text)

    @pytest.mark.clause(
        "RFC 9298",
        "3",
        "DEVIATION",
        "a reg-name that is no DNS name is refused: nothing could resolve it",
    )
    @pytest.mark.parametrize(
        "text",
        [
            ".",
            "..",
            "example..org",
            ".example.org",
            "example.org..",
            "-a.example",
            "a-.example",
            "a b.example",
            " example.org",
            "example.org\n",
            "example\x00.org",
            "example.org/",
            "user@example.org",
            "*",
            "a" * 64 + ".example",
            ".".join(["a" * 49] * 5) + ".aaaa",
            "a%20b.example",
        ],
    )
    def test_what_no_dns_name_has_is_refused(self, text: str) -> None:
        with pytest.raises(WireError, match="not a DNS name"):
            parse_host(text)

    @pytest.mark.parametrize(
        "text",
        ["bücher.example", "straße.example", "\uff11\uff12\uff17.0.0.1", "例え.テスト", "a。b"],
    )
    def test_names_beyond_ascii_are_refused_with_what_to_send_instead(self, text: str) -> None:
        with pytest.raises(WireError, match="A-label"):
            parse_host(text)

    @pytest.mark.clause("RFC 9298", "3", "MUST NOT", "take IPv6 zone identifiers")
    @pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%251", "::1%"])
    def test_a_zone_id_is_refused(self, text: str) -> None:
        with pytest.raises(WireError, match="zone id"):
            parse_host(text)

    @pytest.mark.parametrize(
        "text", [":", ":::", "1:2", "g::1", "example.org:443", "::1.2.3", "[::1]"]
    )
    def test_a_colon_outside_an_ipv6_address_is_refused(self, text: str) -> None:
        with pytest.raises(WireError, match="not an IPv6 address"):
            parse_host(text)

    def test_nothing_is_refused(self) -> None:
        with pytest.raises(WireError, match="empty host"):
            parse_host("")

    def test_a_very_long_host_is_refused_before_it_is_looked_at(self) -> None:
        with pytest.raises(WireError, match="host of 100000 characters"):
            parse_host("a." * 50_000)

    def test_the_error_shows_a_short_printable_excerpt(self) -> None:
        with pytest.raises(WireError) as caught:
            parse_host("x\x1b[31m" + "y" * 150)
        assert caught.value.detail.isprintable()
        assert len(caught.value.detail) < 120


class TestPort:
    """RFC 9298 section 3: an integer from 1 to 65535."""

    @pytest.mark.parametrize(
        ("text", "port"), [("1", 1), ("53", 53), ("00443", 443), ("65535", 65535)]
    )
    def test_a_number_in_range_is_a_port(self, text: str, port: int) -> None:
        assert parse_port(text) == port

    @pytest.mark.parametrize(
        "text",
        ["", "0", "00000", "65536", "70000", "-1", "+1", " 1", "1 ", "1\n", "0x35", "1_0",
         "\uff15\uff13",
         "1.0", "000001", "9" * 5000, "*"],
    )  # fmt: skip
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(WireError, match=r"not 1\.\.65535"):
            parse_port(text)
