"""Owns the ports of CONNECT-IP: packet filter, egress with its attachments, address pool."""

from collections.abc import Callable, Sequence
from typing import Protocol

from masque_relay.contract.address import IPAddress
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ip_scope import IpRange
from masque_relay.contract.lease import Lease


class PacketFilter(Protocol):
    """One lease's policy for packets, compiled: no allocation per packet."""

    def admits(self, version: int, destination: int, ip_protocol: int, port: int) -> bool:
        """Decide on one packet's destination, from plain ints so that nothing is made per packet.

        Args:
            version: 4 or 6.
            destination: the address as an int.
            ip_protocol: the upper-layer protocol, after extension headers.
            port: the destination port of UDP, TCP or SCTP; 0 where there is none or where a
                fragment hides it (then only a rule for every port admits the packet).
        """
        ...

    def reachable(self, ranges: Sequence[IpRange]) -> Sequence[IpRange]:
        """Return the parts of some ranges where at least one port is admitted, sorted, disjoint.

        What the policy refuses whole is no route (RFC 9484 section 4.7.3); no link-local and no
        multicast address is one either.
        """
        ...

    def on_change(self, callback: Callable[[], None]) -> None:
        """Set what runs when a reload has changed the answers; what is reachable may differ."""
        ...


class IpSink(Protocol):
    """What an egress attachment feeds: packets for the client."""

    @property
    def is_busy(self) -> bool:
        """Whether enough waits for the client: an egress that can wait had better do so now."""
        ...

    def on_packets(self, packets: Sequence[bytes]) -> None:
        """Take up to 64 whole IP packets addressed to the attachment. Must not block or raise."""
        ...

    def on_egress_lost(self, error: FlowError) -> None:
        """The way out is gone (the device was deleted); the attachment is closed already."""
        ...


class IpAttachment(Protocol):
    """One tunnel's place at an IP egress: packets out, and packets to its addresses back."""

    @property
    def dropped_count(self) -> int:
        """Packets that the egress would not take."""
        ...

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send whole IP packets; return how many were taken. Never blocks and never raises.

        The session has checked source, hop limit, scope and policy; the egress checks nothing.
        """
        ...

    def close(self) -> None:
        """Give the addresses' traffic back; idempotent. The sink hears nothing afterwards."""
        ...


class IpEgress(Protocol):
    """The way out for CONNECT-IP: ``tun``, ``userspace`` or ``loop``."""

    @property
    def mtu_bytes(self) -> int:
        """The largest packet that it carries, at least 1,280."""
        ...

    def routes(self) -> Sequence[IpRange]:
        """What can be reached through it: sorted, disjoint (RFC 9484 section 4.7.3)."""
        ...

    def attach(self, lease: Lease, addresses: Sequence[IPAddress], sink: IpSink) -> IpAttachment:
        """Feed the sink with packets to these addresses, which the pool gave to this tunnel.

        Raises:
            FlowError: RESOURCES, or DESTINATION_UNAVAILABLE when the device is gone.
        """
        ...


class AddressPool(Protocol):
    """Addresses for tunnels, of both families, given to one tunnel at a time."""

    def gateway(self, version: int) -> IPAddress | None:
        """Return the relay's own address in the pool of a version; None = no such pool."""
        ...

    def assign(self, version: int, wanted: IPAddress | None = None) -> IPAddress | None:
        """Take one address of IP version 4 or 6, the wanted one if it is free; None = exhausted."""
        ...

    def release(self, address: IPAddress) -> None:
        """Give one back."""
        ...
