"""Owns the arithmetic of a split tunnel: which prefixes lead into it, and which never do.

What is excluded is cut out of the routes instead of being led elsewhere: the system's own routes
then apply to it, whatever network this machine moves to, and nothing is left behind by a crash.
"""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_network,
    summarize_address_range,
)

from masque_relay.client.errors import AddressError
from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork, IpRange

MAX_ROUTES = 1_024
"""More prefixes than any list of exclusions needs that a person wrote."""

_ROUTE_HINT = "write a prefix such as 10.0.0.0/8, 2001:db8::/32 or a single address"


def parse_network(text: str) -> IPNetwork:
    """Return the network for what a person wrote; a single address is a /32 or /128.

    Raises:
        AddressError: no prefix, or bits beyond it.
    """
    try:
        return ip_network(text)
    except ValueError as error:
        raise AddressError(f"{text!r} is no network: {error}", hint=_ROUTE_HINT) from None


def host_network(address: IPAddress) -> IPNetwork:
    """Return the /32 or /128 of one address."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def split_routes(
    wanted: Iterable[IPNetwork],
    *,
    excluded: Iterable[IPNetwork],
    present: Iterable[IPNetwork] = (),
) -> list[IPNetwork]:
    """Return the prefixes to lead into the tunnel, sorted, disjoint.

    A whole family is led in as two halves, so that the system's default route stays as it is.

    Args:
        wanted: what the user wants in the tunnel.
        excluded: what must never be in it; the relay's own addresses among them.
        present: routes that the system has. Those inside a wanted network, and narrower, stay
            preferred as they are without us, also beside the small prefixes that an exclusion
            leaves.

    Raises:
        AddressError: nothing is left, or too many small prefixes.
    """
    found: list[IPNetwork] = []
    wanted, excluded, present = list(wanted), list(excluded), list(present)
    for version in (4, 6):
        asked = _collapsed(wanted, version)
        kept = [
            network
            for network in present
            if any(_inside(network, wide) and network != wide for wide in asked)
        ]
        pieces = [half for network in asked for half in _halves(network)]
        for hole in _collapsed([*excluded, *kept], version):
            pieces = [piece for network in pieces for piece in _without(network, hole)]
            if len(pieces) > MAX_ROUTES:
                raise AddressError(
                    f"more than {MAX_ROUTES} routes would be needed",
                    hint="exclude fewer and wider prefixes",
                )
        found += sorted(pieces, key=lambda network: int(network.network_address))
    if not found:
        raise AddressError(
            "nothing is left of the routes",
            hint="--exclude, the relay's address or networks of this machine cover all of them",
        )
    return found


def unreachable(wanted: Iterable[IPNetwork], routes: Sequence[IpRange]) -> list[IPNetwork]:
    """Return the wanted networks of which the relay advertised nothing at all."""
    advertised = [network for route in routes for network in _networks_of(route.first, route.last)]
    return [
        network
        for network in wanted
        if not any(_inside(network, other) or _inside(other, network) for other in advertised)
    ]


def _networks_of(first: IPAddress, last: IPAddress) -> Iterable[IPNetwork]:
    if isinstance(first, IPv4Address):
        return summarize_address_range(first, IPv4Address(int(last)))
    return summarize_address_range(first, type(first)(int(last)))


def _collapsed(networks: Iterable[IPNetwork], version: int) -> list[IPNetwork]:
    if version == 4:
        return list(collapse_addresses([one for one in networks if isinstance(one, IPv4Network)]))
    return list(collapse_addresses([one for one in networks if isinstance(one, IPv6Network)]))


def _inside(inner: IPNetwork, outer: IPNetwork) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _halves(network: IPNetwork) -> list[IPNetwork]:
    return list(network.subnets()) if network.prefixlen == 0 else [network]


def _without(network: IPNetwork, hole: IPNetwork) -> list[IPNetwork]:
    """Return what is left of a network without another one."""
    if _inside(network, hole):
        return []
    if not _inside(hole, network):
        return [network]
    if isinstance(network, IPv4Network) and isinstance(hole, IPv4Network):
        return list(network.address_exclude(hole))
    if isinstance(network, IPv6Network) and isinstance(hole, IPv6Network):
        return list(network.address_exclude(hole))
    return [network]
