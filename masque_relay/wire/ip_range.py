"""Owns ranges of addresses that can be reached, and the order in which a list of them must be."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

ANY_PROTOCOL = 0
"""RFC 9484 section 4.7.3: protocol 0 in a route stands for every protocol."""


@dataclass(frozen=True, slots=True, order=True)
class IpRange:
    """A range of addresses of one family that can be reached, for one IP protocol."""

    first: IPAddress
    last: IPAddress
    """Inclusive; of the family of ``first`` and not below it."""
    ip_protocol: int = ANY_PROTOCOL


def range_order(route: IpRange) -> tuple[int, int, int]:
    """Return the sort key of RFC 9484 section 4.7.3: version, protocol, first address."""
    return route.first.version, route.ip_protocol, int(route.first)


def find_disorder(routes: Sequence[IpRange]) -> str | None:
    """Return what breaks RFC 9484 section 4.7.3 in a list of ranges; None if nothing does."""
    by_all: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    before: tuple[int, int, int] | None = None
    for route in routes:
        version, first, last = route.first.version, int(route.first), int(route.last)
        if version != route.last.version:
            return "a range of two families"
        if first > last:
            return "a range that ends before it begins"
        if before is not None:
            if (version, route.ip_protocol) < before[:2]:
                return "ranges out of order"
            if (version, route.ip_protocol) == before[:2] and first <= before[2]:
                return "ranges that overlap or are out of order"
        before = (version, route.ip_protocol, last)
        if route.ip_protocol == ANY_PROTOCOL:
            by_all[version].append((first, last))
        elif _overlaps(by_all[version], first, last):
            return "a range for one protocol overlaps one for all protocols"
    return None


def _overlaps(ranges: Sequence[tuple[int, int]], first: int, last: int) -> bool:
    """Tell whether sorted, disjoint ranges have an address in common with one more range."""
    # The last one that begins at or before our end is the only candidate.
    index = bisect_right(ranges, last, key=lambda entry: entry[0]) - 1
    return index >= 0 and ranges[index][1] >= first
