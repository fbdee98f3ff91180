"""Owns what a CONNECT-IP session is given: the ports of its relay, shared by all tunnels or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masque_relay.contract.counters import IpCounters, TunnelCounters
from masque_relay.contract.ip import AddressPool, IpEgress, IpSink, PacketFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class IpTunnelParts:
    """What a session is given, beside its lease."""

    egress: IpEgress
    pool: AddressPool
    packet_filter: PacketFilter
    counters: TunnelCounters
    ip_counters: IpCounters
    watch: Callable[[IpSink], IpSink]
    """Puts a guard between the egress and the session."""
    may_send_icmp: Callable[[], bool]
    """Asked before every ICMP error (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 f)."""
    extra_capsules: Sequence[tuple[int, bytes]] = ()
    """Sent once, behind the first ROUTE_ADVERTISEMENT: DNS_ASSIGN, PREF64."""
    adopts_sources: bool = False
    """Give a client the pool's address from which it sends, if it is free: for the dialect whose
    clients know their addresses from elsewhere."""
