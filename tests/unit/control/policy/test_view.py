"""What a policy tells one identity about itself."""

from ipaddress import ip_address, ip_network
from pathlib import Path

from masque_relay.contract.policy_view import ReachRule
from masque_relay.contract.request import Method
from masque_relay.control.auth.principal import CredentialKind, Principal
from masque_relay.control.policy import parse_policy
from masque_relay.control.policy.addresses import PROTECTED_NETWORKS
from masque_relay.control.policy.view import view_rules
from tests.support.gates import NOW_S, GateBench

TCP, UDP, IP = Method.CONNECT_TCP, Method.CONNECT_UDP, Method.CONNECT_IP
BOTH = ["connect-udp", "connect-tcp"]


def rule(
    name: str,
    action: str,
    *targets: str,
    who: str = "alice",
    methods: list[str] | None = None,
    more: str = "",
) -> str:
    return (
        f'[[rule]]\nname = "{name}"\naction = "{action}"\nwho = ["{who}"]\n'
        f"methods = {methods or BOTH}\ntargets = {list(targets)}\n{more}\n"
    )


def view(*rules: str, subject: str = "alice", groups: tuple[str, ...] = ()) -> list[ReachRule]:
    principal = Principal(
        subject=subject, groups=groups, method=CredentialKind.BEARER, key_id="key"
    )
    found = view_rules(
        parse_policy("".join(rules)),
        principal,
        source=ip_address("198.51.100.7"),
        now_s=NOW_S,
    )
    return list(found)


def test_names_subnets_and_ports_are_kept_apart_and_in_order() -> None:
    assert view(
        rule("a", "allow", "db.example:5432", "10.1.0.0/16:5432", "*.corp.example:1-1023"),
    ) == [
        ReachRule(methods=frozenset({TCP, UDP}), domains=("db.example",), ports=((5432, 5432),)),
        ReachRule(
            methods=frozenset({TCP, UDP}),
            subnets=(ip_network("10.1.0.0/16"),),
            ports=((5432, 5432),),
        ),
        # "*.corp.example" of a policy is not corp.example itself; for a client it is.
        ReachRule(methods=frozenset(), domains=("corp.example",), ports=((1, 1023),)),
        ReachRule(methods=frozenset({TCP, UDP}), domains=("*.corp.example",), ports=((1, 1023),)),
    ]


def test_a_domain_that_may_lead_into_an_allowed_subnet_is_not_left_out() -> None:
    found = view(rule("a", "allow", "*.corp.example:443"), rule("b", "allow", "10.2.0.0/16:*"))
    assert [r.domains for r in found] == [("*.corp.example",), ()]


def test_only_the_identitys_own_rules_show() -> None:
    rules = (rule("a", "allow", "a.example:*"), rule("b", "allow", "b.example:*", who="bob"))
    assert [r.domains for r in view(*rules)] == [("a.example",)]
    assert [r.domains for r in view(*rules, subject="bob")] == [("b.example",)]
    assert view(*rules, subject="mallory") == []


def test_sources_and_times_that_do_not_hold_leave_a_rule_out() -> None:
    assert view(rule("a", "allow", "a.example:*", more='sources = ["192.0.2.0/24"]')) == []
    assert len(view(rule("a", "allow", "a.example:*", more='sources = ["198.51.100.0/24"]'))) == 1


def test_a_method_is_what_the_rule_is_for() -> None:
    (found,) = view(rule("a", "allow", "a.example:*", methods=["connect-udp"]))
    assert found.methods == {UDP}


def test_the_internet_leaves_out_what_is_protected() -> None:
    first, second = view(rule("web", "allow", "*:443"))
    assert first.methods == frozenset()
    assert set(first.subnets) == {network for network, _ in PROTECTED_NETWORKS}
    assert second == ReachRule(methods=frozenset({TCP, UDP}), ports=((443, 443),))


def test_but_not_what_a_later_rule_names() -> None:
    left_out, web, named = view(
        rule("web", "allow", "*:*"), rule("lan", "allow", "10.20.0.0/16:*", "[fd00:1::/32]:*")
    )
    assert not any(ip_address("10.20.3.4") in network for network in left_out.subnets)
    assert any(ip_address("10.21.3.4") in network for network in left_out.subnets)
    assert not any(ip_address("fd00:1::5") in network for network in left_out.subnets)
    assert any(ip_address("fd00:2::5") in network for network in left_out.subnets)
    assert web.methods
    assert named.subnets


def test_a_denial_is_said_where_something_behind_it_would_allow() -> None:
    denied, _, allowed = view(rule("no", "deny", "secret.example:*"), rule("web", "allow", "*:*"))
    assert denied == ReachRule(methods=frozenset(), domains=("secret.example",))
    assert allowed.methods
    assert view(rule("no", "deny", "secret.example:*")) == []


def test_a_denial_of_one_method_alone_cannot_be_said() -> None:
    found = view(
        rule("no", "deny", "secret.example:*", methods=["connect-udp"]),
        rule("web", "allow", "*:*"),
    )
    assert not any(r.domains for r in found)


def test_a_suffix_whose_domain_is_reached_as_well_says_nothing_twice() -> None:
    found = view(rule("a", "allow", "*.corp.example:443", "corp.example:443"))
    assert [r.domains for r in found] == [("*.corp.example", "corp.example")]


class TestGate:
    async def test_describe_is_authenticated(self, tmp_path: Path) -> None:
        bench = GateBench(tmp_path)
        view = await bench.gate.describe(bench.request(None))
        assert view.rules[-1] == ReachRule(methods=frozenset({UDP}), ports=((443, 443),))  # type: ignore[union-attr]  # no denial
        denial = await bench.gate.describe(bench.request(None, credentials=()))
        assert denial.reason == "credential_missing"  # type: ignore[union-attr]
        assert bench.audit.of("describe")[0]["result"] == "deny"

    async def test_and_ends_with_the_revocation(self, tmp_path: Path) -> None:
        bench = GateBench(tmp_path)
        bench.gate.revoke(subject="alice", token_id=None)
        denial = await bench.gate.describe(bench.request(None))
        assert denial.reason == "revoked"  # type: ignore[union-attr]

    async def test_it_takes_no_lease(self, tmp_path: Path) -> None:
        bench = GateBench(tmp_path)
        await bench.gate.describe(bench.request(None))
        assert bench.gate.tunnel_count == 0
        assert not bench.gate.decisions
