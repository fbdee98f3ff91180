"""Owns name resolution: one resolver on c-ares, A and AAAA in parallel, Happy Eyeballs order.

RFC 8305 sections 3 and 4. Answers are cached within bounds; what is returned is what the caller
polices and connects to, nothing is looked up a second time in between.
"""

import asyncio
import socket
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from ipaddress import IPv6Address, ip_address
from itertools import chain, zip_longest
from typing import Protocol, cast

import aiodns
import pycares

from masque_relay.contract.address import IPAddress
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.errors import ARES_ENODATA, ARES_ETIMEOUT, flow_error_from_dns
from masque_relay.dataplane.limits import ResolverLimits

# ares.h; pycares leaves the first two untyped and does not have the third.
_FLAG_NOSEARCH = 1 << 5
_FLAG_EDNS = 1 << 8
_AI_NOSORT = 1 << 7  # sorting would open sockets and undo the zone's round robin

MAX_ARES_RECORDS = 65_536
"""Records that c-ares may have in its cache before it is replaced: about 4 MiB. A zone of a
client's own can answer each name with thousands."""


class FamilyPreference(StrEnum):
    """Which addresses come first, or at all."""

    IPV6_FIRST = "ipv6-first"
    IPV4_FIRST = "ipv4-first"
    IPV6_ONLY = "ipv6-only"
    IPV4_ONLY = "ipv4-only"


_FAMILIES = {
    FamilyPreference.IPV6_FIRST: (socket.AF_INET6, socket.AF_INET),
    FamilyPreference.IPV4_FIRST: (socket.AF_INET, socket.AF_INET6),
    FamilyPreference.IPV6_ONLY: (socket.AF_INET6,),
    FamilyPreference.IPV4_ONLY: (socket.AF_INET,),
}

_Key = tuple[str, socket.AddressFamily]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What one query brought: addresses, or why there are none."""

    addresses: tuple[IPAddress, ...] = ()
    error: FlowError | None = None
    ttl_s: float = 0.0


class _AddressNode(Protocol):
    """pycares.AddrInfoNode, with the type that its ``addr`` lacks."""

    addr: tuple[bytes, int]
    ttl: int


class Resolver:
    """Turns a target's name into addresses.

    Static pins win over everything, literal addresses are never looked up, ``/etc/hosts`` wins over
    DNS, search domains are not applied: a target's name is complete. Two callers who ask for one
    name at once share the queries.
    """

    def __init__(
        self,
        *,
        limits: ResolverLimits,
        counters: FlowCounters,
        nameservers: Sequence[str] = (),
        preference: FamilyPreference = FamilyPreference.IPV6_FIRST,
        pins: Mapping[str, Sequence[IPAddress]] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
        reachable: Callable[[IPAddress], bool] | None = None,
    ) -> None:
        """Make a resolver; needs a running loop. :meth:`close` frees it.

        Args:
            limits: see there.
            counters: where lookups are counted.
            nameservers: ``192.0.2.1``, ``192.0.2.1:5353`` or ``[2001:db8::1]:53``; empty = the
                system's.
            preference: which family comes first.
            pins: addresses of names that are never looked up.
            monotonic_s: the clock of the cache.
            reachable: says whether this host has a route; None = ask the routing table.

        Raises:
            ValueError: a nameserver is not an address with an optional port.
        """
        self._limits = limits
        self._counters = counters
        self._families = _FAMILIES[preference]
        self._pins = {_canonical(host): tuple(found) for host, found in (pins or {}).items()}
        self._monotonic_s = monotonic_s
        self._has_route = reachable or has_route
        self._loop = asyncio.get_running_loop()
        self._nameservers = tuple(nameservers)
        self._generations: weakref.WeakSet[aiodns.DNSResolver] = weakref.WeakSet()
        self._ares = self._make_ares()
        self._ares_made_s = monotonic_s()
        self._ares_records = 0
        self._cache: dict[_Key, tuple[float, _Answer]] = {}
        self._in_flight: dict[_Key, asyncio.Future[_Answer]] = {}
        self._slots = asyncio.Semaphore(limits.concurrent_queries)
        self._waiting_count = 0

    @property
    def in_flight_count(self) -> int:
        """Queries under way."""
        return len(self._in_flight)

    @property
    def waiting_count(self) -> int:
        """Callers that wait for others' queries to finish."""
        return self._waiting_count

    @property
    def cached_count(self) -> int:
        """Answers in the cache."""
        return len(self._cache)

    async def resolve(self, host: str, *, timeout_s: float) -> tuple[IPAddress, ...]:
        """Return a name's addresses in Happy Eyeballs order, at least one.

        IPv4-mapped addresses are unwrapped; NAT64 ones (64:ff9b::/96) are left for policy to see.

        Raises:
            FlowError: DNS_ERROR (with rcode where there is one), DNS_TIMEOUT, or RESOURCES when too
                many wait already.
        """
        host = _canonical(host)
        literal = _parse_literal(host)
        if literal is not None:
            return (literal,)
        if (pinned := self._pins.get(host)) is not None:
            return pinned
        self._counters.lookups += 1
        try:
            answers = await self._ask_families(host, self._loop.time() + timeout_s)
            return self._order(host, answers)
        except FlowError as error:
            if error.fault is FlowFault.DNS_TIMEOUT:
                self._counters.lookups_timed_out += 1
            else:
                self._counters.lookups_failed += 1
            raise

    def clear_cache(self) -> None:
        """Forget every answer, for instance at reload; lookups under way go on."""
        self._cache.clear()
        self._renew_ares()

    async def close(self) -> None:
        """Free the resolver; idempotent. Callers that wait get an error."""
        for ares in list(self._generations):
            await ares.close()
        for outcome in list(self._in_flight.values()):
            if not outcome.done():
                closed = FlowError(FlowFault.DNS_ERROR, "the resolver is closed")
                outcome.set_result(_Answer(error=closed))
        # The callbacks of the cancelled queries come from c-ares' thread: let them in.
        await asyncio.sleep(0)

    def _make_ares(self) -> aiodns.DNSResolver:
        try:
            ares = aiodns.DNSResolver(
                nameservers=self._nameservers or None,
                flags=_FLAG_NOSEARCH | _FLAG_EDNS,
                timeout=self._limits.attempt_timeout_s,
                tries=self._limits.attempts,
            )
        except pycares.AresError as error:
            msg = f"nameservers {', '.join(self._nameservers)}: {error}"
            raise ValueError(msg) from error
        self._generations.add(ares)
        return ares

    def _renew_ares(self) -> None:
        """Replace c-ares, which has a cache of its own that knows neither our cap nor forgetting.

        The old one lives as long as its queries: their callbacks hold it, and it frees itself.
        """
        self._ares = self._make_ares()
        self._ares_made_s = self._monotonic_s()
        self._ares_records = 0

    def _ares_is_worn(self) -> bool:
        return (
            self._monotonic_s() - self._ares_made_s >= self._limits.cache_ttl_cap_s
            or self._ares_records >= MAX_ARES_RECORDS
        )

    async def _ask_families(self, host: str, deadline_s: float) -> list[_Answer]:
        """Return what is known of each family by the deadline, in order of preference.

        Deviation from RFC 8305 section 3: whichever family answers first waits for the other one
        for the resolution delay, not only A for AAAA. The caller has no second chance to learn the
        other family's addresses.
        """
        outcomes = [await self._ask((host, family), deadline_s) for family in self._families]
        while pending := [outcome for outcome in outcomes if not outcome.done()]:
            wait_s = deadline_s - self._loop.time()
            if any(outcome.done() and outcome.result().addresses for outcome in outcomes):
                wait_s = min(wait_s, self._limits.resolution_delay_s)
            done, _ = await asyncio.wait(
                pending, timeout=max(0.0, wait_s), return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
        return [outcome.result() if outcome.done() else _timed_out(host) for outcome in outcomes]

    async def _ask(self, key: _Key, deadline_s: float) -> asyncio.Future[_Answer]:
        """Return the answer to come for one family: cached, shared with others, or a new query."""
        if (cached := self._cached(key)) is not None:
            outcome: asyncio.Future[_Answer] = self._loop.create_future()
            outcome.set_result(cached)
            return outcome
        if (shared := self._in_flight.get(key)) is not None:
            return shared
        await self._take_slot(key[0], deadline_s)
        if (shared := self._in_flight.get(key)) is not None:  # somebody asked while we waited
            self._slots.release()
            return shared
        outcome = self._loop.create_future()
        self._in_flight[key] = outcome
        if self._ares_is_worn():
            self._renew_ares()
        ares = self._ares
        query = ares.getaddrinfo(key[0], family=key[1], type=socket.SOCK_DGRAM, flags=_AI_NOSORT)
        query.add_done_callback(partial(self._on_answer, ares, key, outcome))
        return outcome

    async def _take_slot(self, host: str, deadline_s: float) -> None:
        if self._slots.locked() and self._waiting_count >= self._limits.waiting_lookups:
            raise FlowError(FlowFault.RESOURCES, f"resolve {host}: too many lookups wait already")
        self._waiting_count += 1
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._slots.acquire()
        except TimeoutError:
            raise _timed_out_error(host) from None
        finally:
            self._waiting_count -= 1

    def _on_answer(
        self,
        _ares: aiodns.DNSResolver,  # kept alive by this callback until its query is done
        key: _Key,
        outcome: asyncio.Future[_Answer],
        query: asyncio.Future[pycares.AddrInfoResult],
    ) -> None:
        self._slots.release()
        self._in_flight.pop(key, None)
        self._ares_records += _record_count(query)
        answer = _read_answer(key[0], query, self._limits)
        self._remember(key, answer)
        if not outcome.done():
            outcome.set_result(answer)

    def _cached(self, key: _Key) -> _Answer | None:
        entry = self._cache.get(key)
        if entry is None:
            return None
        expires_s, answer = entry
        if expires_s <= self._monotonic_s():
            del self._cache[key]
            return None
        return answer

    def _remember(self, key: _Key, answer: _Answer) -> None:
        if answer.ttl_s <= 0:
            return
        self._cache.pop(key, None)
        if len(self._cache) >= self._limits.cache_entries:
            del self._cache[next(iter(self._cache))]
        self._cache[key] = (self._monotonic_s() + answer.ttl_s, answer)

    def _order(self, host: str, answers: Sequence[_Answer]) -> tuple[IPAddress, ...]:
        """Interleave the families (RFC 8305 section 4), without duplicates.

        RFC 6724 section 5 rule 1: a family to which this host has no route comes last.
        """
        families = [answer.addresses for answer in answers if answer.addresses]
        if len(families) > 1:
            families.sort(key=lambda addresses: not self._has_route(addresses[0]))
            if not self._has_route(families[-1][0]):
                found = list(chain.from_iterable(families))
            else:
                found = [address for pair in zip_longest(*families) for address in pair if address]
        else:
            found = list(chain.from_iterable(families))
        if not found:
            raise _worst(host, answers)
        return tuple(dict.fromkeys(found))[: self._limits.max_addresses]


def _canonical(host: str) -> str:
    return host.removesuffix(".").lower()


def _unwrap(address: IPAddress) -> IPAddress:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _parse_literal(host: str) -> IPAddress | None:
    try:
        return _unwrap(ip_address(host))
    except ValueError:
        return None


def has_route(address: IPAddress) -> bool:
    """Return whether this host's routing table reaches an address; sends nothing."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
    except OSError:
        return False
    return True


def _read_answer(
    host: str, query: asyncio.Future[pycares.AddrInfoResult], limits: ResolverLimits
) -> _Answer:
    if query.cancelled():
        return _Answer(error=FlowError(FlowFault.DNS_ERROR, f"resolve {host}: cancelled"))
    error = query.exception()
    if error is not None:
        failure = _read_failure(host, error)
        is_negative = failure.rcode in {"NXDOMAIN", "NOERROR"}
        return _Answer(error=failure, ttl_s=limits.cache_negative_ttl_s if is_negative else 0.0)
    result = query.result()
    # No more than are used: to read thousands takes milliseconds of everybody's time.
    nodes = cast("Sequence[_AddressNode]", result.nodes)[: limits.max_addresses]
    addresses = tuple(_unwrap(ip_address(node.addr[0].decode())) for node in nodes)
    if not addresses:
        return _Answer(error=flow_error_from_dns(host, ARES_ENODATA))
    ttl_s = min([node.ttl for node in nodes] + [alias.ttl for alias in result.cnames])
    return _Answer(addresses=addresses, ttl_s=min(ttl_s, limits.cache_ttl_cap_s))


def _record_count(query: asyncio.Future[pycares.AddrInfoResult]) -> int:
    """Return about how much c-ares keeps of an answer; a failure counts as one record."""
    if query.cancelled() or query.exception() is not None:
        return 1
    result = query.result()
    return len(result.nodes) + len(result.cnames) + 1


def _read_failure(host: str, error: BaseException) -> FlowError:
    if not isinstance(error, aiodns.error.DNSError):
        return FlowError(FlowFault.DNS_ERROR, f"resolve {host}: {error}")
    return flow_error_from_dns(host, int(error.args[0]))


def _timed_out_error(host: str) -> FlowError:
    return flow_error_from_dns(host, ARES_ETIMEOUT)


def _timed_out(host: str) -> _Answer:
    return _Answer(error=_timed_out_error(host))


def _worst(host: str, answers: Sequence[_Answer]) -> FlowError:
    """Pick what to report when no family has an address.

    A timeout first, as the name may yet have one; then a failure; "no such type" last.
    """
    errors = [answer.error for answer in answers if answer.error is not None]
    for error in errors:
        if error.fault is FlowFault.DNS_TIMEOUT:
            return error
    for error in errors:
        if error.rcode != "NOERROR":
            return error
    return flow_error_from_dns(host, ARES_ENODATA)
