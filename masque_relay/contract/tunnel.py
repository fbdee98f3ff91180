"""Owns the seam between a stream of any HTTP version and the tunnel session that it feeds."""

from collections.abc import Sequence
from typing import Protocol

from masque_relay.contract.verdict import EndReason


class Carrier(Protocol):
    """One tunnel's way to its client: a stream of any HTTP version.

    A carrier picks QUIC datagrams or DATAGRAM capsules by itself; the session never knows.
    """

    @property
    def max_payload_bytes(self) -> int:
        """The largest HTTP Datagram payload (context ID included) that fits now.

        65,535 and a little where capsules carry it. May change with the path; ask per batch.
        """
        ...

    @property
    def unsent_bytes(self) -> int:
        """Stream bytes (capsules) queued that the client has not acknowledged yet."""
        ...

    @property
    def is_busy(self) -> bool:
        """More datagrams would only wait in the carrier: who has a queue of its own holds them."""
        ...

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` for each payload as an HTTP Datagram; return how many fitted.

        Never blocks. Oversize ones and what the bounded queue pushes out are counted drops of the
        carrier. ``prefix`` is the encoded context ID (RFC 9298 section 5), the same for all.
        """
        ...

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Queue one capsule on the stream (RFC 9297 section 3.2).

        Never refuses: whoever answers a client's capsules keeps ``unsent_bytes`` bounded.
        """
        ...

    def abort(self, reason: EndReason) -> None:
        """Reset the stream with the wire's own code for this reason; idempotent."""
        ...

    def finish(self) -> None:
        """End our side of the stream cleanly; idempotent."""
        ...


class TunnelSession(Protocol):
    """A spliced tunnel, sans I/O: what ASGI's ``http.splice`` hands to the front end.

    The front end calls :meth:`attach` once, then the others in order; after :meth:`ended` nothing.
    """

    def attach(self, carrier: Carrier) -> None:
        """Learn the way to the client; target -> client traffic may start."""
        ...

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads (context ID included) from the client, in arrival order."""
        ...

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Take one capsule that is not DATAGRAM. Unknown types are skipped silently.

        Raises:
            WireError: the capsule breaks the tunnel's protocol; the front end aborts the stream.
        """
        ...

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; close the flow. Idempotent."""
        ...


class StreamCarrier(Protocol):
    """A byte tunnel's way to its client: one request stream, with back-pressure both ways."""

    @property
    def unsent_bytes(self) -> int:
        """Queued for the client and still ours to hold."""
        ...

    def send(self, data: bytes) -> None:
        """Queue stream bytes. Never blocks; whoever sends keeps ``unsent_bytes`` bounded."""
        ...

    def end_sending(self) -> None:
        """End our side of the stream after what is queued; the client may go on."""
        ...

    def consume(self, byte_count: int) -> None:
        """Grant the client credit for stream bytes that are done with."""
        ...

    def wake_later(self) -> None:
        """Ask for one ``on_wake`` in a moment, because a rate refused bytes. Idempotent."""
        ...

    def abort(self, reason: EndReason) -> None:
        """Reset the stream with the wire's own code for this reason; idempotent."""
        ...

    def finish(self) -> None:
        """End the stream cleanly, both sides; idempotent."""
        ...


class StreamSession(Protocol):
    """A spliced byte tunnel, sans I/O. After :meth:`ended` nothing is called."""

    def attach(self, carrier: StreamCarrier) -> None:
        """Learn the way to the client; target -> client traffic may start."""
        ...

    def on_stream_data(self, data: bytes) -> None:
        """Take stream bytes from the client; the session grants the credit for all of them.

        Raises:
            WireError: they break the tunnel's protocol; the front end aborts the stream.
        """
        ...

    def on_stream_end(self) -> None:
        """The client ended its side of the stream.

        Raises:
            WireError: in the wrong place.
        """
        ...

    def on_stream_writable(self) -> None:
        """Bytes have left towards the client."""
        ...

    def on_wake(self) -> None:
        """The moment that ``wake_later`` asked for has come."""
        ...

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; close the flow. Idempotent."""
        ...
