"""Owns EventRate: how often something may happen on one connection."""

from masque_relay.contract.ports import Clock


class EventRate:
    """A token bucket that counts events; full at first."""

    __slots__ = ("_burst", "_clock", "_filled_s", "_level", "_rate_per_s")

    def __init__(self, *, rate_per_s: float, burst_count: int, clock: Clock) -> None:
        self._rate_per_s = rate_per_s
        self._burst = float(burst_count)
        self._level = self._burst
        self._clock = clock
        self._filled_s = clock.monotonic_s()

    def allow(self) -> bool:
        """Count one event; False when it comes too soon."""
        now_s = self._clock.monotonic_s()
        self._level = min(self._burst, self._level + (now_s - self._filled_s) * self._rate_per_s)
        self._filled_s = now_s
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
