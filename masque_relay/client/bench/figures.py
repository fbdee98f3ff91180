"""Owns the arithmetic of the benchmark: percentiles, loss, rates, and the figures made of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALLOWED_LOSS_PERCENT = 1.0
"""Bulk that loses as much or more is no figure to quote: an overloaded path drops at any rate."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that so many per cent do not exceed (nearest rank).

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("no samples")
    rank = math.ceil(percent / 100 * len(samples))
    return sorted(samples)[max(rank, 1) - 1]


def loss_percent(sent_count: int, answered_count: int) -> float:
    """Return how much of what was sent has no answer; 0 where nothing was sent."""
    return 100 * (sent_count - answered_count) / sent_count if sent_count else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenFigures:
    """How long the relay takes to say yes to one tunnel request, one after the other."""

    count: int
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, times_s: Sequence[float]) -> "OpenFigures":
        """Return the figures of at least one time."""
        return cls(count=len(times_s), p50_ms=_ms(times_s, 50), p99_ms=_ms(times_s, 99))


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTripFigures:
    """Questions and answers on one path, at a gentle rate."""

    sent_count: int
    answered_count: int
    loss_percent: float
    p50_ms: float | None
    """None where no answer came."""
    p99_ms: float | None

    @classmethod
    def of(cls, sent_count: int, times_s: Sequence[float]) -> "RoundTripFigures":
        """Return the figures; ``times_s`` are those of the answers that came."""
        return cls(
            sent_count=sent_count,
            answered_count=len(times_s),
            loss_percent=loss_percent(sent_count, len(times_s)),
            p50_ms=_ms(times_s, 50) if times_s else None,
            p99_ms=_ms(times_s, 99) if times_s else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFigures:
    """What the relay adds: its percentile less that of the direct path, in the same seconds.

    Not the percentile of differences: no question goes both ways. Below 0 on a path where what is
    added is less than the noise.
    """

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, relay: RoundTripFigures, direct: RoundTripFigures) -> "AddedFigures | None":
        """Return the difference; None where one of both has no answers."""
        if relay.p50_ms is None or relay.p99_ms is None:
            return None
        if direct.p50_ms is None or direct.p99_ms is None:
            return None
        return cls(p50_ms=relay.p50_ms - direct.p50_ms, p99_ms=relay.p99_ms - direct.p99_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkFigures:
    """A load that was kept up: so many datagrams under way, over all tunnels."""

    under_way_count: int
    is_held: bool
    """Whether it is the measurement at the end of the search, and not a short step of it."""
    seconds: float
    """How long answers were counted; warming up is not in it."""
    counted: int
    """Answers that came in those seconds."""
    sent_count: int
    """Warming up included, as in ``answered_count``: loss is told of all."""
    answered_count: int
    loss_percent: float
    datagrams_per_s: float
    """There and back: each is one datagram to the echo and one from it."""
    mbit_per_s: float
    """UDP payload, in each direction."""

    @classmethod
    def of(
        cls,
        *,
        size_bytes: int,
        under_way_count: int,
        is_held: bool,
        seconds: float,
        counted: int,
        sent_count: int,
        answered_count: int,
    ) -> "BulkFigures":
        """Return the figures of one load."""
        per_s = counted / seconds
        return cls(
            under_way_count=under_way_count,
            is_held=is_held,
            seconds=seconds,
            counted=counted,
            sent_count=sent_count,
            answered_count=answered_count,
            loss_percent=loss_percent(sent_count, answered_count),
            datagrams_per_s=per_s,
            mbit_per_s=per_s * size_bytes * 8 / 1e6,
        )

    @property
    def is_clean(self) -> bool:
        """Whether answers came, and less than the allowed loss."""
        return self.counted > 0 and self.loss_percent < ALLOWED_LOSS_PERCENT


def best_bulk(loads: Sequence[BulkFigures]) -> BulkFigures | None:
    """Return what to quote: the clean load that was held, else the quickest clean step, if any."""
    clean = [load for load in loads if load.is_clean]
    held = [load for load in clean if load.is_held]
    return max(held or clean, key=lambda load: load.datagrams_per_s, default=None)


def _ms(times_s: Sequence[float], percent: float) -> float:
    return percentile(times_s, percent) * 1_000
