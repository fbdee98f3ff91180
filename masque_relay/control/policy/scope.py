"""Owns scopes of CONNECT-IP requests: how people write one, and how a rule stands to one.

A scope is a prefix or a name, and any port.

Such a request is not one target but a range of them. It is refused where nothing in the range could
be allowed; otherwise the tunnel opens and the packet filter decides on each packet.
"""

from enum import Enum

from masque_relay.control.policy.addresses import IPNetwork, names_protected_range
from masque_relay.control.policy.rules import (
    HostKind,
    PatternError,
    Query,
    Rule,
    TargetPattern,
    parse_network,
    parse_target,
)

ANYWHERE = "*"
"""The scope without a limit; a question about it has no target."""


class Reach(Enum):
    """How much of a scope a rule's targets take in."""

    ALL = "all"
    SOME = "some"
    BLOCKED = "blocked"
    """Only by a target that does not name the protected range in which the whole scope lies."""
    NONE = "none"


def is_scope_text(text: str) -> bool:
    """Return whether a target without a port is meant: ``10.0.0.0/8``, ``example.org``, ``*``."""
    return text == ANYWHERE or "/" in text or (text.count(":") != 1 and not text.startswith("["))


def parse_scope(text: str) -> tuple[str | None, IPNetwork | None]:
    """Return the name or the prefix of a scope; neither for ``*``.

    Raises:
        PatternError: it is none.
    """
    if text == ANYWHERE:
        return None, None
    if "/" in text or ":" in text or text.replace(".", "").isdigit():
        return None, parse_network(text)
    pattern = parse_target(f"{text}:*")
    if pattern.kind is not HostKind.EXACT:
        raise PatternError(f"{text!r} is not a name or a prefix")
    return pattern.name, None


def reach_of(rule: Rule, query: Query) -> Reach:
    """Return how much of a scope (a name, a prefix or both, without a port) a rule takes in.

    An allow rule never takes in all: what it allows is told packet by packet.
    """
    if not rule.allow:
        return _reach_of_deny(rule, query)
    blocked = False
    for pattern in rule.targets:
        if not _may_match(pattern, query):
            continue
        if query.network is None or _lifts(pattern, query.network):
            return Reach.SOME
        blocked = True
    return Reach.BLOCKED if blocked else Reach.NONE


def _reach_of_deny(rule: Rule, query: Query) -> Reach:
    touched = False
    for pattern in rule.targets:
        if pattern.any_port and _surely_matches(pattern, query):
            return Reach.ALL
        touched = touched or _may_match(pattern, query)
    return Reach.SOME if touched else Reach.NONE


def _may_match(pattern: TargetPattern, query: Query) -> bool:
    if pattern.matches_name(query.name):
        return True
    if pattern.kind is not HostKind.NETWORK or pattern.network is None:
        return False
    return query.network is None or overlap(pattern.network, query.network)


def _surely_matches(pattern: TargetPattern, query: Query) -> bool:
    if pattern.matches_name(query.name):
        return True
    inner, outer = query.network, pattern.network
    if inner is None or outer is None or inner.version != outer.version:
        return False
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def _lifts(pattern: TargetPattern, network: IPNetwork) -> bool:
    if not names_protected_range(network):
        return True
    return (
        pattern.lifts_protection
        and pattern.network is not None
        and overlap(pattern.network, network)
    )


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Return whether two networks have an address in common."""
    if one.version != other.version:
        return False
    return one.network_address in other or other.network_address in one
