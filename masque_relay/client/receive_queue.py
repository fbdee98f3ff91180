"""Owns ReceiveQueue: what came through a tunnel and waits for receive()."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from masque_relay.client.errors import TunnelClosed

Item = TypeVar("Item")


class ReceiveQueue(Generic[Item]):
    """Keeps the newest: what a full queue pushes out is the oldest, and counted.

    Attributes:
        dropped_count: items pushed out.
    """

    __slots__ = ("_arrived", "_closed", "_items", "dropped_count")

    def __init__(self, max_count: int) -> None:
        self._items: deque[Item] = deque(maxlen=max_count)
        self._arrived = asyncio.Event()
        self._closed: TunnelClosed | None = None
        self.dropped_count = 0

    def extend(self, items: Iterable[Item]) -> None:
        """Add items in order."""
        for item in items:
            self.dropped_count += len(self._items) == self._items.maxlen
            self._items.append(item)
        self._arrived.set()

    def close(self, closed: TunnelClosed) -> None:
        """Say that nothing more will come."""
        self._closed = closed
        self._arrived.set()

    async def take(self) -> Item:
        """Return the next item; wait for one as long as it takes.

        Raises:
            TunnelClosed: nothing more will come and the queue is empty.
        """
        while not self._items:
            if self._closed is not None:
                raise self._closed
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()

    def take_all(self) -> list[Item]:
        """Return all that waits, without waiting."""
        items = list(self._items)
        self._items.clear()
        return items
