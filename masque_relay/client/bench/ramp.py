"""Owns Ramp: which load to try next, on the way to the largest that loses next to nothing."""

from collections.abc import Iterator

from masque_relay.client.bench.figures import BulkFigures

FIRST_COUNT = 16
LARGEST_COUNT = 4_096
"""Datagrams under way: 41,000/s at 100 ms; more than most sockets on the way can hold."""
_UP = 4
_GROWTH = 1.05  # less than this is the noise of a short step


class Ramp:
    """Goes up by four while the rate grows, down by four where the first load is too much already.

    After a load that loses too much, half of it is tried, once: between that and the last clean one
    there is a factor of four.

    Attributes:
        next_count: datagrams to have under way next, per tunnel; None when the search is over.
    """

    def __init__(self) -> None:
        self.next_count: int | None = FIRST_COUNT
        self._clean: list[tuple[float, int]] = []
        self._is_last = False

    def record(self, load: BulkFigures) -> None:
        """Take what came of ``next_count``, and decide what is next."""
        tried = self.next_count
        if tried is None:
            return
        if load.is_clean:
            best_per_s = max(self._clean, default=(0.0, 0))[0]
            self._clean.append((load.datagrams_per_s, tried))
            grows = load.datagrams_per_s >= best_per_s * _GROWTH
            goes_on = grows and not self._is_last and tried * _UP <= LARGEST_COUNT
            self.next_count = tried * _UP if goes_on else None
        elif not self._clean:
            self._is_last = True  # what is above is known
            self.next_count = tried // _UP or None
        else:
            self.next_count = None if self._is_last else tried // 2
            self._is_last = True

    def clean_counts(self) -> Iterator[int]:
        """Yield what to hold for longer: the quickest clean load, then each that is smaller."""
        smallest = LARGEST_COUNT + 1
        for _, count in sorted(self._clean, reverse=True):
            if count < smallest:
                smallest = count
                yield count
