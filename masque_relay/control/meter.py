"""Owns the meters of a tunnel: plain ints, and token buckets only where a rate is set."""

from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.ports import Clock

MIN_BURST_BYTES = 65_535  # TunnelLimits.burst_bytes: the largest datagram must fit


class TokenBucket:
    """A rate with a burst. Starts full."""

    __slots__ = ("_at_s", "_burst", "_rate_per_s", "_tokens")

    def __init__(self, *, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def refill(self, now_s: float) -> float:
        """Return the tokens that are there at a monotonic moment."""
        if now_s > self._at_s:
            self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_per_s)
            self._at_s = now_s
        return self._tokens

    def take(self, tokens: float) -> None:
        """Remove tokens that :meth:`refill` said were there."""
        self._tokens -= tokens

    def wait_s(self, tokens: float) -> float:
        """Return in how many seconds so many tokens will be there, if nobody takes any."""
        return max(0.0, (tokens - self._tokens) / self._rate_per_s)

    @property
    def is_full(self) -> bool:
        """Whether it held all it can when it was last refilled."""
        return self._tokens >= self._burst


class ByteBudget:
    """The payload bytes that both directions of a tunnel may still use together."""

    __slots__ = ("exhausted", "left_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.left_bytes = max_bytes
        self.exhausted = False

    def take(self, byte_count: int) -> bool:
        """Use bytes; False marks the budget as exhausted for good."""
        if self.exhausted or byte_count > self.left_bytes:
            self.exhausted = True
            return False
        self.left_bytes -= byte_count
        return True


class TunnelMeter:
    """One direction of one tunnel; implements the port ``Meter``.

    Attributes:
        datagram_count: datagrams admitted so far.
        byte_count: payload bytes admitted so far.
        dropped_count: datagrams refused by the rate so far.
    """

    __slots__ = (
        "_budget",
        "_byte_bucket",
        "_clock",
        "_datagram_bucket",
        "_limited",
        "byte_count",
        "datagram_count",
        "dropped_count",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._limited = False
        self._byte_bucket: TokenBucket | None = None
        self._datagram_bucket: TokenBucket | None = None
        self._budget: ByteBudget | None = None
        self.datagram_count = 0
        self.byte_count = 0
        self.dropped_count = 0

    def limit(self, limits: TunnelLimits, budget: ByteBudget | None) -> None:
        """Put limits in force from now on, in place: the tunnel may hold the meter already."""
        now_s = self._clock.monotonic_s()
        self._byte_bucket = self._datagram_bucket = None
        if limits.rate_bytes_per_s is not None:
            burst = limits.burst_bytes or max(limits.rate_bytes_per_s, MIN_BURST_BYTES)
            self._byte_bucket = TokenBucket(
                rate_per_s=limits.rate_bytes_per_s, burst=burst, now_s=now_s
            )
        if limits.rate_datagrams_per_s is not None:
            burst = limits.burst_datagrams or limits.rate_datagrams_per_s
            self._datagram_bucket = TokenBucket(
                rate_per_s=limits.rate_datagrams_per_s, burst=burst, now_s=now_s
            )
        self._budget = budget
        self._limited = (
            self._byte_bucket is not None or self._datagram_bucket is not None or budget is not None
        )

    def take(self, datagram_count: int, byte_count: int) -> bool:
        """Admit all of it and count it, or admit nothing and return False."""
        if self._limited and not self._admit(datagram_count, byte_count):
            return False
        self.datagram_count += datagram_count
        self.byte_count += byte_count
        return True

    def drop(self, datagram_count: int) -> None:
        """Count datagrams that the rate refused for good."""
        self.dropped_count += datagram_count

    def _admit(self, datagram_count: int, byte_count: int) -> bool:
        by_bytes, by_count = self._byte_bucket, self._datagram_bucket
        if by_bytes is not None or by_count is not None:
            now_s = self._clock.monotonic_s()
            if by_bytes is not None and by_bytes.refill(now_s) < byte_count:
                return False
            if by_count is not None and by_count.refill(now_s) < datagram_count:
                return False
        if self._budget is not None and not self._budget.take(byte_count):
            return False
        if by_bytes is not None:
            by_bytes.take(byte_count)
        if by_count is not None:
            by_count.take(datagram_count)
        return True
