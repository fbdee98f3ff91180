"""Owns a UDP socket that QUIC and TURN share: whose datagram it is (RFC 9443).

The first byte alone does not tell: ChannelData and QUIC's short headers overlap. A client with an
allocation is known by its address; of strangers only STUN is taken, whose first byte is below 4
where QUIC's is 64 or more, and whose cookie is checked as well.
"""

from collections.abc import Sequence
from typing import Protocol

from fallbacks.turn.allocation import Source
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import DatagramSocket, ReceivedBatch
from masque_relay.stun.message import is_stun


class StunTaker(Protocol):
    """Where TURN's datagrams of a shared socket go to."""

    def knows(self, source: Source) -> bool:
        """Return whether a client with an allocation sends from there."""
        ...

    def take(self, source: Source, datagrams: Sequence[bytes]) -> None:
        """Take datagrams of one client."""
        ...


class SharedSocket:
    """A DatagramSocket that keeps TURN's datagrams from whoever reads it."""

    __slots__ = ("_inner", "_taker")

    def __init__(self, inner: DatagramSocket) -> None:
        self._inner = inner
        self._taker: StunTaker | None = None

    def share_with(self, taker: StunTaker) -> None:
        """Hand TURN's datagrams to somebody from now on."""
        self._taker = taker

    @property
    def local(self) -> Endpoint:
        """What the socket is bound to."""
        return self._inner.local

    def fileno(self) -> int:
        """For loop.add_reader; -1 once closed."""
        return self._inner.fileno()

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        """Return what is there now and is not TURN's."""
        batches = self._inner.receive_batches(max_datagrams)
        taker = self._taker
        if taker is None:
            return batches
        kept: list[ReceivedBatch] = []
        for batch in batches:
            if taker.knows(batch.source):
                taker.take(batch.source, batch.payloads)
                continue
            if any(payload[:1] < b"\x04" for payload in batch.payloads):
                taker.take(batch.source, [one for one in batch.payloads if is_stun(one)])
                batch.payloads = [one for one in batch.payloads if not is_stun(one)]
            if batch.payloads:
                kept.append(batch)
        return kept

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        """Send to one destination now; return how many the kernel took."""
        return self._inner.send_batch(payloads, destination)

    def close(self) -> None:
        """Close; idempotent."""
        self._inner.close()
