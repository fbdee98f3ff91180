"""Owns the budget of replies to clients that have not shown who they are.

A fixed table of token buckets, found by a keyed hash of the source: no flood makes it grow. Two
sources that share a bucket share its rate; which ones do is secret and new at every start.
"""

import secrets

BUCKETS = 4_096


class ReplyBudget:
    """So many replies per second to each source, and so many in all."""

    __slots__ = (
        "_burst",
        "_per_s",
        "_salt",
        "_tokens",
        "_total",
        "_total_at_s",
        "_total_per_s",
        "_updated_s",
    )

    def __init__(self, *, per_s: float, burst: int, total_per_s: float) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._total_per_s = total_per_s
        self._total = total_per_s
        self._total_at_s = 0.0
        self._salt = secrets.randbits(60)
        self._tokens = [float(burst)] * BUCKETS
        self._updated_s = [0.0] * BUCKETS

    def has_room(self, source: bytes, now_s: float) -> bool:
        """Return whether a reply to this source would be within the budget; takes nothing."""
        return self._refill(self._index(source), now_s) >= 1.0

    def take(self, source: bytes, now_s: float) -> bool:
        """Take one reply from the budget of a source and from that of all; False if there is none.

        Args:
            source: an IPv4 address or an IPv6 /64, packed.
            now_s: monotonic.
        """
        index = self._index(source)
        if self._refill(index, now_s) < 1.0:
            return False
        if now_s > self._total_at_s:
            more = (now_s - self._total_at_s) * self._total_per_s
            self._total = min(self._total_per_s, self._total + more)
            self._total_at_s = now_s
        if self._total < 1.0:
            return False
        self._total -= 1.0
        self._tokens[index] -= 1.0
        return True

    def _index(self, source: bytes) -> int:
        return hash((self._salt, source)) % BUCKETS

    def _refill(self, index: int, now_s: float) -> float:
        tokens = self._tokens[index]
        passed_s = now_s - self._updated_s[index]
        if passed_s > 0:
            tokens = min(self._burst, tokens + passed_s * self._per_s)
            self._tokens[index] = tokens
            self._updated_s[index] = now_s
        return tokens
