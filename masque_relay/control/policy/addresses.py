"""Owns the protected ranges: addresses that no rule reaches unless it names them by CIDR.

From the IANA special-purpose registries (RFC 6890) and the places where clouds serve metadata.
"""

from bisect import bisect_right
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from masque_relay.contract.address import IPAddress

IPNetwork = IPv4Network | IPv6Network

_PROTECTED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network, unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "cloud metadata"),  # Azure's wire server, a public address
    ("169.254.0.0/16", "link-local, cloud metadata"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "protocol assignments, cloud metadata"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "6to4 relay anycast"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved, broadcast"),
    ("::/96", "unspecified, loopback, IPv4-compatible"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("100::/64", "discard only"),
    ("2001::/23", "protocol assignments, Teredo, benchmarking"),
    ("2001:db8::/32", "documentation"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local, cloud metadata"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
_SIX_TO_FOUR = IPv6Network("2002::/16")  # RFC 3056 section 2

PROTECTED_NETWORKS: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ip_network(network), kind) for network, kind in _PROTECTED
)


class _Ranges:
    """Disjoint address ranges of one family, found by bisection."""

    def __init__(self, version: int) -> None:
        chosen = sorted(
            (int(network.network_address), int(network.broadcast_address), kind)
            for network, kind in PROTECTED_NETWORKS
            if network.version == version
        )
        self._firsts = [first for first, _, _ in chosen]
        self._entries = chosen

    def find(self, value: int) -> str | None:
        index = bisect_right(self._firsts, value) - 1
        if index < 0:
            return None
        _, last, kind = self._entries[index]
        return kind if value <= last else None


_RANGES_V4 = _Ranges(4)
_RANGES_V6 = _Ranges(6)


def unwrap(address: IPAddress) -> IPAddress:
    """Return the IPv4 address of an IPv4-mapped IPv6 one; any other comes back without its zone."""
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        if mapped is not None:
            return mapped
        if address.scope_id is not None:
            return IPv6Address(int(address))
    return address


def embedded_ipv4(address: IPAddress) -> IPv4Address | None:
    """Return the IPv4 address that a NAT64 or 6to4 address leads to, or None."""
    if isinstance(address, IPv4Address):
        return None
    value = int(address)
    if value >> 32 == int(_NAT64.network_address) >> 32:
        return IPv4Address(value & 0xFFFF_FFFF)
    if value >> 112 == 0x2002:
        return IPv4Address((value >> 80) & 0xFFFF_FFFF)
    return None


def protected_kind(address: IPAddress) -> str | None:
    """Return what kind of protected address it is, or None for a public one.

    An address that embeds a protected IPv4 address is as protected as that.
    """
    address = unwrap(address)
    if isinstance(address, IPv4Address):
        return _RANGES_V4.find(int(address))
    kind = _RANGES_V6.find(int(address))
    if kind is not None:
        return kind
    inner = embedded_ipv4(address)
    inner_kind = None if inner is None else _RANGES_V4.find(int(inner))
    return None if inner_kind is None else f"{inner_kind}, embedded in IPv6"


def names_protected_range(network: IPNetwork) -> bool:
    """Return whether the whole network lies in one protected range, so that it names that range.

    ``10.1.0.0/16`` does; ``0.0.0.0/0`` means the Internet and does not.
    """
    if isinstance(network, IPv6Network):
        inner = _embedded_network(network)
        if inner is not None:
            return names_protected_range(inner)
    return any(contains(outer, network) for outer, _ in PROTECTED_NETWORKS)


def overlaps_protected_range(network: IPNetwork) -> bool:
    """Return whether any protected range lies in the network, or the other way round."""
    return any(
        contains(network, outer) or contains(outer, network) for outer, _ in PROTECTED_NETWORKS
    )


def _embedded_network(network: IPv6Network) -> IPv4Network | None:
    inner = embedded_ipv4(network.network_address)
    skipped = 96 if int(network.network_address) >> 112 != 0x2002 else 16
    if inner is None or network.prefixlen < skipped:
        return None
    return IPv4Network((int(inner), min(32, network.prefixlen - skipped)))


def contains(outer: IPNetwork, inner: IPNetwork) -> bool:
    """Return whether the whole of a network lies in another; never for two families."""
    return (
        outer.version == inner.version
        and outer.prefixlen <= inner.prefixlen
        and inner.network_address in outer
    )
