"""Owns Elsewhere: which DERP clients are at which other server of the mesh."""

from collections.abc import Sequence
from typing import Protocol


class Place(Protocol):
    """Another server of the mesh."""

    def forward(self, source: bytes, key: bytes, packets: Sequence[bytes]) -> None:
        """Bring packets of a client of ours to a client of that server. Never blocks."""
        ...


class Elsewhere:
    """Key -> the servers where it is, the newest last; each server bounds what it adds.

    A client that changes its server may be seen at both for a while, and may leave the old one
    last: only that presence goes then.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, dict[Place, None]] = {}
        self._absent: set[tuple[Place, bytes]] = set()
        """Where a server said within this tick that there is no way to a client of its own."""

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: bytes) -> Place | None:
        """Return the server where a client came in last, of those that have a way to it."""
        for place in reversed(self._places.get(key, ())):
            if (place, key) not in self._absent:
                return place
        return None

    def came(self, place: Place, key: bytes) -> None:
        """A client is at a server; it came just now, also where it was there before."""
        places = self._places.setdefault(key, {})
        places.pop(place, None)
        places[place] = None
        self._absent.discard((place, key))

    def went(self, place: Place, key: bytes) -> None:
        """A client is no longer at a server. Idempotent."""
        self._absent.discard((place, key))
        places = self._places.get(key)
        if places is not None and place in places:
            del places[place]
            if not places:
                del self._places[key]

    def absent(self, place: Place, key: bytes) -> None:
        """A server has no way to a client that it has announced: its policy, or a crossing.

        It is not asked again within this tick; when the client goes it will say so.
        """
        if place in self._places.get(key, ()):
            self._absent.add((place, key))

    def tick(self) -> None:
        """Ask again those who had no way; to be called about once per second."""
        self._absent.clear()
