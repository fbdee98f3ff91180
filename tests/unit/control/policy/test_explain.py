"""An explanation names the deciding rule, and why each earlier one did not match."""

from ipaddress import ip_address

import pytest

from masque_relay.contract.request import Method
from masque_relay.control.policy import parse_policy
from masque_relay.control.policy.explain import Match, explain
from masque_relay.control.policy.rules import Outcome, Query
from tests.support.gates import NOW_S

POLICY = parse_policy(
    """
[group.staff]
subjects = ["bob"]
[[rule]]
name = "others"
action = "allow"
who = ["group:staff", "carol"]
methods = ["*"]
targets = ["*"]
[[rule]]
name = "binding"
action = "allow"
who = ["*"]
methods = ["bind-udp"]
targets = ["*"]
[[rule]]
name = "fridays"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["*"]
times = { days = ["fri"] }
[[rule]]
name = "inside"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["*"]
sources = ["192.0.2.0/24"]
[[rule]]
name = "no-quad-eight"
action = "deny"
who = ["*"]
methods = ["connect-udp"]
targets = ["8.8.8.8:*"]
[[rule]]
name = "web"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["a.example:1", "*:443"]
"""
)


def query(name: str | None = None, address: str | None = None, port: int = 443) -> Query:
    return Query(
        subject="alice",
        method=Method.CONNECT_UDP,
        name=name,
        address=None if address is None else ip_address(address),
        port=port,
        source=ip_address("203.0.113.1"),
        now_s=NOW_S,
    )


def test_each_rule_before_the_deciding_one_says_why_it_did_not_match() -> None:
    explanation = explain(POLICY, query(address="1.1.1.1"))
    assert explanation.decision.outcome is Outcome.ALLOW
    assert [step.rule.name for step in explanation.steps][-1] == "web"
    whys = [step.why for step in explanation.steps]
    assert whys[0] == "who: 'alice' is not among group:staff, carol"
    assert whys[1] == "methods: connect-udp is not among bind-udp"
    assert whys[2] == "times: they do not hold at Tue 2023-11-14T22:13:20Z"
    assert whys[3] == "sources: 203.0.113.1 is not among them"
    assert whys[4] == "targets: 1.1.1.1, port 443 is not among 8.8.8.8:*"
    assert whys[5] == "targets: *:443"


def test_a_rule_that_goes_by_the_address_makes_a_name_pending() -> None:
    explanation = explain(POLICY, query(name="example.org"))
    assert explanation.decision.outcome is Outcome.PENDING
    assert explanation.steps[4].match is Match.PERHAPS


def test_a_protected_address_is_blocked_and_the_rule_named() -> None:
    explanation = explain(POLICY, query(name="example.org", address="127.0.0.1"))
    assert explanation.steps[-1].match is Match.BLOCKED
    assert "'web' does not name its range by CIDR" in explanation.decision.detail


MESH = parse_policy(
    """
[group.servers]
subjects = ["nas-*"]
claims = ["server"]

[[rule]]
name = "not-the-vault"
action = "deny"
who = ["*"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["nas-vault"]

[[rule]]
name = "use-servers"
action = "allow"
who = ["alice"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["group:servers", "bob"]

[[rule]]
name = "be-called"
action = "allow"
who = ["nas-*"]
methods = ["ghostwire"]
targets = ["*"]

[[rule]]
name = "nobody-else"
action = "deny"
who = ["*"]
methods = ["ghostwire"]
targets = ["*"]
"""
)


@pytest.mark.parametrize(
    ("subject", "peer", "peer_groups", "rule", "why"),
    [
        ("alice", None, (), "use-servers", ""),
        ("nas-1", None, (), "be-called", ""),
        ("eve", None, (), "nobody-else", ""),
        ("alice", "nas-1", (), "use-servers", "peers: group:servers"),
        ("alice", "printer", ("server",), "use-servers", "peers: group:servers"),
        ("alice", "bob", (), "use-servers", "peers: bob"),
        ("alice", "nas-vault", (), "not-the-vault", "peers: nas-vault"),
        ("alice", "carol", (), "nobody-else", "it is about every call"),
        ("nas-1", "alice", (), "nobody-else", "it is about every call"),
    ],
)
def test_calls_between_peers_are_decided_by_whom_they_name(
    subject: str, peer: str | None, peer_groups: tuple[str, ...], rule: str, why: str
) -> None:
    asked = Query(
        subject=subject,
        method=Method.GHOSTWIRE,
        peer_subject=peer,
        peer_groups=peer_groups,
        now_s=NOW_S,
    )
    explanation = explain(MESH, asked)

    assert MESH.decide(asked) == explanation.decision
    assert explanation.decision.rule is not None
    assert explanation.decision.rule.name == rule
    assert why in explanation.steps[-1].why
    allowed = rule in {"use-servers", "be-called"}
    assert explanation.decision.outcome is (Outcome.ALLOW if allowed else Outcome.DENY)
