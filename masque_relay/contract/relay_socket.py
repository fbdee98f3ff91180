"""Owns the ports of relayed transport addresses: bound sockets that many peers reach."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import ByteSink, TcpFlow
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


AcceptPeer = Callable[[Endpoint, Callable[[ByteSink], TcpFlow]], None]
"""Told of a peer that connected, and how to take the connection; one that isn't taken is closed."""


class RelayTcp(Protocol):
    """A relayed transport address for TCP: peers connect to it, and it connects to peers."""

    @property
    def local(self) -> Endpoint:
        """What it is bound to."""
        ...

    async def connect(self, peer: Endpoint, sink: ByteSink, *, timeout_s: float) -> TcpFlow:
        """Connect from the relayed address itself; the flow begins paused.

        Raises:
            FlowError: refused, unreachable, or no answer in time.
        """
        ...

    def close(self) -> None:
        """Accept no more; connections live on. Idempotent."""
        ...


RelayTcpFactory = Callable[[Endpoint, AcceptPeer], RelayTcp]
"""Binds and listens. Raises FlowError when the address is taken or not ours."""
