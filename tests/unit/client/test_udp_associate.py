"""Owns the tests of a UDP association, over a fake socket and a fake relay."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from masque_relay.client.address import parse_target
from masque_relay.client.errors import ConnectionLost
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.socks import encode_udp_header
from masque_relay.client.split import SplitRule, SplitRules
from masque_relay.client.udp_associate import UdpAssociation, UdpTotals
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import ReceivedBatch
from tests.support.client_fakes import ACCEPTED, FakeClock, FakeOpener, FakeSocket
from tests.support.http_fakes import settle

HOME = ip_address("127.0.0.1")
PROGRAM = ("127.0.0.1", 5_555)
LIMITS = ProxyLimits(association_targets=2, pending_datagrams=2, sweep_interval_s=1_000.0)


class World:
    """An association and all that is around it."""

    def __init__(self, rules: SplitRules | None = None) -> None:
        self.socket = FakeSocket(local=Endpoint(address=HOME, port=4_000))
        self.opener = FakeOpener()
        self.clock = FakeClock()
        self.totals = UdpTotals()
        self.association = UdpAssociation(
            self.opener,
            self.socket,
            program=Endpoint(address=HOME, port=1),
            rules=rules or SplitRules(),
            limits=LIMITS,
            clock=self.clock,
            totals=self.totals,
        )

    async def send(self, target: str, *payloads: bytes, source: tuple[str, int] = PROGRAM) -> None:
        header = encode_udp_header(parse_target(target))
        await self.send_raw(*[header + payload for payload in payloads], source=source)

    async def send_raw(self, *datagrams: bytes, source: tuple[str, int] = PROGRAM) -> None:
        self.socket.waiting.append(ReceivedBatch(list(datagrams), source))
        self.association.on_readable()
        await settle()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Give the association its task group without a descriptor to watch."""
        async with asyncio.TaskGroup() as group:
            self.association._group = group
            yield
            self.association.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.running():
        yield world


async def test_a_datagram_opens_a_tunnel_and_answers_carry_the_targets_name(world: World) -> None:
    await world.send("dns.example:53", b"one", b"two")
    (tunnel,) = world.opener.tunnels
    assert str(tunnel.target) == "dns.example:53"
    assert world.opener.transport.datagrams == [(0, b"\0one"), (0, b"\0two")]
    world.opener.connection.datagrams_received(0, [b"\0answer"])
    assert world.socket.sent == [
        (encode_udp_header(parse_target("dns.example:53")) + b"answer", PROGRAM)
    ]
    assert (world.totals.sent, world.totals.received) == (2, 1)


async def test_each_target_has_a_tunnel_of_its_own(world: World) -> None:
    await world.send("192.0.2.1:53", b"a")
    await world.send("192.0.2.2:53", b"b")
    await world.send("192.0.2.1:53", b"c")
    assert len(world.opener.tunnels) == 2
    assert world.opener.transport.datagrams == [(0, b"\0a"), (4, b"\0b"), (0, b"\0c")]


async def test_only_the_program_is_heard_and_only_its_first_port(world: World) -> None:
    await world.send("192.0.2.1:53", b"x", source=("192.0.2.99", 5_555))
    assert world.totals.foreign == 1
    await world.send("192.0.2.1:53", b"x")
    await world.send("192.0.2.1:53", b"x", source=("127.0.0.1", 5_556))
    assert world.totals.foreign == 2
    assert world.totals.sent == 1


async def test_bytes_without_a_good_header_are_counted(world: World) -> None:
    await world.send_raw(b"", b"\0\0\x01\x01\x7f\0\0\x01\0\x35fragment")
    assert world.totals.malformed == 2
    assert world.opener.tunnels == []


async def test_what_waits_for_a_tunnel_is_bounded(world: World) -> None:
    world.opener.answer = None
    await world.send("192.0.2.1:53", b"1", b"2", b"3")
    assert world.totals.pending_dropped == 1
    world.association.close()
    assert world.totals.pending_dropped == 3
    world.opener.connection.headers_received(0, ACCEPTED, end_stream=False)


async def test_a_tunnel_that_opens_too_late_is_closed(world: World) -> None:
    world.opener.answer = None
    await world.send("192.0.2.1:53", b"1")
    world.association.close()
    world.opener.connection.headers_received(0, ACCEPTED, end_stream=False)
    await settle()
    assert not world.opener.tunnels[0].is_open
    assert world.opener.transport.datagrams == []


async def test_a_refused_target_is_not_asked_for_at_once_again(world: World) -> None:
    world.opener.failure = ConnectionLost("away")
    await world.send("192.0.2.1:53", b"1")
    world.opener.failure = None
    await world.send("192.0.2.1:53", b"2")
    assert world.totals.refused == 2
    world.clock.now_s += 6.0
    await world.send("192.0.2.1:53", b"3")
    assert world.opener.transport.datagrams == [(0, b"\0" + b"3")]


async def test_the_longest_idle_target_makes_room(world: World) -> None:
    for host in (1, 2, 3):
        await world.send(f"192.0.2.{host}:53", b"x")
        world.clock.now_s += 1.0
    assert world.totals.targets_evicted == 1
    assert world.association.target_count == 2
    assert [tunnel.is_open for tunnel in world.opener.tunnels] == [False, True, True]


async def test_an_idle_target_loses_its_tunnel(world: World) -> None:
    await world.send("192.0.2.1:53", b"x")
    world.clock.now_s += 119.0
    world.association.sweep()
    assert world.association.target_count == 1
    world.clock.now_s += 1.0
    world.association.sweep()
    assert world.association.target_count == 0
    assert not world.opener.tunnels[0].is_open
    assert world.totals.targets_expired == 1


async def test_a_tunnel_that_the_relay_closed_is_opened_anew(world: World) -> None:
    await world.send("192.0.2.1:53", b"1")
    world.opener.connection.stream_reset_received(0, 0x100)
    await world.send("192.0.2.1:53", b"2")
    assert world.opener.transport.datagrams == [(0, b"\x001"), (4, b"\x002")]


async def test_rules_drop_what_is_not_for_the_relay() -> None:
    world = World(SplitRules([SplitRule.parse("direct:corp.example")]))
    async with world.running():
        await world.send("dns.corp.example:53", b"x")
    assert world.totals.blocked == 1
    assert world.opener.tunnels == []


async def test_closing_closes_socket_and_tunnels(world: World) -> None:
    await world.send("192.0.2.1:53", b"x")
    world.association.close()
    assert world.socket.closed
    assert not world.opener.tunnels[0].is_open
