"""Owns the packet filter of CONNECT-IP: one identity's rules, flattened for a look-up per packet.

The address space of each family is cut wherever a rule's CIDR, a protected range, or one of these
inside an IPv6 address that embeds IPv4 begins or ends. Between two cuts every address has the same
answer, so the policy itself is asked once per piece and port range, and what a packet costs is one
bisection, or two where the ports differ.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IpRange
from masque_relay.control.policy.addresses import PROTECTED_NETWORKS, IPNetwork
from masque_relay.control.policy.rules import MAX_PORT, Rule, TargetPattern

PortSet = bool | tuple[int, ...]
"""Every port, no port, or the ports at which the answer changes; below the first one it is no."""

AdmitsPort = Callable[[IPAddress, int], bool]
"""What the policy says about one address and one port."""

_NAT64_BASE = 0x64_FF9B << 96
_SIX_TO_FOUR_BASE = 0x2002 << 112
_EMBEDDINGS = ((_NAT64_BASE, 0), (_SIX_TO_FOUR_BASE, 80))
"""Where IPv6 addresses hold IPv4 ones, and how far from the lower end (addresses.py)."""

_NEVER_ROUTED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/127",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    )
)
"""RFC 9484 section 7.2: link-local traffic goes no further than the tunnel. Nor, whatever a rule
names, do groups, or what means nothing but the host that sends it (RFC 1122 section 3.2.1.3)."""


class _Family:
    """The pieces of one family: where each begins, and which ports it admits."""

    __slots__ = ("port_sets", "starts")

    def __init__(self, starts: Sequence[int], port_sets: Sequence[PortSet]) -> None:
        """Join neighbours with equal answers."""
        self.starts: list[int] = []
        self.port_sets: list[PortSet] = []
        for start, ports in zip(starts, port_sets, strict=True):
            if not self.port_sets or self.port_sets[-1] != ports:
                self.starts.append(start)
                self.port_sets.append(ports)


class PacketTable:
    """A compiled filter; immutable, shared by every tunnel with the same rules."""

    def __init__(self, rules: Iterable[Rule], admits: AdmitsPort) -> None:
        """Compile.

        Args:
            rules: those that apply; they tell where the answers can change.
            admits: the policy's answer for one address and port.
        """
        patterns = [pattern for rule in rules for pattern in rule.targets]
        self._v4 = _compile(patterns, 4, admits)
        self._v6 = _compile(patterns, 6, admits)

    def admits(self, version: int, destination: int, ip_protocol: int, port: int) -> bool:
        """Decide on one packet; rules do not tell protocols apart."""
        family = self._v4 if version == 4 else self._v6
        ports = family.port_sets[bisect_right(family.starts, destination) - 1]
        if ports is True or ports is False:
            return ports
        return bisect_right(ports, port) % 2 == 1

    def reachable(self, ranges: Sequence[IpRange]) -> Sequence[IpRange]:
        """Return the parts of some ranges in which some port is admitted."""
        found: list[IpRange] = []
        for wanted in ranges:
            is_ipv4 = wanted.first.version == 4
            family = self._v4 if is_ipv4 else self._v6
            make = IPv4Address if is_ipv4 else IPv6Address
            for first, last in _admitted(family, int(wanted.first), int(wanted.last)):
                found.append(IpRange(make(first), make(last), wanted.ip_protocol))
        return found


class LeaseFilter:
    """One lease's packet filter, the port ``PacketFilter``; a reload puts another table into it.

    Attributes:
        admits: the table's own method, so that a packet pays for one call.
    """

    __slots__ = ("_on_change", "_table", "admits")

    def __init__(self, table: PacketTable) -> None:
        self._table = table
        self._on_change: Callable[[], None] | None = None
        self.admits = table.admits

    def replace(self, table: PacketTable) -> None:
        """Decide by another table from now on."""
        if table is self._table:
            return
        self._table = table
        self.admits = table.admits
        if self._on_change is not None:
            self._on_change()

    def on_change(self, callback: Callable[[], None]) -> None:
        """Set what runs after every change of the policy."""
        self._on_change = callback

    def reachable(self, ranges: Sequence[IpRange]) -> Sequence[IpRange]:
        """Return the parts of some ranges in which some port is admitted."""
        return self._table.reachable(ranges)


def _admitted(family: _Family, first: int, last: int) -> Iterable[tuple[int, int]]:
    """Yield the admitted runs within one range; runs that touch come as one."""
    index = bisect_right(family.starts, first) - 1
    begin: int | None = None
    while index < len(family.starts) and family.starts[index] <= last:
        start = max(first, family.starts[index])
        if family.port_sets[index] is False:
            if begin is not None:
                yield begin, start - 1
            begin = None
        elif begin is None:
            begin = start
        index += 1
    if begin is not None:
        yield begin, last


def _ports_of(address: IPAddress, ports: Sequence[int], admits: AdmitsPort) -> PortSet:
    if any(address in network for network in _NEVER_ROUTED if network.version == address.version):
        return False
    changes: list[int] = []
    before = False
    for port in ports:
        now = admits(address, port)
        if now is not before:
            changes.append(port)
            before = now
    if changes == [0]:
        return True
    return tuple(changes) if changes else False


def _compile(patterns: Sequence[TargetPattern], version: int, admits: AdmitsPort) -> _Family:
    networks = [pattern.network for pattern in patterns if pattern.network is not None]
    networks += [network for network, _ in PROTECTED_NETWORKS]
    networks += _NEVER_ROUTED
    starts = _address_cuts(networks, version)
    make = IPv4Address if version == 4 else IPv6Address
    ports = _port_cuts(patterns, starts, version)
    return _Family(
        starts,
        [
            _ports_of(make(start), sorted(cuts), admits)
            for start, cuts in zip(starts, ports, strict=True)
        ],
    )


def _port_cuts(
    patterns: Iterable[TargetPattern], starts: Sequence[int], version: int
) -> list[set[int]]:
    """Return, for each piece, the ports at which its answer may change; 0 is what has no port.

    Only patterns that can match there count: a policy with many CIDRs and many ports would take
    seconds otherwise.
    """
    everywhere = {0, 1}
    cuts: list[set[int]] = [set() for _ in starts]
    for pattern in patterns:
        own = {cut for ports in pattern.ports for cut in (ports[0], ports[1] + 1)}
        if pattern.network is None:
            everywhere |= own
            continue
        for first, after in _places(pattern.network, version):
            for index in range(bisect_left(starts, first), bisect_left(starts, after)):
                cuts[index] |= own
    return [{cut for cut in own | everywhere if cut <= MAX_PORT} for own in cuts]


def _places(network: IPNetwork, version: int) -> list[tuple[int, int]]:
    """Return where a network lies in a family, half-open: itself, or where IPv6 embeds it."""
    first, after = int(network.network_address), int(network.broadcast_address) + 1
    if network.version == version:
        return [(first, after)]
    if version == 4:
        return []
    return [(base + (first << shift), base + (after << shift)) for base, shift in _EMBEDDINGS]


def _address_cuts(networks: Iterable[IPNetwork], version: int) -> list[int]:
    """Return every address of a family at which an answer may change; the first is 0."""
    end = 1 << (32 if version == 4 else 128)
    cuts = {0}
    for network in networks:
        for first, after in _places(network, version):
            cuts |= {first, after}
    if version == 6:
        for base, shift in _EMBEDDINGS:
            cuts |= {base, base + (1 << (32 + shift))}
    return sorted(cut for cut in cuts if cut < end)
