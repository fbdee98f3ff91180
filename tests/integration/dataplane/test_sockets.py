"""Tests the listener and the flow on real loopback sockets: IPv4, IPv6, offloads on and off."""

import asyncio
import logging
import select
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import DatagramSocket
from masque_relay.dataplane.batch_io import BatchUdpSocket, bind_udp, socket_factory
from masque_relay.dataplane.limits import FlowLimits, SocketLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow

BURST = [bytes([n]) * 1200 for n in range(50)] + [b"short"]
DEADLINE_S = 20.0


def endpoint(host: str, port: int = 0) -> Endpoint:
    return Endpoint(address=ip_address(host), port=port)


def limits(*, offload: bool) -> SocketLimits:
    return SocketLimits(segment_sends=offload, coalesce_receives=offload)


def receive(sut: BatchUdpSocket, count: int) -> dict[tuple[str, int], list[bytes]]:
    """Return at least ``count`` datagrams, by source."""
    by_source: dict[tuple[str, int], list[bytes]] = {}
    while sum(map(len, by_source.values())) < count:
        readable, _, _ = select.select([sut], [], [], DEADLINE_S)
        assert readable, f"only {by_source} came"
        for batch in sut.receive_batches(256):
            by_source.setdefault(batch.source, []).extend(batch.payloads)
    return by_source


class Sink:
    """A DatagramSink that a test can wait on."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.errors: list[FlowError] = []

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        assert 0 < len(payloads) <= 64
        self.payloads += payloads

    def on_flow_error(self, error: FlowError) -> None:
        self.errors.append(error)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - a socket has no event to wait for
            await asyncio.sleep(0.005)


@pytest.fixture
def closing() -> Generator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class TestBatchUdpSocket:
    """What one end sends in a batch the other receives in order, whatever the kernel can do."""

    @pytest.mark.parametrize("sender_offload", [True, False])
    @pytest.mark.parametrize("receiver_offload", [True, False])
    @pytest.mark.parametrize(
        ("bound", "via", "source"),
        [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("::1", "::1", "::1"),
            ("::", "127.0.0.1", "127.0.0.1"),
            ("::", "::1", "::1"),
        ],
    )
    def test_a_burst_arrives_whole_and_can_be_answered(
        self,
        closing: ExitStack,
        sender_offload: bool,
        receiver_offload: bool,
        bound: str,
        via: str,
        source: str,
    ) -> None:
        server = bind_udp(endpoint(bound), limits=limits(offload=receiver_offload))
        closing.callback(server.close)
        client = bind_udp(endpoint(source), limits=limits(offload=sender_offload))
        closing.callback(client.close)
        assert client.send_batch(BURST, (via, server.local.port)) == len(BURST)
        received = receive(server, len(BURST))
        assert received == {(source, client.local.port): BURST}
        assert server.send_batch(BURST, (source, client.local.port)) == len(BURST)
        assert receive(client, len(BURST)) == {(via, server.local.port): BURST}

    def test_offloads_are_used_and_counted_where_the_kernel_has_them(
        self, closing: ExitStack
    ) -> None:
        counters = FlowCounters()
        factory = socket_factory(SocketLimits(), counters)
        server: DatagramSocket = factory(endpoint("127.0.0.1"))
        closing.callback(server.close)
        client = factory(endpoint("127.0.0.1"))
        closing.callback(client.close)
        if not client.segmenting:
            pytest.skip("this kernel has no UDP_SEGMENT")
        client.send_batch(BURST, ("127.0.0.1", server.local.port))
        assert [len(batch.payloads) for batch in server.receive_batches(256)] == [len(BURST)]
        assert counters.gso_sends == 1
        assert counters.gro_receives == 1

    def test_gro_goes_off_and_on_again_without_joining_datagrams(self, closing: ExitStack) -> None:
        server = bind_udp(endpoint("127.0.0.1"))
        closing.callback(server.close)
        if not server.coalescing:
            pytest.skip("this kernel has no UDP_GRO")
        client = bind_udp(endpoint("127.0.0.1"))
        closing.callback(client.close)
        address = ("127.0.0.1", server.local.port)
        singles = 0
        while server.coalescing:
            client.send_batch([b"single"], address)
            receive(server, 1)
            singles += 1
            assert singles < 100
        seen_coalescing = False
        for _ in range(60):
            client.send_batch(BURST, address)
            (payloads,) = receive(server, len(BURST)).values()
            assert payloads == BURST
            seen_coalescing = seen_coalescing or server.coalescing
        assert seen_coalescing

    def test_a_datagram_larger_than_the_path_is_lost_alone(self, closing: ExitStack) -> None:
        counters = FlowCounters()
        server = bind_udp(endpoint("127.0.0.1"))
        closing.callback(server.close)
        client = bind_udp(endpoint("127.0.0.1"), counters=counters)
        closing.callback(client.close)
        address = ("127.0.0.1", server.local.port)
        assert client.send_batch([b"a", bytes(65_600), b"b"], address) == 2
        (payloads,) = receive(server, 2).values()
        assert payloads == [b"a", b"b"]
        assert counters.send_oversize == 1

    def test_a_closed_port_of_a_peer_does_not_hurt_the_listener(self, closing: ExitStack) -> None:
        server = bind_udp(endpoint("127.0.0.1"))
        closing.callback(server.close)
        gone = bind_udp(endpoint("127.0.0.1"))
        gone.close()
        client = bind_udp(endpoint("127.0.0.1"))
        closing.callback(client.close)
        for _ in range(3):
            server.send_batch([b"x", b"y"], ("127.0.0.1", gone.local.port))
            client.send_batch([b"still"], ("127.0.0.1", server.local.port))
            assert receive(server, 1) == {("127.0.0.1", client.local.port): [b"still"]}

    def test_a_taken_port_is_a_flow_error(self, closing: ExitStack) -> None:
        first = bind_udp(endpoint("127.0.0.1"))
        closing.callback(first.close)
        with pytest.raises(FlowError, match=f"bind 127.0.0.1:{first.local.port}") as caught:
            bind_udp(first.local)
        assert caught.value.fault is FlowFault.RESOURCES

    def test_an_address_that_is_not_ours_is_a_flow_error(self) -> None:
        with pytest.raises(FlowError) as caught:
            bind_udp(endpoint("192.0.2.1"))
        assert caught.value.fault is FlowFault.DESTINATION_IP_UNROUTABLE

    def test_a_capped_buffer_is_told_at_the_start(
        self, closing: ExitStack, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Root may exceed the cap; ask as if we were not.
        monkeypatch.setattr("masque_relay.dataplane.batch_io._SO_RCVBUFFORCE", socket.SO_RCVBUF)
        monkeypatch.setattr("masque_relay.dataplane.batch_io._SO_SNDBUFFORCE", socket.SO_SNDBUF)
        with caplog.at_level(logging.WARNING):
            greedy = SocketLimits(receive_buffer_bytes=1 << 30, send_buffer_bytes=1 << 30)
            sut = bind_udp(endpoint("127.0.0.1"), limits=greedy)
        closing.callback(sut.close)
        assert "net.core.rmem_max=1073741824" in caplog.text
        assert "net.core.wmem_max=1073741824" in caplog.text

    @pytest.mark.clause("RFC 9298", "3.1", "MUST NOT", "introduce fragmentation at the IP layer")
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
    def test_fragments_are_forbidden(self, closing: ExitStack, host: str) -> None:
        sut = bind_udp(endpoint(host))
        closing.callback(sut.close)
        inner = sut._socket
        assert inner.getsockopt(socket.IPPROTO_IP, 10) == 3  # IP_MTU_DISCOVER: IP_PMTUDISC_PROBE
        if inner.family == socket.AF_INET6:
            assert inner.getsockopt(socket.IPPROTO_IPV6, 23) == 3


class TestConnectedUdpFlow:
    """A flow to a real target and back."""

    @pytest.fixture(params=["127.0.0.1", "::1"])
    def target(self, request: pytest.FixtureRequest) -> Generator[BatchUdpSocket]:
        sut = bind_udp(endpoint(request.param))
        yield sut
        sut.close()

    def open(
        self,
        closing: ExitStack,
        target: BatchUdpSocket,
        *,
        offload: bool = True,
        egress: str | None = None,
    ) -> tuple[ConnectedUdpFlow, Sink, FlowCounters]:
        sink = Sink()
        counters = FlowCounters()
        flow = ConnectedUdpFlow.open(
            target.local,
            sink,
            loop=asyncio.get_running_loop(),
            limits=FlowLimits(segment_sends=offload, coalesce_receives=offload),
            counters=counters,
            egress_address=ip_address(egress) if egress else None,
        )
        closing.callback(flow.close)
        return flow, sink, counters

    @pytest.mark.parametrize("offload", [True, False])
    async def test_bursts_go_out_and_come_back(
        self, closing: ExitStack, target: BatchUdpSocket, offload: bool
    ) -> None:
        flow, sink, _ = self.open(closing, target, offload=offload)
        assert flow.peer == target.local
        assert flow.send_batch(BURST) == len(BURST)
        ((source, payloads),) = receive(target, len(BURST)).items()
        assert payloads == BURST
        assert source == (str(flow.local.address), flow.local.port)
        for _ in range(4):
            target.send_batch(BURST, source)
        await eventually(lambda: len(sink.payloads) == 4 * len(BURST))
        assert sink.payloads == BURST * 4

    @pytest.mark.clause("RFC 9298", "3.1", "MUST", "discard packets that are not from the target")
    async def test_strangers_are_not_heard(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, _ = self.open(closing, target)
        stranger = bind_udp(endpoint(str(target.local.address)))
        closing.callback(stranger.close)
        to_flow = (str(flow.local.address), flow.local.port)
        stranger.send_batch([b"evil"] * 10, to_flow)
        target.send_batch([b"good"], to_flow)
        await eventually(lambda: bool(sink.payloads))
        assert sink.payloads == [b"good"]

    async def test_a_closed_port_is_a_refusal_and_the_flow_lives_on(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, counters = self.open(closing, target)
        address = target.local
        target.close()
        flow.send_batch([b"anybody?"])
        await eventually(lambda: bool(sink.errors))
        assert sink.errors[0].fault is FlowFault.CONNECTION_REFUSED
        again = bind_udp(address)
        closing.callback(again.close)
        assert flow.send_batch([b"back"]) == 1
        ((source, payloads),) = receive(again, 1).items()
        assert payloads == [b"back"]
        again.send_batch([b"here"], source)
        await eventually(lambda: sink.payloads == [b"here"])
        assert counters.receive_errors == 1

    async def test_an_idle_flow_does_not_spin_after_errors(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, _ = self.open(closing, target)
        target.close()
        for _ in range(40):
            flow.send_batch([b"x", b"y"])
        await eventually(lambda: bool(sink.errors))
        flow.send_batch([bytes(65_600)])  # leaves a local error in the queue
        await asyncio.sleep(0.05)
        wake_ups = 0
        original = flow._drain_errors

        class Spy:
            def __call__(self) -> None:
                nonlocal wake_ups
                wake_ups += 1
                original()

        asyncio.get_running_loop().add_reader(flow._socket.fileno(), Spy())
        await asyncio.sleep(0.05)
        assert wake_ups == 0

    async def test_an_oversize_datagram_is_lost_alone(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, counters = self.open(closing, target)
        assert flow.send_batch([b"a", bytes(65_600), b"b"]) == 2
        assert list(receive(target, 2).values()) == [[b"a", b"b"]]
        assert (flow.dropped_count, counters.send_oversize) == (1, 1)
        await asyncio.sleep(0.02)
        assert sink.errors == []

    async def test_a_large_datagram_is_not_truncated(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, _ = self.open(closing, target)
        target.send_batch([bytes(60_000)], (str(flow.local.address), flow.local.port))
        await eventually(lambda: sink.payloads == [bytes(60_000)])

    async def test_the_egress_address_is_the_source(self, closing: ExitStack) -> None:
        target = bind_udp(endpoint("127.0.0.1"))
        closing.callback(target.close)
        flow, _, _ = self.open(closing, target, egress="127.0.0.9")
        flow.send_batch([b"x"])
        assert list(receive(target, 1)) == [("127.0.0.9", flow.local.port)]

    async def test_an_egress_address_that_is_not_ours_is_a_flow_error(
        self, closing: ExitStack
    ) -> None:
        target = bind_udp(endpoint("127.0.0.1"))
        closing.callback(target.close)
        with pytest.raises(FlowError) as caught:
            self.open(closing, target, egress="192.0.2.1")
        assert caught.value.fault is FlowFault.DESTINATION_IP_UNROUTABLE

    async def test_nothing_is_heard_after_close(
        self, closing: ExitStack, target: BatchUdpSocket
    ) -> None:
        flow, sink, counters = self.open(closing, target)
        target.send_batch([b"late"], (str(flow.local.address), flow.local.port))
        flow.close()
        await asyncio.sleep(0.02)
        assert sink.payloads == []
        assert counters.flows_open == 0
