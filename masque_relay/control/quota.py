"""Owns the quotas: tunnels, opens per second and bytes per day, on all transports."""

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import TypeVar

from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.meter import TokenBucket
from masque_relay.control.policy.rules import Rule
from masque_relay.control.settings import GateLimits

Key = TypeVar("Key", bound=Hashable)

_DAY_S = 86_400
MAX_DAY_ENTRIES = 65_536  # subjects with a daily byte quota; the longest unused is forgotten first


class OpenRates:
    """How fast each subject asks for tunnels, whatever the answer is."""

    def __init__(self, limits: GateLimits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def configure(self, limits: GateLimits) -> None:
        """Use other limits; every subject starts with a full burst."""
        if limits != self._limits:
            self._limits = limits
            self._buckets.clear()

    def ask(self, subject: str, now_s: float) -> Denial | None:
        """Count one request at a monotonic moment; a denial if it came too fast."""
        bucket = self._buckets.get(subject)
        if bucket is None:
            bucket = TokenBucket(
                rate_per_s=self._limits.opens_per_s, burst=self._limits.open_burst, now_s=now_s
            )
            self._buckets[subject] = bucket
            while len(self._buckets) > self._limits.tracked_subjects:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(subject)
        if bucket.refill(now_s) >= 1:
            bucket.take(1)
            return None
        return Denial(
            reason=DenyReason.OPEN_RATE,
            detail="the subject opens tunnels too fast",
            retry_after_s=max(1, math.ceil(bucket.wait_s(1))),
        )


class QuotaLedger:
    """Who holds how many tunnels, and how many bytes passed today."""

    def __init__(self, limits: GateLimits) -> None:
        self.limits = limits
        self._total = 0
        self._by_subject: Counter[str] = Counter()
        self._by_rule: Counter[str] = Counter()
        self._by_rule_subject: Counter[tuple[str, str]] = Counter()
        self._day = -1
        self._day_bytes: OrderedDict[tuple[str, str], int] = OrderedDict()

    @property
    def tunnel_count(self) -> int:
        """Tunnels held now."""
        return self._total

    def room(self) -> Denial | None:
        """Return a denial if the relay itself is full."""
        if self._total < self.limits.max_tunnels:
            return None
        return Denial(
            reason=DenyReason.OVERLOADED,
            detail=f"the relay holds {self._total} tunnels, its cap",
            retry_after_s=5,
        )

    def take(self, subject: str) -> Denial | None:
        """Take a place for one tunnel of a subject; a denial if there is none."""
        denial = self.room()
        if denial is not None:
            return denial
        if self._by_subject[subject] >= self.limits.tunnels_per_subject:
            return _too_many("the subject", self.limits.tunnels_per_subject)
        self._total += 1
        self._by_subject[subject] += 1
        return None

    def give_back(self, subject: str) -> None:
        """Free the place that :meth:`take` took."""
        self._total -= 1
        _decrement(self._by_subject, subject)

    def take_rule(self, rule: Rule, subject: str, wall_s: float) -> Denial | None:
        """Take a place under a rule; a denial if there is none or today's bytes are used up."""
        limits = rule.limits
        key = (rule.name, subject)
        if limits.tunnels is not None and self._by_rule[rule.name] >= limits.tunnels:
            return _too_many("the rule", limits.tunnels, rule=rule.name)
        if (
            limits.tunnels_per_subject is not None
            and self._by_rule_subject[key] >= limits.tunnels_per_subject
        ):
            return _too_many("the subject", limits.tunnels_per_subject, rule=rule.name)
        if self.day_bytes_used_up(rule, subject, wall_s):
            return Denial(
                reason=DenyReason.BYTE_QUOTA,
                detail="the subject's bytes of today are used up",
                rule=rule.name,
                retry_after_s=max(1, math.ceil(_DAY_S - wall_s % _DAY_S)),
            )
        self._by_rule[rule.name] += 1
        self._by_rule_subject[key] += 1
        return None

    def give_back_rule(self, rule: Rule, subject: str) -> None:
        """Free the place that :meth:`take_rule` took."""
        _decrement(self._by_rule, rule.name)
        _decrement(self._by_rule_subject, (rule.name, subject))

    def add_day_bytes(self, rule: Rule, subject: str, byte_count: int, wall_s: float) -> None:
        """Count bytes of a subject under a rule that limits them per UTC day."""
        if rule.limits.bytes_per_subject_per_day is None or byte_count <= 0:
            return
        self._turn_day(wall_s)
        key = (rule.name, subject)
        self._day_bytes[key] = self._day_bytes.get(key, 0) + byte_count
        self._day_bytes.move_to_end(key)
        while len(self._day_bytes) > MAX_DAY_ENTRIES:
            self._day_bytes.popitem(last=False)

    def day_bytes_used_up(self, rule: Rule, subject: str, wall_s: float) -> bool:
        """Return whether a subject has used up its bytes of today under a rule."""
        limit = rule.limits.bytes_per_subject_per_day
        if limit is None:
            return False
        self._turn_day(wall_s)
        return self._day_bytes.get((rule.name, subject), 0) >= limit

    def _turn_day(self, wall_s: float) -> None:
        day = int(wall_s // _DAY_S)
        if day != self._day:
            self._day = day
            self._day_bytes.clear()


def _too_many(whose: str, count: int, *, rule: str | None = None) -> Denial:
    return Denial(
        reason=DenyReason.TUNNEL_QUOTA,
        detail=f"{whose} holds {count} tunnels, as many as it may",
        rule=rule,
    )


def _decrement(counter: Counter[Key], key: Key) -> None:
    """Count down, and forget what is at zero: the names come from peers."""
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]
