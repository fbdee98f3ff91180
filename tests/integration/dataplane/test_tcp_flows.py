"""TCP flows over real sockets: Happy Eyeballs, ends, queues, lingering, resets."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.tcp_connect import connect_first
from masque_relay.dataplane.tcp_flow import SocketTcpFlow
from tests.support.h3_client import WAIT_S

LEASE: Any = None  # its meters are the tunnel's business


class RecordingByteSink:
    """A ByteSink that keeps what it hears."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.has_ended = False
        self.writable_count = 0
        self.error: FlowError | None = None
        self._changed = asyncio.Event()

    def on_bytes(self, data: bytes) -> None:
        self.data += data
        self._changed.set()

    def on_bytes_end(self) -> None:
        self.has_ended = True
        self._changed.set()

    def on_flow_writable(self) -> None:
        self.writable_count += 1
        self._changed.set()

    def on_flow_lost(self, error: FlowError) -> None:
        self.error = error
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Target:
    """A listening socket whose accepted connection the test plays by hand."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family)
        self.listener.bind((host, 0))
        self.listener.listen()
        self.endpoint = Endpoint(address=ip_address(host), port=self.listener.getsockname()[1])

    def accept(self) -> socket.socket:
        self.listener.settimeout(WAIT_S)
        accepted, _ = self.listener.accept()
        accepted.settimeout(WAIT_S)
        return accepted

    def close(self) -> None:
        self.listener.close()


def port_without_listener() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def opened(
    dataplane: InprocDataplane, target: Target
) -> tuple[SocketTcpFlow, RecordingByteSink, socket.socket]:
    sink = RecordingByteSink()
    flow = await dataplane.open_tcp(LEASE, [target.endpoint], sink, timeout_s=WAIT_S)
    return flow, sink, target.accept()


class TestConnecting:
    """RFC 8305 section 5."""

    async def test_refused_address_starts_the_next_at_once(self) -> None:
        with closing(Target()) as target:
            dead = Endpoint(address=ip_address("127.0.0.1"), port=port_without_listener())
            connected = await connect_first(
                [dead, target.endpoint],
                timeout_s=WAIT_S,
                egress_by_version={},
                attempt_delay_s=10 * WAIT_S,
            )
            assert connected.getpeername()[1] == target.endpoint.port
            connected.close()

    async def test_silent_address_gets_company_after_the_delay(self) -> None:
        with closing(socket.socket()) as silent, closing(Target()) as target:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:  # the queue is full: Linux drops further SYNs
                one.settimeout(0)
                one.connect_ex(silent.getsockname())
            first = Endpoint(address=ip_address("127.0.0.1"), port=silent.getsockname()[1])
            connected = await connect_first(
                [first, target.endpoint],
                timeout_s=WAIT_S,
                egress_by_version={},
                attempt_delay_s=0.05,
            )
            assert connected.getpeername()[1] == target.endpoint.port
            connected.close()
            with pytest.raises(FlowError) as caught:
                await connect_first([first], timeout_s=0.1, egress_by_version={})
            assert caught.value.fault is FlowFault.CONNECTION_TIMEOUT
            for one in waiting:
                one.close()

    async def test_first_failure_is_told_when_all_fail(self) -> None:
        dataplane = InprocDataplane()
        dead = Endpoint(address=ip_address("127.0.0.1"), port=port_without_listener())
        bad = Endpoint(address=ip_address("255.255.255.255"), port=9)
        with pytest.raises(FlowError) as caught:
            await dataplane.open_tcp(LEASE, [dead, bad], RecordingByteSink(), timeout_s=WAIT_S)
        assert caught.value.fault is FlowFault.CONNECTION_REFUSED
        assert dataplane.counters.connects_failed == 1
        await dataplane.close()

    async def test_cancelled_attempt_leaves_no_socket(self) -> None:
        with closing(Target()) as target:
            task = asyncio.ensure_future(
                connect_first([target.endpoint], timeout_s=WAIT_S, egress_by_version={})
            )
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task  # a socket that is left would be a ResourceWarning: an error here

    async def test_source_address_is_the_configured_one(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane(egress_addresses=[ip_address("127.0.0.5")])
            flow, _, accepted = await opened(dataplane, target)
            assert accepted.getpeername()[0] == "127.0.0.5"
            assert str(flow.local.address) == "127.0.0.5"
            accepted.close()
            flow.close()
            await dataplane.close()


class TestFlow:
    async def test_nothing_is_read_before_resume_nor_after_pause(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, sink, accepted = await opened(dataplane, target)
            accepted.sendall(b"early")
            await asyncio.sleep(0.05)
            assert not sink.data
            flow.resume()
            await sink.until(lambda: bytes(sink.data) == b"early")
            flow.pause()
            accepted.sendall(b"late")
            await asyncio.sleep(0.05)
            assert sink.data == b"early"
            accepted.close()
            flow.close()
            await dataplane.close()

    async def test_each_side_ends_on_its_own(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, sink, accepted = await opened(dataplane, target)
            flow.resume()
            flow.send(b"request")
            flow.end()
            flow.send(b"ignored")
            assert accepted.recv(100) == b"request"
            assert accepted.recv(100) == b""
            accepted.sendall(b"answer")
            accepted.close()
            await sink.until(lambda: sink.has_ended)
            assert sink.data == b"answer"
            flow.close()
            assert dataplane.counters.flows_open == 0
            await dataplane.close()

    async def test_what_the_kernel_does_not_take_waits_and_leaves_in_order(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, sink, accepted = await opened(dataplane, target)
            chunks = [bytes([number]) * 200_000 for number in range(100)]
            for chunk in chunks:
                flow.send(chunk)
            assert flow.unsent_bytes > 0
            flow.end()

            def read_all() -> bytes:
                received = bytearray()
                while data := accepted.recv(1 << 20):
                    received += data
                return bytes(received)

            assert await asyncio.to_thread(read_all) == b"".join(chunks)
            assert flow.unsent_bytes == 0
            assert sink.writable_count > 0
            accepted.close()
            flow.close()
            await dataplane.close()

    async def test_closed_flow_still_delivers_what_was_queued_before_its_end(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, _, accepted = await opened(dataplane, target)
            flow.send(bytes(20_000_000))
            flow.end()
            flow.close()
            assert dataplane.counters.flows_open == 1

            def count() -> int:
                total = 0
                while data := accepted.recv(1 << 20):
                    total += len(data)
                return total

            assert await asyncio.to_thread(count) == 20_000_000
            assert dataplane.counters.flows_open == 0
            accepted.close()
            await dataplane.close()

    async def test_flow_beyond_the_cap_does_not_linger(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("masque_relay.dataplane.tcp_flow.MAX_LINGERING", 1)
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            accepted: list[socket.socket] = []
            for _ in range(2):
                flow, _, one = await opened(dataplane, target)
                accepted.append(one)
                flow.send(bytes(20_000_000))
                flow.end()
                flow.close()
            assert dataplane.counters.flows_open == 1
            await dataplane.close()
            for one in accepted:
                one.close()

    async def test_data_plane_that_closes_cuts_lingering_flows(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, _, accepted = await opened(dataplane, target)
            flow.send(bytes(20_000_000))
            flow.end()
            flow.close()
            await dataplane.close()
            assert dataplane.counters.flows_open == 0
            accepted.close()

    async def test_abort_is_a_reset(self) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, _, accepted = await opened(dataplane, target)
            flow.abort()
            with pytest.raises(ConnectionResetError):
                accepted.recv(1)
            accepted.close()
            await dataplane.close()

    @pytest.mark.parametrize("reading", [True, False])
    async def test_reset_by_the_target_is_told_once(self, reading: bool) -> None:
        with closing(Target()) as target:
            dataplane = InprocDataplane()
            flow, sink, accepted = await opened(dataplane, target)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            if reading:
                flow.resume()
            else:
                flow.send(b"x")
            await sink.until(lambda: sink.error)
            assert sink.error is not None
            assert sink.error.fault is FlowFault.CONNECTION_TERMINATED
            flow.send(b"ignored")
            flow.close()
            flow.abort()
            assert dataplane.counters.flows_closed == 1
            await dataplane.close()
