"""Owns the port of a relayed transport address: a bound UDP socket that many peers send to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import DatagramSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerError:
    """An ICMP error about a datagram that the socket sent."""

    peer: Endpoint
    """Where that datagram went."""
    icmp_type: int
    """Of ICMPv4 or ICMPv6, as the peer's address says."""
    icmp_code: int
    mtu_bytes: int
    """Of the next hop, for "too big"; else 0."""


class RelaySocket(DatagramSocket, Protocol):
    """A DatagramSocket that hears of ICMP errors and can forbid fragments."""

    def forbid_fragments(self, *, forbidden: bool) -> None:
        """Set the don't-fragment bit from now on, or let the kernel fragment what is too large."""
        ...

    def take_errors(self) -> list[PeerError]:
        """Return the ICMP errors since the last call, a bounded number; they must be taken."""
        ...


RelaySocketFactory = Callable[[Endpoint], RelaySocket]
"""Binds one; port 0 picks a free one. Raises FlowError when the address is taken or not ours."""
