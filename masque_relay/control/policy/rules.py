"""Owns the vocabulary of a policy: who, target patterns, times, limits, rules, and the query."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from ipaddress import IPv6Network, ip_network

from masque_relay.contract.address import IPAddress
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.request import Method
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.policy.addresses import (
    IPNetwork,
    embedded_ipv4,
    names_protected_range,
    unwrap,
)

GROUP_PREFIX = "group:"
MAX_PORT = 65_535
_WEEK_S = 7 * 86_400
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


class PatternError(ValueError):
    """A pattern in the policy is not well-formed.

    Attributes:
        hint: how to write it, where we can guess.
    """

    def __init__(self, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.hint = hint


class HostKind(Enum):
    """What the host part of a target pattern is."""

    ANY = "any"
    EXACT = "exact"
    SUFFIX = "suffix"
    NETWORK = "network"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPattern:
    """One entry of a rule's ``targets``: a host pattern and ports."""

    text: str
    """As the operator wrote it."""
    kind: HostKind
    name: str = ""
    """EXACT: the name. SUFFIX: what follows ``*.``."""
    network: IPNetwork | None = None
    """Only NETWORK."""
    ports: tuple[tuple[int, int], ...] = ((0, MAX_PORT),)
    """Inclusive ranges."""
    targetless: bool = False
    """Only the bare ``*``: matches a request without a single target too."""

    @property
    def any_port(self) -> bool:
        """Whether every port matches."""
        return self.ports == ((0, MAX_PORT),)

    def matches_port(self, port: int) -> bool:
        """Return whether one of the port ranges holds the port."""
        return any(first <= port <= last for first, last in self.ports)

    def matches_name(self, name: str | None) -> bool:
        """Return whether the host part matches by itself or by the name, whatever the address."""
        match self.kind:
            case HostKind.ANY:
                return True
            case HostKind.EXACT:
                return name == self.name
            case HostKind.SUFFIX:
                return name is not None and name.endswith(f".{self.name}")
            case HostKind.NETWORK:
                return False

    @property
    def lifts_protection(self) -> bool:
        """Whether it names a protected range, so that an allow rule reaches into it."""
        return self.network is not None and names_protected_range(self.network)


def parse_target(text: str) -> TargetPattern:
    """Return the pattern of an entry such as ``*.example.org:1-1023`` or ``[2001:db8::/32]:*``.

    Raises:
        PatternError: it is none of those.
    """
    if text == "*":
        return TargetPattern(text=text, kind=HostKind.ANY, targetless=True)
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    host, ports_text = (bracketed[1], bracketed[2]) if bracketed else _split_host(text)
    if not ports_text:
        raise PatternError("no port", f"write {text.rstrip(':')}:443, or :* for every port")
    ports = _parse_ports(ports_text)
    if host == "*":
        return TargetPattern(text=text, kind=HostKind.ANY, ports=ports)
    if bracketed or "/" in host or _looks_like_ipv4(host):
        network = parse_network(host)
        if bracketed and not isinstance(network, IPv6Network):
            raise PatternError("brackets are for IPv6 only", f"write {network}:{ports_text}")
        return TargetPattern(text=text, kind=HostKind.NETWORK, network=network, ports=ports)
    if host.startswith("*."):
        name = _parse_domain(host[2:])
        return TargetPattern(text=text, kind=HostKind.SUFFIX, name=name, ports=ports)
    return TargetPattern(text=text, kind=HostKind.EXACT, name=_parse_domain(host), ports=ports)


def parse_network(text: str) -> IPNetwork:
    """Return the network of a CIDR or a single address.

    Raises:
        PatternError: it is no network, has host bits set, or is IPv4 in IPv6 clothes.
    """
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise PatternError(f"{text!r} is not an address or a CIDR") from error
    prefix = text.partition("/")[0]
    if "/" in text and str(network.network_address) != str(_network_of(prefix).network_address):
        raise PatternError(f"{text} has host bits set", f"write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise PatternError("IPv4-mapped addresses are matched as IPv4", "write the IPv4 network")
    return network


def normalize_name(name: str) -> str:
    """Return a DNS name in lower case and without a trailing dot."""
    return name.lower().removesuffix(".")


def glob_to_regex(pattern: str) -> re.Pattern[str]:
    """Return a regex for a subject pattern, in which ``*`` stands for any run of characters."""
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)), re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """When a rule holds, in UTC."""

    week_ranges: tuple[tuple[int, int], ...] = ()
    """Half-open ranges in seconds since Monday 00:00; empty means always."""
    from_s: float | None = None
    """Seconds since the epoch, included."""
    until_s: float | None = None
    """Seconds since the epoch, not included."""

    def hold(self, now_s: float) -> bool:
        """Return whether they hold at a moment, in seconds since the epoch."""
        if self.from_s is not None and now_s < self.from_s:
            return False
        if self.until_s is not None and now_s >= self.until_s:
            return False
        if not self.week_ranges:
            return True
        week_s = (int(now_s) + _EPOCH_WEEKDAY * 86_400) % _WEEK_S
        return any(first <= week_s < last for first, last in self.week_ranges)


def week_ranges(
    days: Iterable[int], day_ranges: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Return the ranges of a week for days (Monday is 0) and ranges in seconds of a day.

    A range that ends before it begins runs over midnight and belongs to the day of its beginning.
    """
    ranges: list[tuple[int, int]] = []
    for day in days:
        for first, last in day_ranges:
            begin = day * 86_400 + first
            end = day * 86_400 + (last if last > first else last + 86_400)
            if end <= _WEEK_S:
                ranges.append((begin, end))
            else:
                ranges += [(begin, _WEEK_S), (0, end - _WEEK_S)]
    return tuple(sorted(ranges))


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleLimits:
    """What a rule grants, beyond the limits of each tunnel."""

    tunnel: TunnelLimits = field(default_factory=TunnelLimits)
    tunnels: int | None = None
    """Concurrent tunnels under this rule, of all subjects together."""
    tunnels_per_subject: int | None = None
    """Concurrent tunnels of one subject under this rule."""
    bytes_per_subject_per_day: int | None = None
    """Payload bytes, both ways, of one subject under this rule in a UTC day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named set of subjects."""

    name: str
    subjects: tuple[str, ...] = ()
    """Patterns with ``*``."""
    groups: tuple[str, ...] = ()
    """Other groups whose members are members here."""
    claims: tuple[str, ...] = ()
    """Groups as credentials name them (a token's ``groups``, a user's ``groups``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule, in file order."""

    name: str
    allow: bool
    who: tuple[str, ...]
    """Subject patterns and ``group:NAME``."""
    methods: frozenset[Method]
    targets: tuple[TargetPattern, ...]
    sources: tuple[IPNetwork, ...] = ()
    """Where the client may come from; empty means anywhere."""
    peers: tuple[str, ...] = ()
    """Whom a mesh peer may call: subject patterns and ``group:NAME`` of the other peer. An allow
    rule without peers lets somebody into the mesh, and call nobody."""
    times: Times | None = None
    limits: RuleLimits = field(default_factory=RuleLimits)
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What the policy is asked. With a name but no address the answer may be PENDING."""

    subject: str
    groups: tuple[str, ...] = ()
    """As the credential named them."""
    method: Method
    name: str | None = None
    """Lower case, without a trailing dot; None for a literal address."""
    address: IPAddress | None = None
    """Literal or resolved; None if the name is not resolved yet."""
    network: IPNetwork | None = None
    """The prefix that a CONNECT-IP request is limited to, without a port; a single address is a /32
    or /128. With a name: an address that the name resolves to."""
    port: int | None = None
    """None (with name and address) where the method has no single target."""
    peer_subject: str | None = None
    """Whom a mesh peer calls; None where no call is meant."""
    peer_groups: tuple[str, ...] = ()
    """As the callee's credential named them."""
    source: IPAddress | None = None
    """The client's address; None matches no rule with sources that allows."""
    now_s: float
    """Seconds since the epoch."""
    is_blind: bool = False
    """The name is resolved where nobody here sees its address: what would have to see it may refuse
    but not allow, and the answer is never PENDING."""

    @property
    def targetless(self) -> bool:
        """Whether nothing is known of the target because the method has no single one."""
        return self.name is None and self.address is None and self.network is None

    @property
    def is_scope(self) -> bool:
        """Whether the question is about a range of targets: a prefix, or a name at any port."""
        return self.port is None and self.address is None and not self.targetless


class Outcome(Enum):
    """The answer of the policy."""

    ALLOW = "allow"
    DENY = "deny"
    PENDING = "pending"
    """By name alone it can't be said: some rule goes by the address that the name resolves to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The policy's answer and the rule behind it."""

    outcome: Outcome
    rule: Rule | None
    """The rule that decided; PENDING: the first that may allow; None: no rule matched."""
    reason: DenyReason | None = None
    """Only for DENY: POLICY or ADDRESS_PROHIBITED."""
    detail: str = ""


def faces(address: IPAddress) -> tuple[IPAddress, ...]:
    """Return the addresses by which a deny rule may know this one: itself, and what it embeds."""
    address = unwrap(address)
    inner = embedded_ipv4(address)
    return (address,) if inner is None else (address, inner)


def format_instant(at_s: float) -> str:
    """Return a moment as people write it, in UTC."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%a %Y-%m-%dT%H:%M:%SZ")


def _split_host(text: str) -> tuple[str, str]:
    host, colon, ports = text.rpartition(":")
    if ":" in host:
        raise PatternError("an IPv6 address needs brackets", "write [2001:db8::/32]:443")
    if colon and not host:
        raise PatternError("no host", f"write *{text} for every host")
    return (host, ports) if host else (ports, "")


def _parse_ports(text: str) -> tuple[tuple[int, int], ...]:
    if text == "*":
        return ((0, MAX_PORT),)
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None:
            raise PatternError(f"{part!r} is not a port", "write 443, 1-1023, 80,443 or *")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= MAX_PORT:
            raise PatternError(f"{part} is not a range of ports between 1 and {MAX_PORT}")
        ranges.append((first, last))
    return tuple(sorted(ranges))


def _parse_domain(text: str) -> str:
    name = normalize_name(text)
    if not name.isascii():
        raise PatternError(f"{text!r} is not ASCII", "write the A-label form (xn--…)")
    if len(name) > 253 or not _DOMAIN.fullmatch(name):
        hint = (
            "a star is only good as the whole host or as the first label" if "*" in name else None
        )
        raise PatternError(f"{text!r} is not a domain name", hint)
    return name


def _looks_like_ipv4(host: str) -> bool:
    return bool(re.fullmatch(r"[0-9.]+", host))


def _network_of(text: str) -> IPNetwork:
    return ip_network(text)
