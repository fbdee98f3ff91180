"""Owns the compiled policy: the same answers as reading the rules in order, found by look-ups.

Sets of rules are bit masks (bit n is rule n), so "the first rule that matches" is the lowest bit of
an intersection, and the cost hardly grows with the number of rules. ``explain.py`` reads the rules
one by one instead; a property test holds the two together.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from masque_relay.contract.address import IPAddress
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy.addresses import protected_kind, unwrap
from masque_relay.control.policy.document import PolicyDocument
from masque_relay.control.policy.packets import PacketTable
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
    glob_to_regex,
)
from masque_relay.control.policy.scope import Reach, reach_of

MAX_REMEMBERED_TABLES = 256  # packet filters by rules and name; forgotten all at once when full
MAX_REMEMBERED_IDENTITIES = 8192  # masks by identity and method; forgotten all at once when full


class _PortMask:
    """Which rules list some host with which ports."""

    __slots__ = ("_any_port", "_ranges", "_single")

    def __init__(self) -> None:
        self._any_port = 0
        self._single: dict[int, int] = {}
        self._ranges: list[tuple[int, int, int]] = []

    def add(self, pattern: TargetPattern, bit: int) -> None:
        if pattern.any_port:
            self._any_port |= bit
            return
        for first, last in pattern.ports:
            if first == last:
                self._single[first] = self._single.get(first, 0) | bit
            else:
                self._ranges.append((first, last, bit))

    def find(self, port: int) -> int:
        mask = self._any_port | self._single.get(port, 0)
        for first, last, bit in self._ranges:
            if first <= port <= last:
                mask |= bit
        return mask


class _Networks:
    """Which rules list a CIDR that holds an address: one dict per prefix length."""

    def __init__(self) -> None:
        self._by_length: dict[tuple[int, int], dict[int, _PortMask]] = {}

    def add(self, pattern: TargetPattern, bit: int) -> None:
        network = pattern.network
        if network is None:
            return
        shift = network.max_prefixlen - network.prefixlen
        table = self._by_length.setdefault((network.version, shift), {})
        table.setdefault(int(network.network_address) >> shift, _PortMask()).add(pattern, bit)

    def find(self, address: IPAddress, port: int) -> int:
        version, value, mask = address.version, int(address), 0
        for (of_version, shift), table in self._by_length.items():
            if of_version == version:
                entry = table.get(value >> shift)
                if entry is not None:
                    mask |= entry.find(port)
        return mask


class _Subjects:
    """Which rules name whom, in one of their lists."""

    def __init__(
        self,
        rules: tuple[Rule, ...],
        groups: dict[str, Group],
        entries_of: Callable[[Rule], tuple[str, ...]],
    ) -> None:
        self._groups = groups
        self._everyone = 0
        self._exact: dict[str, int] = {}
        self._globs: dict[str, tuple[re.Pattern[str], int]] = {}
        self._claims: dict[str, int] = {}
        for index, rule in enumerate(rules):
            for entry in entries_of(rule):
                if entry.startswith(GROUP_PREFIX):
                    self._add_group(entry.removeprefix(GROUP_PREFIX), 1 << index)
                else:
                    self._add_pattern(entry, 1 << index)

    def find(self, subject: str, claims: Iterable[str]) -> int:
        mask = self._everyone | self._exact.get(subject, 0)
        for regex, bits in self._globs.values():
            if bits & ~mask and regex.fullmatch(subject):
                mask |= bits
        for claim in claims:
            mask |= self._claims.get(claim, 0)
        return mask

    def _add_pattern(self, pattern: str, bit: int) -> None:
        if pattern == "*":
            self._everyone |= bit
        elif "*" in pattern:
            regex, bits = self._globs.get(pattern, (glob_to_regex(pattern), 0))
            self._globs[pattern] = (regex, bits | bit)
        else:
            self._exact[pattern] = self._exact.get(pattern, 0) | bit

    def _add_group(self, name: str, bit: int) -> None:
        group = self._groups[name]
        for pattern in group.subjects:
            self._add_pattern(pattern, bit)
        for claim in group.claims:
            self._claims[claim] = self._claims.get(claim, 0) | bit
        for inner in group.groups:
            self._add_group(inner, bit)


class CompiledPolicy:
    """A whole policy, ready to decide. Immutable but for a bounded memory of identities."""

    def __init__(self, document: PolicyDocument, *, digest: str = "") -> None:
        self.file = document.file
        self.rules = document.rules
        self.groups = document.groups
        self.tests = document.tests
        self.warnings = document.warnings
        self.digest = digest
        """The beginning of the file's SHA-256: which policy decided, in the audit trail."""
        self._subjects = _Subjects(document.rules, document.groups, lambda rule: rule.who)
        self._callees = _Subjects(document.rules, document.groups, lambda rule: rule.peers)
        self._identities: dict[tuple[str, tuple[str, ...], Method], int] = {}
        self._packet_tables: dict[tuple[int, tuple[str, ...]], PacketTable] = {}
        self._methods = dict.fromkeys(Method, 0)
        self._allow = 0
        self._with_peers = 0
        self._conditional = 0
        self._targetless = 0
        self._by_any_host = _PortMask()
        self._by_name: dict[str, _PortMask] = {}
        self._by_suffix: dict[str, _PortMask] = {}
        self._by_network = _Networks()
        self._by_lifting_network = _Networks()
        self._has_network = _PortMask()
        self._has_address_pattern = 0
        for index, rule in enumerate(document.rules):
            self._add(rule, 1 << index)

    def decide(self, query: Query) -> Decision:
        """Return the answer of the first rule that matches; no rule denies."""
        mask = self._applicable(query)
        if query.peer_subject is not None:
            return self._decide_peer(query, query.peer_subject, mask)
        mask &= ~self._with_peers | self._allow  # a deny rule with peers is about calls only
        if query.targetless:
            perhaps = self._has_address_pattern
            return self._decide_without_address(query, self._targetless, perhaps, mask)
        if query.is_scope:
            return self._decide_scope(query, mask)
        port = query.port or 0
        if query.address is None:
            certain, perhaps = self._name_mask(query.name, port), self._has_network.find(port)
            if query.is_blind:
                return self._decide_blind(query, certain, perhaps, mask)
            return self._decide_without_address(query, certain, perhaps, mask)
        return self._decide_by_address(query, mask, port, unwrap(query.address))

    def rules_for(self, query: Query) -> list[Rule]:
        """Return the rules for the identity, method, source and moment of a query, in order."""
        return [rule for rule, _ in self._in_order(self._applicable(query), query)]

    def packet_table(self, query: Query) -> PacketTable:
        """Return the packet filter for the identity, name, source and moment of a query."""
        rules = list(self._in_order(self._applicable(query), query))
        mask = sum(bit for _, bit in rules)
        key = (mask, self._name_keys(query.name))
        table = self._packet_tables.get(key)
        if table is None:
            if len(self._packet_tables) >= MAX_REMEMBERED_TABLES:
                self._packet_tables.clear()
            table = PacketTable(
                [rule for rule, _ in rules],
                lambda address, port: (
                    self._decide_by_address(query, mask, port, address).outcome is Outcome.ALLOW
                ),
            )
            self._packet_tables[key] = table
        return table

    def _add(self, rule: Rule, bit: int) -> None:
        if rule.peers:
            self._with_peers |= bit
        if rule.allow:
            self._allow |= bit
        if rule.times is not None or rule.sources:
            self._conditional |= bit
        for method in rule.methods:
            self._methods[method] |= bit
        for pattern in rule.targets:
            self._add_target(pattern, bit)

    def _add_target(self, pattern: TargetPattern, bit: int) -> None:
        if pattern.targetless:
            self._targetless |= bit
        match pattern.kind:
            case HostKind.ANY:
                self._by_any_host.add(pattern, bit)
                self._has_address_pattern |= bit
            case HostKind.EXACT:
                self._by_name.setdefault(pattern.name, _PortMask()).add(pattern, bit)
            case HostKind.SUFFIX:
                self._by_suffix.setdefault(pattern.name, _PortMask()).add(pattern, bit)
            case HostKind.NETWORK:
                self._by_network.add(pattern, bit)
                self._has_network.add(pattern, bit)
                self._has_address_pattern |= bit
                if pattern.lifts_protection:
                    self._by_lifting_network.add(pattern, bit)

    def _applicable(self, query: Query) -> int:
        """Return the rules that apply to this identity and method."""
        key = (query.subject, query.groups, query.method)
        mask = self._identities.get(key)
        if mask is None:
            mask = self._subjects.find(query.subject, query.groups) & self._methods[query.method]
            if len(self._identities) >= MAX_REMEMBERED_IDENTITIES:
                self._identities.clear()
            self._identities[key] = mask
        return mask

    def _decide_peer(self, query: Query, peer_subject: str, applicable: int) -> Decision:
        """Decide on a call: to allow it a rule must name the callee, to refuse it none has to."""
        named = self._callees.find(peer_subject, query.peer_groups)
        hits = applicable & (named | ~self._with_peers & ~self._allow)
        rule, _ = next(self._in_order(hits, query), (None, 0))
        if rule is not None and rule.allow:
            return Decision(outcome=Outcome.ALLOW, rule=rule)
        return refused(rule)

    def _decide_by_address(
        self, query: Query, applicable: int, port: int, address: IPAddress
    ) -> Decision:
        kind = protected_kind(address)
        by_name = self._name_mask(query.name, port)
        by_network = self._by_network.find(address, port)
        refusing = by_name | by_network
        for face in faces(address)[1:]:
            refusing |= self._by_network.find(face, port)
        meant = (by_name | by_network) & self._allow
        allowing = meant if kind is None else self._by_lifting_network.find(address, port) & meant
        hits = (allowing | (refusing & ~self._allow)) & applicable
        rule, bit = next(self._in_order(hits, query), (None, 0))
        if rule is not None and rule.allow:
            return Decision(outcome=Outcome.ALLOW, rule=rule)
        if kind is not None:
            blocked, blocked_bit = next(
                self._in_order(meant & ~allowing & applicable, query), (None, 0)
            )
            if blocked is not None and (rule is None or blocked_bit < bit):
                return prohibited(blocked, kind)
        return refused(rule)

    def _decide_without_address(
        self, query: Query, certain: int, perhaps: int, applicable: int
    ) -> Decision:
        """Decide on what holds whatever the address (certain) and what goes by it (perhaps).

        A refusal here is final: no address could make an allow rule match first.
        """
        perhaps &= ~certain
        candidate: Rule | None = None
        uncertain = False
        for rule, bit in self._in_order((certain | perhaps) & applicable, query):
            if bit & perhaps:
                uncertain = True
                candidate = candidate or (rule if rule.allow else None)
            elif rule.allow and not uncertain:
                return Decision(outcome=Outcome.ALLOW, rule=rule)
            elif rule.allow:
                return Decision(outcome=Outcome.PENDING, rule=candidate or rule)
            elif candidate is None:
                return refused(rule)
            else:
                break
        if candidate is None:
            return refused(None)
        return Decision(outcome=Outcome.PENDING, rule=candidate)

    def _decide_blind(self, query: Query, certain: int, perhaps: int, applicable: int) -> Decision:
        """Decide where nobody will see the address: what goes by it may refuse, but not allow."""
        hits = (certain | (perhaps & ~self._allow)) & applicable
        rule, _ = next(self._in_order(hits, query), (None, 0))
        if rule is not None and rule.allow:
            return Decision(outcome=Outcome.ALLOW, rule=rule)
        return refused(rule)

    def _decide_scope(self, query: Query, applicable: int) -> Decision:
        """Decide whether anything in a scope could be allowed; each packet is decided later."""
        candidate: Rule | None = None
        blocked: Rule | None = None
        for rule, _ in self._in_order(applicable, query):
            match reach_of(rule, query):
                case Reach.ALL:
                    return settle_scope(query, candidate, blocked, rule)
                case Reach.SOME:
                    candidate = candidate or (rule if rule.allow else None)
                case Reach.BLOCKED:
                    blocked = blocked or rule
                case Reach.NONE:
                    pass
        return settle_scope(query, candidate, blocked, None)

    def _name_mask(self, name: str | None, port: int) -> int:
        """Return the rules with a target that matches whatever the address is."""
        mask = self._by_any_host.find(port)
        if name is None:
            return mask
        exact = self._by_name.get(name)
        if exact is not None:
            mask |= exact.find(port)
        _, dot, rest = name.partition(".")
        while dot:
            suffix = self._by_suffix.get(rest)
            if suffix is not None:
                mask |= suffix.find(port)
            _, dot, rest = rest.partition(".")
        return mask

    def _name_keys(self, name: str | None) -> tuple[str, ...]:
        """Return all that the rules can know of a name: names with equal keys have equal answers.

        A client chooses the name; it must not choose how many tables are compiled.
        """
        if name is None:
            return ()
        keys = [name] if name in self._by_name else []
        _, dot, rest = name.partition(".")
        while dot:
            if rest in self._by_suffix:
                keys.append(f"*.{rest}")
            _, dot, rest = rest.partition(".")
        return tuple(keys)

    def _in_order(self, mask: int, query: Query) -> Iterator[tuple[Rule, int]]:
        """Yield the rules of a mask, first the lowest, whose times and sources hold."""
        while mask:
            bit = mask & -mask
            mask ^= bit
            rule = self.rules[bit.bit_length() - 1]
            if not bit & self._conditional or conditions_hold(rule, query):
                yield rule, bit


def conditions_hold(rule: Rule, query: Query) -> bool:
    """Return whether the rule's times and sources hold.

    A deny rule with sources matches a client whose address is unknown: it fails closed.
    """
    if rule.times is not None and not rule.times.hold(query.now_s):
        return False
    if not rule.sources:
        return True
    if query.source is None:
        return not rule.allow
    source = unwrap(query.source)
    return any(source in network for network in rule.sources)


def refused(rule: Rule | None) -> Decision:
    """Return the refusal by a deny rule, or by the default if no rule matched."""
    detail = "no rule allows it" if rule is None else f"rule {rule.name!r} denies it"
    return Decision(outcome=Outcome.DENY, rule=rule, reason=DenyReason.POLICY, detail=detail)


def settle_scope(
    query: Query, candidate: Rule | None, blocked: Rule | None, refusing: Rule | None
) -> Decision:
    """Return the answer about a scope.

    Args:
        query: the question.
        candidate: the first rule that may allow a part of it.
        blocked: the first rule that would, but does not name the protected range.
        refusing: the deny rule behind which no other counts, if any.
    """
    if candidate is not None:
        return Decision(outcome=Outcome.PENDING, rule=candidate)
    if blocked is not None and query.network is not None:
        return prohibited(blocked, protected_kind(query.network.network_address) or "")
    return refused(refusing)


def prohibited(rule: Rule, kind: str) -> Decision:
    """Return the refusal of a protected address that a rule would allow but does not name."""
    return Decision(
        outcome=Outcome.DENY,
        rule=rule,
        reason=DenyReason.ADDRESS_PROHIBITED,
        detail=f"protected address ({kind}); rule {rule.name!r} does not name its range by CIDR",
    )
