"""Owns DatagramTunnel: payloads of context 0 in batches both ways, and what became of them."""

from collections.abc import Callable, Sequence

from masque_relay.client.errors import TunnelClosed
from masque_relay.client.tunnel_stream import TunnelStream

OnBatch = Callable[[Sequence[bytes]], None]
OnClosed = Callable[[TunnelClosed], None]

_CONTEXT_0 = b"\0"
"""RFC 9298 section 4 and RFC 9484 section 6: what goes in front of a UDP payload, or a packet."""


class DatagramTunnel:
    """What CONNECT-UDP and CONNECT-IP have in common at the client; a TunnelUser without capsules.

    Attributes:
        sent_count: payloads handed to the connection.
        sent_bytes: their bytes.
        received_count: payloads that came.
        received_bytes: their bytes.
        oversize_count: payloads not sent because no datagram of the path could hold them.
        oversize_largest_bytes: the largest of them.
        send_dropped_count: payloads not sent because a queue was full or the tunnel was not open.
        unknown_context_count: datagrams with a context ID that is not 0.
    """

    def __init__(
        self, *, max_bytes: int, on_batch: OnBatch, on_closed: OnClosed | None = None
    ) -> None:
        """Make a tunnel that is not open yet.

        Args:
            max_bytes: of any payload, whatever the path could hold.
            on_batch: takes what comes, in the event loop; must neither block nor raise.
            on_closed: called once when the tunnel is over, also when it never opened.
        """
        self.sent_count = 0
        self.sent_bytes = 0
        self.received_count = 0
        self.received_bytes = 0
        self.oversize_count = 0
        self.oversize_largest_bytes = 0
        self.send_dropped_count = 0
        self.unknown_context_count = 0
        self._max_bytes = max_bytes
        self._on_batch = on_batch
        self._on_closed = on_closed
        self._stream: TunnelStream | None = None
        self._closed: TunnelClosed | None = None

    @property
    def is_open(self) -> bool:
        """Whether payloads can be sent."""
        return self._stream is not None and self._stream.is_open

    @property
    def reliable(self) -> bool:
        """Capsules on the stream carry the payloads: HTTP/2 or 1.1, or no QUIC datagrams."""
        return self._stream is not None and self._stream.reliable

    def close(self) -> None:
        """End the tunnel; idempotent. The relay gives up what it held for it."""
        if self._stream is not None:
            self._stream.close()

    # -- TunnelUser ------------------------------------------------------------------------------

    def tunnel_opened(self, stream: TunnelStream) -> None:
        """The relay said yes."""
        self._stream = stream

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads, context ID included."""
        ours = [payload[1:] for payload in payloads if payload[:1] == _CONTEXT_0]
        self.unknown_context_count += len(payloads) - len(ours)
        if ours:
            self.received_count += len(ours)
            self.received_bytes += sum(map(len, ours))
            self._on_batch(ours)

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """Tell whoever waits."""
        self._closed = closed
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(closed)

    # -- for subclasses --------------------------------------------------------------------------

    def _largest_bytes(self) -> int:
        """Return the size of the largest payload that fits now; 0 once the tunnel is over."""
        if self._stream is None:
            return 0
        room_bytes = self._stream.max_datagram_bytes - len(_CONTEXT_0)
        return max(0, min(room_bytes, self._max_bytes))

    def _send(self, payloads: Sequence[bytes]) -> int:
        """Send payloads and return how many were queued; the others are counted drops.

        Never blocks and never raises. What is queued leaves at the end of the loop's turn.
        """
        stream = self._stream
        if stream is None or not stream.is_open or not payloads:
            self.send_dropped_count += len(payloads)
            return 0
        largest_bytes = self._largest_bytes()
        if (longest_bytes := max(map(len, payloads))) > largest_bytes:
            self.oversize_largest_bytes = max(self.oversize_largest_bytes, longest_bytes)
            fitting = [payload for payload in payloads if len(payload) <= largest_bytes]
            self.oversize_count += len(payloads) - len(fitting)
            payloads = fitting
        sent_count = stream.send_datagrams(_CONTEXT_0, payloads)
        self.sent_count += sent_count
        self.sent_bytes += sum(map(len, payloads[:sent_count]))
        self.send_dropped_count += len(payloads) - sent_count
        return sent_count
