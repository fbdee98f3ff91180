"""Owns Keepalive: when a session must say something, and when its other side is given up."""

from collections.abc import Callable

SILENT_PERIODS = 3
"""One lost ping and one late one do not end a session."""
JITTER_SHARE = 0.2
"""So that the clients of one relay do not beat in time."""


class Keepalive:
    """Two flags for the packet path, two deadlines for a tick about once per second."""

    __slots__ = ("_has_heard", "_has_sent", "_heard_s", "_jitter", "_period_s", "_sent_s")

    def __init__(self, *, period_s: float, now_s: float, jitter: Callable[[], float]) -> None:
        """Begin now.

        Args:
            period_s: how long either side may be silent.
            now_s: monotonic time.
            jitter: 0 to 1, random.
        """
        self._period_s = period_s
        self._jitter = jitter
        self._heard_s = self._sent_s = now_s
        self._has_heard = self._has_sent = False

    def heard(self) -> None:
        """The other side said something."""
        self._has_heard = True

    def sent(self) -> None:
        """We did."""
        self._has_sent = True

    def set_period(self, period_s: float) -> None:
        """Take the period that the relay asks for."""
        self._period_s = period_s

    def tick(self, now_s: float) -> None:
        """Note the time of what the flags say."""
        if self._has_heard:
            self._heard_s, self._has_heard = now_s, False
        if self._has_sent:
            self._sent_s, self._has_sent = now_s, False

    def is_lost(self, now_s: float) -> bool:
        """Whether the other side has been silent for too long; after :meth:`tick`."""
        return now_s - self._heard_s >= SILENT_PERIODS * self._period_s

    def wants_ping(self, now_s: float) -> bool:
        """Whether we have been silent for a period, less a random part of it."""
        return now_s - self._sent_s >= self._period_s * (1 - JITTER_SHARE * self._jitter())
