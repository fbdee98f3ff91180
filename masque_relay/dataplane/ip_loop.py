"""Owns the ``loop`` egress of CONNECT-IP: a network that ends in this process, for tests.

Packets to an address of another tunnel go there. Every other address of its networks answers pings
and echoes UDP, so that a client can be tried without privileges and without a network.
"""

import asyncio
from collections.abc import Sequence

from masque_relay.contract.address import IPAddress
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.ip import IpSink
from masque_relay.contract.ip_scope import IpRange
from masque_relay.contract.lease import Lease
from masque_relay.wire.icmp import echo_reply
from masque_relay.wire.ip_packet import IpProtocol, read_packet

DEFAULT_MTU_BYTES = 1_500
QUEUE_PACKETS = 1_024  # answers that wait for the next turn of the loop; more are dropped
BATCH_PACKETS = 64  # IpSink.on_packets takes no more at once


class LoopAttachment:
    """One tunnel on the loop.

    Attributes:
        dropped_count: packets beyond the queue.
    """

    def __init__(self, egress: "LoopEgress", addresses: Sequence[IPAddress], sink: IpSink) -> None:
        self._egress = egress
        self.addresses = tuple(addresses)
        self._sink = sink
        self._queue: list[bytes] = []
        self.dropped_count = 0
        self.is_closed = False

    def send_packets(self, packets: Sequence[bytes]) -> int:
        """Send each packet to the tunnel that has its destination, or answer it."""
        if self.is_closed:
            return 0
        for packet in packets:
            self._egress.route(self, packet)
        return len(packets)

    def deliver(self, packet: bytes) -> None:
        """Queue a packet for this tunnel; it leaves in the next turn of the event loop."""
        if len(self._queue) >= QUEUE_PACKETS:
            self.dropped_count += 1
            return
        if not self._queue:
            asyncio.get_running_loop().call_soon(self._flush)
        self._queue.append(packet)

    def lose(self, error: FlowError) -> None:
        """Close because the egress is gone, and say so to the tunnel."""
        if not self.is_closed:
            self.close()
            self._sink.on_egress_lost(error)

    def close(self) -> None:
        """Leave the loop; idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self._queue.clear()
            self._egress.forget(self)

    def _flush(self) -> None:
        packets, self._queue = self._queue, []
        for start in range(0, len(packets), BATCH_PACKETS):
            if self.is_closed:
                return
            self._sink.on_packets(packets[start : start + BATCH_PACKETS])


class LoopEgress:
    """Implements the port ``IpEgress``.

    Attributes:
        mtu_bytes: the largest packet that it carries.
    """

    def __init__(self, routes: Sequence[IpRange], *, mtu_bytes: int = DEFAULT_MTU_BYTES) -> None:
        """Take what can be reached through it: sorted, disjoint."""
        self._routes = tuple(routes)
        self.mtu_bytes = mtu_bytes
        self._by_address: dict[tuple[int, int], LoopAttachment] = {}
        self._is_gone = False

    def routes(self) -> Sequence[IpRange]:
        """Return what can be reached through it."""
        return self._routes

    def attach(self, lease: Lease, addresses: Sequence[IPAddress], sink: IpSink) -> LoopAttachment:
        """Put one tunnel on the loop.

        Raises:
            FlowError: the loop was closed.
        """
        if self._is_gone:
            raise FlowError(FlowFault.DESTINATION_UNAVAILABLE, "the loop is gone")
        attachment = LoopAttachment(self, addresses, sink)
        for address in addresses:
            self._by_address[address.version, int(address)] = attachment
        return attachment

    def route(self, sender: LoopAttachment, packet: bytes) -> None:
        """Send one packet on, or answer it."""
        facts = read_packet(packet)
        if facts is None:
            return
        other = self._by_address.get((facts[0], facts[2]))
        if other is not None:
            other.deliver(packet)
            return
        answer = echo_reply(packet) or _udp_echo(packet, facts[0], facts[3])
        if answer is not None:
            sender.deliver(answer)

    def forget(self, attachment: LoopAttachment) -> None:
        """Take a closed attachment's addresses off the loop."""
        for address in attachment.addresses:
            key = (address.version, int(address))
            if self._by_address.get(key) is attachment:
                del self._by_address[key]

    def vanish(self) -> None:
        """End as a device does that somebody deletes: every tunnel on it learns it."""
        self._is_gone = True
        error = FlowError(FlowFault.DESTINATION_UNAVAILABLE, "the loop is gone")
        for attachment in set(self._by_address.values()):
            attachment.lose(error)

    def close(self) -> None:
        """Take no more tunnels; idempotent."""
        self._is_gone = True


def _udp_echo(packet: bytes, version: int, protocol: int) -> bytes | None:
    """Return a UDP packet with both ends swapped; its checksums hold as they are."""
    if protocol != IpProtocol.UDP:
        return None
    if version == 4:
        if packet[0] != 0x45 or len(packet) < 28 or (packet[6] << 8 | packet[7]) & 0x3FFF:
            return None
        swapped = packet[:12] + packet[16:20] + packet[12:16]
        return swapped + packet[22:24] + packet[20:22] + packet[24:]
    if packet[6] != IpProtocol.UDP or len(packet) < 48:
        return None
    swapped = packet[:8] + packet[24:40] + packet[8:24]
    return swapped + packet[42:44] + packet[40:42] + packet[44:]
