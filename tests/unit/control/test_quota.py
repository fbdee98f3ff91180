"""Quotas hold across transports, and forget who is gone."""

from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy.rules import Rule, RuleLimits, parse_target
from masque_relay.control.quota import OpenRates, QuotaLedger
from masque_relay.control.quota_book import LocalBook
from masque_relay.control.settings import GateLimits
from tests.support.gates import NOW_S


def rule(name: str = "r", limits: RuleLimits | None = None) -> Rule:
    return Rule(
        name=name,
        allow=True,
        who=("*",),
        methods=frozenset({Method.CONNECT_UDP}),
        targets=(parse_target("*"),),
        limits=limits or RuleLimits(),
    )


def test_a_subject_holds_so_many_tunnels_and_another_one_does_not_mind() -> None:
    ledger = QuotaLedger(GateLimits(tunnels_per_subject=2))
    assert ledger.take("alice") is None
    assert ledger.take("alice") is None
    denial = ledger.take("alice")
    assert denial is not None
    assert denial.reason is DenyReason.TUNNEL_QUOTA
    assert ledger.take("bob") is None
    ledger.give_back("alice")
    assert ledger.take("alice") is None


def test_the_relay_holds_so_many_tunnels_in_all() -> None:
    ledger = QuotaLedger(GateLimits(max_tunnels=2))
    assert ledger.take("alice") is None
    assert ledger.take("bob") is None
    denial = ledger.take("carol")
    assert denial is not None
    assert denial.reason is DenyReason.OVERLOADED
    assert denial.retry_after_s
    assert ledger.room() == denial


def test_a_rule_has_caps_of_its_own() -> None:
    ledger = QuotaLedger(GateLimits())
    capped = rule(limits=RuleLimits(tunnels=3, tunnels_per_subject=2))
    assert [ledger.take_rule(capped, "alice", NOW_S) for _ in range(2)] == [None, None]
    denial = ledger.take_rule(capped, "alice", NOW_S)
    assert denial is not None
    assert (denial.reason, denial.rule) == (DenyReason.TUNNEL_QUOTA, "r")
    assert ledger.take_rule(capped, "bob", NOW_S) is None
    assert ledger.take_rule(capped, "carol", NOW_S) is not None
    ledger.give_back_rule(capped, "alice")
    assert ledger.take_rule(capped, "carol", NOW_S) is None


def test_the_bytes_of_a_day_are_used_up_until_midnight_utc() -> None:
    ledger = QuotaLedger(GateLimits())
    daily = rule(limits=RuleLimits(bytes_per_subject_per_day=1000))
    noon_s = 86_400.0 * 20_000 + 43_200
    ledger.add_day_bytes(daily, "alice", 999, noon_s)
    assert ledger.take_rule(daily, "alice", noon_s) is None
    ledger.add_day_bytes(daily, "alice", 1, noon_s)
    denial = ledger.take_rule(daily, "alice", noon_s)
    assert denial is not None
    assert (denial.reason, denial.retry_after_s) == (DenyReason.BYTE_QUOTA, 43_200)
    assert ledger.take_rule(daily, "bob", noon_s) is None
    assert ledger.take_rule(daily, "alice", noon_s + 43_200) is None


def test_the_ledger_forgets_who_holds_nothing() -> None:
    book = LocalBook(10)
    ledger = QuotaLedger(GateLimits(), book)
    for number in range(10):
        ledger.take(f"s{number}")
        ledger.take_rule(rule(), f"s{number}", NOW_S)
        ledger.give_back_rule(rule(), f"s{number}")
        ledger.give_back(f"s{number}")
    assert ledger.tunnel_count == 0
    assert not book._counts


def test_opens_come_in_a_burst_and_then_at_the_rate() -> None:
    rates = OpenRates(GateLimits(opens_per_s=2.0, open_burst=3))
    assert [rates.ask("alice", 0.0) for _ in range(3)] == [None] * 3
    denial = rates.ask("alice", 0.0)
    assert denial is not None
    assert (denial.reason, denial.retry_after_s) == (DenyReason.OPEN_RATE, 1)
    assert rates.ask("bob", 0.0) is None
    assert rates.ask("alice", 0.5) is None
    assert rates.ask("alice", 0.5) is not None


def test_new_limits_hold_from_the_reload_on() -> None:
    rates = OpenRates(GateLimits(open_burst=1))
    rates.ask("alice", 0.0)
    rates.configure(GateLimits(open_burst=1))
    assert rates.ask("alice", 0.0) is not None
    rates.configure(GateLimits(open_burst=2))
    assert rates.ask("alice", 0.0) is None
