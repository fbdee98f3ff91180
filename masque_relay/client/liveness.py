"""Owns Liveness: when a connection needs a PING, and when the relay must be taken for gone."""

from enum import Enum

from masque_relay.client.limits import ClientLimits


class Pulse(Enum):
    """What to do now."""

    FINE = "fine"
    PING = "ping"
    GONE = "gone"


class Liveness:
    """Looks at the packet counts of one connection about once a second; knows no clock.

    A relay that ends says so. One that was killed, or a path that died, is only silence: QUIC's
    idle timeout would notice after minutes, while the user's datagrams vanish. So an answer is
    asked for (PING) as soon as packets go out and nothing comes back.
    """

    __slots__ = ("_last_ping_s", "_limits", "_received_count", "_sent_count", "_unanswered_since_s")

    def __init__(self, limits: ClientLimits, now_s: float) -> None:
        self._limits = limits
        self._last_ping_s = now_s
        self._received_count = 0
        self._sent_count = 0
        self._unanswered_since_s: float | None = None

    def check(self, now_s: float, *, sent_count: int, received_count: int) -> Pulse:
        """Take the running totals of UDP datagrams and say what to do."""
        if received_count != self._received_count:
            self._unanswered_since_s = None
        elif sent_count != self._sent_count and self._unanswered_since_s is None:
            self._unanswered_since_s = now_s
        self._received_count, self._sent_count = received_count, sent_count
        if self._unanswered_since_s is not None:
            if now_s - self._unanswered_since_s >= self._limits.silence_timeout_s:
                return Pulse.GONE
            # what went out may have been acknowledgements, which nobody answers
            self._last_ping_s = now_s
            return Pulse.PING
        if now_s - self._last_ping_s >= self._limits.keepalive_interval_s:
            self._last_ping_s = now_s
            return Pulse.PING
        return Pulse.FINE
