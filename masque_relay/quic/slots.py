"""Owns which worker a packet belongs to: the slot in the first byte of our connection IDs.

A relay of several processes has one UDP socket per slot behind one port, and the kernel picks the
socket by the first byte of the Destination Connection ID. There are twice as many slots as workers:
while a relay is replaced by new processes, the old ones keep their half of the slots and the new
ones have the other half. Sans I/O.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masque_relay.quic.packet import CONNECTION_ID_BYTES, KIND_BY_FIRST_BYTE, Kind

MAX_WORKERS = 64
"""Each of the 128 slots then still has two values of a byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRoutes:
    """Where packets go now. All workers and the kernel's selector have the same one."""

    worker_count: int
    """In each half."""
    serving_half: int
    """0 or 1: the half whose workers take newcomers."""
    is_handover: bool
    """Workers of the other half still have connections."""

    @property
    def slot_count(self) -> int:
        """Of both halves."""
        return 2 * self.worker_count

    @property
    def modulus(self) -> int:
        """What the kernel divides the first byte by."""
        return self.slot_count if self.is_handover else self.worker_count

    @property
    def offset(self) -> int:
        """What the kernel adds to the remainder."""
        return 0 if self.is_handover else self.serving_half * self.worker_count

    def owner(self, first_byte: int) -> int:
        """Return the slot that the kernel picks for a connection ID.

        A connection ID of slot ``s`` has a first byte that leaves ``s`` when divided by the number
        of slots, hence also ``s`` modulo the number of workers when divided by that.
        """
        return first_byte % self.modulus + self.offset

    def host(self, first_byte: int) -> int:
        """Return the slot whose worker takes a newcomer with this connection ID."""
        return first_byte % self.worker_count + self.serving_half * self.worker_count


def connection_ids(slot: int, slot_count: int) -> Callable[[], bytes]:
    """Return what makes the connection IDs of a slot.

    The first byte tells an observer the slot and nothing else: which of the values that fit is
    random, as are the other bytes (RFC 9000 section 5.1: no two of one connection correlate beyond
    that).
    """
    values = range(slot, 256, slot_count)

    def make() -> bytes:
        return bytes((secrets.choice(values),)) + secrets.token_bytes(CONNECTION_ID_BYTES - 1)

    return make


class Neighbours(Protocol):
    """The other workers of a relay, as the endpoint sees them."""

    def hand_over(self, data: bytes, source: tuple[str, int]) -> bool:
        """Give a packet of no known connection to whose it may be; False: it is ours to judge."""
        ...


def slot_for_stranger(data: bytes, routes: SlotRoutes, own_slot: int) -> int | None:
    """Return the slot that a packet of no connection of ours should go to; None: ours.

    The kernel has few reasons to bring us such packets: a burst that it coalesced across
    connections, a change of the routes, and the newcomers of a handover that met an old worker.
    """
    kind = KIND_BY_FIRST_BYTE[data[0]] if data else Kind.DROP
    if kind is Kind.SHORT and len(data) > 1:
        slot = routes.owner(data[1])
    elif kind is Kind.LONG and len(data) > 6:
        slot = routes.owner(data[6])
        if slot == own_slot:
            # Nobody of ours: a newcomer, which an old worker leaves to a new one.
            slot = routes.host(data[6])
    else:
        return None
    return None if slot == own_slot else slot
