"""Owns the tests of a split tunnel over fake relays and a fake device: what it asks and tells."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Self

import pytest

from masque_relay.client import split_tunnel
from masque_relay.client.errors import (
    ConnectionLost,
    DeviceFailed,
    RelayTimeout,
    TunnelRefused,
)
from masque_relay.client.ip_events import (
    AddressesChanged,
    IpEvent,
    Ipv6Impossible,
    NotAdvertised,
    TunnelDown,
    TunnelUp,
)
from masque_relay.client.ip_tunnel import ip_request
from masque_relay.client.limits import ReconnectLimits
from masque_relay.client.split_tunnel import SplitTunnel, SplitTunnelSpec
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork, IpRange, IpScope
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    ROUTE_ADVERTISEMENT,
    AddressEntry,
    decode_address_request,
    encode_addresses,
    encode_routes,
    refused_address,
)
from tests.support.client_fakes import ACCEPTED, FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

SPEC = SplitTunnelSpec(routes=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
ADDRESSES = {4: ip_address("10.71.0.2"), 6: ip_address("fd71::2")}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def settled(payload_bytes: Callable[[], int]) -> int:
        return payload_bytes()

    monkeypatch.setattr(split_tunnel, "settled_payload_bytes", settled)
    monkeypatch.setattr(split_tunnel, "WATCH_INTERVAL_S", 0.001)


def packet(version: int, destination: IPAddress) -> bytes:
    """Return as much of an IP packet as matters here."""
    return bytes((version << 4,)) + bytes(15 if version == 4 else 23) + destination.packed


class FakeDevice:
    """A device that records what it is told."""

    def __init__(self, name: str, *, mtu_bytes: int, on_packets: Any, on_gone: Any) -> None:
        self.name = name.replace("%d", "0")
        self.mtu_bytes = mtu_bytes
        self.on_packets = on_packets
        self.on_gone = on_gone
        self.dropped_count = 0
        self.addresses: list[IPAddress] = []
        self.routes: list[IPNetwork] = []
        self.received: list[bytes] = []
        self.closed = False

    async def configure(
        self, addresses: Iterable[IPAddress], routes: Sequence[IPNetwork], *, mtu_bytes: int
    ) -> None:
        self.addresses, self.routes, self.mtu_bytes = list(addresses), list(routes), mtu_bytes

    async def present_routes(self) -> list[IPNetwork]:
        return [ip_network("0.0.0.0/0")]

    def send_packets(self, packets: Sequence[bytes]) -> None:
        self.received += packets

    def close(self) -> None:
        self.closed = True


class FakeRelay:
    """An IpOpener: every tunnel is on a connection of its own, answered as the test wants."""

    def __init__(self, *, datagram_bytes: int = 1_441) -> None:
        self.datagram_bytes = datagram_bytes
        self.gives: dict[int, IPAddress] = dict(ADDRESSES)
        self.failures: list[Exception] = []
        self.asked: list[list[IPAddress]] = []
        self.tunnels: list[Any] = []
        self.transport: FakeRelayTransport | None = None

    async def open_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        if self.failures:
            raise self.failures.pop(0)
        connection, transport = connection_on_fake()
        self.connection, self.transport = connection, transport
        transport.max_payload_bytes = self.datagram_bytes
        self._answered, self._assigned = 0, list[AddressEntry]()
        send_data = transport.send_data

        def sent(stream_id: int, data: bytes, *, end_stream: bool) -> None:
            send_data(stream_id, data, end_stream=end_stream)
            asyncio.get_running_loop().call_soon(self._assign)

        transport.send_data = sent  # type: ignore[method-assign]  # what the relay sees
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
        )
        stream = await connection.open_tunnel(request, user, authority="r.test")
        whole = [IpRange(ip_address("10.0.0.0"), ip_address("10.255.255.255"))]
        whole.append(IpRange(ip_address("fd00::"), ip_address("fdff::")))
        self.tell(ROUTE_ADVERTISEMENT, encode_routes(whole))
        return stream

    def tell(self, capsule_type: int, value: bytes) -> None:
        self.connection.data_received(0, encode_capsule(capsule_type, value), end_stream=False)

    def end(self) -> None:
        self.connection.data_received(0, b"", end_stream=True)

    def _assign(self) -> None:
        assert self.transport is not None
        decoder = CapsuleDecoder(max_capsule_bytes=65_536, known_types={ADDRESS_REQUEST})
        capsules = decoder.feed(bytes(self.transport.data[0]))
        for capsule in capsules[self._answered :]:
            self._answered += 1
            asked = decode_address_request(capsule.value)
            self.asked.append([entry.address for entry in asked])
            self._assigned += map(self._answer, asked)
            # RFC 9484 section 4.7.1: each tells all that is assigned
            self.tell(ADDRESS_ASSIGN, encode_addresses(self._assigned))

    def _answer(self, asked: AddressEntry) -> AddressEntry:
        given = self.gives.get(asked.address.version)
        if given is None:
            return refused_address(asked)
        return AddressEntry(
            request_id=asked.request_id, address=given, prefix_length=given.max_prefixlen
        )


class World:
    """A split tunnel with all its fakes."""

    def __init__(self, relay: FakeRelay | None = None, spec: SplitTunnelSpec = SPEC) -> None:
        self.relay = relay or FakeRelay()
        self.events: list[IpEvent] = []
        self.devices: list[FakeDevice] = []
        self.tunnel = SplitTunnel(
            spec,
            self.relay,
            ip_request(IpScope()),
            reconnect=ReconnectLimits(first_delay_s=0.001, longest_delay_s=0.002),
            on_event=self.events.append,
            make_device=self._make,
        )
        self._running: asyncio.Task[None] | None = None

    @property
    def device(self) -> FakeDevice:
        return self.devices[-1]

    def _make(self, name: str, *, mtu_bytes: int, on_packets: Any, on_gone: Any) -> FakeDevice:
        self.devices.append(
            FakeDevice(name, mtu_bytes=mtu_bytes, on_packets=on_packets, on_gone=on_gone)
        )
        return self.devices[-1]

    async def __aenter__(self) -> Self:
        await self.tunnel.start()
        self._running = asyncio.ensure_future(self.tunnel.run())
        await settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._running is not None
        self._running.cancel()
        with suppress(asyncio.CancelledError, DeviceFailed):
            await self._running
        self.tunnel.close()

    async def until(self, check: Callable[[], object]) -> None:
        for _ in range(5_000):
            if check():
                return
            await asyncio.sleep(0.001)
        pytest.fail("it did not happen")

    def told(self, kind: type[IpEvent]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def test_the_device_gets_what_the_relay_gives() -> None:
    async with World() as world:
        assert world.relay.asked == [[ip_address("0.0.0.0"), ip_address("::")]]
        assert world.device.addresses == list(ADDRESSES.values())
        assert world.device.routes == list(SPEC.routes)
        assert world.device.mtu_bytes == 1_440
        (up,) = world.told(TunnelUp)
        assert (up.device, up.mtu_bytes, up.http_version) == ("ghostwire0", 1_440, "3")


async def test_packets_go_through_both_ways() -> None:
    async with World() as world:
        world.device.on_packets([b"E" + bytes(30)])
        assert world.relay.transport is not None
        assert world.relay.transport.datagrams == [(0, b"\0E" + bytes(30))]
        back = [packet(4, ADDRESSES[4]), packet(6, ADDRESSES[6])]
        world.relay.connection.datagrams_received(0, [b"\0" + one for one in back])
        assert world.device.received == back


async def test_a_relay_cannot_reach_past_our_own_addresses() -> None:
    """This machine may forward: what is behind it is none of the relay's business."""
    async with World() as world:
        others = [
            packet(4, ip_address("192.168.1.1")),
            packet(6, ip_address("fd00::1")),
            packet(4, ADDRESSES[4])[:18],
            b"",
        ]
        world.relay.connection.datagrams_received(0, [b"\0" + one for one in others])
        assert world.device.received == []
        assert world.tunnel.status()["dropped_foreign"] == 4


async def test_a_tunnel_that_ends_is_opened_again_with_the_same_addresses_on_the_same_device() -> (
    None
):
    async with World() as world:
        world.relay.failures = [ConnectionLost("gone")]
        world.relay.end()
        await world.until(lambda: len(world.relay.asked) == 2)
        await world.until(lambda: len(world.told(TunnelUp)) == 2)
        assert world.relay.asked[1] == list(ADDRESSES.values())
        assert len(world.devices) == 1
        (down,) = world.told(TunnelDown)
        assert down.error.message == "gone"
        assert not world.told(AddressesChanged)


async def test_a_tunnel_that_was_idle_and_comes_back_at_once_is_no_news() -> None:
    async with World() as world:
        world.relay.end()
        await world.until(lambda: len(world.relay.asked) == 2)
        await settle()
        assert len(world.events) == 1


async def test_packets_without_a_tunnel_are_dropped_and_counted() -> None:
    async with World() as world:
        world.relay.failures = [ConnectionLost("gone")] * 1_000
        world.relay.end()
        world.device.on_packets([b"E" + bytes(30)] * 3)
        assert world.tunnel.status()["dropped_away"] == 3
        assert world.tunnel.status()["up"] is False


async def test_other_addresses_than_before_are_told() -> None:
    async with World() as world:
        world.relay.gives[4] = ip_address("10.71.0.9")
        world.relay.end()
        await world.until(lambda: world.told(AddressesChanged))
        await world.until(lambda: ip_address("10.71.0.9") in world.device.addresses)


async def test_a_relay_with_no_ipv6_gives_ipv4_alone() -> None:
    relay = FakeRelay()
    del relay.gives[6]
    async with World(relay) as world:
        assert world.device.addresses == [ADDRESSES[4]]
        assert world.device.routes == [ip_network("10.0.0.0/8")]


async def test_a_relay_with_no_address_at_all_is_an_error() -> None:
    relay = FakeRelay()
    relay.gives.clear()
    world = World(relay)
    with pytest.raises(TunnelRefused, match="no address"):
        await world.tunnel.start()
    assert not world.devices


class TestPathSize:
    """RFC 9484 section 7.2: IPv6 needs 1,280 bytes."""

    async def test_over_a_narrow_path_ipv4_goes_alone_and_it_is_told_in_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(split_tunnel, "IPV6_WAIT_S", 0.01)
        async with World(FakeRelay(datagram_bytes=1_200)) as world:
            assert world.relay.asked == [[ip_address("0.0.0.0")]]
            assert world.device.addresses == [ADDRESSES[4]]
            await world.until(lambda: world.told(Ipv6Impossible))

    async def test_ipv6_follows_when_the_path_turns_out_to_be_wide_enough(self) -> None:
        async with World(FakeRelay(datagram_bytes=1_200)) as world:
            assert world.relay.transport is not None
            world.relay.transport.max_payload_bytes = 1_441
            await world.until(lambda: len(world.device.addresses) == 2)
            assert world.relay.asked[1:] == [[IPv6Address(0)]]
            assert world.device.mtu_bytes == 1_440

    @pytest.mark.clause("RFC 9484", "7.2", "MUST", "the client leaves a tunnel too narrow for IPv6")
    async def test_ipv6_ends_when_the_path_becomes_too_narrow(self) -> None:
        async with World() as world:
            assert world.relay.transport is not None
            world.relay.datagram_bytes = 1_200
            world.relay.transport.max_payload_bytes = 1_200
            await world.until(lambda: world.device.addresses == [ADDRESSES[4]])
            assert world.relay.asked[1] == [ADDRESSES[4]]

    async def test_the_mtu_follows_the_path(self) -> None:
        async with World() as world:
            assert world.relay.transport is not None
            world.relay.transport.max_payload_bytes = 1_301
            await world.until(lambda: world.device.mtu_bytes == 1_300)
            assert world.told(TunnelUp)[-1].mtu_bytes == 1_300


async def test_networks_that_the_relay_does_not_lead_to_are_told() -> None:
    spec = SplitTunnelSpec(routes=(ip_network("10.0.0.0/8"), ip_network("192.0.2.0/24")))
    async with World(spec=spec) as world:
        (event,) = world.told(NotAdvertised)
        assert event.networks == (ip_network("192.0.2.0/24"),)


async def test_a_name_server_gets_a_route_of_its_own() -> None:
    spec = SplitTunnelSpec(
        routes=(ip_network("10.0.0.0/8"),), name_servers=(ip_address("9.9.9.9"),)
    )
    async with World(spec=spec) as world:
        assert ip_network("9.9.9.9/32") in world.device.routes


async def test_only_families_with_a_route_are_asked_for() -> None:
    spec = SplitTunnelSpec(routes=(ip_network("10.0.0.0/8"),))
    async with World(spec=spec) as world:
        assert world.relay.asked == [[ip_address("0.0.0.0")]]


async def test_a_deleted_device_ends_the_tunnel_with_an_error() -> None:
    async with World() as world:
        assert world._running is not None
        world.device.on_gone()
        with pytest.raises(DeviceFailed, match="was deleted"):
            await world._running


async def test_a_relay_that_says_nothing_is_tried_again() -> None:
    async with World() as world:
        world.relay.failures = [RelayTimeout("nothing")]
        world.relay.end()
        await world.until(lambda: len(world.told(TunnelUp)) == 2)


async def test_run_before_start_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="start"):
        await World().tunnel.run()
