"""Reading IP packets (RFC 791, RFC 8200)."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.ip_packet import (
    MAX_EXTENSION_HEADERS,
    decrement_hop_limit,
    fragment_ipv4,
    internet_checksum,
    is_fragment_tail,
    read_packet,
    walk_extensions,
)
from tests.support.ip_packets import checksum, ipv4, ipv6, udp

V4, V4_PEER = "192.0.2.1", "198.51.100.7"
V6, V6_PEER = "2001:db8::1", "2001:db8:ffff::7"


def number(text: str) -> int:
    return int(ip_address(text))


def options(kind: int, next_header: int = 17, data: bytes = bytes(6)) -> bytes:
    """An extension header of the common form; the kind is told by the header in front of it."""
    del kind
    return bytes((next_header, (len(data) + 2) // 8 - 1)) + data


def fragment(offset: int, next_header: int = 17, *, more: bool = False) -> bytes:
    return struct.pack(">BxHI", next_header, offset * 8 | more, 99)


class TestFacts:
    def test_ipv4_udp(self) -> None:
        packet = ipv4(V4, V4_PEER, udp(b"x", port=443), ttl=9)
        assert read_packet(packet) == (4, number(V4), number(V4_PEER), 17, 443, 9)

    def test_ipv6_tcp(self) -> None:
        packet = ipv6(V6, V6_PEER, struct.pack(">HH", 1, 8443) + bytes(16), protocol=6)
        assert read_packet(packet) == (6, number(V6), number(V6_PEER), 6, 8443, 64)

    @pytest.mark.parametrize("protocol", [1, 47, 50, 0, 255])
    def test_a_protocol_without_ports_has_port_0(self, protocol: int) -> None:
        facts = read_packet(ipv4(V4, V4_PEER, udp(b"x"), protocol=protocol))
        assert facts is not None
        assert facts[3:5] == (protocol, 0)

    @pytest.mark.parametrize("protocol", [6, 17, 33, 132, 136])
    @pytest.mark.parametrize("make", [ipv4, ipv6])
    def test_every_protocol_with_ports_shows_its_port(self, make: object, protocol: int) -> None:
        ends = (V4, V4_PEER) if make is ipv4 else (V6, V6_PEER)
        facts = read_packet(make(*ends, udp(b"x", port=7), protocol=protocol))  # type: ignore[operator]  # one of two functions
        assert facts is not None
        assert facts[3:5] == (protocol, 7)

    def test_ipv4_options_are_stepped_over(self) -> None:
        packet = ipv4(V4, V4_PEER, udp(b"x", port=99), options=b"\x01\x94\x04\x00\x00\x00\x00\x00")
        facts = read_packet(packet)
        assert facts is not None
        assert facts[4] == 99

    @pytest.mark.clause(
        "RFC 9484", "4.8", "MUST", "walk the extension headers to the protocol that is matched"
    )
    def test_extension_headers_are_walked(self) -> None:
        headers = options(0, 60) + options(60, 44) + fragment(0, 17, more=True)
        facts = read_packet(ipv6(V6, V6_PEER, headers + udp(b"x", port=53), protocol=0))
        assert facts is not None
        assert facts[3:5] == (17, 53)

    def test_authentication_header_counts_in_words_of_four(self) -> None:
        header = bytes((17, 4)) + bytes(22)  # RFC 4302: (4 + 2) * 4 bytes
        facts = read_packet(ipv6(V6, V6_PEER, header + udp(b"x", port=53), protocol=51))
        assert facts is not None
        assert facts[3:5] == (17, 53)

    def test_esp_is_the_end_of_what_can_be_seen(self) -> None:
        facts = read_packet(ipv6(V6, V6_PEER, bytes(16), protocol=50))
        assert facts is not None
        assert facts[3:5] == (50, 0)


class TestFragments:
    def test_later_fragments_hide_the_port(self) -> None:
        v4 = ipv4(V4, V4_PEER, udp(b"x", port=53), fragment=1)
        v6 = ipv6(V6, V6_PEER, fragment(1) + udp(b"x", port=53), protocol=44)
        assert [facts[3:5] for packet in (v4, v6) if (facts := read_packet(packet))] == [
            (17, 0),
            (17, 0),
        ]
        assert is_fragment_tail(v4)
        assert is_fragment_tail(v6)

    def test_a_first_fragment_shows_it(self) -> None:
        packet = ipv4(V4, V4_PEER, udp(b"x", port=53), fragment=0x2000)
        facts = read_packet(packet)
        assert facts is not None
        assert facts[4] == 53
        assert not is_fragment_tail(packet)

    @pytest.mark.parametrize("size", [0, 1, 3])
    def test_a_first_fragment_too_short_for_a_port_hides_it(self, size: int) -> None:
        v4 = read_packet(ipv4(V4, V4_PEER, bytes(size), fragment=0x2000))
        v6 = read_packet(ipv6(V6, V6_PEER, bytes(size)))
        assert v4 is not None
        assert v6 is not None
        assert v4[4] == v6[4] == 0

    @pytest.mark.parametrize(
        "packet",
        [
            ipv6(V6, V6_PEER, bytes(1_400)),
            ipv4(V4, V4_PEER, bytes(1_400), fragment=0x4000),
            ipv4(V4, V4_PEER, bytes(1_400), options=b"\x01\x01\x01\x01"),
        ],
    )
    def test_only_the_sender_divides_ipv6_and_ipv4_with_df(self, packet: bytes) -> None:
        assert fragment_ipv4(packet, 1_280) == []

    @given(st.binary(min_size=1, max_size=300), st.integers(28, 200), st.booleans())
    def test_fragments_have_all_of_the_packet(self, data: bytes, mtu: int, more: bool) -> None:
        data = data[: len(data) // 8 * 8] if more else data
        packet = ipv4(V4, V4_PEER, data, fragment=0x2000 * more + 5)
        pieces = fragment_ipv4(packet, mtu)
        assert b"".join(piece[20:] for piece in pieces) == data
        at = 5
        for piece in pieces:
            assert len(piece) <= mtu
            assert checksum(piece[:20]) == 0
            assert read_packet(piece) is not None
            (word,) = struct.unpack_from(">H", piece, 6)
            assert word & 0x1FFF == at
            assert bool(word & 0x2000) == (more or piece is not pieces[-1])
            at += len(piece[20:]) // 8


class TestMalformed:
    @pytest.mark.parametrize(
        "packet",
        [
            pytest.param(b"", id="empty"),
            pytest.param(b"\x45", id="one byte"),
            pytest.param(ipv4(V4, V4_PEER)[:19], id="19 bytes"),
            pytest.param(ipv6(V6, V6_PEER)[:39], id="39 bytes"),
            pytest.param(ipv4(V4, V4_PEER, b"xy")[:-1], id="shorter than it says"),
            pytest.param(ipv4(V4, V4_PEER, b"xy") + b"z", id="longer than it says"),
            pytest.param(ipv6(V6, V6_PEER, b"xy") + b"z", id="IPv6 longer than it says"),
            pytest.param(b"\x55" + ipv4(V4, V4_PEER)[1:], id="version 5"),
            pytest.param(b"\x05" + ipv4(V4, V4_PEER)[1:], id="version 0"),
            pytest.param(b"\x44" + ipv4(V4, V4_PEER)[1:], id="header of 16 bytes"),
            pytest.param(b"\x4f" + ipv4(V4, V4_PEER)[1:], id="header beyond the packet"),
            pytest.param(ipv4(V4, V4_PEER, options=b"\x83\x03\x04\x00"), id="loose source route"),
            pytest.param(ipv4(V4, V4_PEER, options=b"\x89\x03\x04\x00"), id="strict source route"),
            pytest.param(ipv4(V4, V4_PEER, options=b"\x94\x00\x00\x00"), id="option of length 0"),
            pytest.param(ipv4(V4, V4_PEER, options=b"\x94\x09\x00\x00"), id="option too long"),
            pytest.param(ipv4(V4, V4_PEER, options=b"\x01\x01\x01\x94"), id="option cut off"),
            pytest.param(ipv6(V6, V6_PEER, b"\x11", protocol=60), id="header cut off"),
            pytest.param(ipv6(V6, V6_PEER, b"\x11\x05" + bytes(6), protocol=60), id="header long"),
            pytest.param(
                ipv6(V6, V6_PEER, options(60, 0) + options(0) + udp(b""), protocol=60),
                id="hop-by-hop options in second place",
            ),
            pytest.param(
                ipv6(V6, V6_PEER, b"\x11\x02\x00\x01" + bytes(20) + udp(b""), protocol=43),
                id="source route of RFC 5095",
            ),
            pytest.param(
                ipv6(V6, V6_PEER, b"\x11\x02\x04\x01" + bytes(20) + udp(b""), protocol=43),
                id="segment routing of RFC 8754",
            ),
        ],
    )
    def test_it_is_no_packet_to_forward(self, packet: bytes) -> None:
        assert read_packet(packet) is None

    def test_a_used_up_source_route_is_harmless(self) -> None:
        header = b"\x11\x02\x00\x00" + bytes(20)
        assert read_packet(ipv6(V6, V6_PEER, header + udp(b""), protocol=43)) is not None

    def test_a_chain_has_an_end(self) -> None:
        def chained(count: int) -> bytes:
            headers = options(60, 60) * (count - 1) + options(60, 17)
            return ipv6(V6, V6_PEER, headers + udp(b""), protocol=60)

        assert read_packet(chained(MAX_EXTENSION_HEADERS)) is not None
        assert read_packet(chained(MAX_EXTENSION_HEADERS + 1)) is None


class TestHopLimit:
    @given(st.binary(min_size=20, max_size=20), st.integers(2, 255))
    def test_ipv4_checksum_stays_right(self, head: bytes, ttl: int) -> None:
        packet = b"\x45" + head[1:8] + bytes((ttl,)) + head[9:10] + b"\0\0" + head[12:]
        packet = packet[:10] + struct.pack(">H", checksum(packet)) + packet[12:]
        shorter = decrement_hop_limit(packet)
        assert shorter is not None
        assert shorter[8] == ttl - 1
        assert checksum(shorter) == 0

    def test_ipv6(self) -> None:
        packet = ipv6(V6, V6_PEER, b"data", hop_limit=3)
        assert decrement_hop_limit(packet) == ipv6(V6, V6_PEER, b"data", hop_limit=2)

    @pytest.mark.parametrize("left", [0, 1])
    def test_nothing_is_left_of_the_last_hop(self, left: int) -> None:
        assert decrement_hop_limit(ipv4(V4, V4_PEER, ttl=left)) is None
        assert decrement_hop_limit(ipv6(V6, V6_PEER, hop_limit=left)) is None


@given(st.binary(max_size=130))
def test_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert internet_checksum(data) == checksum(data)


@given(st.binary(max_size=200), st.sampled_from([0x45, 0x46, 0x4F, 0x60, 0x6F, 0x00]))
def test_no_bytes_raise(data: bytes, first: int) -> None:
    for packet in (data, bytes((first,)) + data):
        facts = read_packet(packet)
        if facts is not None:
            assert facts[0] in {4, 6}
            is_fragment_tail(packet)
            fragment_ipv4(packet, 60)
            decrement_hop_limit(packet)


@given(st.binary(max_size=100), st.sampled_from([0, 43, 44, 51, 60, 135]))
def test_no_chain_of_headers_raises(payload: bytes, protocol: int) -> None:
    packet = ipv6(V6, V6_PEER, payload, protocol=protocol)
    walked = walk_extensions(packet)
    assert (read_packet(packet) is None) == (walked is None)
    if walked is not None:
        assert walked[1] <= len(packet)
