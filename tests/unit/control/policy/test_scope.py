"""Scopes of CONNECT-IP: how people write them, and what a policy says about them."""

from ipaddress import ip_network

import pytest

from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy.explain import explain
from masque_relay.control.policy.rules import Decision, PatternError, Query
from masque_relay.control.policy.scope import is_scope_text, overlap, parse_scope
from tests.support.gates import NOW_S
from tests.unit.control.policy.test_compile import answer, policy, rule


def allow(*targets: str, name: str = "yes") -> str:
    return rule(name, "allow", *targets, method="connect-ip")


def deny(*targets: str, name: str = "no") -> str:
    return rule(name, "deny", *targets, method="connect-ip")


def ask_scope(text: str, *rules: str, address: str | None = None) -> Decision:
    """Ask the compiled policy, and the rules one by one, which must agree."""
    compiled = policy(*rules)
    name, network = parse_scope(text)
    query = Query(
        subject="alice",
        method=Method.CONNECT_IP,
        name=name,
        network=ip_network(address) if address else network,
        now_s=NOW_S,
    )
    decision = compiled.decide(query)
    assert explain(compiled, query).decision == decision
    return decision


class TestText:
    @pytest.mark.parametrize(
        ("text", "name", "network"),
        [
            ("*", None, None),
            ("10.0.0.0/8", None, "10.0.0.0/8"),
            ("10.0.0.7", None, "10.0.0.7/32"),
            ("2001:db8::/32", None, "2001:db8::/32"),
            ("::1", None, "::1/128"),
            ("Example.ORG.", "example.org", None),
        ],
    )
    def test_a_scope(self, text: str, name: str | None, network: str | None) -> None:
        assert is_scope_text(text)
        assert parse_scope(text) == (name, None if network is None else ip_network(network))

    @pytest.mark.parametrize("text", ["example.org:443", "10.0.0.1:22", "[2001:db8::1]:22"])
    def test_a_target_with_a_port_is_none(self, text: str) -> None:
        assert not is_scope_text(text)

    @pytest.mark.parametrize("text", ["*.example.org", "10.0.0.1/8", "exa mple", "10.0.0.0/40"])
    def test_what_is_neither(self, text: str) -> None:
        with pytest.raises(PatternError):
            parse_scope(text)


class TestDecision:
    def test_a_prefix_that_a_rule_touches_is_pending(self) -> None:
        for targets in ("10.1.0.0/16:22", "10.0.0.0/8:*", "10.1.2.3:22"):
            assert answer(ask_scope("10.1.0.0/16", allow(targets))) == ("pending", "yes")

    def test_a_prefix_that_no_rule_touches_is_denied(self) -> None:
        decision = ask_scope("10.1.0.0/16", allow("10.2.0.0/16:*", "example.org:*"))
        assert answer(decision) == ("deny", None)
        assert decision.reason is DenyReason.POLICY

    def test_protected_ranges_need_a_rule_that_names_them(self) -> None:
        decision = ask_scope("10.1.0.0/16", allow("*:*"))
        assert answer(decision) == ("deny", "yes")
        assert decision.reason is DenyReason.ADDRESS_PROHIBITED
        assert answer(ask_scope("10.1.0.0/16", allow("*:*", "0.0.0.0/0:*")))[0] == "deny"
        assert answer(ask_scope("0.0.0.0/0", allow("*:443"))) == ("pending", "yes")
        assert answer(ask_scope("9.9.9.0/24", allow("*:443"))) == ("pending", "yes")

    def test_a_deny_rule_that_takes_in_all_of_it_decides(self) -> None:
        rules = deny("10.0.0.0/8:*"), allow("10.1.0.0/16:*")
        assert answer(ask_scope("10.1.0.0/16", *rules)) == ("deny", "no")
        assert answer(ask_scope("10.1.0.0/16", *reversed(rules))) == ("pending", "yes")

    def test_one_that_takes_in_a_part_does_not(self) -> None:
        for targets in ("10.1.1.0/24:*", "10.0.0.0/8:22", "*:22"):
            decision = ask_scope("10.1.0.0/16", deny(targets), allow("10.1.0.0/16:*"))
            assert answer(decision) == ("pending", "yes")

    def test_a_name_by_its_own_rules_at_any_port(self) -> None:
        assert answer(ask_scope("db.corp.example", allow("*.corp.example:5432"))) == (
            "pending",
            "yes",
        )
        assert answer(ask_scope("corp.example", allow("*.corp.example:*"))) == ("deny", None)
        assert answer(ask_scope("a.example", deny("a.example:*"), allow("*"))) == ("deny", "no")

    def test_a_name_and_an_address_that_it_resolves_to(self) -> None:
        rules = (allow("*.corp.example:5432", "10.9.0.0/16:22"),)
        assert answer(ask_scope("a.corp.example", *rules, address="9.9.9.9"))[0] == "pending"
        prohibited = ask_scope("a.corp.example", *rules, address="10.8.0.1")
        assert prohibited.reason is DenyReason.ADDRESS_PROHIBITED
        assert answer(ask_scope("a.corp.example", *rules, address="10.9.0.1"))[0] == "pending"
        assert answer(ask_scope("b.example", *rules, address="9.9.9.9")) == ("deny", None)

    def test_everything_goes_by_the_rules_for_no_target(self) -> None:
        assert answer(ask_scope("*", allow("10.0.0.0/8:*"))) == ("pending", "yes")
        assert answer(ask_scope("*", allow("*"))) == ("allow", "yes")
        assert answer(ask_scope("*", allow("*.example.org:*"))) == ("deny", None)


def test_overlap() -> None:
    assert overlap(ip_network("10.0.0.0/8"), ip_network("10.1.0.0/16"))
    assert overlap(ip_network("10.1.0.0/16"), ip_network("10.0.0.0/8"))
    assert not overlap(ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16"))
    assert not overlap(ip_network("0.0.0.0/0"), ip_network("::/0"))
