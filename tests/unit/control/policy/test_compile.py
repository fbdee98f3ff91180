"""First match wins, with full knowledge and with a name alone; look-ups stay quick."""

import time
from ipaddress import ip_address

import pytest

from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy import CompiledPolicy, parse_policy
from masque_relay.control.policy.compile import MAX_REMEMBERED_IDENTITIES
from masque_relay.control.policy.rules import Decision, Outcome, Query
from tests.support.gates import NOW_S


def rule(name: str, action: str, *targets: str, who: str = "*", method: str = "connect-udp") -> str:
    listed = ", ".join(f'"{target}"' for target in targets)
    return (
        f'[[rule]]\nname = "{name}"\naction = "{action}"\nwho = ["{who}"]\n'
        f'methods = ["{method}"]\ntargets = [{listed}]\n'
    )


def policy(*rules: str) -> CompiledPolicy:
    return parse_policy("".join(rules))


def ask(
    compiled: CompiledPolicy,
    name: str | None = None,
    address: str | None = None,
    port: int | None = 443,
    *,
    subject: str = "alice",
    groups: tuple[str, ...] = (),
    method: Method = Method.CONNECT_UDP,
) -> Decision:
    return compiled.decide(
        Query(
            subject=subject,
            groups=groups,
            method=method,
            name=name,
            address=None if address is None else ip_address(address),
            port=port,
            now_s=NOW_S,
        )
    )


def answer(decision: Decision) -> tuple[str, str | None]:
    return decision.outcome.value, None if decision.rule is None else decision.rule.name


def test_the_first_matching_rule_wins() -> None:
    compiled = policy(
        rule("bad", "deny", "bad.example:*"), rule("all", "allow", "*"), rule("late", "deny", "*")
    )
    assert answer(ask(compiled, "bad.example")) == ("deny", "bad")
    assert answer(ask(compiled, "good.example")) == ("allow", "all")


def test_nothing_is_allowed_by_default() -> None:
    decision = ask(policy(), "example.org")
    assert answer(decision) == ("deny", None)
    assert decision.reason is DenyReason.POLICY


@pytest.mark.parametrize(
    ("subject", "groups", "allowed"),
    [
        ("alice", (), True),
        ("bob@example.org", (), True),
        ("carol", ("wg-ops",), True),
        ("carol", ("wg-other",), False),
        ("Alice", (), False),
        ("group:staff", (), False),
    ],
)
def test_groups_take_subjects_patterns_claims_and_other_groups(
    subject: str, groups: tuple[str, ...], allowed: bool
) -> None:
    compiled = parse_policy(
        '[group.staff]\nsubjects = ["alice", "*@example.org"]\ngroups = ["ops"]\n'
        '[group.ops]\nclaims = ["wg-ops"]\n' + rule("r", "allow", "*", who="group:staff")
    )
    outcome = ask(compiled, "example.org", subject=subject, groups=groups).outcome
    assert (outcome is Outcome.ALLOW) is allowed


def test_a_name_is_pending_when_a_rule_goes_by_address() -> None:
    compiled = policy(rule("lab", "allow", "10.0.0.0/8:53"))
    assert answer(ask(compiled, "db.example", port=53)) == ("pending", "lab")
    assert answer(ask(compiled, "db.example", port=54)) == ("deny", None)
    assert answer(ask(compiled, "db.example", "10.1.1.1", port=53)) == ("allow", "lab")
    assert answer(ask(compiled, "db.example", "1.1.1.1", port=53)) == ("deny", None)


def test_a_deny_by_address_before_an_allow_by_name_makes_it_pending() -> None:
    compiled = policy(rule("no", "deny", "8.8.8.0/24:*"), rule("web", "allow", "*:443"))
    assert answer(ask(compiled, "dns.example")) == ("pending", "web")
    assert answer(ask(compiled, "dns.example", "8.8.8.8")) == ("deny", "no")
    assert answer(ask(compiled, "dns.example", "1.1.1.1")) == ("allow", "web")


def test_a_deny_by_name_is_final_only_if_no_address_rule_came_before() -> None:
    compiled = policy(rule("lab", "allow", "10.0.0.0/8:*"), rule("no", "deny", "*"))
    assert answer(ask(compiled, "x.example")) == ("pending", "lab")
    compiled = policy(rule("no", "deny", "*"), rule("lab", "allow", "10.0.0.0/8:*"))
    assert answer(ask(compiled, "x.example")) == ("deny", "no")


def test_only_a_cidr_within_a_protected_range_reaches_into_it() -> None:
    compiled = policy(
        rule("name", "allow", "localhost:443"),
        rule("any", "allow", "*:443"),
        rule("world", "allow", "0.0.0.0/0:443"),
        rule("lab", "allow", "10.0.0.0/8:443"),
    )
    decision = ask(compiled, "localhost", "127.0.0.1")
    assert answer(decision) == ("deny", "name")
    assert decision.reason is DenyReason.ADDRESS_PROHIBITED
    assert answer(ask(compiled, "localhost", "10.0.0.1")) == ("allow", "lab")
    assert answer(ask(compiled, None, "10.0.0.1")) == ("allow", "lab")
    assert answer(ask(compiled, None, "1.1.1.1")) == ("allow", "any")


def test_a_protected_address_that_no_rule_means_is_an_ordinary_refusal() -> None:
    decision = ask(policy(rule("web", "allow", "*:443")), None, "127.0.0.1", port=53)
    assert decision.reason is DenyReason.POLICY


def test_the_cidr_that_lifts_must_have_the_port_too() -> None:
    compiled = policy(rule("r", "allow", "*:*", "127.0.0.0/8:53"))
    assert ask(compiled, None, "127.0.0.1", port=53).outcome is Outcome.ALLOW
    assert ask(compiled, None, "127.0.0.1", port=54).reason is DenyReason.ADDRESS_PROHIBITED


def test_a_deny_rule_knows_an_address_in_every_form() -> None:
    compiled = policy(rule("no", "deny", "8.8.8.0/24:*"), rule("all", "allow", "*"))
    for form in ("8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"):
        assert answer(ask(compiled, None, form)) == ("deny", "no"), form


def test_an_allow_rule_does_not_follow_embedded_addresses() -> None:
    compiled = policy(rule("lab", "allow", "10.0.0.0/8:*"))
    assert ask(compiled, None, "64:ff9b::a00:1").outcome is Outcome.DENY


def test_a_request_without_a_single_target_needs_a_bare_star_or_waits_for_addresses() -> None:
    compiled = policy(
        rule("bare", "allow", "*", who="alice", method="bind-udp"),
        rule("ported", "allow", "*:53", who="bob", method="bind-udp"),
        rule("named", "allow", "example.org:53", who="carol", method="bind-udp"),
    )
    for subject, expected in (("alice", "allow"), ("bob", "pending"), ("carol", "deny")):
        decision = ask(compiled, port=None, subject=subject, method=Method.BIND_UDP)
        assert decision.outcome.value == expected, subject


def test_sources_that_are_unknown_match_a_deny_rule_but_no_allow_rule() -> None:
    text = rule("r", "{}", "*").rstrip() + '\nsources = ["192.0.2.0/24"]\n'
    allow, deny = (parse_policy(text.format(action)) for action in ("allow", "deny"))
    assert answer(ask(allow, "example.org")) == ("deny", None)
    assert answer(ask(deny, "example.org")) == ("deny", "r")


def test_the_memory_of_identities_is_bounded() -> None:
    compiled = policy(rule("all", "allow", "*"))
    for number in range(MAX_REMEMBERED_IDENTITIES + 10):
        ask(compiled, "example.org", subject=f"s{number}")
    assert len(compiled._identities) <= MAX_REMEMBERED_IDENTITIES


def test_a_hundred_times_the_rules_cost_nowhere_near_a_hundred_times_the_time() -> None:
    def cost(rule_count: int) -> float:
        rules = [
            rule(f"r{number}", "allow", f"h{number}.example:443", f"20.{number % 250}.0.0/16:1")
            for number in range(rule_count)
        ]
        compiled = policy(*rules, rule("last", "allow", "last.example:443"))
        best = float("inf")
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(200):
                ask(compiled, "last.example", "1.1.1.1")
            best = min(best, time.perf_counter() - begin)
        return best

    assert cost(2000) < 25 * cost(20)
