"""Owns the addresses that CONNECT-IP gives to tunnels: a pool of one network per IP version."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip_scope import IPNetwork, IpRange


class _Network:
    """The addresses of one network. Time per call does not grow with the network.

    Addresses are given out in order, those that were given back last of all: what is still on its
    way to a tunnel that has ended hits nobody else for as long as possible.
    """

    def __init__(self, network: IPNetwork) -> None:
        hosts_end = int(network.broadcast_address)
        if isinstance(network, IPv4Network):
            hosts_end -= 1  # the last one is the broadcast address
        self.network = network
        self.gateway = network.network_address + 1
        self._make = type(network.network_address)
        self._fresh = int(self.gateway) + 1
        self._end = hosts_end
        self._used: set[int] = set()
        self._returned: dict[int, None] = {}  # a set in the order in which they came back

    def take(self, wanted: IPAddress | None) -> IPAddress | None:
        if wanted is not None:
            value = int(wanted)
            if int(self.gateway) < value <= self._end and value not in self._used:
                self._returned.pop(value, None)
                self._used.add(value)
                return wanted
        while self._fresh <= self._end:
            value = self._fresh
            self._fresh += 1
            if value not in self._used and value not in self._returned:
                self._used.add(value)
                return self._make(value)
        if not self._returned:
            return None
        value = next(iter(self._returned))
        del self._returned[value]
        self._used.add(value)
        return self._make(value)

    def give_back(self, address: IPAddress) -> None:
        value = int(address)
        if value in self._used:
            self._used.remove(value)
            self._returned[value] = None

    @property
    def used_count(self) -> int:
        return len(self._used)


class NetworkPool:
    """Implements the port ``AddressPool`` with at most one network per IP version.

    The first host address of each is the relay's own: the source of its ICMP errors, and what a
    client can ping.
    """

    def __init__(self, networks: Iterable[IPNetwork]) -> None:
        """Take the networks.

        Raises:
            ValueError: two of one version, or one without room for the relay and a tunnel.
        """
        self._networks: dict[int, _Network] = {}
        for network in networks:
            if network.version in self._networks:
                raise ValueError(f"two pools of IPv{network.version}")
            spare_bits = network.max_prefixlen - network.prefixlen
            if spare_bits < 2:
                raise ValueError(f"{network} is too small: a /{network.max_prefixlen - 2} at least")
            self._networks[network.version] = _Network(network)

    def gateway(self, version: int) -> IPAddress | None:
        """Return the relay's own address of a version; None = no such pool."""
        network = self._networks.get(version)
        return None if network is None else network.gateway

    def assign(self, version: int, wanted: IPAddress | None = None) -> IPAddress | None:
        """Take one address, the wanted one if it is free; None = exhausted, or no such pool."""
        network = self._networks.get(version)
        if network is None or (wanted is not None and wanted.version != version):
            return None
        return network.take(wanted)

    def release(self, address: IPAddress) -> None:
        """Give one back; one that is not taken is ignored."""
        network = self._networks.get(address.version)
        if network is not None:
            network.give_back(address)

    @property
    def assigned_count(self) -> int:
        """Addresses that tunnels hold now."""
        return sum(network.used_count for network in self._networks.values())

    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Return the networks, IPv4 first."""
        return tuple(self._networks[version].network for version in sorted(self._networks))

    def ranges(self) -> list[IpRange]:
        """Return the networks as routes, sorted."""
        return [
            IpRange(network.network_address, network.broadcast_address)
            for network in self.networks()
        ]
