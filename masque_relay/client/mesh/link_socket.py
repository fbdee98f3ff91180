"""Owns LinkSocket: a DatagramSocket whose datagrams travel over links to peers.

To the QUIC endpoint above it is a UDP socket. Each link has an address made up for it, so that a
link may change its path (another carrier, another relay, a direct one) and QUIC does not notice.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import ReceivedBatch

MAX_WAITING_BATCHES = 512
"""Of what came and was not read in this turn of the loop; beyond it the newest are dropped."""

_PREFIX = 0xFD67_7700 << 96
_PORT = 1

SendToLink = Callable[[int, Sequence[bytes]], int]
"""Sends datagrams on the link of a number; returns how many were queued."""


def link_address(number: int) -> tuple[str, int]:
    """Return the address that stands for a link (a unique local one, RFC 4193)."""
    return str(IPv6Address(_PREFIX | number)), _PORT


def link_endpoint(number: int) -> Endpoint:
    """Return the same as an Endpoint."""
    return Endpoint(address=IPv6Address(_PREFIX | number), port=_PORT)


class LinkSocket:
    """One socket of one QUIC endpoint. Its descriptor is an eventfd: readable when batches wait.

    Attributes:
        dropped_count: datagrams for which there was no room.
    """

    def __init__(self, send: SendToLink) -> None:
        self._send = send
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._batches: deque[ReceivedBatch] = deque()
        self.dropped_count = 0

    @property
    def local(self) -> Endpoint:
        """An address that means nothing."""
        return link_endpoint(0)

    def fileno(self) -> int:
        """For loop.add_reader; -1 once closed."""
        return self._eventfd

    def push(self, number: int, payloads: Sequence[bytes]) -> None:
        """Take datagrams that came over a link."""
        if self._eventfd < 0:
            return
        if len(self._batches) >= MAX_WAITING_BATCHES:
            self.dropped_count += len(payloads)
            return
        if not self._batches:
            os.eventfd_write(self._eventfd, 1)
        self._batches.append(ReceivedBatch(payloads=list(payloads), source=link_address(number)))

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        """Return what is there, at most about ``max_datagrams``."""
        taken: list[ReceivedBatch] = []
        count = 0
        while self._batches and count < max_datagrams:
            batch = self._batches.popleft()
            count += len(batch.payloads)
            taken.append(batch)
        if not self._batches and self._eventfd >= 0 and taken:
            os.eventfd_read(self._eventfd)
        return taken

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        """Send on the link of an address; return how many were queued."""
        number = int(IPv6Address(destination[0])) - _PREFIX
        return self._send(number, payloads)

    def close(self) -> None:
        """Close; idempotent."""
        if self._eventfd >= 0:
            os.close(self._eventfd)
            self._eventfd = -1
            self._batches.clear()
