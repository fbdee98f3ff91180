"""ICMP errors and echo replies (RFC 792, RFC 1122, RFC 1812, RFC 4443)."""

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.icmp import (
    IcmpError,
    echo_reply,
    echo_reply_identifier,
    echo_request,
    icmp_error,
    may_be_answered,
)
from masque_relay.wire.ip_packet import read_packet
from tests.support.ip_packets import (
    has_good_checksums,
    icmp_kind,
    icmpv6,
    ipv4,
    ipv6,
    ping4,
    ping6,
    source_of,
    udp,
)

V4, V4_PEER, RELAY4 = "10.71.0.2", "198.51.100.7", "10.71.0.1"
V6, V6_PEER, RELAY6 = "fd71::2", "2001:db8:ffff::7", "fd71::1"


def error_about(packet: bytes, error: IcmpError, mtu_bytes: int = 0) -> bytes | None:
    source = RELAY4 if packet[0] >> 4 == 4 else RELAY6
    return icmp_error(error, packet, source=int(ip_address(source)), mtu_bytes=mtu_bytes)


class TestErrors:
    @pytest.mark.clause("RFC 9484", "7.2.1", "SHOULD", "signal forwarding errors with ICMP")
    @pytest.mark.parametrize(
        ("error", "v4", "v6"),
        [
            (IcmpError.NO_ROUTE, (3, 0), (1, 0)),
            (IcmpError.PROHIBITED, (3, 13), (1, 1)),
            (IcmpError.BAD_SOURCE, (3, 13), (1, 5)),
            (IcmpError.HOP_LIMIT, (11, 0), (3, 0)),
            (IcmpError.TOO_BIG, (3, 4), (2, 0)),
            (IcmpError.ADDRESS_UNREACHABLE, (3, 1), (1, 3)),
        ],
    )
    def test_type_and_code_of_both_versions(
        self, error: IcmpError, v4: tuple[int, int], v6: tuple[int, int]
    ) -> None:
        for packet, expected in (
            (ipv4(V4, V4_PEER, udp(b"x")), v4),
            (ipv6(V6, V6_PEER, udp(b"x")), v6),
        ):
            message = error_about(packet, error)
            assert message is not None
            assert icmp_kind(message) == expected
            assert has_good_checksums(message)
            facts, about = read_packet(message), read_packet(packet)
            assert facts is not None
            assert about is not None
            assert facts[2] == about[1]
            assert source_of(message) in {RELAY4, RELAY6}
            assert message.endswith(packet)

    def test_too_big_tells_the_mtu(self) -> None:
        v4 = error_about(ipv4(V4, V4_PEER, udp(b"x")), IcmpError.TOO_BIG, 1_380)
        v6 = error_about(ipv6(V6, V6_PEER, udp(b"x")), IcmpError.TOO_BIG, 1_380)
        assert v4 is not None
        assert v6 is not None
        assert struct.unpack(">I", v4[24:28]) == (1_380,)
        assert struct.unpack(">I", v6[44:48]) == (1_380,)

    def test_as_much_of_the_packet_as_fits(self) -> None:
        v4 = error_about(ipv4(V4, V4_PEER, bytes(1_400)), IcmpError.NO_ROUTE)
        v6 = error_about(ipv6(V6, V6_PEER, bytes(1_400)), IcmpError.NO_ROUTE)
        assert v4 is not None
        assert v6 is not None
        assert (len(v4), len(v6)) == (576, 1_280)
        assert read_packet(v4) is not None
        assert read_packet(v6) is not None


def icmp4(kind: int) -> bytes:
    return ipv4(V4, V4_PEER, bytes((kind,)) + bytes(7), protocol=1)


def icmp6(kind: int, destination: str = V6_PEER) -> bytes:
    message = icmpv6(V6, destination, bytes((kind,)) + bytes(7))
    return ipv6(V6, destination, message, protocol=58)


class TestNoAnswer:
    """RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 e."""

    @pytest.mark.parametrize(
        "packet",
        [
            pytest.param(icmp4(3), id="unreachable"),
            pytest.param(icmp4(11), id="time exceeded"),
            pytest.param(icmp4(5), id="redirect"),
            pytest.param(ipv4(V4, V4_PEER, protocol=1), id="ICMP without a type"),
            pytest.param(ipv4(V4, "224.0.0.5", udp(b"x")), id="multicast"),
            pytest.param(ipv4(V4, "255.255.255.255", udp(b"x")), id="broadcast"),
            pytest.param(ipv4("0.0.0.0", V4_PEER, udp(b"x")), id="from nowhere"),
            pytest.param(ipv4("127.0.0.1", V4_PEER, udp(b"x")), id="from loopback"),
            pytest.param(ipv4("224.0.0.1", V4_PEER, udp(b"x")), id="from a group"),
            pytest.param(ipv4(V4, V4_PEER, udp(b"x"), fragment=5), id="later fragment"),
            pytest.param(icmp6(1), id="IPv6 unreachable"),
            pytest.param(icmp6(2), id="IPv6 too big"),
            pytest.param(icmp6(137), id="IPv6 redirect"),
            pytest.param(ipv6(V6, V6_PEER, protocol=58), id="ICMPv6 without a type"),
            pytest.param(ipv6(V6, "ff02::5", udp(b"x")), id="IPv6 multicast"),
            pytest.param(ipv6("::", V6_PEER, udp(b"x")), id="from ::"),
            pytest.param(ipv6("::1", V6_PEER, udp(b"x")), id="from ::1"),
            pytest.param(ipv6("ff02::1", V6_PEER, udp(b"x")), id="from an IPv6 group"),
            pytest.param(
                ipv6(V6, V6_PEER, struct.pack(">BxHI", 17, 80, 1) + bytes(8), protocol=44),
                id="later IPv6 fragment",
            ),
        ],
    )
    def test_nobody_is_told(self, packet: bytes) -> None:
        assert read_packet(packet) is not None
        assert not may_be_answered(packet, IcmpError.NO_ROUTE)
        assert error_about(packet, IcmpError.NO_ROUTE) is None

    def test_questions_are_no_errors(self) -> None:
        assert may_be_answered(ping4(V4, V4_PEER), IcmpError.NO_ROUTE)
        assert may_be_answered(ping6(V6, V6_PEER), IcmpError.NO_ROUTE)

    def test_too_big_goes_out_for_groups_too(self) -> None:
        assert may_be_answered(ipv6(V6, "ff0e::5", udp(b"x")), IcmpError.TOO_BIG)


class TestEcho:
    def test_reply_has_identifier_and_data(self) -> None:
        for ask, us, them in ((ping4, V4, V4_PEER), (ping6, V6, V6_PEER)):
            request = ask(us, them, b"some data")
            reply = echo_reply(request)
            assert reply is not None
            assert has_good_checksums(reply)
            assert source_of(reply) == them
            assert reply[-13:] == request[-13:]
            assert icmp_kind(reply) in {(0, 0), (129, 0)}

    def test_a_group_is_answered_by_one(self) -> None:
        reply = echo_reply(ping6(V6, "ff02::1"), source=ip_address(RELAY6).packed)
        assert reply is not None
        assert source_of(reply) == RELAY6
        assert has_good_checksums(reply)

    @pytest.mark.parametrize(
        "packet",
        [
            ipv4(V4, V4_PEER, udp(b"x")),
            ipv6(V6, V6_PEER, udp(b"x")),
            icmp4(0),
            icmp6(129),
            ipv4(V4, V4_PEER, b"\x08", protocol=1),
            ipv6(V6, V6_PEER, b"\x80", protocol=58),
            ipv4(V4, V4_PEER, b"\x08" + bytes(9), protocol=1, fragment=0x2000),
        ],
    )
    def test_anything_else_has_none(self, packet: bytes) -> None:
        assert echo_reply(packet) is None

    def test_our_own_request_is_one_that_can_be_answered(self) -> None:
        for us, them in ((V4, V4_PEER), (V6, V6_PEER)):
            request = echo_request(
                ip_address(us).packed, ip_address(them).packed, identifier=0xBEEF, data=b"probe"
            )
            assert has_good_checksums(request)
            reply = echo_reply(request)
            assert reply is not None
            if len(ip_address(us).packed) == 16:
                assert echo_reply_identifier(reply) == 0xBEEF
                assert echo_reply_identifier(request) is None


@given(st.binary(max_size=120), st.sampled_from(list(IcmpError)))
def test_no_well_formed_packet_raises(payload: bytes, error: IcmpError) -> None:
    for protocol in (1, 17, 44, 58, 60):
        for packet in (
            ipv4(V4, V4_PEER, payload, protocol=protocol),
            ipv6(V6, V6_PEER, payload, protocol=protocol),
        ):
            if read_packet(packet) is None:
                continue
            message = error_about(packet, error, 1_300)
            assert message is None or has_good_checksums(message)
            reply = echo_reply(packet)
            assert reply is None or has_good_checksums(reply)
