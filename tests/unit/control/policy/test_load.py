"""Loading runs the policy's own tests and refuses a policy that fails them."""

from pathlib import Path

import pytest

from masque_relay.contract.errors import ConfigError
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy import load_policy, parse_policy
from masque_relay.control.policy.load import describe_decision
from masque_relay.control.policy.rules import Decision, Outcome
from tests.support.gates import NOW_S, WEB_POLICY

TEST = """
[[test]]
as = "alice"
method = "connect-udp"
target = "example.org:443"
expect = "allow"
rule = "web"
"""


def test_a_policy_whose_tests_pass_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(WEB_POLICY + TEST)
    policy = load_policy(file)
    assert [rule.name for rule in policy.rules] == ["web"]
    assert len(policy.digest) == 12


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"allow"\nrule', '"deny"\nrule', "expected deny by rule 'web'"),
        (":443", ":53", "got deny by no rule (no rule allows it)"),
        ("example.org", "127.0.0.1", "got deny by rule 'web' (protected address (loopback)"),
    ],
)
def test_a_failing_test_names_line_expectation_and_next_step(old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(WEB_POLICY + TEST.replace(old, new), file="p.toml")
    (problem,) = caught.value.problems
    assert (problem.line, problem.key_path) == (9, "test[0]")
    assert says in problem.detail
    assert "ghostctl policy explain --policy p.toml --as alice" in (problem.hint or "")


def test_tests_are_asked_at_their_own_moment_or_at_that_of_the_load() -> None:
    timed = WEB_POLICY + '[rule.times]\ndays = ["tue"]\n'
    assert parse_policy(timed + TEST, now_s=NOW_S)
    with pytest.raises(ConfigError):
        parse_policy(timed + TEST, now_s=NOW_S + 86_400)
    assert parse_policy(timed + TEST + "at = 2023-11-14T00:00:00Z\n", now_s=NOW_S + 86_400)


def test_a_test_may_give_groups_source_address_and_no_target() -> None:
    policy = """
[group.ops]
claims = ["wg-ops"]
[[rule]]
name = "listen"
action = "allow"
who = ["group:ops"]
methods = ["bind-udp", "connect-udp"]
targets = ["*"]
sources = ["203.0.113.0/24"]
[[test]]
as = "x"
groups = ["wg-ops"]
method = "bind-udp"
source = "203.0.113.7"
expect = "allow"
[[test]]
as = "x"
method = "bind-udp"
source = "203.0.113.7"
expect = "deny"
[[test]]
as = "x"
groups = ["wg-ops"]
method = "connect-udp"
target = "example.org:1"
address = "10.0.0.1"
source = "203.0.113.7"
expect = "deny"
"""
    assert len(parse_policy(policy).tests) == 3


def test_a_file_that_is_not_there_is_a_problem_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: can't be read: No such file"):
        load_policy(tmp_path / "missing.toml")


def test_bytes_that_are_not_text_are_a_problem_not_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_policy(file)


def test_a_decision_is_described_for_people() -> None:
    decision = Decision(outcome=Outcome.DENY, rule=None, reason=DenyReason.POLICY)
    assert describe_decision(decision) == "deny by no rule"
