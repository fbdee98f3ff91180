"""Owns the bytes between us and passt: Ethernet frames, each behind its length, as QEMU sends them.

Both ends are alone on this wire, so addresses of the Ethernet are constants: we are the guest, and
passt is everybody else.
"""

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import IPAddress
from masque_relay.wire.ip_packet import internet_checksum

GUEST_MAC = bytes.fromhex("025057000001")
"""Ours; locally administered (IEEE 802)."""
HOST_MAC = bytes.fromhex("025057000002")
"""What passt is told to use."""

MAX_FRAME_BYTES = 65_535 + 14
"""No frame of passt is larger; more means that the framing is lost."""

_LENGTH = struct.Struct(">I")
_IPV4, _IPV6, _ARP = b"\x08\x00", b"\x86\xdd", b"\x08\x06"
_IP_KINDS = frozenset((_IPV4, _IPV6))
_HEAD = HOST_MAC + GUEST_MAC
_HEAD_BYTES = 14
_PADDED_BYTES = 60  # shorter frames may be filled up (IEEE 802.3)

_ARP_ETHERNET_IPV4 = bytes.fromhex("000108000604")
_ARP_REQUEST, _ARP_REPLY = b"\x00\x01", b"\x00\x02"
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_SOLICITED_OVERRIDE = 0x6000_0000


class FramingLostError(Exception):
    """What arrives is no sequence of frames any more."""


def encode_packets(packets: Iterable[bytes]) -> bytes:
    """Return IP packets as frames, ready to be sent."""
    parts: list[bytes] = []
    for packet in packets:
        kind = _IPV4 if packet[0] < 0x60 else _IPV6
        parts += (_LENGTH.pack(len(packet) + _HEAD_BYTES), _HEAD, kind, packet)
    return b"".join(parts)


def encode_arp_request(address: IPv4Address, asked: IPv4Address) -> bytes:
    """Return the frame by which ``address`` asks who has ``asked``; passt always answers."""
    return _frame(
        _ARP,
        _ARP_ETHERNET_IPV4 + _ARP_REQUEST + GUEST_MAC + address.packed + bytes(6) + asked.packed,
    )


class FrameReader:
    """Takes bytes as they come and gives whole IP packets.

    Questions for our Ethernet address (ARP, RFC 826; Neighbor Discovery, RFC 4861) are answered
    here; the answers wait in :attr:`answers`.

    Attributes:
        answers: frames to be sent to passt.
        heard: whether any frame has come.
    """

    def __init__(self, addresses: Iterable[IPAddress]) -> None:
        """``addresses`` are those that we answer for."""
        self.answers: list[bytes] = []
        self.heard = False
        self._addresses = frozenset(address.packed for address in addresses)
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the IP packets that are complete now.

        Raises:
            FramingLostError: a frame of impossible length.
        """
        if self._rest:
            data = self._rest + data
        packets: list[bytes] = []
        offset, end = 0, len(data)
        while end - offset >= 4:
            (size,) = _LENGTH.unpack_from(data, offset)
            if not _HEAD_BYTES <= size <= MAX_FRAME_BYTES:
                raise FramingLostError
            start, after = offset + 4 + _HEAD_BYTES, offset + 4 + size
            if after > end:
                break
            kind = data[start - 2 : start]
            payload = data[start:after]
            offset = after
            if kind in _IP_KINDS:
                self._take(packets, _unpadded(payload) if size <= _PADDED_BYTES else payload)
            elif kind == _ARP:
                self._answer_arp(payload)
        self._rest = data[offset:]
        self.heard = self.heard or offset > 0
        return packets

    def _take(self, packets: list[bytes], packet: bytes) -> None:
        if packet[:1] >= b"\x60" and packet[6:7] == b"\x3a" and self._answer_neighbour(packet):
            return
        if packet:
            packets.append(packet)

    def _answer_arp(self, question: bytes) -> None:
        asker, asked = question[8:18], question[24:28]
        if question[:8] == _ARP_ETHERNET_IPV4 + _ARP_REQUEST and asked in self._addresses:
            self.answers.append(
                _frame(_ARP, _ARP_ETHERNET_IPV4 + _ARP_REPLY + GUEST_MAC + asked + asker)
            )

    def _answer_neighbour(self, packet: bytes) -> bool:
        """Answer a Neighbor Solicitation; return whether the packet was Neighbor Discovery."""
        if len(packet) < 64 or not 133 <= packet[40] <= 137:
            return False
        target, asker = packet[48:64], packet[8:24]
        if packet[40] == _SOLICITATION and target in self._addresses and any(asker):
            self.answers.append(_frame(_IPV6, _advertisement(target, asker)))
        return True


def _frame(kind: bytes, payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload) + _HEAD_BYTES) + _HEAD + kind + payload


def _unpadded(packet: bytes) -> bytes:
    """Return a short packet without what fills its frame up."""
    if packet[:1] >= b"\x60":
        return packet[: 40 + int.from_bytes(packet[4:6], "big")]
    return packet[: int.from_bytes(packet[2:4], "big")]


def _advertisement(target: bytes, asker: bytes) -> bytes:
    """Return a Neighbor Advertisement (RFC 4861 section 4.4) with our Ethernet address."""
    body = struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _SOLICITED_OVERRIDE) + target
    body += b"\x02\x01" + GUEST_MAC  # target link-layer address, in units of eight bytes
    pseudo = target + asker + struct.pack(">IHBB", len(body), 0, 0, _ICMPV6)
    checksum = internet_checksum(pseudo + body)
    body = body[:2] + checksum.to_bytes(2, "big") + body[4:]
    head = struct.pack(">IHBB", 0x6000_0000, len(body), _ICMPV6, 255) + target + asker
    return head + body


def gateway_for(address: IPAddress) -> IPAddress:
    """Return the address that passt is told to be: any that the guest itself has not."""
    if isinstance(address, IPv4Address):
        return IPv4Address(int(address) ^ 1)
    return IPv6Address(int(address) ^ 1)
