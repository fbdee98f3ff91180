"""Bad input to CONNECT-IP: each ends that stream alone, or nothing, while a neighbour goes on.

Over HTTP/3 and HTTP/2 the neighbour is on the same connection, over HTTP/1.1 on another one.
"""

import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    ROUTE_ADVERTISEMENT,
    encode_addresses,
)
from tests.support.ip_packets import icmp_kind, ipv4, ipv6, ping4, source_of, udp
from tests.support.ip_rig import (
    NOBODY4,
    NOBODY6,
    VERSIONS,
    IpClient,
    IpWorld,
    open_ip,
    running_ip_relay,
    wants,
)

pytestmark = pytest.mark.parametrize("version", VERSIONS)


@dataclass(kw_only=True)
class Scene:
    """A relay, a tunnel that is about to misbehave, and its neighbour."""

    world: IpWorld
    client: IpClient
    neighbour: IpClient


@asynccontextmanager
async def scene(directory: Path, version: str) -> AsyncGenerator[Scene]:
    """Set the scene; at the end the neighbour must work and the relay must be free of bugs."""
    async with running_ip_relay(directory) as world:
        neighbour = await (await open_ip(world.relay, version)).ready()
        beside = None if version == "h1" else neighbour
        client = await (await open_ip(world.relay, version, beside=beside)).ready()
        yield Scene(world=world, client=client, neighbour=neighbour)
        pong = await neighbour.exchange(ping4(neighbour.ipv4, NOBODY4, b"after"))
        assert (icmp_kind(pong), pong[-5:]) == ((0, 0), b"after")
        assert world.relay.http.application_errors == 0


DISORDER = {
    "unsorted": "04 0a000100 0a000101 00  04 0a000000 0a000001 00",
    "overlapping": "04 0a000000 0a000005 00  04 0a000005 0a000009 00",
    "overlapping protocols": "04 0a000000 0a0000ff 00  04 0a000005 0a000009 11",
    "backwards": "04 0a000009 0a000000 00",
    "families": f"06 {'00' * 16} {'00' * 16} 00  04 0a000000 0a000001 00",
    "truncated": "04 0a000009",
    "version 5": "05 0a000000 0a000001 00",
}


@pytest.mark.clause("RFC 9484", "4.7.3", "MUST", "a bad list of routes ends the stream alone")
async def test_bad_routes(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        bad: IpClient | None = on.client
        for text in DISORDER.values():
            if bad is None:
                beside = None if version == "h1" else on.neighbour
                bad = await (await open_ip(on.world.relay, version, beside=beside)).ready()
            bad.capsule(ROUTE_ADVERTISEMENT, bytes.fromhex(text))
            await bad.aborted()
            bad = None


BAD_REQUESTS: dict[str, Callable[[IpClient], None]] = {
    "empty": lambda client: client.capsule(ADDRESS_REQUEST, b""),
    "request ID 0": lambda client: client.capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 0)])),
    "twice in one": lambda client: client.capsule(
        ADDRESS_REQUEST, encode_addresses([wants(4, 5), wants(6, 5)])
    ),
    "reused": lambda client: client.send_stream(
        encode_capsule(ADDRESS_REQUEST, encode_addresses([wants(4, 5)])) * 2
    ),
    "prefix length": lambda client: client.capsule(
        ADDRESS_REQUEST, b"\x01\x04" + bytes(4) + b"\x21"
    ),
    "host bits": lambda client: client.capsule(ADDRESS_REQUEST, b"\x01\x04\x0a\x00\x00\x01\x08"),
    "assigned to us": lambda client: client.capsule(ADDRESS_ASSIGN, b"\x00\x07"),
    "too many": lambda client: client.capsule(
        ADDRESS_REQUEST, encode_addresses([wants(4, number) for number in range(1, 400)])
    ),
}


@pytest.mark.clause("RFC 9484", "4.7.2", "MUST", "a bad request ends the stream alone")
async def test_bad_address_requests(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        on.client.close()
        for misbehave in BAD_REQUESTS.values():
            beside = None if version == "h1" else on.neighbour
            client = await (await open_ip(on.world.relay, version, beside=beside)).ready()
            misbehave(client)
            await client.aborted()
        await on.world.relay.audit.until(
            lambda: len(on.world.relay.audit.ends()) == len(BAD_REQUESTS) + 1
        )
        assert on.world.counters.addresses_assigned == 2
        assert on.world.pool.assigned_count == 2


async def test_spoofed_sources(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        spoofed = ipv4(on.neighbour.ipv4, NOBODY4, udp(b"as if from next door"))
        assert icmp_kind(await on.client.exchange(spoofed)) == (3, 13)
        spoofed = ipv6("2001:db8::1", NOBODY6, udp(b"from far away"))
        assert icmp_kind(await on.client.exchange(spoofed)) == (1, 5)
        assert on.world.counters.uplink_bad_source >= 2
        assert all(source_of(packet) != NOBODY4 for packet in on.neighbour.packets)


async def test_packets_of_every_size_and_shape(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        us4, us6 = on.client.ipv4, on.client.ipv6
        chain = b"\x3c\0" + bytes(6)
        strange = [
            b"",
            b"\x45",
            ipv4(us4, NOBODY4),  # 20 bytes: a header alone
            ipv4(us4, NOBODY4, udp(b"x"), fragment=0x2000),
            ipv4(us4, NOBODY4, bytes(8), fragment=0x1FFF),
            ipv4(us4, NOBODY4, udp(b"x"), options=b"\x83\x07\x04\x0a\0\0\x01\0"),
            ipv6(us6, NOBODY6),
            ipv6(us6, NOBODY6, chain * 30 + b"\x11\0" + bytes(6) + udp(b"x"), protocol=60),
            ipv6(us6, NOBODY6, b"\x11\xff" + bytes(6), protocol=0),
            ipv6(us6, NOBODY6, struct.pack(">BxHI", 17, 0xFFF8, 1), protocol=44),
            ipv6(us6, NOBODY6, b"\x11\x02\x00\x01" + bytes(20), protocol=43),
            ipv4(us4, NOBODY4, udp(b"x")) + b"trailing",
            bytes(range(256)) * 4,
        ]
        on.client.send(*strange)
        echo = await on.client.exchange(ipv4(us4, NOBODY4, udp(b"still here")))
        assert echo.endswith((b"still here", b"x")) or icmp_kind(echo) is not None
        assert on.world.counters.uplink_malformed >= 5
        assert not on.client.is_aborted()


async def test_the_largest_packet(tmp_path: Path, version: str) -> None:
    """65,535 bytes come in a capsule only: as one it is answered or dropped, never a fault."""
    async with scene(tmp_path, version) as on:
        largest = ipv4(on.client.ipv4, NOBODY4, udp(bytes(65_507)))
        assert len(largest) == 65_535
        on.client.send_stream(encode_capsule(0, b"\0" + largest))
        await on.client.until(lambda: on.world.counters.uplink_too_big or on.client.is_aborted())
        assert on.world.counters.uplink_too_big == 1
        assert not on.client.is_aborted()
        echo = await on.client.exchange(ipv4(on.client.ipv4, NOBODY4, udp(b"small")))
        assert echo.endswith(b"small") or icmp_kind(echo) == (3, 4)


async def test_context_ids_that_nobody_registered(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        packet = ipv4(on.client.ipv4, NOBODY4, udp(b"x"))
        odd = [b"\x01" + packet, b"\x02" + packet, b"\x40\x63" + packet, b"", b"\x80"]
        on.client.send_payloads(odd)
        echo = await on.client.exchange(packet)
        assert source_of(echo) == NOBODY4
        await on.client.until(lambda: on.world.relay.tunnels.unknown_context_dropped >= 1)


@pytest.mark.clause(
    "connect-ip-dns-06", "5", "MUST", "ignore DNS_ASSIGN of a peer that is not trusted"
)
async def test_unknown_capsules_are_skipped(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        on.client.capsule(0x1F * 7 + 0x17, b"grease")
        on.client.capsule(0x1ACE79EC, b"\xff" * 9)  # DNS_ASSIGN is ours to send, not to read
        echo = await on.client.exchange(ipv4(on.client.ipv4, NOBODY4, udp(b"x")))
        assert source_of(echo) == NOBODY4


async def test_a_capsule_that_announces_too_much(tmp_path: Path, version: str) -> None:
    async with scene(tmp_path, version) as on:
        on.client.send_stream(b"\x03\xbf\xff\xff\xff")
        await on.client.aborted()


async def test_an_egress_that_vanishes(tmp_path: Path, version: str) -> None:
    """A TUN device that somebody deletes: its tunnels end, the relay and other tunnels live."""
    async with running_ip_relay(tmp_path) as world:
        client = await (await open_ip(world.relay, version)).ready()
        world.egress.vanish()
        await client.aborted()
        assert (await open_ip(world.relay, version)).status == 502
        assert world.pool.assigned_count == 0
        assert world.relay.http.application_errors == 0


async def test_a_flood_of_packets_that_go_nowhere_is_answered_within_the_rate(
    tmp_path: Path, version: str
) -> None:
    async with scene(tmp_path, version) as on:
        spoofed = ipv4("192.0.2.1", NOBODY4, udp(b"x"))
        for _ in range(20):
            on.client.send(*[spoofed] * 40)
        await on.client.until(lambda: on.world.counters.icmp_errors_suppressed)
        assert on.world.counters.icmp_errors_sent <= 300
