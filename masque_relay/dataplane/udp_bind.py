"""Owns bound UDP flows: public ports of one tunnel, and the table by which they meet."""

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from secrets import SystemRandom

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ports import BoundUdpSink, ReceivedBatch
from masque_relay.dataplane.batch_io import BatchUdpSocket, forbid_fragments, set_buffers
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.limits import FlowLimits, SocketLimits
from masque_relay.dataplane.own_address import is_own_public

BATCH_COUNT = 64
"""Datagrams taken per wake-up of one socket: bounds the turn of one flow."""

PORT_TRIES = 32
"""Random ports tried before the range counts as full: with half of it taken, one open in 2^32
fails without need."""

_ROUTED_PROBES = (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6))
"""Documentation addresses: connecting a UDP socket sends nothing and tells our own address."""

Source = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BindSettings:
    """Where bound UDP tunnels get their public ports."""

    addresses: tuple[IPAddress, ...] = ()
    """Local addresses to bind, at most one of each family. Without any, the source addresses that
    the routing table chooses for the Internet."""
    public_addresses: tuple[IPAddress, ...] = ()
    """What clients are told in the place of a bound address of the same family: the outside of a
    1:1 NAT, which must keep the port."""
    first_port: int = 49_152
    """The dynamic ports of RFC 6335, as TURN servers use them (RFC 8656 section 7.2)."""
    last_port: int = 65_535


class BoundFlowTable:
    """The bound flows of a data plane, by public endpoint.

    Attributes:
        flows: by what peers are told.
        is_relayed_elsewhere: whether an endpoint of this host is a relayed address of another kind
            (TURN), which is meant to be reached like a bound flow.
    """

    def __init__(self) -> None:
        self.flows: dict[Source, SocketBoundFlow] = {}
        self.is_relayed_elsewhere: Callable[[Source], bool] = _nowhere

    def holds(self, source: Source) -> bool:
        """Return whether an endpoint is that of a bound flow."""
        return source in self.flows

    def add(self, flow: "SocketBoundFlow") -> None:
        """Let others reach a flow."""
        for endpoint in flow.public:
            self.flows[_source(endpoint)] = flow

    def remove(self, flow: "SocketBoundFlow") -> None:
        """Forget a flow."""
        for endpoint in flow.public:
            self.flows.pop(_source(endpoint), None)


class SocketBoundFlow:
    """Unconnected UDP sockets of one tunnel; a contract.ports.BoundUdpFlow.

    Full buffers drop and count, both ways; nothing is queued here. Datagrams to another bound flow
    of this data plane are handed over directly: many NATs do not turn a datagram back to where it
    came from, and the host's own public address is otherwise out of reach.
    """

    __slots__ = (
        "_allow_own_addresses",
        "_by_version",
        "_closed",
        "_counters",
        "_dropped_count",
        "_loop",
        "_public",
        "_sink",
        "_table",
    )

    def __init__(
        self,
        sockets: Mapping[int, BatchUdpSocket],
        public: Sequence[Endpoint],
        sink: BoundUdpSink,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: FlowCounters,
        table: BoundFlowTable,
        allow_own_addresses: bool,
    ) -> None:
        """Take over bound sockets and start to feed the sink.

        Args:
            sockets: by IP version; :meth:`close` closes them.
            public: what peers see, one endpoint per socket.
            sink: hears nothing before this returns, nothing after :meth:`close`.
            loop: whose readers these become.
            counters: shared by all flows.
            table: of all bound flows of the data plane.
            allow_own_addresses: whether peers may be public addresses of this very host.
        """
        self._by_version = dict(sockets)
        self._public = tuple(public)
        self._sink = sink
        self._loop = loop
        self._counters = counters
        self._table = table
        self._allow_own_addresses = allow_own_addresses
        self._closed = False
        self._dropped_count = 0
        for bound in self._by_version.values():
            loop.add_reader(bound.fileno(), self._on_readable, bound)
        table.add(self)
        counters.flows_opened += 1
        counters.flows_open += 1

    @property
    def public(self) -> Sequence[Endpoint]:
        """Where peers reach the tunnel."""
        return self._public

    @property
    def dropped_count(self) -> int:
        """Datagrams that the kernel would not take (full buffer, too large, no route)."""
        return self._dropped_count

    def reaches(self, peer: Endpoint) -> bool:
        """Whether there is a socket of the peer's family, and the peer is not this host's own.

        Other bound flows of this host are its own addresses too, but meant to be reached.
        """
        if peer.address.version not in self._by_version:
            return False
        return (
            self._allow_own_addresses
            or _source(peer) in self._table.flows
            or self._table.is_relayed_elsewhere(_source(peer))
            or not is_own_public(peer.address)
        )

    def send_batch(self, payloads: Sequence[bytes], peer: Source) -> int:
        """Send to one peer now; return how many the kernel took. Never blocks and never raises."""
        if self._closed:
            return 0
        version = 6 if ":" in peer[0] else 4
        neighbour = self._table.flows.get(peer)
        if neighbour is not None:
            return neighbour.take_from(self, version, payloads)
        bound = self._by_version.get(version)
        sent_count = 0 if bound is None else bound.send_batch(payloads, peer)
        self._dropped_count += len(payloads) - sent_count
        return sent_count

    def take_from(self, sender: "SocketBoundFlow", version: int, payloads: Sequence[bytes]) -> int:
        """Take datagrams of another flow of this data plane, as if the network had brought them."""
        source = next(
            (_source(end) for end in sender.public if end.address.version == version), None
        )
        if source is None or self._closed:
            return 0
        self._sink.on_batches([ReceivedBatch(list(payloads), source)])
        return len(payloads)

    def close(self) -> None:
        """Close the sockets; idempotent. The sink hears nothing afterwards."""
        if self._closed:
            return
        self._closed = True
        self._table.remove(self)
        for bound in self._by_version.values():
            self._loop.remove_reader(bound.fileno())
            bound.close()
        self._counters.flows_closed += 1
        self._counters.flows_open -= 1

    def _on_readable(self, bound: BatchUdpSocket) -> None:
        batches = bound.receive_batches(BATCH_COUNT)
        if batches and not self._closed:
            self._sink.on_batches(batches)


class UdpBinder:
    """Opens the bound flows of one data plane."""

    def __init__(
        self,
        settings: BindSettings,
        *,
        loop: asyncio.AbstractEventLoop,
        limits: FlowLimits,
        counters: FlowCounters,
        buffer: bytearray,
        egress_by_version: Mapping[int, IPAddress],
        allow_own_addresses: bool,
    ) -> None:
        """Take what all flows share; ``buffer`` as in BatchUdpSocket."""
        self._settings = settings
        self._loop = loop
        self._limits = limits
        self._counters = counters
        self._buffer = buffer
        self._egress_by_version = egress_by_version
        self._allow_own_addresses = allow_own_addresses
        self._public_by_version: dict[int, IPAddress] = {
            address.version: address for address in settings.public_addresses
        }
        self._table = BoundFlowTable()
        self._random = SystemRandom()

    @property
    def table(self) -> BoundFlowTable:
        """The flows that are open."""
        return self._table

    def open(self, sink: BoundUdpSink) -> SocketBoundFlow:
        """Bind the same random port on one address of each family; feed the sink.

        RFC 6056: a port that cannot be guessed makes it harder to inject datagrams.

        Raises:
            FlowError: no address, no free port or no resources.
        """
        addresses = self._addresses()
        if not addresses:
            raise FlowError(
                FlowFault.DESTINATION_IP_UNROUTABLE,
                "no address for bound UDP: set connect_udp.bind.addresses",
            )
        sockets = self._bind(addresses)
        public = [
            Endpoint(
                address=self._public_by_version.get(version, bound.local.address),
                port=bound.local.port,
            )
            for version, bound in sockets.items()
        ]
        return SocketBoundFlow(
            sockets,
            public,
            sink,
            loop=self._loop,
            counters=self._counters,
            table=self._table,
            allow_own_addresses=self._allow_own_addresses,
        )

    def _addresses(self) -> Sequence[IPAddress]:
        if self._settings.addresses:
            return self._settings.addresses
        found = (
            self._egress_by_version.get(4 if family == socket.AF_INET else 6)
            or routed_address(probe, family)
            for probe, family in _ROUTED_PROBES
        )
        return [address for address in found if address is not None]

    def _bind(self, addresses: Sequence[IPAddress]) -> dict[int, BatchUdpSocket]:
        error: FlowError | None = None
        for _ in range(PORT_TRIES):
            port = self._random.randint(self._settings.first_port, self._settings.last_port)
            sockets: dict[int, BatchUdpSocket] = {}
            try:
                for address in addresses:
                    sockets[address.version] = self._bind_one(address, port)
            except FlowError as taken:
                for bound in sockets.values():
                    bound.close()
                if taken.fault is not FlowFault.RESOURCES:
                    raise
                error = taken
            else:
                return sockets
        raise error or FlowError(FlowFault.RESOURCES, "no free port for bound UDP")

    def _bind_one(self, address: IPAddress, port: int) -> BatchUdpSocket:
        is_ipv6 = isinstance(address, IPv6Address)
        what = f"bind {Endpoint(address=address, port=port)}"
        try:
            udp_socket = socket.socket(
                socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM
            )
        except OSError as error:
            raise flow_error_from_os(error, what) from error
        try:
            if is_ipv6:
                udp_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            forbid_fragments(udp_socket)
            set_buffers(
                udp_socket, self._limits.receive_buffer_bytes, self._limits.send_buffer_bytes
            )
            udp_socket.bind((str(address), port))
        except OSError as error:
            udp_socket.close()
            raise flow_error_from_os(error, what) from error
        limits = SocketLimits(
            segment_sends=self._limits.segment_sends,
            coalesce_receives=self._limits.coalesce_receives,
        )
        return BatchUdpSocket(
            udp_socket, limits=limits, counters=self._counters, buffer=self._buffer
        )


def routed_address(probe: str, family: socket.AddressFamily) -> IPAddress | None:
    """Return this host's source address towards ``probe``; None without a route. Sends nothing."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as udp_socket:
            udp_socket.connect((probe, 9))
            name = str(udp_socket.getsockname()[0])
    except OSError:
        return None
    return IPv4Address(name) if family == socket.AF_INET else IPv6Address(name.partition("%")[0])


def _nowhere(source: Source) -> bool:
    del source
    return False


def _source(endpoint: Endpoint) -> Source:
    return (str(endpoint.address), endpoint.port)
