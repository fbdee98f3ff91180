"""Owns the view of a policy for one identity: its rules without "who", as a client can use them.

The view is a hint for routing, never a decision: the gate still judges every request. It may be
wider than the policy where the words of a client's rules cannot say the same (a denial of one
method alone), and it never names what the identity's own rules do not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from masque_relay.contract.address import IPAddress
from masque_relay.contract.policy_view import ReachRule
from masque_relay.contract.request import Method
from masque_relay.control.auth.principal import Principal
from masque_relay.control.policy.addresses import PROTECTED_NETWORKS, IPNetwork, contains
from masque_relay.control.policy.compile import CompiledPolicy
from masque_relay.control.policy.rules import (
    MAX_PORT,
    HostKind,
    Outcome,
    Query,
    Rule,
    TargetPattern,
)

VIEWED_METHODS = (Method.CONNECT_TCP, Method.CONNECT_UDP, Method.CONNECT_IP)
"""Those that lead to destinations which a client knows by name, address and port."""
_ANY_PORT = ((0, MAX_PORT),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asker:
    """Who asks, from where and when."""

    policy: CompiledPolicy
    principal: Principal
    source: IPAddress
    now_s: float

    def query(self, method: Method, *, name: str | None = None, port: int | None = None) -> Query:
        return Query(
            subject=self.principal.subject,
            groups=self.principal.groups,
            method=method,
            name=name,
            port=port,
            source=self.source,
            now_s=self.now_s,
        )

    def may_reach(self, name: str, port: int) -> frozenset[Method]:
        """Return the methods that may lead to a name."""
        return frozenset(
            method
            for method in VIEWED_METHODS
            if self.policy.decide(self.query(method, name=name, port=port)).outcome
            is not Outcome.DENY
        )


def view_rules(
    policy: CompiledPolicy, principal: Principal, *, source: IPAddress, now_s: float
) -> tuple[ReachRule, ...]:
    """Return what a policy lets an identity reach, from where it is and at this moment."""
    asker = _Asker(policy=policy, principal=principal, source=source, now_s=now_s)
    applicable = _applicable(asker)
    allowed = frozenset(method for rule, methods in applicable if rule.allow for method in methods)
    view: list[ReachRule] = []
    leaves_out_protected = False
    for index, (rule, methods) in enumerate(applicable):
        if not rule.allow and not methods >= allowed:
            continue  # a client's rules cannot refuse one method and go on with the others
        if rule.allow and not leaves_out_protected and any(map(_is_wide, rule.targets)):
            leaves_out_protected = True
            view.append(_protected_rule(later for later, _ in applicable[index:] if later.allow))
        view += _reach_rules(asker, rule, methods & allowed if rule.allow else frozenset())
    while view and not view[-1].methods:
        view.pop()  # what nothing matches is not carried anyway
    return tuple(view)


def _applicable(asker: _Asker) -> list[tuple[Rule, frozenset[Method]]]:
    """Return the rules that apply, in the policy's order, with the methods for which they do."""
    by_method = {
        method: {id(rule) for rule in asker.policy.rules_for(asker.query(method))}
        for method in VIEWED_METHODS
    }
    found: list[tuple[Rule, frozenset[Method]]] = []
    for rule in asker.policy.rules:
        methods = frozenset(method for method, ids in by_method.items() if id(rule) in ids)
        if methods:
            found.append((rule, methods))
    return found


def _reach_rules(asker: _Asker, rule: Rule, methods: frozenset[Method]) -> list[ReachRule]:
    """Return a rule's targets, those with the same ports together."""
    by_ports: dict[tuple[tuple[int, int], ...], list[TargetPattern]] = {}
    for pattern in rule.targets:
        by_ports.setdefault(pattern.ports, []).append(pattern)
    found: list[ReachRule] = []
    for pattern_ports, patterns in by_ports.items():
        ports = () if pattern_ports == _ANY_PORT else pattern_ports
        if any(pattern.kind is HostKind.ANY for pattern in patterns):
            found.append(ReachRule(methods=methods, ports=ports))
            continue
        names = [pattern for pattern in patterns if pattern.kind is not HostKind.NETWORK]
        for name in (pattern.name for pattern in names if pattern.kind is HostKind.SUFFIX):
            # Here "*.example.org" leaves out example.org, in the client's rules it does not.
            itself = asker.may_reach(name, max(1, pattern_ports[0][0]))
            if itself != methods:
                found.append(ReachRule(methods=itself, domains=(name,), ports=ports))
        domains = tuple(_domain(pattern) for pattern in names)
        subnets = tuple(pattern.network for pattern in patterns if pattern.network is not None)
        if domains:
            found.append(ReachRule(methods=methods, domains=domains, ports=ports))
        if subnets:
            found.append(ReachRule(methods=methods, subnets=subnets, ports=ports))
    return found


def _domain(pattern: TargetPattern) -> str:
    return f"*.{pattern.name}" if pattern.kind is HostKind.SUFFIX else pattern.name


def _is_wide(pattern: TargetPattern) -> bool:
    """Whether it allows addresses without naming the protected ones among them."""
    if pattern.kind is HostKind.ANY:
        return True
    return pattern.kind is HostKind.NETWORK and not pattern.lifts_protection


def _protected_rule(allowing: Iterable[Rule]) -> ReachRule:
    """Return the rule that leaves out the protected ranges, but for those that rules name."""
    named = [
        pattern.network
        for rule in allowing
        for pattern in rule.targets
        if pattern.network is not None and pattern.lifts_protection
    ]
    rest: list[IPNetwork] = []
    for network, _ in PROTECTED_NETWORKS:
        rest += _without(network, named)
    return ReachRule(methods=frozenset(), subnets=tuple(rest))


def _without(network: IPNetwork, holes: Sequence[IPNetwork]) -> list[IPNetwork]:
    """Return what is left of a network, as networks."""
    rest = [network]
    for hole in holes:
        remaining: list[IPNetwork] = []
        for part in rest:
            if contains(hole, part):
                continue
            remaining += _punched(part, hole) if contains(part, hole) else [part]
        rest = remaining
    return rest


def _punched(network: IPNetwork, hole: IPNetwork) -> list[IPNetwork]:
    """Return a network without a part of it; both are of one family."""
    rest: list[IPNetwork] = []
    for half in _halves(network):
        if contains(half, hole):
            rest += [] if half == hole else _punched(half, hole)
        else:
            rest.append(half)
    return rest


def _halves(network: IPNetwork) -> list[IPNetwork]:
    if isinstance(network, IPv4Network):  # for the type checkers: two methods of one name
        return list(network.subnets())
    return list(network.subnets())
