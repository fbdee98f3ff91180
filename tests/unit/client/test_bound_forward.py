"""BoundForward: remote peers get local sockets of their own; ports that are lost come back."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest

from masque_relay.client.bound_forward import BoundForward
from masque_relay.client.bound_udp import OnPeerBatch
from masque_relay.client.datagram_tunnel import OnClosed
from masque_relay.client.errors import ClientError, ConnectionLost, TunnelClosed
from masque_relay.client.events import BindEvent, PortBound, PortLost
from masque_relay.client.limits import BoundForwardLimits
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.verdict import EndReason
from tests.support.client_fakes import FakeClock, FakeSocket
from tests.support.http_fakes import settle

PROGRAM = Endpoint(address=ip_address("127.0.0.1"), port=51_820)
SOURCE = ("127.0.0.1", 51_820)
ONE, TWO, THREE = (Endpoint(address=ip_address("192.0.2.1"), port=port) for port in (1, 2, 3))
QUICK = BoundForwardLimits(sweep_interval_s=0.001, retry_delay_s=0.001, longest_retry_delay_s=0.002)


class FakeBound:
    """A BoundUdp of which the test plays the relay."""

    def __init__(self, port: int, on_batch: OnPeerBatch, on_closed: OnClosed) -> None:
        self.public = (Endpoint(address=ip_address("198.51.100.1"), port=port),)
        self.on_batch, self._on_closed = on_batch, on_closed
        self.closed: TunnelClosed | None = None
        self.sent: list[tuple[list[bytes], Endpoint]] = []
        self.forgotten: list[Endpoint] = []
        self.is_closed = False

    def send_batch(self, payloads: Sequence[bytes], peer: Endpoint) -> int:
        self.sent.append((list(payloads), peer))
        return len(payloads)

    def forget(self, peer: Endpoint) -> None:
        self.forgotten.append(peer)

    def close(self) -> None:
        self.is_closed = True

    def lose(self) -> None:
        self._on_closed(TunnelClosed(EndReason.CONNECTION_LOST, "gone"))


class Bench:
    """A forward with fakes on both sides."""

    def __init__(self, limits: BoundForwardLimits | None = None) -> None:
        self.bounds: list[FakeBound] = []
        self.sockets: list[FakeSocket] = []
        self.events: list[BindEvent] = []
        self.failures: list[ClientError] = []
        self.no_sockets = False
        self.bound_again = asyncio.Event()
        self.clock = FakeClock()
        self.forward = BoundForward(
            PROGRAM,
            self.open,
            limits=limits,
            on_event=self.note,
            socket_factory=self.socket,
            clock=self.clock,
        )

    def note(self, event: BindEvent) -> None:
        self.events.append(event)
        if isinstance(event, PortBound):
            self.bound_again.set()

    async def open(self, *, on_batch: OnPeerBatch, on_closed: OnClosed) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        self.bounds.append(FakeBound(50_000 + len(self.bounds), on_batch, on_closed))
        return self.bounds[-1]

    def socket(self, endpoint: Endpoint) -> FakeSocket:
        if self.no_sockets:
            raise FlowError(FlowFault.RESOURCES, "no descriptors")
        self.sockets.append(FakeSocket(endpoint))
        return self.sockets[-1]

    def answer(
        self, number: int, peer: Endpoint, *payloads: bytes, source: tuple[str, int] = SOURCE
    ) -> None:
        self.sockets[number].waiting.append(ReceivedBatch(list(payloads), source))
        self.forward._on_local(peer)


async def test_each_remote_peer_has_a_local_socket_and_gets_its_own_answers() -> None:
    bench = Bench()
    await bench.forward.start()
    bound = bench.bounds[0]
    bound.on_batch([b"a", b"b"], ONE)
    bound.on_batch([b"c"], TWO)
    bound.on_batch([b"d"], ONE)
    assert bench.sockets[0].sent == [(b"a", SOURCE), (b"b", SOURCE), (b"d", SOURCE)]
    assert bench.sockets[1].sent == [(b"c", SOURCE)]
    assert bench.sockets[0].local == Endpoint(address=PROGRAM.address, port=0)
    bench.answer(1, TWO, b"re")
    assert bound.sent == [([b"re"], TWO)]
    assert bench.forward.status()["received"] == 4
    assert bench.forward.peer_count == 2


async def test_other_programs_of_the_host_are_not_relayed() -> None:
    bench = Bench()
    await bench.forward.start()
    bench.bounds[0].on_batch([b"a"], ONE)
    bench.answer(0, ONE, b"spoofed", source=("127.0.0.1", 9))
    assert bench.bounds[0].sent == []


async def test_silent_peers_lose_their_socket() -> None:
    bench = Bench(BoundForwardLimits(idle_timeout_s=60.0))
    await bench.forward.start()
    bound = bench.bounds[0]
    bound.on_batch([b"a"], ONE)
    bench.clock.now_s += 40.0
    bound.on_batch([b"b"], TWO)
    bench.clock.now_s += 40.0
    bench.forward.sweep()
    assert bench.sockets[0].closed
    assert not bench.sockets[1].closed
    assert bound.forgotten == [ONE]
    assert bench.forward.expired_count == 1


async def test_longest_idle_peer_makes_room() -> None:
    bench = Bench(BoundForwardLimits(peers=2))
    await bench.forward.start()
    for peer in (ONE, TWO, THREE):
        bench.clock.now_s += 1.0
        bench.bounds[0].on_batch([b"a"], peer)
    assert [socket.closed for socket in bench.sockets] == [True, False, False]
    assert bench.forward.evicted_count == 1


async def test_no_local_socket_or_no_room_in_it_is_a_counted_drop() -> None:
    bench = Bench()
    await bench.forward.start()
    bench.bounds[0].on_batch([b"a"], ONE)
    bench.sockets[0].takes = False
    bench.bounds[0].on_batch([b"b"], ONE)
    bench.no_sockets = True
    bench.bounds[0].on_batch([b"c"], TWO)
    assert bench.forward.dropped_count == 2


async def test_lost_port_is_asked_for_again_and_told() -> None:
    bench = Bench(QUICK)
    await bench.forward.start()
    running = asyncio.ensure_future(bench.forward.run())
    await settle()
    bench.failures = [ConnectionLost("no relay")]
    bench.bounds[0].lose()
    async with asyncio.timeout(10):
        await bench.bound_again.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    lost = [event.error.message for event in bench.events if isinstance(event, PortLost)]
    assert lost == ["the public port is gone", "no relay"]
    assert bench.events[-1] == PortBound(target=PROGRAM, public=bench.bounds[1].public)
    assert bench.bounds[1].is_closed


async def test_answers_while_there_is_no_port_are_dropped() -> None:
    bench = Bench()
    await bench.forward.start()
    bench.bounds[0].on_batch([b"a"], ONE)
    bench.bounds[0].lose()
    bench.answer(0, ONE, b"late")
    assert bench.forward.dropped_count == 1
    assert bench.forward.public == ()


async def test_failure_at_the_start_is_raised() -> None:
    bench = Bench()
    bench.failures = [ConnectionLost("no relay")]
    with pytest.raises(ConnectionLost):
        await bench.forward.start()


@pytest.mark.parametrize(
    ("target", "local"),
    [("127.0.0.5", "127.0.0.5"), ("::1", "::1"), ("192.0.2.9", "0.0.0.0"), ("2001:db8::9", "::")],
)
async def test_local_sockets_reach_the_program_wherever_it_is(target: str, local: str) -> None:
    bench = Bench()
    bench.forward = BoundForward(
        Endpoint(address=ip_address(target), port=1), bench.open, socket_factory=bench.socket
    )
    await bench.forward.start()
    bench.bounds[0].on_batch([b"a"], ONE)
    assert bench.sockets[0].local.address == ip_address(local)
    bench.forward.close()
    assert bench.sockets[0].closed
