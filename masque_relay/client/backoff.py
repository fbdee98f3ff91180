"""Owns the delays between attempts to reach a relay: exponential, jittered, bounded."""

from collections.abc import Callable

from masque_relay.client.limits import ReconnectLimits


class Backoff:
    """Counts failures and says how long to wait; knows no clock.

    Args:
        limits: first and longest delay, factor and jitter.
        random_fraction: draws from [0, 1), so that a test can decide.
    """

    __slots__ = ("_failures", "_limits", "_random_fraction")

    def __init__(self, limits: ReconnectLimits, random_fraction: Callable[[], float]) -> None:
        self._limits = limits
        self._random_fraction = random_fraction
        self._failures = 0

    @property
    def failure_count(self) -> int:
        """Failures since the last success."""
        return self._failures

    def failed(self) -> float:
        """Count one failure and return the seconds to wait before the next attempt."""
        limits = self._limits
        # the exponent is bounded too: a relay that is away for a month must not overflow a float
        delay_s = limits.first_delay_s * limits.factor ** min(self._failures, 64)
        self._failures += 1
        delay_s = min(delay_s, limits.longest_delay_s)
        return delay_s * (1.0 - limits.jitter * self._random_fraction())

    def succeeded(self) -> None:
        """Start again from the first delay."""
        self._failures = 0
