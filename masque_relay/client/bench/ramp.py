"""Owns Ramp: which load to try next, on the way to the largest that loses next to nothing."""

from collections.abc import Iterator

from masque_relay.client.bench.figures import BulkFigures

FIRST_COUNT = 16
LARGEST_COUNT = 4_096
"""Datagrams under way: 41,000/s at 100 ms; more than most sockets on the way can hold."""
_STEP = 4
_GROWTH = 1.05  # less than this is the noise of a short step


class Ramp:
    """Goes up by four while the rate grows, down by four where the first load is too much already.

    Between the largest clean load and one that loses too much there is a factor of four then; what
    is in the middle is tried as well.

    Attributes:
        next_count: datagrams to have under way next, per tunnel; None when the search is over.
    """

    def __init__(self) -> None:
        self.next_count: int | None = FIRST_COUNT
        self._clean: list[tuple[float, int]] = []
        self._too_many: int | None = None

    def record(self, load: BulkFigures) -> None:
        """Take what came of ``next_count``, and decide what is next."""
        tried = self.next_count
        if tried is None:
            return
        best_per_s = max(self._clean, default=(0.0, 0))[0]
        if load.is_clean:
            self._clean.append((load.datagrams_per_s, tried))
        else:
            self._too_many = tried
        grows = load.datagrams_per_s >= best_per_s * _GROWTH
        self.next_count = self._after(tried, grows=grows)

    def _after(self, tried: int, *, grows: bool) -> int | None:
        if not self._clean:
            return tried // _STEP or None
        if self._too_many is not None:
            middle = 2 * max(count for _, count in self._clean)
            return middle if middle < self._too_many else None
        return tried * _STEP if grows and tried * _STEP <= LARGEST_COUNT else None

    def clean_counts(self) -> Iterator[int]:
        """Yield what to hold for longer: the quickest clean load, then each that is smaller."""
        smallest = LARGEST_COUNT + 1
        for _, count in sorted(self._clean, reverse=True):
            if count < smallest:
                smallest = count
                yield count
