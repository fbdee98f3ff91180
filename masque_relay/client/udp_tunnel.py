"""Owns UdpTunnel: one CONNECT-UDP tunnel, UDP payloads in batches both ways (RFC 9298)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from masque_relay.client.errors import TunnelClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream
from masque_relay.contract.address import Target
from masque_relay.wire.capsule import Capsule
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, UDP_PAYLOAD_CONTEXT

OnBatch = Callable[[Sequence[bytes]], None]
OnClosed = Callable[[TunnelClosed], None]


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


class UdpTunnel:
    """UDP payloads to and from one target, through a relay.

    Made by :meth:`RelayClient.open_udp`. Received payloads go to ``on_batch`` if one was given,
    else they wait for :meth:`receive` in a queue of ``limits.receive_datagrams``, whose oldest
    entry is dropped and counted when it is full. A datagram may be lost, doubled or reordered on
    the way, as on any UDP path.

    Attributes:
        target: what the tunnel leads to.
        sent_count: payloads handed to the connection.
        sent_bytes: their bytes.
        received_count: payloads that came.
        received_bytes: their bytes.
        oversize_count: payloads not sent because they exceed :attr:`max_payload_bytes`.
        oversize_largest_bytes: the largest of them.
        send_dropped_count: payloads not sent because a queue was full or the tunnel was not open.
        receive_dropped_count: payloads pushed out of the receive() queue.
        unknown_context_count: datagrams with a context ID that is not 0.
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
        self.sent_count = 0
        self.sent_bytes = 0
        self.received_count = 0
        self.received_bytes = 0
        self.oversize_count = 0
        self.oversize_largest_bytes = 0
        self.send_dropped_count = 0
        self.receive_dropped_count = 0
        self.unknown_context_count = 0
        self._limits = limits
        self._on_batch = on_batch or self._enqueue
        self._on_closed = on_closed
        self._stream: TunnelStream | None = None
        self._closed: TunnelClosed | None = None
        self._queue: deque[bytes] = deque(maxlen=limits.receive_datagrams)
        self._arrived = asyncio.Event()

    # -- for the user ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether payloads can be sent."""
        return self._stream is not None and self._stream.is_open

    @property
    def next_hop(self) -> str | None:
        """The address that the relay connected to, if it said so (RFC 9209)."""
        return None if self._stream is None else self._stream.next_hop

    @property
    def response(self) -> Headers:
        """The head of the 2xx; empty before it came."""
        return [] if self._stream is None else self._stream.response

    @property
    def reliable(self) -> bool:
        """Capsules on the stream carry the payloads: HTTP/2 or 1.1, or no QUIC datagrams."""
        return self._stream is not None and self._stream.reliable

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits now; 0 once the tunnel is over.

        Grows while the path's MTU is being discovered and may shrink with the path: ask per batch.
        """
        if self._stream is None:
            return 0
        room = self._stream.max_datagram_bytes - len(UDP_PAYLOAD_CONTEXT)
        return max(0, min(room, MAX_UDP_PAYLOAD_BYTES))

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send UDP payloads and return how many were queued; the others are counted drops.

        Never blocks and never raises. What is queued leaves at the end of the loop's turn.
        """
        stream = self._stream
        if stream is None or not stream.is_open or not payloads:
            self.send_dropped_count += len(payloads)
            return 0
        largest_bytes = self.max_payload_bytes
        if (longest_bytes := max(map(len, payloads))) > largest_bytes:
            self.oversize_largest_bytes = max(self.oversize_largest_bytes, longest_bytes)
            fitting = [payload for payload in payloads if len(payload) <= largest_bytes]
            self.oversize_count += len(payloads) - len(fitting)
            payloads = fitting
        sent_count = stream.send_datagrams(UDP_PAYLOAD_CONTEXT, payloads)
        self.sent_count += sent_count
        self.sent_bytes += sum(map(len, payloads[:sent_count]))
        self.send_dropped_count += len(payloads) - sent_count
        return sent_count

    def send(self, payload: bytes) -> bool:
        """Send one UDP payload; return whether it was queued. Prefer :meth:`send_batch`."""
        return self.send_batch((payload,)) == 1

    async def receive(self) -> bytes:
        """Return the next UDP payload; wait for one as long as it takes.

        Raises:
            TunnelClosed: the tunnel is over and its queue is empty.
        """
        while not self._queue:
            if self._closed is not None:
                raise self._closed
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield all waiting payloads at a time, until the tunnel is over."""
        while True:
            try:
                first = await self.receive()
            except TunnelClosed:
                return
            batch = [first, *self._queue]
            self._queue.clear()
            yield batch

    def close(self) -> None:
        """End the tunnel; idempotent. The relay closes its socket towards the target."""
        if self._stream is not None:
            self._stream.close()

    # -- TunnelUser ------------------------------------------------------------------------------

    def tunnel_opened(self, stream: TunnelStream) -> None:
        """The relay opened its socket."""
        self._stream = stream

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads, context ID included."""
        udp_payloads = [payload[1:] for payload in payloads if payload[:1] == UDP_PAYLOAD_CONTEXT]
        self.unknown_context_count += len(payloads) - len(udp_payloads)
        if udp_payloads:
            self.received_count += len(udp_payloads)
            self.received_bytes += sum(map(len, udp_payloads))
            self._on_batch(udp_payloads)

    def capsule_received(self, capsule: Capsule) -> None:
        """RFC 9298 has no capsules but DATAGRAM."""

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """Tell whoever waits."""
        self._closed = closed
        self._arrived.set()
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(closed)

    # -- parts -----------------------------------------------------------------------------------

    def _enqueue(self, payloads: Sequence[bytes]) -> None:
        queue = self._queue
        overflow = len(queue) + len(payloads) - self._limits.receive_datagrams
        self.receive_dropped_count += max(0, overflow)
        queue.extend(payloads)
        self._arrived.set()
