"""Owns the explanation of a decision: the rules read one by one, with why each did not match.

It shares no look-up with ``compile.py``, so it is also the reference that the compiled policy is
tested against.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from masque_relay.contract.address import IPAddress
from masque_relay.control.policy.addresses import protected_kind, unwrap
from masque_relay.control.policy.compile import (
    CompiledPolicy,
    conditions_hold,
    prohibited,
    refused,
    settle_scope,
)
from masque_relay.control.policy.rules import (
    GROUP_PREFIX,
    Decision,
    Group,
    HostKind,
    Outcome,
    Query,
    Rule,
    TargetPattern,
    faces,
    format_instant,
    glob_to_regex,
)
from masque_relay.control.policy.scope import Reach, reach_of


class Match(Enum):
    """How one rule stands to a query."""

    YES = "matches"
    NO = "does not match"
    PERHAPS = "depends on the address"
    BLOCKED = "would match, but the address is protected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One rule and how it stood."""

    rule: Rule
    match: Match
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The decision and the way to it."""

    decision: Decision
    steps: tuple[Step, ...]
    """The rules in order, up to the one that settled it."""


def explain(policy: CompiledPolicy, query: Query) -> Explanation:
    """Return what the policy answers and why."""
    steps: list[Step] = []
    candidate: Rule | None = None
    uncertain = False
    blocked: Rule | None = None
    for rule in policy.rules:
        step = _step(rule, query, policy.groups)
        steps.append(step)
        match step.match:
            case Match.NO:
                continue
            case Match.PERHAPS:
                uncertain = True
                candidate = candidate or (rule if rule.allow else None)
            case Match.BLOCKED:
                blocked = blocked or rule
            case Match.YES:
                decision = _settle(rule, candidate, blocked, query, uncertain=uncertain)
                return Explanation(decision=decision, steps=tuple(steps))
    return Explanation(
        decision=_settle(None, candidate, blocked, query, uncertain=uncertain), steps=tuple(steps)
    )


def _settle(
    rule: Rule | None,
    candidate: Rule | None,
    blocked: Rule | None,
    query: Query,
    *,
    uncertain: bool,
) -> Decision:
    if rule is not None and rule.allow:
        if uncertain:
            return Decision(outcome=Outcome.PENDING, rule=candidate or rule)
        return Decision(outcome=Outcome.ALLOW, rule=rule)
    if query.is_scope:
        return settle_scope(query, candidate, blocked, rule)
    if candidate is not None:
        return Decision(outcome=Outcome.PENDING, rule=candidate)
    if blocked is not None and query.address is not None:
        return prohibited(blocked, protected_kind(query.address) or "")
    return refused(rule)


def _step(rule: Rule, query: Query, groups: Mapping[str, Group]) -> Step:
    if not any(_is_meant(entry, query.subject, query.groups, groups) for entry in rule.who):
        return Step(
            rule=rule, match=Match.NO, why=f"who: {query.subject!r} is not among {_list(rule.who)}"
        )
    if query.method not in rule.methods:
        why = f"methods: {query.method} is not among {_list(sorted(rule.methods))}"
        return Step(rule=rule, match=Match.NO, why=why)
    if not conditions_hold(rule, query):
        return Step(rule=rule, match=Match.NO, why=_failed_condition(rule, query))
    if query.peer_subject is not None:
        return _step_of_call(rule, query, query.peer_subject, groups)
    if rule.peers and not rule.allow:
        return Step(rule=rule, match=Match.NO, why="peers: it is about calls to peers only")
    match, why = _match_targets(rule, query)
    return Step(rule=rule, match=match, why=why)


def _step_of_call(rule: Rule, query: Query, peer_subject: str, groups: Mapping[str, Group]) -> Step:
    if not rule.peers:
        if rule.allow:
            return Step(rule=rule, match=Match.NO, why="peers: it names nobody to call")
        return Step(rule=rule, match=Match.YES, why="it is about every call")
    for entry in rule.peers:
        if _is_meant(entry, peer_subject, query.peer_groups, groups):
            return Step(rule=rule, match=Match.YES, why=f"peers: {entry}")
    why = f"peers: {peer_subject!r} is not among {_list(rule.peers)}"
    return Step(rule=rule, match=Match.NO, why=why)


def _is_meant(
    entry: str, subject: str, claims: tuple[str, ...], groups: Mapping[str, Group]
) -> bool:
    if not entry.startswith(GROUP_PREFIX):
        return glob_to_regex(entry).fullmatch(subject) is not None
    group = groups[entry.removeprefix(GROUP_PREFIX)]
    return (
        any(glob_to_regex(pattern).fullmatch(subject) for pattern in group.subjects)
        or any(claim in claims for claim in group.claims)
        or any(
            _is_meant(f"{GROUP_PREFIX}{inner}", subject, claims, groups) for inner in group.groups
        )
    )


def _failed_condition(rule: Rule, query: Query) -> str:
    if rule.times is not None and not rule.times.hold(query.now_s):
        return f"times: they do not hold at {format_instant(query.now_s)}"
    return f"sources: {query.source or 'an unknown address'} is not among them"


def _match_targets(rule: Rule, query: Query) -> tuple[Match, str]:
    if query.targetless:
        return _match_targetless(rule)
    if query.is_scope:
        return _match_scope(rule, query)
    port = query.port or 0
    best, why = Match.NO, f"targets: {_describe(query)} is not among {_list(_texts(rule))}"
    for pattern in rule.targets:
        if not pattern.matches_port(port):
            continue
        match = _match_pattern(rule, pattern, query)
        if match is Match.YES:
            return Match.YES, f"targets: {pattern.text}"
        if match is not Match.NO and best is Match.NO:
            best, why = match, f"targets: {pattern.text} {match.value}"
    return best, why


def _match_pattern(rule: Rule, pattern: TargetPattern, query: Query) -> Match:
    if query.address is None:
        if pattern.matches_name(query.name):
            return Match.YES
        return Match.PERHAPS if pattern.kind is HostKind.NETWORK else Match.NO
    address = unwrap(query.address)
    if not rule.allow:
        matched = pattern.matches_name(query.name) or any(
            _in_network(face, pattern) for face in faces(address)
        )
        return Match.YES if matched else Match.NO
    if not pattern.matches_name(query.name) and not _in_network(address, pattern):
        return Match.NO
    if protected_kind(address) is None or (
        pattern.lifts_protection and _in_network(address, pattern)
    ):
        return Match.YES
    return Match.BLOCKED


def _match_scope(rule: Rule, query: Query) -> tuple[Match, str]:
    scope = query.name or str(query.network)
    match reach_of(rule, query):
        case Reach.ALL:
            return Match.YES, f"targets: they take in all of {scope}"
        case Reach.SOME:
            return Match.PERHAPS, "targets: each packet is decided on its own"
        case Reach.BLOCKED:
            return Match.BLOCKED, f"targets: none names the protected range of {scope}"
        case Reach.NONE:
            return Match.NO, f"targets: nothing in {scope} is among {_list(_texts(rule))}"


def _match_targetless(rule: Rule) -> tuple[Match, str]:
    if any(pattern.targetless for pattern in rule.targets):
        return Match.YES, "targets: *"
    if any(pattern.kind in {HostKind.ANY, HostKind.NETWORK} for pattern in rule.targets):
        return Match.PERHAPS, "targets: each address is decided on its own"
    return Match.NO, "targets: the request has no single target and the rule lists names only"


def _in_network(address: IPAddress, pattern: TargetPattern) -> bool:
    return pattern.network is not None and address in pattern.network


def _describe(query: Query) -> str:
    host = query.name or str(query.address)
    if query.name is not None and query.address is not None:
        host = f"{query.name} at {query.address}"
    return f"{host}, port {query.port}"


def _texts(rule: Rule) -> list[str]:
    return [pattern.text for pattern in rule.targets]


def _list(words: "tuple[str, ...] | list[str]") -> str:
    shown = ", ".join(words[:4])
    return f"{shown} and {len(words) - 4} more" if len(words) > 4 else shown
