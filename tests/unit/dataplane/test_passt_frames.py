"""Owns the tests of the frames between us and passt."""

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.dataplane.passt_frames import (
    GUEST_MAC,
    HOST_MAC,
    FrameReader,
    FramingLostError,
    encode_arp_request,
    encode_packets,
    gateway_for,
)
from masque_relay.wire.ip_packet import internet_checksum

OURS = IPv4Address("10.89.0.2")
OURS_IPV6 = IPv6Address("fd00:89::2")
ASKER_IPV6 = IPv6Address("fe80::1")


def ipv4(size: int) -> bytes:
    return struct.pack(">BBH", 0x45, 0, size) + bytes(size - 4)


def ipv6(size: int) -> bytes:
    return struct.pack(">IHBB", 0x60000000, size - 40, 17, 64) + bytes(size - 8)


def frame(kind: int, payload: bytes) -> bytes:
    body = GUEST_MAC + HOST_MAC + struct.pack(">H", kind) + payload
    return struct.pack(">I", len(body)) + body


def solicitation(target: IPv6Address, asker: IPv6Address = ASKER_IPV6) -> bytes:
    body = struct.pack(">BBHI", 135, 0, 0, 0) + target.packed
    head = struct.pack(">IHBB", 0x60000000, len(body), 58, 255)
    return head + asker.packed + target.packed + body


def test_packets_become_frames_of_their_family() -> None:
    four, six = ipv4(100), ipv6(120)
    head = HOST_MAC + GUEST_MAC
    assert encode_packets([four, six]) == (
        struct.pack(">I", 114) + head + b"\x08\x00" + four
        + struct.pack(">I", 134) + head + b"\x86\xdd" + six
    )  # fmt: skip


@given(
    sizes=st.lists(st.integers(28, 1500), max_size=8),
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=40),
)
def test_frames_come_out_whole_however_the_bytes_are_split(
    sizes: list[int], cuts: list[int]
) -> None:
    packets = [ipv4(size) for size in sizes]
    stream = b"".join(frame(0x0800, packet) for packet in packets)
    reader, found, offset, turn = FrameReader([OURS]), list[bytes](), 0, 0
    while offset < len(stream):
        size = cuts[turn % len(cuts)]
        found += reader.feed(stream[offset : offset + size])
        offset, turn = offset + size, turn + 1
    assert found == packets


def test_what_fills_a_short_frame_up_is_cut_off() -> None:
    reader = FrameReader([OURS])
    assert reader.feed(frame(0x0800, ipv4(28) + bytes(18))) == [ipv4(28)]
    assert reader.feed(frame(0x86DD, ipv6(42) + bytes(4))) == [ipv6(42)]


def test_other_kinds_of_frames_are_skipped() -> None:
    reader = FrameReader([OURS])
    assert reader.feed(frame(0x88CC, bytes(50)) + frame(0x0800, ipv4(60))) == [ipv4(60)]


@pytest.mark.parametrize("size", [0, 13, 65_550, 2**32 - 1])
def test_an_impossible_length_is_an_error(size: int) -> None:
    with pytest.raises(FramingLostError):
        FrameReader([OURS]).feed(struct.pack(">I", size) + bytes(20))


def arp(operation: int, asked: IPv4Address) -> bytes:
    asker = HOST_MAC + IPv4Address("10.89.0.3").packed
    return bytes.fromhex("000108000604") + struct.pack(">H", operation) + (
        asker + bytes(6) + asked.packed
    )  # fmt: skip


class TestArp:
    """RFC 826."""

    def test_a_question_for_our_address_is_answered(self) -> None:
        reader = FrameReader([OURS])
        assert reader.feed(frame(0x0806, arp(1, OURS))) == []
        (answer,) = reader.answers
        assert answer[4 + 14 :] == (
            bytes.fromhex("0001080006040002")
            + GUEST_MAC + OURS.packed + HOST_MAC + IPv4Address("10.89.0.3").packed
        )  # fmt: skip
        assert reader.heard

    @pytest.mark.parametrize(
        "payload", [arp(1, IPv4Address("10.89.0.9")), arp(2, OURS), arp(1, OURS)[:20], b""]
    )
    def test_anything_else_is_not(self, payload: bytes) -> None:
        reader = FrameReader([OURS])
        reader.feed(frame(0x0806, payload))
        assert reader.answers == []

    def test_our_own_question_asks_for_the_gateway(self) -> None:
        asked = encode_arp_request(OURS, IPv4Address("10.89.0.3"))
        assert asked[4:18] == HOST_MAC + GUEST_MAC + b"\x08\x06"
        assert asked[-4:] == IPv4Address("10.89.0.3").packed


class TestNeighbourDiscovery:
    """RFC 4861 section 7.2.4."""

    def test_a_solicitation_for_our_address_is_answered(self) -> None:
        reader = FrameReader([OURS_IPV6])
        assert reader.feed(frame(0x86DD, solicitation(OURS_IPV6))) == []
        packet = reader.answers[0][4 + 14 :]
        assert packet[7] == 255  # RFC 4861 section 7.1.2: else it is dropped
        assert packet[8:40] == OURS_IPV6.packed + ASKER_IPV6.packed
        body = packet[40:]
        assert body[0] == 136
        assert body[8:24] == OURS_IPV6.packed
        assert body[24:32] == b"\x02\x01" + GUEST_MAC
        pseudo = packet[8:40] + struct.pack(">IHBB", len(body), 0, 0, 58)
        assert internet_checksum(pseudo + body) == 0

    def test_a_solicitation_for_another_address_goes_nowhere(self) -> None:
        reader = FrameReader([OURS_IPV6])
        assert reader.feed(frame(0x86DD, solicitation(IPv6Address("fd00:89::9")))) == []
        assert reader.answers == []

    def test_other_icmpv6_is_a_packet_like_any_other(self) -> None:
        echo = bytearray(solicitation(OURS_IPV6))
        echo[40] = 128
        assert FrameReader([OURS_IPV6]).feed(frame(0x86DD, bytes(echo))) == [bytes(echo)]


def test_the_gateway_is_a_neighbour_of_the_guest() -> None:
    assert gateway_for(OURS) == IPv4Address("10.89.0.3")
    assert gateway_for(OURS_IPV6) == IPv6Address("fd00:89::3")
