"""Owns the memory of checked credentials: bounded, expiring, keyed by digests, not secrets."""

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ExpiringMemory(Generic[Value]):
    """Remembers values until they expire; the longest unused is forgotten first when full."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._entries: OrderedDict[bytes, tuple[float, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, now_s: float) -> Value | None:
        """Return what was remembered under the digest, if it has not expired."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry[0] <= now_s:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return entry[1]

    def put(self, digest: bytes, value: Value, *, expires_s: float) -> None:
        """Remember a value until ``expires_s``."""
        self._entries[digest] = (expires_s, value)
        self._entries.move_to_end(digest)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
