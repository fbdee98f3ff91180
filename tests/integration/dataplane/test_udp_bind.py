"""Bound UDP flows on real sockets: ports, addresses, offloads, neighbours, own addresses."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.udp_bind import BindSettings, routed_address
from tests.support.bind_rig import LOOPBACK_BIND, udp_peer
from tests.support.h3_client import WAIT_S
from tests.support.http_fakes import FakeLease

V4, V6 = ip_address("127.0.0.1"), ip_address("::1")
LEASE = FakeLease(
    RelayRequest(
        request_id="r",
        transport=Transport.HTTP3,
        method=Method.BIND_UDP,
        target=None,
        credentials=(),
        source=Endpoint(address=V4, port=1),
    )
)


class Sink:
    """A BoundUdpSink that records."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, tuple[str, int]]] = []
        self.batch_sizes: list[int] = []
        self._arrived = asyncio.Event()

    def on_batches(self, batches: Sequence[ReceivedBatch]) -> None:
        for batch in batches:
            self.received += [(payload, batch.source) for payload in batch.payloads]
            self.batch_sizes.append(len(batch.payloads))
        self._arrived.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.received) < count:
                self._arrived.clear()
                await self._arrived.wait()


@asynccontextmanager
async def dataplane(
    settings: BindSettings = LOOPBACK_BIND, *, allow_own_addresses: bool = False
) -> AsyncGenerator[InprocDataplane]:
    plane = InprocDataplane(bind=settings, allow_own_addresses=allow_own_addresses)
    try:
        yield plane
    finally:
        await plane.close()


def source(endpoint: Endpoint) -> tuple[str, int]:
    return str(endpoint.address), endpoint.port


async def test_one_port_on_both_families_from_the_range() -> None:
    async with dataplane() as plane:
        flow = plane.open_bound_udp(LEASE, Sink())
        assert [end.address for end in flow.public] == [V4, V6]
        assert len({end.port for end in flow.public}) == 1
        assert 49_152 <= flow.public[0].port <= 65_535
        assert plane.counters.flows_open == 1
        flow.close()
        flow.close()
        assert plane.counters.flows_open == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_datagrams_go_and_come_by_peer(host: str) -> None:
    async with dataplane() as plane, udp_peer(host) as one, udp_peer(host) as two:
        sink = Sink()
        flow = plane.open_bound_udp(LEASE, sink)
        public = next(source(end) for end in flow.public if str(end.address) == host)
        for peer in (one, two):
            assert flow.send_batch([b"a", b"b", b""], peer.address) == 3
            assert await peer.until(b"b") == public
            peer.send(b"back", public)
        await sink.until(2)
        assert set(sink.received) == {(b"back", one.address), (b"back", two.address)}
        flow.close()


async def test_a_burst_arrives_whole_and_in_order() -> None:
    payloads = [bytes([number]) * 1_200 for number in range(100)]
    async with dataplane() as plane:
        sinks = Sink(), Sink()
        flows = [plane.open_bound_udp(LEASE, sink) for sink in sinks]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(source(flows[0].public[0]))
            for payload in payloads:
                sender.send(payload)
            await sinks[0].until(100)
        assert [payload for payload, _ in sinks[0].received] == payloads
        for flow in flows:
            flow.close()


async def test_flows_of_one_relay_reach_each_other_without_the_network() -> None:
    outside = BindSettings(addresses=(V4,), public_addresses=(ip_address("203.0.113.7"),))
    async with dataplane(outside) as plane:
        sinks = Sink(), Sink()
        one, two = (plane.open_bound_udp(LEASE, sink) for sink in sinks)
        assert str(one.public[0].address) == "203.0.113.7"
        assert one.send_batch([b"hello"], source(two.public[0])) == 1
        assert sinks[1].received == [(b"hello", source(one.public[0]))]
        gone = source(two.public[0])
        two.close()
        one.send_batch([b"nobody"], gone)
        assert len(sinks[1].received) == 1
        one.close()


async def test_nothing_is_sent_or_told_after_close() -> None:
    async with dataplane() as plane, udp_peer() as peer:
        sink = Sink()
        flow = plane.open_bound_udp(LEASE, sink)
        public = source(flow.public[0])
        peer.send(b"unread", public)
        flow.close()
        assert flow.send_batch([b"a"], peer.address) == 0
        await asyncio.sleep(0)
        assert sink.received == []


async def test_what_the_kernel_does_not_take_is_counted() -> None:
    async with dataplane(BindSettings(addresses=(V4,))) as plane:
        flow = plane.open_bound_udp(LEASE, Sink())
        assert flow.send_batch([b"six"], ("::1", 9)) == 0
        assert flow.send_batch([bytes(65_508)], ("127.0.0.1", 9)) == 0
        assert flow.dropped_count == 2
        flow.close()


async def test_only_families_that_are_bound_are_reached() -> None:
    async with dataplane(BindSettings(addresses=(V4,))) as plane:
        flow = plane.open_bound_udp(LEASE, Sink())
        assert flow.reaches(Endpoint(address=ip_address("198.51.100.1"), port=9))
        assert not flow.reaches(Endpoint(address=ip_address("2001:db8::1"), port=9))
        flow.close()


async def test_public_addresses_of_this_host_are_out_of_reach_but_for_its_bound_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("masque_relay.dataplane.udp_bind.is_own_public", lambda address: True)
    own = Endpoint(address=V4, port=22)
    async with dataplane() as plane:
        flow, other = (plane.open_bound_udp(LEASE, Sink()) for _ in range(2))
        assert not flow.reaches(own)
        assert flow.reaches(other.public[0])
        other.close()
        assert not flow.reaches(other.public[0])
        flow.close()
    async with dataplane(allow_own_addresses=True) as plane:
        flow = plane.open_bound_udp(LEASE, Sink())
        assert flow.reaches(own)
        flow.close()


async def test_a_range_that_is_taken_is_a_lack_of_resources() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        settings = BindSettings(addresses=(V4,), first_port=port, last_port=port)
        async with dataplane(settings) as plane:
            with pytest.raises(FlowError) as caught:
                plane.open_bound_udp(LEASE, Sink())
            assert caught.value.fault is FlowFault.RESOURCES
            assert plane.counters.flows_open == 0


async def test_an_address_that_is_not_ours_is_no_matter_of_trying_again() -> None:
    async with dataplane(BindSettings(addresses=(ip_address("192.0.2.200"),))) as plane:
        with pytest.raises(FlowError) as caught:
            plane.open_bound_udp(LEASE, Sink())
        assert caught.value.fault is FlowFault.DESTINATION_IP_UNROUTABLE


async def test_without_addresses_the_routing_table_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert routed_address("127.0.0.5", socket.AF_INET) == V4
    monkeypatch.setattr(
        "masque_relay.dataplane.udp_bind._ROUTED_PROBES", (("127.0.0.5", socket.AF_INET),)
    )
    async with dataplane(BindSettings()) as plane:
        flow = plane.open_bound_udp(LEASE, Sink())
        assert [end.address for end in flow.public] == [V4]
        flow.close()


async def test_no_address_at_all_is_an_error_that_names_the_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("masque_relay.dataplane.udp_bind._ROUTED_PROBES", ())
    async with dataplane(BindSettings()) as plane:
        with pytest.raises(FlowError, match=r"connect_udp\.bind\.addresses"):
            plane.open_bound_udp(LEASE, Sink())
