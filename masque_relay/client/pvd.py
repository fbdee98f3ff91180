"""Owns what a relay says about itself at ``/.well-known/pvd``: RFC 8801, strictly read.

draft-ietf-intarea-proxy-config-14. What the relay says can only narrow what goes through it: the
user's own split rules come first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeVar, cast

import orjson

from masque_relay.client.address import RelayAddress
from masque_relay.client.errors import ClientError
from masque_relay.client.refusal import status_of
from masque_relay.client.relay import RelayClient
from masque_relay.client.split import SplitRule, SplitRules, Traffic, Way
from masque_relay.client.uplink import RelayOptions
from masque_relay.wire.errors import WireError
from masque_relay.wire.host import parse_host

PATH = "/.well-known/pvd"
MEDIA_TYPE = "application/pvd+json"
MAX_ENTRIES = 4_096
"""Of any array; a policy has tens."""

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_PROXY_KEYS = frozenset({"protocol", "proxy", "mandatory", "alpn", "identifier"})
_RULE_KEYS = frozenset({"proxies", "domains", "subnets", "ports"})
_CARRIES = {
    "connect-udp": Traffic.UDP,
    "connect-tcp": Traffic.TCP,
    "https-connect": Traffic.TCP,
}
"""The protocols by which this client uses a relay."""

_T = TypeVar("_T")


class PvdError(ClientError):
    """The relay has no such document for us, or it cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PvdProxy:
    """One proxy."""

    protocol: str
    proxy: str
    """URI template, or host and port, depending on the protocol."""
    identifier: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PvdRule:
    """One destination rule; the first that matches counts."""

    proxies: tuple[str, ...]
    """Identifiers, the preferred one first; empty: matching traffic goes to none of the proxies."""
    domains: tuple[str, ...] = ()
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: tuple[tuple[int, int], ...] = ((1, 65_535),)


@dataclass(frozen=True, slots=True, kw_only=True)
class PvdDocument:
    """What a relay says about itself."""

    identifier: str
    expires_s: float
    """Seconds since the epoch."""
    proxies: tuple[PvdProxy, ...]
    rules: tuple[PvdRule, ...] | None
    """None: the document has none, and the proxies take everything."""

    def split_rules(
        self, first: Sequence[SplitRule] = (), *, default: Way | None = None
    ) -> SplitRules:
        """Return the rules for a local proxy; the user's own come first.

        What no rule matches goes past the relay, unless ``default`` says otherwise or the document
        has no rules at all.
        """
        if self.rules is None:
            return SplitRules(first, default=default or Way.PROXY)
        found = [split for rule in self.rules for split in self._split(rule)]
        return SplitRules([*first, *found], default=default or Way.DIRECT)

    def _split(self, rule: PvdRule) -> Iterator[SplitRule]:
        if rule.domains and rule.subnets:
            return  # here a target is a name or an address, and never both
        traffics = {
            _CARRIES[proxy.protocol]
            for proxy in self.proxies
            if proxy.identifier in rule.proxies and proxy.protocol in _CARRIES
        }
        if rule.proxies and not traffics:
            return  # none that we can use: as if it did not match
        way = Way.PROXY if rule.proxies else Way.DIRECT
        traffic = traffics.pop() if len(traffics) == 1 else None
        places: list[str | IPv4Network | IPv6Network | None] = [*rule.domains, *rule.subnets]
        for place in places or [None]:
            is_exact = isinstance(place, str) and not place.startswith("*.")
            host = place.removeprefix("*.") if isinstance(place, str) else place
            for first_port, last_port in rule.ports:
                yield SplitRule(
                    way=way,
                    host=host,
                    first_port=first_port,
                    last_port=last_port,
                    is_exact=is_exact,
                    traffic=traffic,
                )


async def fetch_pvd(address: RelayAddress, options: RelayOptions | None = None) -> PvdDocument:
    """Ask a relay what we may use it for.

    Raises:
        PvdError: it does not say, or what it says cannot be read.
        ClientError: it cannot be reached.
    """
    async with RelayClient(address, options) as relay:
        response = await relay.fetch(PATH, accept=MEDIA_TYPE, with_credential=True)
    status = status_of(response.headers)
    if status in {401, 403}:
        raise PvdError(
            f"the relay did not accept the credential for its proxy configuration ({status})",
            hint="check --token-file, --basic-file or --client-cert",
        )
    if status != 200:
        raise PvdError(
            f"the relay has no proxy configuration ({status})", hint="leave out --from-pvd"
        )
    kind = dict(response.headers).get(b"content-type", b"").decode("latin-1")
    if kind.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise PvdError(f"the relay's proxy configuration is {kind or 'nothing'}, not {MEDIA_TYPE}")
    return parse_pvd(response.body, host=address.host)


def parse_pvd(body: bytes, *, host: str) -> PvdDocument:
    """Return a document.

    A proxy that demands a key which we do not know, and a destination rule with one, are left out,
    as the draft says. Everything else that is wrong makes the document useless.

    Args:
        body: the response.
        host: of the relay that was asked: the identifier must be it.

    Raises:
        PvdError: it is no PvD document, or another host's.
    """
    try:
        document = _table(orjson.loads(body))
        identifier = _text(document.get("identifier"))
        if identifier.lower().removesuffix(".") != host.lower().removesuffix("."):
            raise _bad(f"it is for {identifier[:64]!r}, not for {host}")
        if _array(document.get("prefixes")):
            raise _bad("prefixes are for router advertisements")
        rules = document.get("proxy-match")
        return PvdDocument(
            identifier=identifier,
            expires_s=_moment(_text(document.get("expires"))),
            proxies=_all_known(map(_parse_proxy, _tables(document.get("proxies")))),
            rules=None if rules is None else _all_known(map(_parse_rule, _tables(rules))),
        )
    except (ValueError, WireError) as error:
        raise PvdError(f"the relay's proxy configuration cannot be read: {error}") from None


def _parse_proxy(item: Mapping[str, object]) -> PvdProxy | None:
    mandatory = {_text(key) for key in _array(item.get("mandatory", []))}
    if not mandatory <= item.keys():
        raise _bad("mandatory names a key that is not there")
    if not mandatory <= _PROXY_KEYS:
        return None
    protocol, proxy = _text(item.get("protocol")), _text(item.get("proxy"))
    named = item.get("identifier")
    return PvdProxy(
        protocol=protocol, proxy=proxy, identifier=None if named is None else _text(named)
    )


def _parse_rule(item: Mapping[str, object]) -> PvdRule | None:
    proxies = tuple(_text(name) for name in _array(item.get("proxies")))
    if not item.keys() <= _RULE_KEYS:
        return None
    for key in _RULE_KEYS - {"proxies"}:
        if key in item and not _array(item[key]):
            raise _bad(f"{key} is empty")
    return PvdRule(
        proxies=proxies,
        domains=tuple(_domain(_text(text)) for text in _array(item.get("domains", []))),
        subnets=tuple(ip_network(_text(text)) for text in _array(item.get("subnets", []))),
        ports=tuple(_ports(_text(text)) for text in _array(item.get("ports", [])))
        or ((1, 65_535),),
    )


def _domain(text: str) -> str:
    wildcard = "*." if text.startswith("*.") else ""
    name = parse_host(text.removeprefix("*.").removesuffix("."))
    if not isinstance(name, str):
        raise _bad("an address among the domains")
    return wildcard + name


def _ports(text: str) -> tuple[int, int]:
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise _bad(f"{text[:16]!r} is no range of ports")
    return first, last


def _moment(text: str) -> float:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise _bad("expires has no time zone")
    return at.timestamp()


def _all_known(items: Iterable[_T | None]) -> tuple[_T, ...]:
    return tuple(item for item in items if item is not None)


def _tables(value: object) -> list[Mapping[str, object]]:
    return [_table(item) for item in _array(value)]


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _bad("an object is missing")
    return cast("Mapping[str, object]", value)


def _array(value: object) -> list[object]:
    if not isinstance(value, list) or len(cast("list[object]", value)) > MAX_ENTRIES:
        raise _bad("an array is missing or too long")
    return cast("list[object]", value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _bad("a text is missing")
    return value


def _bad(detail: str) -> ValueError:
    return ValueError(detail)
