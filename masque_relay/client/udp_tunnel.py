"""Owns UdpTunnel: one CONNECT-UDP tunnel, UDP payloads in batches both ways (RFC 9298)."""

from collections.abc import AsyncIterator, Sequence

from masque_relay.client.datagram_tunnel import DatagramTunnel, OnBatch, OnClosed
from masque_relay.client.errors import TunnelClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.receive_queue import ReceiveQueue
from masque_relay.client.refusal import Headers
from masque_relay.client.tunnel_stream import TunnelRequest
from masque_relay.contract.address import Target
from masque_relay.wire.capsule import Capsule
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, UDP_PAYLOAD_CONTEXT


def udp_request(
    target: Target, path: str, fields: Sequence[tuple[bytes, bytes]] = ()
) -> TunnelRequest:
    """Return the request for a tunnel to ``target`` (RFC 9298 section 3.4)."""
    return TunnelRequest(
        protocol="connect-udp",
        path=path,
        goal=target,
        headers=tuple(fields),
        max_capsule_bytes=MAX_UDP_PAYLOAD_BYTES + len(UDP_PAYLOAD_CONTEXT),
    )


class UdpTunnel(DatagramTunnel):
    """UDP payloads to and from one target, through a relay.

    Made by :meth:`RelayClient.open_udp`. Received payloads go to ``on_batch`` if one was given,
    else they wait for :meth:`receive` in a queue of ``limits.receive_datagrams``, whose oldest
    entry is dropped and counted when it is full. A datagram may be lost, doubled or reordered on
    the way, as on any UDP path.

    Attributes:
        target: what the tunnel leads to.
    """

    def __init__(
        self,
        target: Target,
        *,
        limits: ClientLimits,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> None:
        """Make a tunnel that is not open yet; a TunnelUser for the stream that carries it."""
        self.target = target
        self._queue: ReceiveQueue[bytes] = ReceiveQueue(limits.receive_datagrams)
        super().__init__(
            max_bytes=MAX_UDP_PAYLOAD_BYTES,
            on_batch=on_batch or self._queue.extend,
            on_closed=on_closed,
        )

    # -- for the user ----------------------------------------------------------------------------

    @property
    def next_hop(self) -> str | None:
        """The address that the relay connected to, if it said so (RFC 9209)."""
        return None if self._stream is None else self._stream.next_hop

    @property
    def response(self) -> Headers:
        """The head of the 2xx; empty before it came."""
        return [] if self._stream is None else self._stream.response

    @property
    def receive_dropped_count(self) -> int:
        """Payloads pushed out of the receive() queue."""
        return self._queue.dropped_count

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits now; 0 once the tunnel is over.

        Grows while the path's MTU is being discovered and may shrink with the path: ask per batch.
        """
        return self._largest_bytes()

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send UDP payloads and return how many were queued; the others are counted drops.

        Never blocks and never raises. What is queued leaves at the end of the loop's turn.
        """
        return self._send(payloads)

    def send(self, payload: bytes) -> bool:
        """Send one UDP payload; return whether it was queued. Prefer :meth:`send_batch`."""
        return self.send_batch((payload,)) == 1

    async def receive(self) -> bytes:
        """Return the next UDP payload; wait for one as long as it takes.

        Raises:
            TunnelClosed: the tunnel is over and its queue is empty.
        """
        return await self._queue.take()

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield all waiting payloads at a time, until the tunnel is over."""
        while True:
            try:
                first = await self.receive()
            except TunnelClosed:
                return
            yield [first, *self._queue.take_all()]

    # -- TunnelUser ------------------------------------------------------------------------------

    def capsule_received(self, capsule: Capsule) -> None:
        """RFC 9298 has no capsules but DATAGRAM."""

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """Tell whoever waits."""
        self._queue.close(closed)
        super().tunnel_closed(closed)
