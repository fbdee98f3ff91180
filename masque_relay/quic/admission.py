"""Owns who may begin a connection: caps on all, half-open and per source, and when to Retry."""

from collections import Counter
from enum import Enum
from ipaddress import IPv4Address, ip_address

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.limits import QuicLimits, RetryMode

_IPV6_SITE_BYTES = 8  # A /64: what one subscriber has at least.


class Verdict(Enum):
    """What to do with the Initial of an unknown connection."""

    ADMIT = "admit"
    RETRY = "retry"
    """Let the client prove its address first."""
    REFUSE = "refuse"
    """CONNECTION_REFUSED, within the rate for such answers."""


def source_key(host: str) -> bytes:
    """Return what connections are counted by: an IPv4 address or an IPv6 /64."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv4Address):
        return address.packed
    return address.packed[:_IPV6_SITE_BYTES]


class RateBound:
    """At most so many per second: a bucket that holds one second's worth."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Take one if there is one."""
        self._refill(now_s)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def spent(self, now_s: float) -> bool:
        """Whether nothing is left; takes nothing."""
        self._refill(now_s)
        return self._left < 1.0

    def _refill(self, now_s: float) -> None:
        if self._at_s is not None:
            self._left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s


class Admission:
    """Counts connections and decides on new ones. Only the server's side of an endpoint asks it."""

    def __init__(self, limits: QuicLimits, counters: QuicCounters) -> None:
        self._counters = counters
        self._per_source: Counter[bytes] = Counter()
        self._open_count = 0
        self._half_open_count = 0
        self.draining = False
        """Refuse every new connection."""
        self.replace_limits(limits)

    @property
    def open_count(self) -> int:
        """Server connections, half-open ones included."""
        return self._open_count

    @property
    def half_open_count(self) -> int:
        """Server connections whose handshake is not complete."""
        return self._half_open_count

    def replace_limits(self, limits: QuicLimits) -> None:
        """Judge by other limits from now on; what is open stays open."""
        self._limits = limits
        self._handshake_rate = RateBound(limits.retry_handshakes_per_s)

    def judge(self, key: bytes, now_s: float, *, address_validated: bool) -> Verdict:
        """Decide on one Initial of an unknown connection, and count a refusal."""
        limits, counters = self._limits, self._counters
        if self.draining or self._open_count >= limits.max_connections:
            counters.refused_total += 1
            return Verdict.REFUSE
        if not address_validated and self.retry_wanted(now_s):
            # Before the per-source cap: a spoofed source must not use up somebody else's share.
            return Verdict.RETRY
        if self._per_source[key] >= limits.max_connections_per_source:
            counters.refused_per_source += 1
            return Verdict.REFUSE
        if self._half_open_count >= limits.max_half_open:
            counters.refused_half_open += 1
            return Verdict.REFUSE
        self._handshake_rate.take(now_s)
        return Verdict.ADMIT

    def opened(self, key: bytes) -> None:
        """Count a connection that begins its handshake."""
        self._per_source[key] += 1
        self._open_count += 1
        self._half_open_count += 1
        self._publish()

    def established(self) -> None:
        """A counted connection completed its handshake."""
        self._half_open_count -= 1
        self._publish()

    def closed(self, key: bytes, *, half_open: bool) -> None:
        """A counted connection is gone."""
        self._per_source[key] -= 1
        if not self._per_source[key]:
            del self._per_source[key]
        self._open_count -= 1
        if half_open:
            self._half_open_count -= 1
        self._publish()

    def retry_wanted(self, now_s: float) -> bool:
        """Whether a source that has not proved its address must do so now."""
        mode = self._limits.retry_mode
        if mode is not RetryMode.ADAPTIVE:
            return mode is RetryMode.ALWAYS
        return (
            self._half_open_count >= self._limits.retry_half_open_count
            or self._handshake_rate.spent(now_s)
        )

    def _publish(self) -> None:
        self._counters.connections_open = self._open_count
        self._counters.connections_half_open = self._half_open_count
