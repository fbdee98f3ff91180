"""Owns what the relay itself says inside a CONNECT-IP tunnel: echo replies, ICMP errors, probes."""

from collections.abc import Callable

from masque_relay.contract.address import IPAddress
from masque_relay.contract.counters import IpCounters
from masque_relay.contract.ip import AddressPool
from masque_relay.wire.icmp import (
    IcmpError,
    echo_reply,
    echo_reply_identifier,
    echo_request,
    icmp_error,
)

PROBE_DATA_BYTES = 1_232
"""RFC 9484 section 7.2: an ICMPv6 echo request with so much data is a packet of 1,280 bytes."""

_ALL_NODES = 0xFF02 << 112 | 1
_ALL_ROUTERS = 0xFF02 << 112 | 2
_IPV6_LINK_LOCAL = 0xFE80 >> 6


class OwnAddresses:
    """The relay's addresses in the pools, as the router at the end of one tunnel.

    Attributes:
        heard_probe: the client has answered the latest probe.
    """

    __slots__ = ("_counters", "_may_send", "_pool", "_probe_identifier", "heard_probe")

    def __init__(
        self, pool: AddressPool, counters: IpCounters, may_send: Callable[[], bool]
    ) -> None:
        """Take what every ICMP error is asked of first (RFC 4443 section 2.4 f)."""
        self._pool = pool
        self._counters = counters
        self._may_send = may_send
        self._probe_identifier: int | None = None
        self.heard_probe = False

    def takes(self, version: int, destination: int) -> bool:
        """Return whether a packet is for the relay: its address, or a link-local group of IPv6."""
        if version == 6 and destination in (_ALL_NODES, _ALL_ROUTERS):
            return True
        gateway = self._pool.gateway(version)
        return gateway is not None and int(gateway) == destination

    def answer(self, packet: bytes) -> bytes | None:
        """Return the answer to a packet that is for the relay; only pings have one.

        RFC 9484 section 7.2 asks for that in link-local groups too.
        """
        gateway = self._pool.gateway(packet[0] >> 4)
        if gateway is None:
            return None
        if gateway.version == 6:
            identifier = echo_reply_identifier(packet)
            if identifier is not None and identifier == self._probe_identifier:
                self.heard_probe = True
        return echo_reply(packet, source=gateway.packed)

    def probe(self, client: IPAddress, identifier: int) -> bytes | None:
        """Return an ICMPv6 echo request of 1,280 bytes."""
        gateway = self._pool.gateway(client.version)
        if gateway is None:
            return None
        self._probe_identifier = identifier
        return echo_request(
            gateway.packed, client.packed, identifier=identifier, data=bytes(PROBE_DATA_BYTES)
        )

    def error(self, error: IcmpError, packet: bytes, mtu_bytes: int = 0) -> bytes | None:
        """Return the ICMP error about a packet; None where none may be sent, or not so often."""
        gateway = self._pool.gateway(packet[0] >> 4)
        if gateway is None:
            return None
        message = icmp_error(error, packet, source=int(gateway), mtu_bytes=mtu_bytes)
        if message is None:
            return None
        if not self._may_send():
            self._counters.icmp_errors_suppressed += 1
            return None
        self._counters.icmp_errors_sent += 1
        return message


def is_link_local(version: int, address: int) -> bool:
    """Return whether an address is a link-local one of IPv6 (RFC 4291 section 2.5.6)."""
    return version == 6 and address >> 118 == _IPV6_LINK_LOCAL
