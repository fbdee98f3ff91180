"""Owns the policy file: TOML text -> groups, rules and tests, with every problem reported at once.

docs/reference/policy.md is the reference for people.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import TypeVar

from masque_relay.contract.address import IPAddress
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.request import Method
from masque_relay.control.policy.addresses import (
    IPNetwork,
    names_protected_range,
    overlaps_protected_range,
    unwrap,
)
from masque_relay.control.policy.rules import (
    GROUP_PREFIX,
    MAX_PORT,
    Group,
    Outcome,
    PatternError,
    Rule,
    RuleLimits,
    Times,
    normalize_name,
    parse_network,
    parse_target,
    week_ranges,
)
from masque_relay.control.policy.scope import is_scope_text, parse_scope
from masque_relay.control.toml_table import TomlSource, TomlTable, did_you_mean

MIN_BURST_BYTES = 65_535  # the largest UDP payload must fit into the bucket
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_METHODS = tuple(method.value for method in Method)
_TIME_RANGE = re.compile(r"([0-2][0-9]):([0-5][0-9])-([0-2][0-9]):([0-5][0-9])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """One ``[[test]]``: a query and the answer that the operator expects."""

    subject: str
    groups: tuple[str, ...]
    method: Method
    name: str | None
    address: IPAddress | None
    network: IPNetwork | None
    """The scope of CONNECT-IP, or one address that its name resolves to."""
    port: int | None
    source: IPAddress | None
    at_s: float | None
    """None: the moment of the load."""
    expect: Outcome
    rule: str | None
    """None: whichever rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDocument:
    """What the file says, each part well-formed and every reference resolved."""

    file: str
    groups: dict[str, Group]
    rules: tuple[Rule, ...]
    tests: tuple[PolicyTest, ...]
    warnings: tuple[str, ...]
    """Things that are allowed but probably not meant."""


class DocumentReader:
    """Reads one source; the problems gather in it."""

    def __init__(self, source: TomlSource) -> None:
        self._source = source
        self._warnings: list[str] = []
        self._groups: dict[str, Group] = {}
        self._group_names: set[str] = set()

    def read(self) -> PolicyDocument:
        """Return the document.

        Raises:
            ConfigError: anything in it is wrong; all of it is named.
        """
        root = self._source.root
        defaults = RuleLimits()
        limits = root.table("limits")
        if limits is not None:
            defaults = self._limits(limits, defaults)
        named = root.named_tables("group")
        self._group_names = {name for name, _ in named}
        for name, table in named:
            self._groups[name] = self._group(name, table)
        self._check_group_cycles(named)
        rules = self._rules(root, defaults)
        names = [rule.name for rule in rules]
        tests = tuple(
            test for table in root.tables("test") if (test := self._test(table, names)) is not None
        )
        if not rules:
            self._warnings.append("there is no rule: everything is denied")
        root.finish()
        self._source.raise_problems()
        return PolicyDocument(
            file=self._source.file,
            groups=self._groups,
            rules=rules,
            tests=tests,
            warnings=tuple(self._warnings),
        )

    def _group(self, name: str, table: TomlTable) -> Group:
        if not _NAME.fullmatch(name):
            table.problem(f"{name!r} is no name: use letters, digits, dot, dash and underscore")
        group = Group(
            name=name,
            subjects=tuple(text for _, text in table.texts("subjects")),
            groups=tuple(
                self._known_group(table, "groups", *item) for item in table.texts("groups")
            ),
            claims=tuple(text for _, text in table.texts("claims")),
        )
        if not (group.subjects or group.groups or group.claims):
            table.problem("a group needs subjects, groups or claims")
        table.finish()
        return group

    def _known_group(self, table: TomlTable, key: str, index: int, name: str) -> str:
        if name not in self._group_names:
            hint = did_you_mean(name, sorted(self._group_names)) or f"add [group.{name}]"
            table.problem_at((key, index), f"there is no group {name!r}", hint=hint)
        return name

    def _check_group_cycles(self, named: list[tuple[str, TomlTable]]) -> None:
        for name, table in named:
            seen: set[str] = set()
            waiting = list(self._groups[name].groups)
            while waiting:
                inner = waiting.pop()
                if inner == name:
                    table.problem("the group contains itself", "groups")
                    break
                if inner not in seen and inner in self._groups:
                    seen.add(inner)
                    waiting += self._groups[inner].groups

    def _rules(self, root: TomlTable, defaults: RuleLimits) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        seen: set[str] = set()
        for table in root.tables("rule"):
            rule = self._rule(table, defaults)
            if rule.name in seen:
                table.problem(f"there is a rule {rule.name!r} already", "name")
            seen.add(rule.name)
            rules.append(rule)
        return tuple(rules)

    def _rule(self, table: TomlTable, defaults: RuleLimits) -> Rule:
        name = table.text("name", required=True) or ""
        if name and not _NAME.fullmatch(name):
            hint = "use letters, digits, dot, dash and underscore, 64 at most"
            table.problem(f"{name!r} is no name", "name", hint=hint)
        allow = table.word("action", ("allow", "deny"), required=True) == "allow"
        methods = self._methods(table)
        limits, times = table.table("limits"), table.table("times")
        if limits is not None and not allow:
            limits.problem("a deny rule has no limits")
        rule = Rule(
            name=name,
            allow=allow,
            who=self._subjects(table, "who", required=True),
            methods=methods,
            targets=tuple(_parse_each(table, "targets", parse_target, required=True)),
            sources=tuple(_parse_each(table, "sources", parse_network)),
            peers=self._subjects(table, "peers", required=False),
            times=None if times is None else self._times(times),
            limits=defaults if limits is None else self._limits(limits, defaults),
            line=table.line(),
        )
        if rule.peers and methods != frozenset({Method.GHOSTWIRE}):
            table.problem('peers go with methods = ["ghostwire"] only', "peers")
        if allow:
            self._warn_of_broad_networks(rule)
        table.finish()
        return rule

    def _subjects(self, table: TomlTable, key: str, *, required: bool) -> tuple[str, ...]:
        entries: list[str] = []
        for index, text in table.texts(key, required=required):
            if text.startswith(GROUP_PREFIX):
                self._known_group(table, key, index, text.removeprefix(GROUP_PREFIX))
            entries.append(text)
        return tuple(entries)

    def _methods(self, table: TomlTable) -> frozenset[Method]:
        methods: set[Method] = set()
        for index, text in table.texts("methods", required=True):
            if text == "*":
                methods.update(Method)
            elif text in _METHODS:
                methods.add(Method(text))
            else:
                hint = did_you_mean(text, _METHODS) or f"known methods: {', '.join(_METHODS)} and *"
                table.problem_at(("methods", index), f"unknown method {text!r}", hint=hint)
        return frozenset(methods)

    def _warn_of_broad_networks(self, rule: Rule) -> None:
        for target in rule.targets:
            network = target.network
            if (
                network is not None
                and overlaps_protected_range(network)
                and not names_protected_range(network)
            ):
                self._warnings.append(
                    f"rule {rule.name!r}: {target.text} does not reach the protected addresses in "
                    f"it; name the protected range itself if that is meant"
                )

    def _limits(self, table: TomlTable, defaults: RuleLimits) -> RuleLimits:
        base = defaults.tunnel
        burst_bytes = table.integer("burst_bytes", minimum=MIN_BURST_BYTES)
        tunnel = TunnelLimits(
            rate_bytes_per_s=_or(
                table.integer("rate_bytes_per_s", minimum=1), base.rate_bytes_per_s
            ),
            burst_bytes=_or(burst_bytes, base.burst_bytes),
            rate_datagrams_per_s=_or(
                table.integer("rate_datagrams_per_s", minimum=1), base.rate_datagrams_per_s
            ),
            burst_datagrams=_or(table.integer("burst_datagrams", minimum=1), base.burst_datagrams),
            lifetime_s=_or(table.seconds("lifetime_s"), base.lifetime_s),
            max_bytes=_or(table.integer("max_bytes", minimum=1), base.max_bytes),
            idle_timeout_s=_or(table.seconds("idle_timeout_s"), base.idle_timeout_s),
        )
        for burst, rate in (
            ("bytes", tunnel.rate_bytes_per_s),
            ("datagrams", tunnel.rate_datagrams_per_s),
        ):
            if table.has(f"burst_{burst}") and rate is None:
                table.problem(f"a burst without rate_{burst}_per_s", f"burst_{burst}")
        limits = replace(
            defaults,
            tunnel=tunnel,
            tunnels=_or(table.integer("tunnels", minimum=1), defaults.tunnels),
            tunnels_per_subject=_or(
                table.integer("tunnels_per_subject", minimum=1), defaults.tunnels_per_subject
            ),
            bytes_per_subject_per_day=_or(
                table.integer("bytes_per_subject_per_day", minimum=1),
                defaults.bytes_per_subject_per_day,
            ),
        )
        table.finish()
        return limits

    def _times(self, table: TomlTable) -> Times:
        days: set[int] = set()
        for day_range in _parse_each(table, "days", _parse_days):
            days |= day_range
        hours = _parse_each(table, "utc", _parse_time_range)
        from_s, until_s = table.instant("from"), table.instant("until")
        if from_s is not None and until_s is not None and until_s <= from_s:
            table.problem("until is not after from", "until")
        table.finish()
        ranges: tuple[tuple[int, int], ...] = ()
        if days or hours:
            ranges = week_ranges(sorted(days or range(7)), hours or [(0, 86_400)])
        return Times(week_ranges=ranges, from_s=from_s, until_s=until_s)

    def _test(self, table: TomlTable, rule_names: list[str]) -> PolicyTest | None:
        subject = table.text("as", required=True)
        method = table.word("method", _METHODS, required=True)
        target_text = table.text("target") or ""
        is_scope = method == Method.CONNECT_IP and is_scope_text(target_text)
        scope = _parse_one(table, "target", parse_scope) if is_scope else None
        target = None if is_scope else _parse_one(table, "target", parse_query_target)
        address = _parse_one(table, "address", _parse_address)
        source = _parse_one(table, "source", _parse_address)
        groups = tuple(text for _, text in table.texts("groups"))
        at_s = table.instant("at")
        expect = table.word("expect", ("allow", "deny", "pending"), required=True)
        rule = table.text("rule")
        if rule is not None and rule not in rule_names:
            hint = did_you_mean(rule, rule_names)
            table.problem(f"there is no rule {rule!r}", "rule", hint=hint)
        named = (scope or target or (None,))[0]
        if address is not None and named is None:
            table.problem("an address goes with a target that is a name", "address")
        table.finish()
        if subject is None or method is None or expect is None:
            return None
        name, literal, port = target or (None, None, None)
        network: IPNetwork | None = None
        if scope is not None:
            name, network = scope
            if address is not None:  # of a name that is a scope: any port of that address
                network, address = ip_network(address), None
        return PolicyTest(
            subject=subject,
            groups=groups,
            method=Method(method),
            name=name,
            address=literal if literal is not None else address,
            network=network,
            port=port,
            source=source,
            at_s=at_s,
            expect=Outcome(expect),
            rule=rule,
        )


def parse_query_target(text: str) -> tuple[str | None, IPAddress | None, int]:
    """Return name, address and port of ``example.org:443`` or ``[2001:db8::1]:443``.

    Exactly one of name and address is None.

    Raises:
        PatternError: it is not a single target.
    """
    host, _, port_text = text.rpartition(":")
    if not host or not port_text.isascii() or not port_text.isdigit():
        raise PatternError(f"{text!r} is no target", "write example.org:443")
    port = int(port_text) if len(port_text) <= 5 else 0
    if not 1 <= port <= MAX_PORT:
        raise PatternError(f"{port_text} is not a port between 1 and {MAX_PORT}")
    if host.startswith("[") and host.endswith("]"):
        return None, _parse_address(host[1:-1]), port
    if ":" in host:
        raise PatternError("an IPv6 address needs brackets", f"write [{host}]:{port}")
    try:
        return None, unwrap(ip_address(host)), port
    except ValueError:
        pattern = parse_target(f"{host}:{port}")
        if not pattern.name or host.startswith("*"):
            raise PatternError(f"{host!r} is not a name or an address") from None
        return normalize_name(host), None, port


def _parse_each(
    table: TomlTable, key: str, parse: Callable[[str], Parsed], *, required: bool = False
) -> list[Parsed]:
    found: list[Parsed] = []
    for index, text in table.texts(key, required=required):
        try:
            found.append(parse(text))
        except PatternError as error:
            table.problem_at((key, index), str(error), hint=error.hint)
    return found


def _parse_one(table: TomlTable, key: str, parse: Callable[[str], Parsed]) -> Parsed | None:
    text = table.text(key)
    if text is None:
        return None
    try:
        return parse(text)
    except PatternError as error:
        table.problem(str(error), key, hint=error.hint)
        return None


def _parse_address(text: str) -> IPAddress:
    try:
        return unwrap(ip_address(text))
    except ValueError:
        raise PatternError(f"{text!r} is not an address") from None


def _parse_days(text: str) -> set[int]:
    first, dash, last = text.lower().partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise PatternError(f"{text!r} is not a day", "write mon, sat or mon-fri")
    begin = DAYS.index(first)
    count = (DAYS.index(last) - begin) % 7 + 1 if dash else 1
    return {(begin + step) % 7 for step in range(count)}


def _parse_time_range(text: str) -> tuple[int, int]:
    match = _TIME_RANGE.fullmatch(text)
    if match is None:
        raise PatternError(f"{text!r} is not a range of UTC times", "write 08:00-18:00")
    first = int(match[1]) * 3600 + int(match[2]) * 60
    last = int(match[3]) * 3600 + int(match[4]) * 60
    if first == last or first >= 86_400 or last > 86_400:
        raise PatternError(f"{text!r} is not a range of UTC times", "write 08:00-18:00")
    return first, last


def _or(value: Parsed | None, default: Parsed) -> Parsed:
    return default if value is None else value
