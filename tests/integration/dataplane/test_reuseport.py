"""Sockets that share a port, and the kernel's selector among them."""

import contextlib
import itertools
import os
import socket
from collections.abc import Generator
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError
from masque_relay.dataplane.batch_io import bound_endpoint
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.dataplane.reuseport import Selection, open_group, steer

LIMITS = SocketLimits(receive_buffer_bytes=65_536, send_buffer_bytes=65_536)
ADDRESSES = ("127.0.0.1", "::1", "::")


@contextlib.contextmanager
def group(address: str = "127.0.0.1", count: int = 4) -> Generator[list[socket.socket]]:
    members = open_group(Endpoint(address=ip_address(address), port=0), count, LIMITS)
    try:
        yield members
    finally:
        for member in members:
            member.close()


def arrivals(members: list[socket.socket], payload: bytes, *, source: socket.socket) -> list[int]:
    """Send a packet and return the positions of the members that it came to."""
    host = "127.0.0.1" if source.family == socket.AF_INET else "::1"
    source.sendto(payload, (host, bound_endpoint(members[0]).port))
    here: list[int] = []
    for position, member in enumerate(members):
        member.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            assert member.recv(2048) == payload
            here.append(position)
    return here


def sources(address: str) -> Generator[socket.socket]:
    """Yield sockets of clients, each with a port of its own."""
    families = [socket.AF_INET6] if ":" in address else []
    families += [socket.AF_INET] if address != "::1" else []
    for family in itertools.cycle(families):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            yield client


def short(first_byte: int) -> bytes:
    return bytes((0x40 | first_byte % 64, first_byte)) + os.urandom(40)


def long(first_byte: int) -> bytes:
    return bytes((0xC0 | first_byte % 64, 0, 0, 0, 1, 8, first_byte)) + os.urandom(1200)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_first_byte_of_the_connection_id_chooses_whatever_the_source_is(address: str) -> None:
    with group(address) as members:
        steer(members[0], Selection(modulus=4, offset=0, other_modulus=2, other_offset=0))
        for byte, source in zip(range(256), sources(address), strict=False):
            assert arrivals(members, short(byte), source=source) == [byte % 4]
            assert arrivals(members, long(byte), source=source) == [byte % 4]


def test_a_selector_replaces_the_one_before() -> None:
    with group() as members:
        for offset in (0, 2):
            steer(members[3], Selection(modulus=2, offset=offset, other_modulus=2, other_offset=0))
            for byte, source in zip(range(64), sources("127.0.0.1"), strict=False):
                assert arrivals(members, short(byte), source=source) == [byte % 2 + offset]


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_not_quic_stays_with_one_socket_per_source_port(address: str) -> None:
    stun = b"\0\1\0\0" + bytes(16)
    with group(address) as members:
        steer(members[0], Selection(modulus=4, offset=0, other_modulus=2, other_offset=2))
        for _, source in zip(range(20), sources(address), strict=False):
            expected = source.getsockname()[1] % 2 + 2
            assert arrivals(members, stun, source=source) == [expected]


def test_a_packet_too_short_for_a_connection_id_harms_nobody() -> None:
    with group() as members:
        steer(members[0], Selection(modulus=4, offset=0, other_modulus=4, other_offset=0))
        for payload, source in zip(
            (b"\x40", b"\xc0\0\0\0\1\x08"), sources("127.0.0.1"), strict=False
        ):
            assert arrivals(members, payload, source=source) == [0]


def test_a_group_does_not_join_the_port_of_another() -> None:
    with group() as members, pytest.raises(FlowError):
        open_group(bound_endpoint(members[0]), 2, LIMITS)
