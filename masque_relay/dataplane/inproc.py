"""Owns the Dataplane of this process: its sockets, its resolver, its counters."""

import asyncio
from collections.abc import Mapping, Sequence

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import ByteSink, DatagramSink, FlowError
from masque_relay.contract.lease import Lease
from masque_relay.contract.ports import BoundUdpSink
from masque_relay.dataplane.limits import FlowLimits, ResolverLimits
from masque_relay.dataplane.offload import RECEIVE_BYTES
from masque_relay.dataplane.own_address import not_own
from masque_relay.dataplane.resolver import FamilyPreference, Resolver
from masque_relay.dataplane.tcp_connect import connect_first
from masque_relay.dataplane.tcp_flow import SocketTcpFlow, TcpFlowTable
from masque_relay.dataplane.udp_bind import (
    BindSettings,
    BoundFlowTable,
    SocketBoundFlow,
    UdpBinder,
)
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow


class InprocDataplane:
    """A contract.ports.Dataplane whose sockets live in this process's event loop."""

    def __init__(  # noqa: PLR0913 - all by keyword, from one place
        self,
        *,
        flow_limits: FlowLimits | None = None,
        resolver_limits: ResolverLimits | None = None,
        counters: FlowCounters | None = None,
        nameservers: Sequence[str] = (),
        preference: FamilyPreference = FamilyPreference.IPV6_FIRST,
        pins: Mapping[str, Sequence[IPAddress]] | None = None,
        egress_addresses: Sequence[IPAddress] = (),
        allow_own_addresses: bool = False,
        bind: BindSettings | None = None,
    ) -> None:
        """Make a data plane; needs a running loop. :meth:`close` frees it.

        Args:
            flow_limits: buffers and offloads of each flow.
            resolver_limits: bounds of name resolution.
            counters: shared by flows and resolver.
            nameservers: as in :class:`Resolver`; empty = the system's.
            preference: which address family comes first.
            pins: addresses of names that are never looked up.
            egress_addresses: the source address of flows, at most one of each family; a family
                without one leaves it to the routing table.
            allow_own_addresses: whether flows may lead to a public address of this very host.
            bind: where bound UDP tunnels get their ports.

        Raises:
            ValueError: a nameserver is not an address with an optional port.
        """
        self.counters = counters or FlowCounters()
        """Read when metrics are scraped."""
        self._loop = asyncio.get_running_loop()
        self._flow_limits = flow_limits or FlowLimits()
        self._allow_own_addresses = allow_own_addresses
        self._egress_by_version: dict[int, IPAddress] = {
            address.version: address for address in egress_addresses
        }
        # One for all flows: each drains into it and copies out before it returns to the loop.
        self._buffer = bytearray(RECEIVE_BYTES)
        self._tcp_table = TcpFlowTable()
        self._binder = UdpBinder(
            bind or BindSettings(),
            loop=self._loop,
            limits=self._flow_limits,
            counters=self.counters,
            buffer=self._buffer,
            egress_by_version=self._egress_by_version,
            allow_own_addresses=allow_own_addresses,
        )
        self._resolver = Resolver(
            limits=resolver_limits or ResolverLimits(),
            counters=self.counters,
            nameservers=nameservers,
            preference=preference,
            pins=pins,
        )

    @property
    def resolver(self) -> Resolver:
        """For its gauges and to clear its cache at reload."""
        return self._resolver

    @property
    def tcp_unsent_bytes(self) -> int:
        """What waits in this process for TCP targets, all flows together."""
        return sum(flow.unsent_bytes for flow in self._tcp_table.flows)

    async def resolve(self, host: str, *, timeout_s: float) -> tuple[IPAddress, ...]:
        """Return a name's addresses in Happy Eyeballs order (RFC 8305 section 4), at least one.

        Raises:
            FlowError: DNS_ERROR (with rcode), DNS_TIMEOUT, or RESOURCES.
        """
        return await self._resolver.resolve(host, timeout_s=timeout_s)

    def open_udp(self, lease: Lease, endpoint: Endpoint, sink: DatagramSink) -> ConnectedUdpFlow:
        """Open a UDP socket, connected to exactly that endpoint, and start to feed the sink.

        Raises:
            FlowError: the kernel refused (unroutable, no resources), or the endpoint is this host.
        """
        del lease  # holding one is the permission; its meters are the tunnel's business
        if not self._allow_own_addresses:
            not_own([endpoint])
        return ConnectedUdpFlow.open(
            endpoint,
            sink,
            loop=self._loop,
            limits=self._flow_limits,
            counters=self.counters,
            buffer=self._buffer,
            egress_address=self._egress_by_version.get(endpoint.address.version),
        )

    @property
    def bound_flows(self) -> BoundFlowTable:
        """The bound flows, by which other relayed addresses of this host reach them."""
        return self._binder.table

    def open_bound_udp(self, lease: Lease, sink: BoundUdpSink) -> SocketBoundFlow:
        """Bind public UDP ports for this lease alone and start to feed the sink.

        Raises:
            FlowError: no address, no free port or no resources.
        """
        del lease  # as above
        return self._binder.open(sink)

    async def open_tcp(
        self, lease: Lease, endpoints: Sequence[Endpoint], sink: ByteSink, *, timeout_s: float
    ) -> SocketTcpFlow:
        """Connect to the first of the admitted endpoints that answers (RFC 8305).

        The flow begins paused.

        Raises:
            FlowError: none answered in time, or all of them are this host.
        """
        del lease  # as above
        if not self._allow_own_addresses:
            endpoints = not_own(endpoints)
        try:
            connected = await connect_first(
                endpoints, timeout_s=timeout_s, egress_by_version=self._egress_by_version
            )
        except FlowError:
            self.counters.connects_failed += 1
            raise
        return SocketTcpFlow(
            connected,
            sink,
            loop=self._loop,
            counters=self.counters,
            table=self._tcp_table,
        )

    async def close(self) -> None:
        """Free the resolver and cut TCP flows that linger. Idempotent.

        Other flows belong to the tunnels that opened them, which are over by now.
        """
        for flow in tuple(self._tcp_table.flows):
            flow.abort()
        await self._resolver.close()
