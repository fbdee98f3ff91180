"""Owns the tests of flows through an upstream relay; the test plays that relay."""

import asyncio

from masque_relay.client.address import make_target
from masque_relay.client.connection import RelayConnection
from masque_relay.client.limits import ClientLimits
from masque_relay.client.upstream import UpstreamTcpFlow, UpstreamUdpFlow
from masque_relay.contract.flow import FlowError, FlowFault, TcpFlow, UdpFlow
from tests.support.client_fakes import ACCEPTED, FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

TARGET = make_target("192.0.2.1", 443)


class Sink:
    """A ByteSink that writes everything down."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.calls: list[object] = []
        self.flow: UpstreamTcpFlow | None = None
        self.pauses_after: int | None = None

    def on_bytes(self, data: bytes) -> None:
        self.received += data
        if self.pauses_after is not None and len(self.received) >= self.pauses_after:
            assert self.flow is not None
            self.flow.pause()

    def on_bytes_end(self) -> None:
        self.calls.append("end")

    def on_flow_writable(self) -> None:
        self.calls.append("writable")

    def on_flow_lost(self, error: FlowError) -> None:
        self.calls.append(error.fault)


async def tcp_flow() -> tuple[UpstreamTcpFlow, Sink, RelayConnection, FakeRelayTransport]:
    connection, transport = connection_on_fake()
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    sink = Sink()
    flow = UpstreamTcpFlow(await connection.open_tcp(TARGET), sink)
    sink.flow = flow
    return flow, sink, connection, transport


class TestTcp:
    async def test_it_begins_paused_and_keeps_what_comes(self) -> None:
        flow, sink, connection, transport = await tcp_flow()
        connection.data_received(0, b"early", end_stream=False)
        assert (sink.received, transport.consumed) == (b"", {})
        flow.resume()
        await settle()
        assert (sink.received, transport.consumed) == (b"early", {0: 5})

    async def test_a_sink_that_pauses_gets_no_more_and_grants_no_credit(self) -> None:
        flow, sink, connection, transport = await tcp_flow()
        sink.pauses_after = 3
        flow.resume()
        await settle()
        connection.data_received(0, b"one", end_stream=False)
        connection.data_received(0, b"two", end_stream=False)
        assert (sink.received, transport.consumed) == (b"one", {0: 3})

    async def test_bytes_and_the_end_go_there(self) -> None:
        flow, _, _, transport = await tcp_flow()
        flow.send(b"there")
        flow.end()
        flow.end()
        assert transport.data[0] == b"there"
        assert transport.finished == {0}

    async def test_the_targets_end_is_told_once_behind_its_bytes(self) -> None:
        flow, sink, connection, _ = await tcp_flow()
        connection.data_received(0, b"last", end_stream=True)
        assert "end" not in sink.calls
        flow.resume()
        await settle()
        connection.streams_writable()
        assert (sink.received, sink.calls.count("end")) == (b"last", 1)

    async def test_room_upstream_is_told(self) -> None:
        flow, sink, connection, transport = await tcp_flow()
        flow.send(b"x")
        transport.unsent[0] = 9
        assert flow.unsent_bytes == 9
        connection.streams_writable()
        assert "writable" in sink.calls

    async def test_a_reset_upstream_loses_the_flow_once(self) -> None:
        flow, sink, connection, _ = await tcp_flow()
        flow.resume()
        await settle()
        connection.stream_reset_received(0, 0x10F)
        assert [call for call in sink.calls if call != "writable"] == [
            FlowFault.CONNECTION_TERMINATED
        ]
        flow.close()

    async def test_a_lost_connection_loses_the_flow(self) -> None:
        flow, sink, connection, _ = await tcp_flow()
        flow.resume()
        await settle()
        connection.connection_lost(0, "gone")
        assert FlowFault.CONNECTION_TERMINATED in sink.calls

    async def test_close_without_an_end_resets_and_the_sink_hears_nothing(self) -> None:
        flow, sink, connection, transport = await tcp_flow()
        flow.close()
        flow.close()
        assert transport.resets == {0: 0x10C}
        connection.data_received(0, b"late", end_stream=True)
        assert (sink.received, sink.calls) == (b"", [])

    async def test_close_after_both_ends_resets_nothing(self) -> None:
        flow, _, connection, transport = await tcp_flow()
        flow.resume()
        flow.end()
        connection.data_received(0, b"", end_stream=True)
        await settle()
        flow.close()
        assert transport.resets == {}

    async def test_abort_resets(self) -> None:
        flow, _, _, transport = await tcp_flow()
        flow.abort()
        assert transport.resets == {0: 0x10C}


async def test_a_udp_flow_sends_counts_its_drops_and_closes() -> None:
    connection, transport = connection_on_fake(ClientLimits())
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    flow = UpstreamUdpFlow(await connection.open_udp(TARGET, authority="r", path="/"))
    transport.max_payload_bytes = 1_200
    assert flow.send_batch([b"a", bytes(1_300)]) == 1
    assert flow.dropped_count == 1
    flow.close()
    assert transport.finished == {0}
    assert flow.send_batch([b"late"]) == 0


def as_tcp_flow(flow: UpstreamTcpFlow) -> TcpFlow:
    """Hold the class to the port."""
    return flow


def as_udp_flow(flow: UpstreamUdpFlow) -> UdpFlow:
    """Hold the class to the port."""
    return flow
