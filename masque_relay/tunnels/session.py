"""Owns what every tunnel session shares: metering of batches, and how a tunnel is ended."""

from collections.abc import Sequence

from masque_relay.contract.lease import Meter
from masque_relay.contract.verdict import EndReason

CLEAN_ENDS = frozenset(
    {EndReason.PEER_CLOSED, EndReason.IDLE, EndReason.LIFETIME, EndReason.DRAINED}
)
"""Ends that nobody is to blame for: the stream is finished. Every other one resets it, so that the
client learns that something was taken away."""


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
