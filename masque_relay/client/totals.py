"""Owns ForwardTotals: what a forward has carried and dropped, as plain ints."""

from dataclasses import dataclass, replace

from masque_relay.client.udp_tunnel import UdpTunnel


@dataclass(slots=True)
class ForwardTotals:
    """Sums since the forward began; tunnels count once they are over (see :meth:`with_tunnels`)."""

    sent: int = 0
    """Datagrams of local peers that were handed to the connection."""
    sent_bytes: int = 0
    received: int = 0
    """Datagrams from the target that came out of tunnels."""
    received_bytes: int = 0
    oversize: int = 0
    """Not sent: larger than the payload that fits."""
    oversize_largest_bytes: int = 0
    send_dropped: int = 0
    """Not sent: the queue of the connection was full."""
    receive_dropped: int = 0
    """Came, but the local socket did not take them."""
    pending_dropped: int = 0
    """Waited for a tunnel too long or in vain, or were pushed out by newer ones."""
    refused_dropped: int = 0
    """Came while the relay had refused, or while there was no room for another local peer."""
    expired_peers: int = 0
    evicted_peers: int = 0
    """Made room for another local peer."""

    def add(self, tunnel: UdpTunnel) -> None:
        """Add what a tunnel counted."""
        self.sent += tunnel.sent_count
        self.sent_bytes += tunnel.sent_bytes
        self.received += tunnel.received_count
        self.received_bytes += tunnel.received_bytes
        self.oversize += tunnel.oversize_count
        self.oversize_largest_bytes = max(
            self.oversize_largest_bytes, tunnel.oversize_largest_bytes
        )
        self.send_dropped += tunnel.send_dropped_count

    def with_tunnels(self, tunnels: list[UdpTunnel]) -> "ForwardTotals":
        """Return the sums with those of tunnels that are still open."""
        sums = replace(self)
        for tunnel in tunnels:
            sums.add(tunnel)
        return sums
