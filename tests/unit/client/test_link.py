"""Owns the tests of connections that are kept up: loss, back-off, GOAWAY, more than one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.connection import RelayConnection
from masque_relay.client.errors import ConnectionLost, RelayUnreachable
from masque_relay.client.events import ClientEvent, RelayAway, RelayConnected
from masque_relay.client.limits import ClientLimits, ReconnectLimits
from masque_relay.client.link import RelayLink
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Target
from tests.support.client_fakes import ACCEPTED, FakeClock, connection_on_fake
from tests.support.http_fakes import settle

TARGET = make_target("dns.example", 53)
AT_ONCE = ReconnectLimits(first_delay_s=0.0, longest_delay_s=0.0)


class FakeRelay:
    """A LinkedRelay that accepts every tunnel."""

    peer = None

    def __init__(self, limits: ClientLimits) -> None:
        self.connection, self.transport = connection_on_fake(limits)
        self.closed = False

    async def start_udp(self, target: Target, **callbacks: Any) -> UdpTunnel:
        stream_id = 4 * len(self.transport.headers)
        asyncio.get_running_loop().call_soon(
            lambda: self.connection.headers_received(stream_id, ACCEPTED, end_stream=False)
        )
        return await self.connection.open_udp(target, authority="r", path="/", **callbacks)

    async def start_tcp(
        self, target: Target, *, fields: Sequence[tuple[bytes, bytes]] = ()
    ) -> TcpTunnel:
        stream_id = 4 * len(self.transport.headers)
        asyncio.get_running_loop().call_soon(
            lambda: self.connection.headers_received(stream_id, ACCEPTED, end_stream=False)
        )
        return await self.connection.open_tcp(target, fields=fields)

    async def start_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        stream_id = 4 * len(self.transport.headers)
        asyncio.get_running_loop().call_soon(
            lambda: self.connection.headers_received(stream_id, ACCEPTED, end_stream=False)
        )
        return await self.connection.open_tunnel(request, user, authority="r")

    async def close(self) -> None:
        self.closed = True
        self.connection.close()


class Rig:
    """A link whose connections the test makes, breaks and counts."""

    def __init__(self, limits: ClientLimits, reconnect: ReconnectLimits) -> None:
        self.clock = FakeClock()
        self.relays: list[FakeRelay] = []
        self.failure: RelayUnreachable | None = None
        self.attempt_count = 0
        self.events: list[ClientEvent] = []
        self._limits = limits
        self.link = RelayLink(
            self._connect,
            limits=limits,
            reconnect=reconnect,
            on_event=self.events.append,
            clock=self.clock,
            random_fraction=lambda: 0.0,
        )

    async def _connect(self) -> FakeRelay:
        self.attempt_count += 1
        if self.failure is not None:
            raise self.failure
        relay = FakeRelay(self._limits)
        self.relays.append(relay)
        return relay

    def connection(self, index: int) -> RelayConnection:
        return self.relays[index].connection


@asynccontextmanager
async def running(
    limits: ClientLimits | None = None, reconnect: ReconnectLimits = AT_ONCE
) -> AsyncGenerator[Rig]:
    rig = Rig(limits or ClientLimits(), reconnect)
    await rig.link.start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rig.link.run())
        await settle()
        yield rig
        task.cancel()
    assert all(relay.closed for relay in rig.relays)


async def test_the_first_failure_is_raised_because_a_person_is_watching() -> None:
    rig = Rig(ClientLimits(), AT_ONCE)
    rig.failure = RelayUnreachable("nobody")
    with pytest.raises(RelayUnreachable, match="nobody"):
        await rig.link.start()
    assert rig.events == []


async def test_tunnels_share_one_connection() -> None:
    async with running() as rig:
        first = await rig.link.open_udp(TARGET)
        second = await rig.link.open_udp(TARGET)
        assert first.is_open
        assert second.is_open
        assert len(rig.relays) == 1
        assert rig.link.is_up


async def test_tcp_shares_the_connection_and_waits_for_a_new_one_when_it_is_lost() -> None:
    async with running() as rig:
        await rig.link.open_udp(TARGET)
        first = await rig.link.open_tcp(TARGET)
        assert len(rig.relays) == 1
        rig.connection(0).connection_lost(0, "restart")
        with pytest.raises(ConnectionLost):
            await first.read()
        await (await rig.link.open_tcp(TARGET)).write(b"again")
        assert rig.relays[1].transport.data[0] == b"again"


async def test_a_lost_connection_is_replaced_and_tunnels_open_again() -> None:
    async with running() as rig:
        await rig.link.open_udp(TARGET)
        rig.connection(0).connection_lost(0, "restart")
        await settle()
        assert [type(event) for event in rig.events] == [
            RelayConnected, RelayAway, RelayConnected,
        ]  # fmt: skip
        assert rig.relays[0].closed
        assert (await rig.link.open_udp(TARGET)).is_open
        assert len(rig.relays) == 2


async def test_a_tunnel_that_is_asked_for_while_the_relay_is_away_waits_for_it() -> None:
    async with running() as rig:
        rig.connection(0).connection_lost(0, "restart")
        tunnel = await rig.link.open_udp(TARGET)
        assert tunnel.is_open
        assert len(rig.relays) == 2


async def test_a_tunnel_does_not_wait_for_ever() -> None:
    limits = ClientLimits(open_timeout_s=0.0)
    never = ReconnectLimits(first_delay_s=1_000.0, longest_delay_s=1_000.0)
    async with running(limits, never) as rig:
        rig.connection(0).connection_lost(0, "gone")
        await settle()
        assert not rig.link.is_up
        with pytest.raises(ConnectionLost, match="no connection"):
            await rig.link.open_udp(TARGET)


async def test_the_delay_grows_while_the_relay_stays_away() -> None:
    reconnect = ReconnectLimits(first_delay_s=2.0, longest_delay_s=5.0, jitter=0.0)
    rig = Rig(ClientLimits(), reconnect)
    rig.failure = RelayUnreachable("away")
    delays: list[float] = []
    for _ in range(4):
        rig.clock.now_s += 10
        await rig.link._add_one()
        event = rig.events[-1]
        assert isinstance(event, RelayAway)
        delays.append(event.retry_in_s)
    assert delays == [2.0, 4.0, 5.0, 5.0]


@pytest.mark.parametrize(("lived_s", "second_delay_s"), [(1.0, 4.0), (60.0, 2.0)])
async def test_only_a_connection_that_lived_sets_the_delay_back(
    lived_s: float, second_delay_s: float
) -> None:
    reconnect = ReconnectLimits(
        first_delay_s=2.0, longest_delay_s=100.0, jitter=0.0, stable_after_s=10.0
    )
    rig = Rig(ClientLimits(), reconnect)
    for _ in range(2):
        rig.clock.now_s += 50
        await rig.link._add_one()
        rig.clock.now_s += lived_s
        rig.relays[-1].connection.connection_lost(0, "")
        await rig.link._drop_the_lost()
    event = rig.events[-1]
    assert isinstance(event, RelayAway)
    assert event.retry_in_s == second_delay_s


async def test_a_relay_that_is_leaving_is_replaced_and_its_tunnels_live_on() -> None:
    async with running() as rig:
        old = await rig.link.open_udp(TARGET)
        rig.connection(0).goaway_received(4)
        await settle()
        new = await rig.link.open_udp(TARGET)
        assert len(rig.relays) == 2
        assert rig.relays[1].transport.headers
        assert old.send(b"old")
        assert new.send(b"new")
        assert not rig.relays[0].closed


async def test_a_full_connection_gets_a_neighbour() -> None:
    async with running(ClientLimits(tunnels=2)) as rig:
        tunnels = [await rig.link.open_udp(TARGET) for _ in range(5)]
        assert all(tunnel.is_open for tunnel in tunnels)
        assert len(rig.relays) == 3


async def test_a_tunnel_waits_for_room_when_there_may_be_no_further_connection() -> None:
    reconnect = ReconnectLimits(first_delay_s=0.0, longest_delay_s=0.0, connections=1)
    async with running(ClientLimits(tunnels=1), reconnect) as rig:
        first = await rig.link.open_udp(TARGET)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(rig.link.open_udp(TARGET))
            await settle()
            assert not waiting.done()
            first.close()
            rig.connection(0).data_received(0, b"", end_stream=True)
        assert waiting.result().is_open
        assert len(rig.relays) == 1


async def test_the_payload_size_is_that_of_the_narrowest_connection() -> None:
    async with running(ClientLimits(tunnels=1)) as rig:
        await rig.link.open_udp(TARGET)
        await rig.link.open_udp(TARGET)
        rig.relays[1].transport.max_payload_bytes = 1_000
        assert rig.link.max_payload_bytes == 999
        assert not rig.link.reliable
        rig.connection(0).connection_lost(0, "")
        rig.connection(1).connection_lost(0, "")
        assert rig.link.max_payload_bytes == 0


async def test_a_relay_without_datagrams_makes_the_link_reliable() -> None:
    async with running() as rig:
        rig.relays[0].transport.datagrams_negotiated = False
        assert rig.link.reliable
