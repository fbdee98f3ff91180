"""Owns the split rules of the local proxy: which targets go to the relay, directly, or nowhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from masque_relay.client.errors import AddressError
from masque_relay.contract.address import Target
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host

_HINT = (
    "write ACTION:WHERE with the action proxy, direct or block, and WHERE one of example.org, "
    "10.0.0.0/8, [2001:db8::]/32 or *, each with :PORT or :PORT-PORT if wanted"
)
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_WHERE = re.compile(r"(?P<host>\[[^\]]*\](?:/[0-9]+)?|[^:]*)(?::(?P<ports>[^:]*))?")


class Way(StrEnum):
    """What happens to a connection or a datagram."""

    PROXY = "proxy"
    """Through the relay."""
    DIRECT = "direct"
    """From this machine, past the relay; names are looked up here."""
    BLOCK = "block"
    """Refused here."""


class Traffic(Enum):
    """What is to be carried."""

    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """One rule: a way, and the targets that take it."""

    way: Way
    host: str | IPv4Network | IPv6Network | None
    """A lower-case domain (it and all below it), a subnet of literal addresses, or None: any."""
    first_port: int = 1
    last_port: int = 65_535
    is_exact: bool = False
    """A domain without what is below it. Only a relay's own rules say it (pvd.py)."""
    traffic: Traffic | None = None
    """None means both. Only a relay's own rules say it."""

    @classmethod
    def parse(cls, text: str) -> "SplitRule":
        """Return the rule for ``ACTION:WHERE``.

        Raises:
            AddressError: it cannot be read.
        """
        action, separator, where = text.partition(":")
        match = _WHERE.fullmatch(where.strip())
        try:
            way = Way(action.strip())
            if not separator or match is None or not where.strip():
                raise ValueError(where)
            first_port, last_port = _parse_ports(match["ports"])
            host = _parse_where(match["host"])
        except (ValueError, WireError):
            raise AddressError(f"{text!r} is not a split rule", hint=_HINT) from None
        return cls(way=way, host=host, first_port=first_port, last_port=last_port)

    def matches(self, target: Target, traffic: Traffic = Traffic.TCP) -> bool:
        """Whether the target is meant. A subnet never matches a name: nothing is looked up here."""
        if not self.first_port <= target.port <= self.last_port:
            return False
        if self.traffic is not None and self.traffic is not traffic:
            return False
        match self.host:
            case None:
                return True
            case str() as domain:
                name = target.host
                if not isinstance(name, str):
                    return False
                return name == domain or (not self.is_exact and name.endswith("." + domain))
            case network:
                return not isinstance(target.host, str) and target.host in network


class SplitRules:
    """Rules in order; the first that matches decides, and without one the default does."""

    def __init__(self, rules: Sequence[SplitRule] = (), *, default: Way = Way.PROXY) -> None:
        self._rules = tuple(rules)
        self._default = default

    def way_of(self, target: Target, traffic: Traffic = Traffic.TCP) -> Way:
        """Return which way a target takes."""
        ways = (rule.way for rule in self._rules if rule.matches(target, traffic))
        return next(ways, self._default)


def read_rules(text: str, *, origin: str) -> list[SplitRule]:
    """Return the rules of a file: one a line, ``#`` begins a comment.

    Raises:
        AddressError: a line cannot be read; the message names it.
    """
    rules: list[SplitRule] = []
    for number, line in enumerate(text.splitlines(), 1):
        rule = line.partition("#")[0].strip()
        if rule:
            try:
                rules.append(SplitRule.parse(rule))
            except AddressError as error:
                raise AddressError(f"{origin}:{number}: {error.message}", hint=error.hint) from None
    return rules


def _parse_where(text: str) -> str | IPv4Network | IPv6Network | None:
    if text in {"", "*"}:
        return None
    if text.startswith("["):
        address, _, length = text[1:].partition("]")
        return ip_network(address + length)
    if "/" in text:
        return ip_network(text)
    host = parse_host(text.removeprefix("*").removeprefix("."))
    return host if isinstance(host, str) else ip_network(host)


def _parse_ports(text: str | None) -> tuple[int, int]:
    if text is None:
        return 1, 65_535
    match = _PORTS.fullmatch(text)
    if match is None:
        raise ValueError(text)
    first = int(match[1])
    last = int(match[2] or match[1])
    if not 1 <= first <= last <= 65_535:
        raise ValueError(text)
    return first, last
