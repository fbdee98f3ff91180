"""Owns a whole relay path in one process, without sockets and without waiting: for counting work.

Real parts from the QUIC endpoint down to the CONNECT-UDP session; gate and flows are fakes that
only take what they are given. Time is a number, so that every run does exactly the same.
"""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import TypeVar

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import HttpCounters, QuicCounters, TunnelCounters
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.http.routes import build_app
from masque_relay.quic.application import QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.quic.limits import QuicLimits, RetryMode
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.table import Port
from masque_relay.quic.tls import CertificateStore
from tests.bench.tunnels import Access, BenchClient, H3Tunnel
from tests.support.http_fakes import FakeDataplane, FakeFlow, FakeGate
from tests.support.quic_pair import certificate_authority, server_identity

HOST = "192.0.2.1"
TARGET_PORT = 53
STEP_S = 0.002
PEER_ACK_PACKETS = 2
"""How often clients acknowledge: as RFC 9000 section 13.2.2 suggests, and as quic-go does."""
_T = TypeVar("_T")
Measure = Callable[[Callable[[], object]], None]
"""Calls what it is given, once; whatever the relay does is done inside of it."""


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return 1.8e9


class MemorySocket:
    """One end of the network; a contract.ports.DatagramSocket."""

    def __init__(self, network: "Network", local: Endpoint) -> None:
        self.local = local
        self.inbox: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        self._network = network
        # Never readable: the rig calls the endpoint itself.
        self._pair = socket.socketpair()

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        taken: list[ReceivedBatch] = []
        count = 0
        for source in list(self.inbox):
            if count >= max_datagrams:
                break
            payloads = self.inbox.pop(source)
            count += len(payloads)
            taken.append(ReceivedBatch(payloads, source))
        return taken

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        self._network.send_calls += 1
        there = self._network.sockets.get(destination)
        if there is not None:
            there.inbox[HOST, self.local.port].extend(payloads)
        return len(payloads)

    def close(self) -> None:
        self._network.sockets.pop((HOST, self.local.port), None)
        for end in self._pair:
            end.close()


class Network:
    """Sockets by address; every packet arrives at once and in order."""

    def __init__(self) -> None:
        self.sockets: dict[tuple[str, int], MemorySocket] = {}
        self.send_calls = 0
        """Send calls of all sockets; a run of equal sizes is one (GSO)."""
        self._next_port = 40_000

    def bind(self, endpoint: Endpoint) -> MemorySocket:
        """As DatagramSocketFactory says."""
        port = endpoint.port or self._next_port
        self._next_port += 1
        made = MemorySocket(self, Endpoint(address=ip_address(HOST), port=port))
        self.sockets[HOST, port] = made
        return made


class MemoryRig:
    """A relay, its clients with one tunnel each, and the flows behind."""

    def __init__(self, network: Network, clock: Clock, dataplane: FakeDataplane) -> None:
        self._network = network
        self._clock = clock
        self._dataplane = dataplane
        self.tunnels: list[H3Tunnel] = []
        self.counters = QuicCounters()
        self._server: QuicEndpoint | None = None
        self._clients: list[QuicEndpoint] = []

    @property
    def flows(self) -> list[FakeFlow]:
        """Towards the target, in the order of the tunnels."""
        return self._dataplane.flows

    async def open(self, front_end: HttpFrontEnd, connections: int, limits: QuicLimits) -> None:
        """Start the relay and open the tunnels."""
        self._server = self._endpoint(
            EndpointSettings(
                applications={"h3": front_end.application_factory},
                certificates=CertificateStore(server_identity()),
                limits=limits,
            ),
            self.counters,
        )
        address = self._server.listen(Endpoint(address=ip_address(HOST), port=443))
        for _ in range(connections):
            made: list[BenchClient] = []

            def application(transport: QuicTransport, made: list[BenchClient] = made) -> H3Session:
                made.append(BenchClient(transport))
                return made[0].h3

            client = self._endpoint(EndpointSettings(), QuicCounters())
            self._clients.append(client)
            connecting = client.connect(
                address,
                server_name="relay.test",
                alpn="h3",
                application=application,
                tls=ClientTls(ca_pem=certificate_authority().pem),
            )
            await self._until(asyncio.ensure_future(connecting))
            opening = made[0].open_tunnel(Access(port=443), TARGET_PORT, host="192.0.2.7")
            self.tunnels.append(await self._until(asyncio.ensure_future(opening)))
            for adapter in client._connections:
                adapter._connection.ack_packets = PEER_ACK_PACKETS
        for _ in range(20):
            self.exchange()
            self._clock.now_s += 0.05

    def upload(self, rounds: int, burst: int, payload: bytes, measure: Measure) -> None:
        """Let every client send a burst in each round; ``measure`` what the relay does with it."""
        for _ in range(rounds):
            self._pass_time(measure)
            for tunnel, client in zip(self.tunnels, self._clients, strict=True):
                tunnel.send([payload] * burst)
                client._on_turn()
            measure(self._relay_reads)
            self.exchange()

    def download(self, rounds: int, burst: int, payload: bytes, measure: Measure) -> None:
        """Let every target send a burst in each round; ``measure`` what the relay does with it."""
        for _ in range(rounds):
            self._pass_time(measure)
            measure(lambda: self._targets_send([payload] * burst))
            for client in self._clients:
                _read(client)
            measure(self._relay_reads)
            self.exchange()

    def exchange(self) -> None:
        """Let everybody read what has arrived; not measured."""
        for endpoint in (self._relay, *self._clients):
            endpoint._on_timer()
            _read(endpoint)

    async def close(self) -> None:
        """Close everything."""
        for endpoint in (*self._clients, self._relay):
            await endpoint.close(timeout_s=0)

    @property
    def _relay(self) -> QuicEndpoint:
        assert self._server is not None
        return self._server

    def _relay_reads(self) -> None:
        self._relay._on_readable(self._relay._listeners[0])

    def _targets_send(self, payloads: list[bytes]) -> None:
        for flow in self.flows:
            flow.sink.on_batch(list(payloads))
        self._relay._on_turn()

    def _pass_time(self, measure: Measure) -> None:
        self._clock.now_s += STEP_S
        measure(self._relay._on_timer)
        for client in self._clients:
            client._on_timer()

    def _endpoint(self, settings: EndpointSettings, counters: QuicCounters) -> QuicEndpoint:
        return QuicEndpoint(
            settings, socket_factory=self._network.bind, clock=self._clock, counters=counters
        )

    async def _until(self, future: "asyncio.Future[_T]") -> _T:
        while not future.done():
            await asyncio.sleep(0)
            self.exchange()
        return future.result()


def _read(endpoint: QuicEndpoint) -> None:
    ports: list[Port] = [*endpoint._listeners, *(c.port for c in endpoint._connections.values())]
    for port in dict.fromkeys(ports):
        socket_of = port.socket
        assert isinstance(socket_of, MemorySocket)
        if socket_of.inbox:
            endpoint._on_readable(port)


@asynccontextmanager
async def memory_rig(
    connections: int, *, limits: QuicLimits | None = None
) -> AsyncGenerator[MemoryRig]:
    """Open a relay with so many clients, and close it when the block ends."""
    network, clock, gate, dataplane = Network(), Clock(), FakeGate(), FakeDataplane()
    services = ConnectUdpServices(
        gate=gate,
        dataplane=dataplane,
        clock=clock,
        counters=TunnelCounters(),
        limits=HttpLimits(),
        proxy_name="ghostwire",
    )
    app = build_app([connect_udp_kind(services)], gate=gate, proxy_name="ghostwire")
    front_end = HttpFrontEnd(app, limits=HttpLimits(), counters=HttpCounters(), clock=clock)
    rig = MemoryRig(network, clock, dataplane)
    async with front_end:
        await rig.open(front_end, connections, limits or QuicLimits(retry_mode=RetryMode.NEVER))
        yield rig
        await rig.close()
