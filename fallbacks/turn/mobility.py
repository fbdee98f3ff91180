"""Owns tickets by which an allocation follows its client to another address (RFC 8016).

A Refresh with the last ticket from a new 5-tuple begins a move: datagrams of peers still go to the
old one until anything else comes by the new one, so that a forged Refresh moves nothing.
"""

import secrets

from fallbacks.turn.allocation import Allocation
from fallbacks.turn.path import ClientPath, PathKind, TurnServices

TICKET_BYTES = 24
"""192 random bits: a ticket is found, never guessed, and tells nothing."""


class Mobility:
    """Which ticket belongs to which allocation."""

    def __init__(self, services: TurnServices) -> None:
        self._services = services
        self._by_ticket: dict[bytes, Allocation] = {}

    def issue(self, allocation: Allocation) -> None:
        """Give an allocation a new ticket; the one before is of no use any more."""
        self.forget(allocation)
        allocation.previous_ticket = allocation.ticket
        allocation.ticket = secrets.token_bytes(TICKET_BYTES)
        self._by_ticket[allocation.ticket] = allocation

    def find(self, ticket: bytes) -> Allocation | None:
        """Return whose ticket it is."""
        return self._by_ticket.get(ticket)

    def forget(self, allocation: Allocation) -> None:
        """The allocation is over, or gets another ticket."""
        if allocation.ticket is not None:
            self._by_ticket.pop(allocation.ticket, None)

    def begin_move(self, allocation: Allocation, path: ClientPath) -> None:
        """A Refresh with the right ticket and key came by a new path."""
        previous = allocation.next_path
        if previous is not None and previous is not path:
            previous.allocation = None
            previous.forget()
        allocation.next_path = path
        path.allocation = allocation
        path.keep()
        self._services.counters.moves += 1

    def arrived(self, allocation: Allocation, path: ClientPath) -> None:
        """Something of the client came by a path: if it is the new one the move is complete."""
        if allocation.next_path is not path:
            return
        before, allocation.path, allocation.next_path = allocation.path, path, None
        before.allocation = None
        before.forget()
        if before.kind is not PathKind.UDP:
            before.close()
