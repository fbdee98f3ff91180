"""Owns the flows that lead through an upstream relay: client tunnels under contract ports."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Address

from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import ByteSink, FlowError, FlowFault

UNKNOWN = Endpoint(address=IPv4Address(0), port=0)
"""The ends of a flow of which only the upstream relay knows the addresses."""

LINGER_S = 5.0  # for the last bytes of a connection that was closed; then it is cut off


class UpstreamUdpFlow:
    """A UdpFlow over a tunnel. The tunnel's batches go to the sink by ``on_batch``."""

    def __init__(self, tunnel: UdpTunnel) -> None:
        self._tunnel = tunnel
        self.peer = UNKNOWN
        self.local = UNKNOWN

    @property
    def dropped_count(self) -> int:
        """Datagrams that were too large for the way there, or for its queue."""
        return self._tunnel.send_dropped_count + self._tunnel.oversize_count

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send, or drop what the way upstream does not take."""
        return self._tunnel.send_batch(payloads)

    def close(self) -> None:
        """End the tunnel upstream."""
        self._tunnel.close()


class UpstreamTcpFlow:
    """A TcpFlow over a tunnel; begins paused. Back-pressure is that of the tunnel's stream.

    Args:
        tunnel: open.
        sink: fed once the flow is resumed.
    """

    def __init__(self, tunnel: TcpTunnel, sink: ByteSink) -> None:
        self._tunnel = tunnel
        self._sink = sink
        self.peer = UNKNOWN
        self.local = UNKNOWN
        self._is_paused = True
        self._is_closed = False
        self._is_delivering = False
        self._end_told = False
        self._end_sent = False
        tunnel.watch(self._changed)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the upstream relay has not taken yet."""
        return self._tunnel.unsent_bytes

    def send(self, data: bytes) -> None:
        """Send, or queue."""
        self._tunnel.write_now(data)

    def end(self) -> None:
        """Send FIN after what is queued."""
        if not self._end_sent:
            self._end_sent = True
            self._tunnel.write_eof()

    def pause(self) -> None:
        """Take no more: the stream's window stops the upstream relay."""
        self._is_paused = True

    def resume(self) -> None:
        """Take on, in the loop's next turn."""
        if self._is_paused and not self._is_closed:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._deliver)

    def close(self) -> None:
        """Close; what was queued before an end still leaves."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._tunnel.broken is None:
            if self._end_sent:
                asyncio.get_running_loop().call_later(LINGER_S, self._tunnel.abort)
            else:
                self._tunnel.abort()

    def abort(self) -> None:
        """Reset."""
        self._is_closed = True
        self._tunnel.abort()

    def _changed(self) -> None:
        if not self._is_closed:
            self._sink.on_flow_writable()
            self._deliver()

    def _deliver(self) -> None:
        """Hand over what has come; a sink may pause or close us in the middle."""
        if self._is_delivering:
            return
        self._is_delivering = True
        try:
            while not self._is_paused and not self._is_closed:
                data = self._tunnel.take()
                if not data:
                    break
                self._sink.on_bytes(data)
        finally:
            self._is_delivering = False
        if self._is_closed or self._is_paused:
            return
        if self._tunnel.has_ended and not self._end_told:
            self._end_told = True
            self._sink.on_bytes_end()
        broken = self._tunnel.broken
        if broken is not None and not self._is_closed:
            self._is_closed = True
            self._sink.on_flow_lost(FlowError(FlowFault.CONNECTION_TERMINATED, broken.message))
