"""Owns the routes of one CONNECT-IP tunnel: egress ∩ scope ∩ policy (RFC 9484 section 4.7.3)."""

from bisect import bisect_right
from collections.abc import Sequence

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import ANY_PROTOCOL, IPNetwork, IpRange

MAX_ROUTES = 1_024
"""Advertised to one tunnel: 34 bytes each at most, so the capsule stays below 36 KiB. A policy that
is cut up more finely than that loses its highest ranges."""


class RouteSet:
    """Ranges that a tunnel may reach; immutable, and looked up for every packet."""

    __slots__ = ("_first4", "_first6", "_last4", "_last6", "ranges")

    def __init__(self, ranges: Sequence[IpRange]) -> None:
        """Take sorted, disjoint ranges."""
        self.ranges = tuple(ranges)
        self._first4, self._last4 = _bounds(ranges, 4)
        self._first6, self._last6 = _bounds(ranges, 6)

    def has(self, version: int, address: int) -> bool:
        """Return whether an address is in one of the ranges."""
        firsts, lasts = (self._first4, self._last4) if version == 4 else (self._first6, self._last6)
        index = bisect_right(firsts, address) - 1
        return index >= 0 and address <= lasts[index]

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it has ranges of."""
        return tuple(sorted({route.first.version for route in self.ranges}))

    def advertised(self, versions: Sequence[int], ip_protocol: int | None) -> tuple[IpRange, ...]:
        """Return what ROUTE_ADVERTISEMENT says for some versions and the request's protocol."""
        protocol = ANY_PROTOCOL if ip_protocol is None else ip_protocol
        return tuple(
            IpRange(route.first, route.last, protocol)
            for route in self.ranges
            if route.first.version in versions
        )[:MAX_ROUTES]


def within_networks(ranges: Sequence[IpRange], networks: Sequence[IPNetwork]) -> list[IpRange]:
    """Return the parts of sorted, disjoint ranges that lie in some networks, sorted, disjoint."""
    found: set[IpRange] = set()
    for network in networks:
        lowest, highest = network.network_address, network.broadcast_address
        for route in ranges:
            if route.first.version != network.version:
                continue
            first, last = _later(route.first, lowest), _earlier(route.last, highest)
            if int(first) <= int(last):
                found.add(IpRange(first, last, route.ip_protocol))
    return sorted(found, key=lambda route: (route.first.version, int(route.first)))


def _later(one: IPAddress, other: IPAddress) -> IPAddress:
    return one if int(one) >= int(other) else other


def _earlier(one: IPAddress, other: IPAddress) -> IPAddress:
    return one if int(one) <= int(other) else other


def _bounds(ranges: Sequence[IpRange], version: int) -> tuple[list[int], list[int]]:
    chosen = [route for route in ranges if route.first.version == version]
    return [int(route.first) for route in chosen], [int(route.last) for route in chosen]
