"""Capsules and scope variables of CONNECT-IP (RFC 9484 sections 4.6 and 4.7)."""

import contextlib
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.connect_ip import (
    DEFAULT_TEMPLATE,
    AddressEntry,
    decode_address_assign,
    decode_address_request,
    decode_routes,
    encode_addresses,
    encode_routes,
    parse_scope_protocol,
    parse_scope_target,
    refused_address,
)
from masque_relay.wire.errors import WireError
from masque_relay.wire.ip_range import IpRange
from masque_relay.wire.uri_template import UriTemplate

V4_EXAMPLE = bytes.fromhex("0104c000020b20")
"""RFC 9484 section 8.1: request 1, 192.0.2.11/32."""
V6_EXAMPLE = bytes.fromhex("000620010db812340000000000000000000030")


def entry(text: str, request_id: int = 0) -> AddressEntry:
    network = ip_network(text)
    return AddressEntry(
        request_id=request_id, address=network.network_address, prefix_length=network.prefixlen
    )


class TestAddressAssign:
    """RFC 9484 section 4.7.1."""

    def test_example_of_the_rfc(self) -> None:
        assert encode_addresses([entry("192.0.2.11/32", 1)]) == V4_EXAMPLE
        assert decode_address_assign(V4_EXAMPLE) == (entry("192.0.2.11/32", 1),)

    def test_both_families_in_one_capsule(self) -> None:
        entries = decode_address_assign(V4_EXAMPLE + V6_EXAMPLE)
        assert [str(found.network) for found in entries] == ["192.0.2.11/32", "2001:db8:1234::/48"]

    def test_empty_takes_everything_away(self) -> None:
        assert decode_address_assign(b"") == ()

    @pytest.mark.clause(
        "RFC 9484", "4.7.1", "MUST", "an address or prefix field that is malformed is refused"
    )
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(bytes.fromhex("0005c000020b20"), id="version"),
            pytest.param(bytes.fromhex("0004c000020b21"), id="IPv4 prefix length"),
            pytest.param(bytes.fromhex("0006") + bytes(16) + b"\x81", id="IPv6 prefix length"),
            pytest.param(bytes.fromhex("0004c000020b18"), id="host bits"),
            pytest.param(V4_EXAMPLE[:-1], id="no prefix length"),
            pytest.param(V4_EXAMPLE[:4], id="half an address"),
            pytest.param(b"\x00", id="no version"),
            pytest.param(b"\x40", id="half a request ID"),
            pytest.param(V4_EXAMPLE + b"\x00", id="trailing byte"),
        ],
    )
    def test_malformed_entry_is_refused(self, value: bytes) -> None:
        with pytest.raises(WireError):
            decode_address_assign(value)
        with pytest.raises(WireError):
            decode_address_request(value)

    def test_refusal_is_all_zero_with_the_longest_prefix(self) -> None:
        assert refused_address(entry("10.0.0.0/8", 5)) == entry("0.0.0.0/32", 5)
        assert refused_address(entry("fd00::/64", 6)) == entry("::/128", 6)
        assert refused_address(entry("10.0.0.0/8", 5)).is_refusal
        assert not entry("0.0.0.0/0", 5).is_refusal


class TestAddressRequest:
    """RFC 9484 section 4.7.2."""

    def test_any_address_of_a_family_is_all_zero(self) -> None:
        assert decode_address_request(encode_addresses([entry("0.0.0.0/32", 1)])) == (
            entry("0.0.0.0/32", 1),
        )

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST", "an empty ADDRESS_REQUEST is refused")
    def test_empty_is_refused(self) -> None:
        with pytest.raises(WireError, match="empty"):
            decode_address_request(b"")

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST NOT", "request ID 0 is refused")
    def test_request_id_zero_is_refused(self) -> None:
        with pytest.raises(WireError, match="request ID 0"):
            decode_address_request(encode_addresses([entry("0.0.0.0/32", 0)]))

    @pytest.mark.clause("RFC 9484", "4.7.2", "MUST NOT", "a request ID twice in one capsule")
    def test_request_id_twice_is_refused(self) -> None:
        with pytest.raises(WireError, match="twice"):
            decode_address_request(encode_addresses([entry("0.0.0.0/32", 7), entry("::/128", 7)]))


class TestRoutes:
    """RFC 9484 section 4.7.3."""

    def test_example_of_the_rfc(self) -> None:
        everything = IpRange(ip_address("0.0.0.0"), ip_address("255.255.255.255"))
        assert encode_routes([everything]) == bytes.fromhex("0400000000ffffffff00")
        assert decode_routes(encode_routes([everything])) == (everything,)

    def test_empty_withdraws_everything(self) -> None:
        assert decode_routes(b"") == ()

    @pytest.mark.clause("RFC 9484", "4.7.3", "MUST", "a route field that is malformed is refused")
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(bytes.fromhex("0500000000ffffffff00"), id="version"),
            pytest.param(bytes.fromhex("040a0000090a00000100"), id="end before start"),
            pytest.param(bytes.fromhex("040a0000090a0000"), id="truncated address"),
            pytest.param(bytes.fromhex("040a0000090a00000a"), id="no protocol"),
        ],
    )
    def test_malformed_range_is_refused(self, value: bytes) -> None:
        with pytest.raises(WireError):
            decode_routes(value)

    @pytest.mark.clause("RFC 9484", "4.7.3", "MUST", "ranges out of order are refused")
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param("04 0a000100 0a000101 00  04 0a000000 0a000001 00", id="addresses"),
            pytest.param("04 0a000000 0a000001 11  04 0a000100 0a000101 06", id="protocols"),
            pytest.param(f"06 {'00' * 16} {'00' * 16} 00  04 0a000000 0a000001 00", id="families"),
            pytest.param("04 0a000000 0a000005 00  04 0a000005 0a000009 00", id="overlap"),
        ],
    )
    def test_disorder_is_refused(self, value: str) -> None:
        with pytest.raises(WireError):
            decode_routes(bytes.fromhex(value))

    @pytest.mark.clause("RFC 9484", "4.7.3", "MUST", "overlap with protocol 0 is refused if seen")
    def test_overlap_across_protocols_is_refused(self) -> None:
        with pytest.raises(WireError, match="all protocols"):
            decode_routes(bytes.fromhex("04 0a000000 0a0000ff 00  04 0a000005 0a000009 11"))

    @pytest.mark.clause("RFC 9484", "4.7.3", "MUST NOT", "send ranges that overlap")
    def test_our_own_disorder_is_a_bug(self) -> None:
        one = IpRange(ip_address("10.0.0.0"), ip_address("10.0.0.9"))
        with pytest.raises(ValueError, match="overlap"):
            encode_routes([one, one])


class TestScopeVariables:
    """RFC 9484 section 4.6."""

    TEMPLATE = UriTemplate.parse(DEFAULT_TEMPLATE)

    @pytest.mark.parametrize(
        ("path", "target", "protocol"),
        [
            ("*/*", None, None),
            ("%2A/%2a", None, None),
            ("192.0.2.7/17", ip_network("192.0.2.7/32"), 17),
            ("192.0.2.0%2F24/*", ip_network("192.0.2.0/24"), None),
            ("2001%3Adb8%3A%3A42/58", ip_network("2001:db8::42/128"), 58),
            ("2001%3Adb8%3A%3A%2F32/6", ip_network("2001:db8::/32"), 6),
            ("Target.Example.COM./132", "target.example.com", 132),
            ("0.0.0.0%2F0/*", ip_network("0.0.0.0/0"), None),
            ("%3A%3Affff%3A10.0.0.0%2F104/*", ip_network("10.0.0.0/8"), None),
        ],
    )
    def test_wildcards_prefixes_and_names(
        self, path: str, target: str | IPv4Network | IPv6Network | None, protocol: int | None
    ) -> None:
        found = self.TEMPLATE.match(f"/.well-known/masque/ip/{path}/".encode())
        assert found is not None
        assert parse_scope_target(found["target"]) == target
        assert parse_scope_protocol(found["ipproto"]) == protocol

    def test_a_slash_that_is_not_encoded_is_another_path(self) -> None:
        assert self.TEMPLATE.match(b"/.well-known/masque/ip/192.0.2.0/24/*/") is None

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "validate target and ipproto")
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "192.0.2.0/33",
            "192.0.2.0/024",
            "192.0.2.0/",
            "192.0.2.0/x",
            "2001:db8::/129",
            "fe80::1%eth0",
            "fe80::1%eth0/64",
            "example.org/24",
            "*/24",
            "192.0.2.300",
            "127.1",
            "exa mple.org",
            "[2001:db8::1]",
        ],
    )
    def test_malformed_target_is_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_scope_target(text)

    @pytest.mark.clause("RFC 9484", "4.6", "MUST", "bits beyond the prefix are 0")
    @pytest.mark.parametrize("text", ["192.0.2.1/24", "2001:db8::1/32", "::ffff:10.0.0.1/104"])
    def test_host_bits_are_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_scope_target(text)

    @pytest.mark.clause("RFC 9484", "4.6", "MUST", "ipproto is 0..255 or the wildcard")
    @pytest.mark.parametrize("text", ["", "256", "-1", "1000", "0x6", "tcp", "6 ", "٦"])
    def test_malformed_protocol_is_refused(self, text: str) -> None:
        with pytest.raises(WireError):
            parse_scope_protocol(text)

    @pytest.mark.clause("RFC 9484", "4.8", "MAY", "refuse extension headers as ipproto")
    @pytest.mark.parametrize("text", ["0", "43", "44", "60"])
    def test_extension_headers_are_no_scope(self, text: str) -> None:
        with pytest.raises(WireError, match="extension header"):
            parse_scope_protocol(text)


@given(
    st.lists(
        st.builds(
            lambda request_id, network: AddressEntry(
                request_id=request_id,
                address=network.network_address,
                prefix_length=network.prefixlen,
            ),
            st.integers(0, 2**62 - 1),
            st.builds(
                lambda value, length: ip_network((value, length), strict=False),
                st.integers(0, 2**32 - 1),
                st.integers(0, 32),
            )
            | st.builds(
                lambda value, length: IPv6Network((value, length), strict=False),
                st.integers(0, 2**128 - 1),
                st.integers(0, 128),
            ),
        ),
        max_size=8,
    )
)
def test_addresses_survive_the_wire(entries: list[AddressEntry]) -> None:
    assert decode_address_assign(encode_addresses(entries)) == tuple(entries)


@given(st.binary(max_size=120))
def test_any_bytes_are_decoded_or_refused(value: bytes) -> None:
    for decode in (decode_address_assign, decode_address_request, decode_routes):
        with contextlib.suppress(WireError):
            decode(value)


@given(st.text(max_size=40))
def test_any_text_is_a_scope_or_refused(text: str) -> None:
    for parse in (parse_scope_target, parse_scope_protocol):
        with contextlib.suppress(WireError):
            parse(text)
