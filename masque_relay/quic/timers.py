"""Owns deadlines: one heap for all connections instead of an asyncio timer each.

QUIC moves its deadlines with every packet, nearly always later. A deadline that moves later only
changes a number: the heap is asked again when the entry that it has comes due. One that moves
earlier adds an entry and leaves the later ones where they are, to be used again afterwards; so an
owner has as many entries as it has kinds of deadlines, not as many as it had packets.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from masque_relay.contract.ports import Clock

_NEVER_S = float("inf")


class Deadline:
    """The base of what has a next moment; lives in one heap."""

    __slots__ = ("due_s", "entries")

    def __init__(self) -> None:
        self.due_s = _NEVER_S
        """When something is really to be done; infinity: never."""
        self.entries: list[_Entry] = []
        """In the heap, the latest first; kept by the heap."""


class _Entry:
    __slots__ = ("at_s", "owner")

    def __init__(self, at_s: float, owner: Deadline) -> None:
        self.at_s = at_s
        self.owner: Deadline | None = owner
        """None once the owner is cancelled: a heap must not keep a dead connection alive."""


_Owner = TypeVar("_Owner", bound=Deadline)


class DeadlineHeap(Generic[_Owner]):
    """Knows which deadline comes next."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Entry]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, owner: _Owner, due_s: float | None) -> None:
        """Move a deadline; None: there is none for now."""
        owner.due_s = due_s = _NEVER_S if due_s is None else due_s
        entries = owner.entries
        if not entries or due_s < entries[-1].at_s:
            self._cover(owner)

    def cancel(self, owner: _Owner) -> None:
        """Forget an owner for good."""
        owner.due_s = _NEVER_S
        for entry in owner.entries:
            entry.owner = None
        owner.entries.clear()

    def next_s(self) -> float | None:
        """Return when :meth:`pop_due` is worth a call; may be earlier than any real deadline."""
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_s: float) -> list[_Owner]:
        """Return the owners whose deadlines have come, earliest first; each must be set anew."""
        due: list[_Owner] = []
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            owner = heapq.heappop(heap)[2].owner
            if owner is None:
                continue
            owner.entries.pop()
            if owner.due_s <= now_s:
                owner.due_s = _NEVER_S
                due.append(cast("_Owner", owner))
            else:
                self._cover(owner)
        return due

    def _cover(self, owner: Deadline) -> None:
        """Make sure that the heap asks about an owner no later than its deadline."""
        due_s, entries = owner.due_s, owner.entries
        if due_s < (entries[-1].at_s if entries else _NEVER_S):
            entry = _Entry(due_s, owner)
            entries.append(entry)
            heapq.heappush(self._heap, (due_s, next(self._numbers), entry))


class Alarm:
    """One event loop timer that is moved only when something comes due earlier."""

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._at_s = _NEVER_S

    def set(self, at_s: float | None) -> None:
        """Ring at the given monotonic time or earlier."""
        if at_s is None or at_s >= self._at_s:
            return
        self.cancel()
        self._at_s = at_s
        delay_s = max(0.0, at_s - self._clock.monotonic_s())
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def cancel(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = None
        self._at_s = _NEVER_S

    def _ring(self) -> None:
        self._handle = None
        self._at_s = _NEVER_S
        self._callback()
