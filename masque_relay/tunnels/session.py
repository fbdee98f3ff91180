"""Owns what tunnel sessions share: a carrier and how it is ended, and metering of batches."""

from collections.abc import Sequence

from masque_relay.contract.lease import Meter
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason

CLEAN_ENDS = frozenset(
    {EndReason.PEER_CLOSED, EndReason.IDLE, EndReason.LIFETIME, EndReason.DRAINED}
)
"""Ends that nobody is to blame for: the stream is finished. Every other one resets it, so that the
client learns that something was taken away."""


class DatagramSession:
    """What every tunnel of datagrams has: a carrier towards the client, and one end.

    Attributes:
        end_reason: why the tunnel is over; None while it lives.
    """

    __slots__ = ("_carrier", "end_reason")

    def __init__(self) -> None:
        self._carrier: Carrier | None = None
        self.end_reason: EndReason | None = None

    def attach(self, carrier: Carrier) -> None:
        """Learn the way to the client; a session that was closed meanwhile ends the stream now."""
        self._carrier = carrier
        if self.end_reason is not None:
            _end_stream(carrier, self.end_reason)

    def close(self, reason: EndReason) -> None:
        """End the tunnel from our side: the lease ended, or the flow died. Idempotent."""
        if self.end_reason is not None:
            return
        carrier = self._carrier
        self.ended(reason)
        if carrier is not None:
            _end_stream(carrier, reason)

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over. Idempotent, the first reason stays.

        Whoever holds something for the tunnel gives it back here, too.
        """
        if self.end_reason is None:
            self.end_reason = reason
        self._carrier = None


def _end_stream(carrier: Carrier, reason: EndReason) -> None:
    if reason in CLEAN_ENDS:
        carrier.finish()
    else:
        carrier.abort(reason)


class Unmetered:
    """A Meter that admits everything and counts it: for flows whose limits are kept elsewhere."""

    __slots__ = ("byte_count", "datagram_count", "dropped_count")

    def __init__(self) -> None:
        self.datagram_count = 0
        self.byte_count = 0
        self.dropped_count = 0

    def take(self, datagram_count: int, byte_count: int) -> bool:
        """Admit and count."""
        self.datagram_count += datagram_count
        self.byte_count += byte_count
        return True

    def drop(self, datagram_count: int) -> None:
        """Count."""
        self.dropped_count += datagram_count


def admit_batch(meter: Meter, payloads: Sequence[bytes]) -> Sequence[bytes]:
    """Return the payloads that the meter admits, in order; the others are counted drops of it.

    The whole batch is offered first: with room to spare the meter is asked once.
    """
    if meter.take(len(payloads), sum(map(len, payloads))):
        return payloads
    admitted = [payload for payload in payloads if meter.take(1, len(payload))]
    meter.drop(len(payloads) - len(admitted))
    return admitted
