"""Owns the quotas: tunnels, opens per second and bytes per day, on all transports."""

import math

from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.policy.rules import Rule
from masque_relay.control.quota_book import LocalBook, QuotaBook
from masque_relay.control.settings import GateLimits

_DAY_S = 86_400
_ALL = ("all",)


class OpenRates:
    """How fast each subject asks for tunnels, whatever the answer is."""

    def __init__(self, limits: GateLimits, book: QuotaBook | None = None) -> None:
        self._limits = limits
        self._book: QuotaBook = book or LocalBook(limits.tracked_subjects)

    def configure(self, limits: GateLimits) -> None:
        """Use other limits; every subject starts with a full burst."""
        if limits != self._limits:
            self._limits = limits
            with self._book.exclusive():
                self._book.fill_buckets(limits.tracked_subjects)

    def ask(self, subject: str, now_s: float) -> Denial | None:
        """Count one request at a monotonic moment; a denial if it came too fast."""
        with self._book.exclusive():
            wait_s = self._book.take_token(
                subject,
                rate_per_s=self._limits.opens_per_s,
                burst=self._limits.open_burst,
                now_s=now_s,
            )
        if wait_s is None:
            return None
        return Denial(
            reason=DenyReason.OPEN_RATE,
            detail="the subject opens tunnels too fast",
            retry_after_s=max(1, math.ceil(wait_s)),
        )


class QuotaLedger:
    """Who holds how many tunnels, and how many bytes passed today."""

    def __init__(self, limits: GateLimits, book: QuotaBook | None = None) -> None:
        """Count in a book of our own, or in one that several workers share."""
        self.limits = limits
        self._book: QuotaBook = book or LocalBook(limits.tracked_subjects)

    @property
    def tunnel_count(self) -> int:
        """Tunnels held now."""
        with self._book.exclusive():
            return self._book.count(_ALL)

    def room(self) -> Denial | None:
        """Return a denial if the relay itself is full."""
        with self._book.exclusive():
            return self._room()

    def take(self, subject: str) -> Denial | None:
        """Take a place for one tunnel of a subject; a denial if there is none."""
        book, name = self._book, ("subject", subject)
        with book.exclusive():
            denial = self._room()
            if denial is not None:
                return denial
            if book.count(name) >= self.limits.tunnels_per_subject:
                return _too_many("the subject", self.limits.tunnels_per_subject)
            book.add(_ALL, 1)
            book.add(name, 1)
        return None

    def give_back(self, subject: str) -> None:
        """Free the place that :meth:`take` took."""
        with self._book.exclusive():
            self._book.add(_ALL, -1)
            self._book.add(("subject", subject), -1)

    def take_rule(self, rule: Rule, subject: str, wall_s: float) -> Denial | None:
        """Take a place under a rule; a denial if there is none or today's bytes are used up."""
        with self._book.exclusive():
            denial = self._rule_denial(rule, subject, wall_s)
            if denial is None:
                self._book.add(("rule", rule.name), 1)
                self._book.add(("rule", rule.name, subject), 1)
        return denial

    def give_back_rule(self, rule: Rule, subject: str) -> None:
        """Free the place that :meth:`take_rule` took."""
        with self._book.exclusive():
            self._book.add(("rule", rule.name), -1)
            self._book.add(("rule", rule.name, subject), -1)

    def add_day_bytes(self, rule: Rule, subject: str, byte_count: int, wall_s: float) -> None:
        """Count bytes of a subject under a rule that limits them per UTC day."""
        if rule.limits.bytes_per_subject_per_day is None or byte_count <= 0:
            return
        with self._book.exclusive():
            self._book.add_day_bytes(_day(wall_s), ("day", rule.name, subject), byte_count)

    def day_bytes_used_up(self, rule: Rule, subject: str, wall_s: float) -> bool:
        """Return whether a subject has used up its bytes of today under a rule."""
        if rule.limits.bytes_per_subject_per_day is None:
            return False
        with self._book.exclusive():
            return self._day_bytes_used_up(rule, subject, wall_s)

    def _room(self) -> Denial | None:
        held = self._book.count(_ALL)
        if held < self.limits.max_tunnels and not self._book.is_full:
            return None
        return Denial(
            reason=DenyReason.OVERLOADED,
            detail=f"the relay holds {held} tunnels, its cap",
            retry_after_s=5,
        )

    def _rule_denial(self, rule: Rule, subject: str, wall_s: float) -> Denial | None:
        limits, book = rule.limits, self._book
        if limits.tunnels is not None and book.count(("rule", rule.name)) >= limits.tunnels:
            return _too_many("the rule", limits.tunnels, rule=rule.name)
        if (
            limits.tunnels_per_subject is not None
            and book.count(("rule", rule.name, subject)) >= limits.tunnels_per_subject
        ):
            return _too_many("the subject", limits.tunnels_per_subject, rule=rule.name)
        if self._day_bytes_used_up(rule, subject, wall_s):
            return Denial(
                reason=DenyReason.BYTE_QUOTA,
                detail="the subject's bytes of today are used up",
                rule=rule.name,
                retry_after_s=max(1, math.ceil(_DAY_S - wall_s % _DAY_S)),
            )
        return None

    def _day_bytes_used_up(self, rule: Rule, subject: str, wall_s: float) -> bool:
        limit = rule.limits.bytes_per_subject_per_day
        if limit is None:
            return False
        return self._book.day_bytes(_day(wall_s), ("day", rule.name, subject)) >= limit


def _too_many(whose: str, count: int, *, rule: str | None = None) -> Denial:
    return Denial(
        reason=DenyReason.TUNNEL_QUOTA,
        detail=f"{whose} holds {count} tunnels, as many as it may",
        rule=rule,
    )


def _day(wall_s: float) -> int:
    return int(wall_s // _DAY_S)
