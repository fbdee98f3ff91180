"""Owns a CONNECT-IP session without I/O: a recording carrier and egress, real pool and policy."""

from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address, ip_network

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import IpCounters, TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip import IpSink
from masque_relay.contract.ip_scope import IpRange, IpScope
from masque_relay.contract.lease import Lease
from masque_relay.contract.request import Method, RelayRequest, Transport
from masque_relay.control.policy import parse_policy
from masque_relay.control.policy.packets import LeaseFilter, PacketTable
from masque_relay.control.policy.rules import Query
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.tunnels.connect_ip import ConnectIpSession
from masque_relay.tunnels.ip_parts import IpTunnelParts
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ROUTE_ADVERTISEMENT,
    AddressEntry,
    decode_address_assign,
    decode_routes,
)
from tests.support.http_fakes import FakeLease, FakeMeter, RecordingCarrier

CLIENT4, CLIENT6 = "10.71.0.2", "fd71::2"
RELAY4, RELAY6 = "10.71.0.1", "fd71::1"
HOST4, HOST6 = "198.18.0.9", "fd99::9"

EVERYWHERE = (
    IpRange(ip_address("0.0.0.0"), ip_address("255.255.255.255")),
    IpRange(ip_address("::"), ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")),
)

SESSION_POLICY = """
[[rule]]
name = "no"
action = "deny"
who = ["*"]
methods = ["connect-ip"]
targets = ["198.18.6.6/32:*", "198.18.0.0/16:25"]

[[rule]]
name = "yes"
action = "allow"
who = ["*"]
methods = ["connect-ip"]
targets = ["198.18.0.0/15:*", "[fd99::/64]:*", "10.71.0.0/16:*", "[fd71::/64]:*", "*:443"]
"""


def ip_request(scope: IpScope | None = None) -> RelayRequest:
    """A request as the gate would admit it."""
    return RelayRequest(
        request_id="r1",
        transport=Transport.HTTP3,
        method=Method.CONNECT_IP,
        target=None,
        ip_scope=scope or IpScope(),
        credentials=(),
        source=Endpoint(address=ip_address("192.0.2.200"), port=4433),
    )


@cache
def session_table(policy: str = SESSION_POLICY) -> PacketTable:
    """The policy, compiled as the gate does it."""
    query = Query(subject="alice", method=Method.CONNECT_IP, now_s=0)
    return parse_policy(policy).packet_table(query)


class RecordingAttachment:
    """Keeps what the session sends."""

    def __init__(self, addresses: Sequence[IPAddress], sink: IpSink) -> None:
        self.addresses = [str(address) for address in addresses]
        self.sink = sink
        self.sent: list[bytes] = []
        self.batches: list[int] = []
        self.room: int | None = None
        self.dropped_count = 0
        self.is_closed = False

    def send_packets(self, packets: Sequence[bytes]) -> int:
        taken = packets if self.room is None else packets[: self.room]
        self.sent += taken
        self.batches.append(len(packets))
        return len(taken)

    def close(self) -> None:
        self.is_closed = True


class RecordingEgress:
    """Keeps its attachments."""

    def __init__(self, routes: Sequence[IpRange] = EVERYWHERE, mtu_bytes: int = 1_500) -> None:
        self._routes = routes
        self.mtu_bytes = mtu_bytes
        self.attachments: list[RecordingAttachment] = []
        self.fault: FlowFault | None = None

    def routes(self) -> Sequence[IpRange]:
        return self._routes

    def attach(
        self, lease: Lease, addresses: Sequence[IPAddress], sink: IpSink
    ) -> RecordingAttachment:
        assert lease.request.method is Method.CONNECT_IP
        if self.fault is not None:
            raise FlowError(self.fault, "as the test wants")
        self.attachments.append(RecordingAttachment(addresses, sink))
        return self.attachments[-1]


class SessionBench:
    """A session between a recording carrier and a recording egress."""

    def __init__(
        self,
        *,
        scope: IpScope | None = None,
        policy: str = SESSION_POLICY,
        pools: Sequence[str] = ("10.71.0.0/24", "fd71::/64"),
        egress: RecordingEgress | None = None,
        uplink: FakeMeter | None = None,
        downlink: FakeMeter | None = None,
        max_payload_bytes: int = 1_401,
        icmp_budget: int = 1_000,
        extra_capsules: Sequence[tuple[int, bytes]] = (),
        adopts_sources: bool = False,
    ) -> None:
        self.counters, self.ip = TunnelCounters(), IpCounters()
        self.egress = egress or RecordingEgress()
        self.pool = NetworkPool(ip_network(text) for text in pools)
        self.filter = LeaseFilter(session_table(policy))
        self.lease = FakeLease(ip_request(scope))
        self.lease.uplink = uplink or self.lease.uplink
        self.lease.downlink = downlink or self.lease.downlink
        self.icmp_budget = icmp_budget
        self.carrier = RecordingCarrier(max_payload_bytes)
        self.session = ConnectIpSession(
            self.lease,
            IpTunnelParts(
                egress=self.egress,
                pool=self.pool,
                packet_filter=self.filter,
                counters=self.counters,
                ip_counters=self.ip,
                watch=lambda sink: sink,
                may_send_icmp=self._may_send_icmp,
                extra_capsules=extra_capsules,
                adopts_sources=adopts_sources,
            ),
        )

    def _may_send_icmp(self) -> bool:
        self.icmp_budget -= 1
        return self.icmp_budget >= 0

    def open(self) -> "SessionBench":
        """Open and attach, as the endpoint does."""
        scope = self.lease.request.ip_scope
        target = None if scope is None else scope.target
        assert not isinstance(target, str)
        self.session.open(None if target is None else [target], {})
        self.session.attach(self.carrier)
        return self

    @property
    def attachment(self) -> RecordingAttachment:
        """The latest one."""
        return self.egress.attachments[-1]

    def up(self, *packets: bytes) -> list[bytes]:
        """Send packets from the client; return what went out."""
        before = len(self.attachment.sent)
        self.session.on_datagrams([b"\0" + packet for packet in packets])
        return self.attachment.sent[before:]

    def down(self, *packets: bytes) -> list[bytes]:
        """Send packets to the client; return what it got."""
        before = len(self.carrier.datagrams)
        self.session.on_packets(packets)
        return self.heard(before)

    def heard(self, since: int = 0) -> list[bytes]:
        """Packets that the client got."""
        datagrams = self.carrier.datagrams[since:]
        assert all(datagram[:1] == b"\0" for datagram in datagrams)
        return [datagram[1:] for datagram in datagrams]

    def capsules(self, capsule_type: int) -> list[bytes]:
        """The values of capsules of one type that the client got."""
        return [value for kind, value in self.carrier.capsules if kind == capsule_type]

    @property
    def assigned(self) -> tuple[AddressEntry, ...]:
        """The latest ADDRESS_ASSIGN."""
        return decode_address_assign(self.capsules(ADDRESS_ASSIGN)[-1])

    @property
    def routes(self) -> tuple[IpRange, ...]:
        """The latest ROUTE_ADVERTISEMENT."""
        return decode_routes(self.capsules(ROUTE_ADVERTISEMENT)[-1])
