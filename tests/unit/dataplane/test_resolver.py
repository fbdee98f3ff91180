"""Tests the resolver above c-ares: order, deadlines, cache, sharing and bounds."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

import aiodns
import pycares
import pytest

from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane import resolver
from masque_relay.dataplane.limits import ResolverLimits
from masque_relay.dataplane.resolver import FamilyPreference, Resolver

ARES = pycares.errno
TIMEOUT_S = 20.0


@dataclass(eq=False)
class FakeAres:
    """Stands for aiodns.DNSResolver: answers by table, or when told."""

    answers: dict[tuple[str, int], Any] = field(default_factory=dict)
    """(host, family) -> list of addresses, a c-ares status, or None to keep the query open."""
    ttl_s: int = 60
    asked: list[tuple[str, int]] = field(default_factory=list)
    open_queries: dict[tuple[str, int], asyncio.Future[Any]] = field(default_factory=dict)

    def getaddrinfo(self, host: str, *, family: int, type: int, flags: int) -> Any:  # noqa: A002
        assert flags == 128  # ARES_AI_NOSORT
        self.asked.append((host, family))
        query = asyncio.get_running_loop().create_future()
        answer = self.answers.get((host, family), ARES.ARES_ENOTFOUND)
        if answer is None:
            self.open_queries[host, family] = query
        else:
            self.finish(query, answer, family)
        return query

    def finish(self, query: asyncio.Future[Any], answer: Any, family: int) -> None:
        if isinstance(answer, int):
            query.set_exception(aiodns.error.DNSError(answer, "status"))
            return
        nodes = [
            pycares.AddrInfoNode(self.ttl_s, 0, family, 2, 17, (address.encode(), 0))
            for address in answer
        ]
        query.set_result(pycares.AddrInfoResult([], nodes))

    async def close(self) -> None:
        for query in self.open_queries.values():
            if not query.done():
                query.set_exception(aiodns.error.DNSError(ARES.ARES_ECANCELLED, "cancelled"))


@pytest.fixture
def ares(monkeypatch: pytest.MonkeyPatch) -> FakeAres:
    fake = FakeAres()
    monkeypatch.setattr(resolver.aiodns, "DNSResolver", lambda **_: fake)
    return fake


@pytest.fixture
def counters() -> FlowCounters:
    return FlowCounters()


@pytest.fixture
async def make(ares: FakeAres, counters: FlowCounters) -> AsyncGenerator[Callable[..., Resolver]]:
    made: list[Resolver] = []

    def factory(**kwargs: Any) -> Resolver:
        kwargs.setdefault("limits", ResolverLimits(resolution_delay_s=0.01))
        kwargs.setdefault("reachable", lambda _: True)
        made.append(Resolver(counters=counters, **kwargs))
        return made[-1]

    yield factory
    for each in made:
        await each.close()


def texts(addresses: tuple[Any, ...]) -> list[str]:
    return [str(address) for address in addresses]


class TestOrder:
    """RFC 8305 section 4: families interleaved, the preferred one first."""

    @pytest.mark.parametrize(
        ("preference", "expected"),
        [
            (FamilyPreference.IPV6_FIRST, ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2"]),
            (FamilyPreference.IPV4_FIRST, ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]),
            (FamilyPreference.IPV6_ONLY, ["2001:db8::1", "2001:db8::2"]),
            (FamilyPreference.IPV4_ONLY, ["192.0.2.1", "192.0.2.2"]),
        ],
    )
    async def test_preference_decides_who_comes_first(
        self,
        make: Callable[..., Resolver],
        ares: FakeAres,
        preference: FamilyPreference,
        expected: list[str],
    ) -> None:
        ares.answers = {
            ("a.example", AF_INET): ["192.0.2.1", "192.0.2.2"],
            ("a.example", AF_INET6): ["2001:db8::1", "2001:db8::2"],
        }
        sut = make(preference=preference)
        assert texts(await sut.resolve("a.example", timeout_s=TIMEOUT_S)) == expected

    async def test_a_family_without_a_route_comes_last(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        """RFC 6724 section 5 rule 1."""
        ares.answers = {
            ("a.example", AF_INET): ["192.0.2.1", "192.0.2.2"],
            ("a.example", AF_INET6): ["2001:db8::1"],
        }
        sut = make(reachable=lambda address: address.version == 4)
        found = await sut.resolve("a.example", timeout_s=TIMEOUT_S)
        assert texts(found) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]

    async def test_mapped_addresses_are_unwrapped_and_nat64_ones_are_not(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers = {
            ("a.example", AF_INET): ["10.0.0.1"],
            ("a.example", AF_INET6): ["::ffff:10.0.0.1", "64:ff9b::a00:1"],
        }
        found = await make().resolve("a.example", timeout_s=TIMEOUT_S)
        assert texts(found) == ["10.0.0.1", "64:ff9b::a00:1"]

    async def test_a_long_answer_is_cut(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers[("a.example", AF_INET)] = [f"192.0.2.{n}" for n in range(1, 100)]
        found = await make().resolve("a.example", timeout_s=TIMEOUT_S)
        assert len(found) == ResolverLimits().max_addresses


class TestWithoutLookup:
    """Literals and pins ask nobody."""

    @pytest.mark.parametrize(
        ("host", "address"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("64:ff9b::a00:1", "64:ff9b::a00:1"),
        ],
    )
    async def test_literals_are_never_looked_up(
        self, make: Callable[..., Resolver], ares: FakeAres, host: str, address: str
    ) -> None:
        assert texts(await make().resolve(host, timeout_s=TIMEOUT_S)) == [address]
        assert ares.asked == []

    async def test_pins_win(self, make: Callable[..., Resolver], ares: FakeAres) -> None:
        sut = make(pins={"Pinned.Example.": [ip_address("192.0.2.9")]})
        assert texts(await sut.resolve("pinned.example", timeout_s=TIMEOUT_S)) == ["192.0.2.9"]
        assert ares.asked == []


class TestFailures:
    """Each way to fail has its fault, its rcode and its counter."""

    @pytest.mark.parametrize(
        ("ipv4", "ipv6", "fault", "rcode"),
        [
            (ARES.ARES_ENOTFOUND, ARES.ARES_ENOTFOUND, FlowFault.DNS_ERROR, "NXDOMAIN"),
            (ARES.ARES_ENODATA, ARES.ARES_ENODATA, FlowFault.DNS_ERROR, "NOERROR"),
            (ARES.ARES_ESERVFAIL, ARES.ARES_ENODATA, FlowFault.DNS_ERROR, "SERVFAIL"),
            (ARES.ARES_EREFUSED, ARES.ARES_EREFUSED, FlowFault.DNS_ERROR, "REFUSED"),
            (ARES.ARES_ENODATA, ARES.ARES_ETIMEOUT, FlowFault.DNS_TIMEOUT, None),
            (ARES.ARES_ECONNREFUSED, ARES.ARES_ENODATA, FlowFault.DNS_ERROR, None),
            ([], [], FlowFault.DNS_ERROR, "NOERROR"),
        ],
    )
    async def test_the_more_telling_of_two_failures_is_reported(
        self,
        make: Callable[..., Resolver],
        ares: FakeAres,
        counters: FlowCounters,
        ipv4: Any,
        ipv6: Any,
        fault: FlowFault,
        rcode: str | None,
    ) -> None:
        ares.answers = {("a.example", AF_INET): ipv4, ("a.example", AF_INET6): ipv6}
        with pytest.raises(FlowError) as caught:
            await make().resolve("a.example", timeout_s=TIMEOUT_S)
        assert (caught.value.fault, caught.value.rcode) == (fault, rcode)
        assert counters.lookups == 1
        timed_out = fault is FlowFault.DNS_TIMEOUT
        assert counters.lookups_timed_out == int(timed_out)
        assert counters.lookups_failed == int(not timed_out)

    async def test_one_family_that_fails_does_not_hurt_the_other(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers = {
            ("a.example", AF_INET): ["192.0.2.1"],
            ("a.example", AF_INET6): ARES.ARES_ESERVFAIL,
        }
        assert texts(await make().resolve("a.example", timeout_s=TIMEOUT_S)) == ["192.0.2.1"]

    async def test_silence_ends_at_the_deadline(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers = {("a.example", AF_INET): None, ("a.example", AF_INET6): None}
        with pytest.raises(FlowError) as caught:
            await make().resolve("a.example", timeout_s=0.01)
        assert caught.value.fault is FlowFault.DNS_TIMEOUT

    @pytest.mark.clause(
        "RFC 8305",
        "3",
        "DEVIATION",
        "either family waits for the other for the resolution delay, not only A for AAAA",
    )
    async def test_a_silent_family_delays_the_other_only_for_the_resolution_delay(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        """RFC 8305 section 3."""
        ares.answers = {("a.example", AF_INET): ["192.0.2.1"], ("a.example", AF_INET6): None}
        async with asyncio.timeout(TIMEOUT_S / 2):
            found = await make().resolve("a.example", timeout_s=TIMEOUT_S)
        assert texts(found) == ["192.0.2.1"]


class TestCache:
    """Answers live for their TTL under a cap; negative ones shortly; failures not at all."""

    async def test_an_answer_is_kept_for_its_ttl(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        now_s = [0.0]
        ares.answers[("a.example", AF_INET)] = ["192.0.2.1"]
        sut = make(monotonic_s=lambda: now_s[0], preference=FamilyPreference.IPV4_ONLY)
        for now_s[0], asked in ((0.0, 1), (59.0, 1), (60.0, 2)):
            await sut.resolve("A.example.", timeout_s=TIMEOUT_S)
            assert len(ares.asked) == asked
        sut.clear_cache()
        assert sut.cached_count == 0

    async def test_a_long_ttl_is_capped(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        now_s = [0.0]
        ares.ttl_s = 86_400
        ares.answers[("a.example", AF_INET)] = ["192.0.2.1"]
        sut = make(monotonic_s=lambda: now_s[0], preference=FamilyPreference.IPV4_ONLY)
        for now_s[0], asked in ((0.0, 1), (299.0, 1), (300.0, 2)):
            await sut.resolve("a.example", timeout_s=TIMEOUT_S)
            assert len(ares.asked) == asked

    async def test_c_ares_whose_cache_knows_no_cap_is_replaced_once_per_cap(
        self, make: Callable[..., Resolver], ares: FakeAres, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[FakeAres] = []

        def fresh(**_: Any) -> FakeAres:
            made.append(FakeAres(answers={("a.example", AF_INET): ["192.0.2.1"]}, ttl_s=0))
            return made[-1]

        monkeypatch.setattr(resolver.aiodns, "DNSResolver", fresh)
        now_s = [0.0]
        sut = make(monotonic_s=lambda: now_s[0], preference=FamilyPreference.IPV4_ONLY)
        for now_s[0] in (0.0, 299.0, 300.0, 301.0):
            await sut.resolve("a.example", timeout_s=TIMEOUT_S)
        assert [len(each.asked) for each in made] == [2, 2]
        assert ares.asked == []

    @pytest.mark.parametrize(
        ("status", "asked_after"), [(ARES.ARES_ENOTFOUND, 1), (ARES.ARES_ESERVFAIL, 2)]
    )
    async def test_no_such_name_is_kept_and_a_failure_is_not(
        self, make: Callable[..., Resolver], ares: FakeAres, status: int, asked_after: int
    ) -> None:
        ares.answers[("a.example", AF_INET)] = status
        sut = make(preference=FamilyPreference.IPV4_ONLY)
        for _ in range(2):
            with pytest.raises(FlowError):
                await sut.resolve("a.example", timeout_s=TIMEOUT_S)
        assert len(ares.asked) == asked_after

    async def test_the_oldest_answer_makes_room(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        limits = ResolverLimits(cache_entries=2)
        sut = make(preference=FamilyPreference.IPV4_ONLY, limits=limits)
        for name in ("a.example", "b.example", "c.example", "a.example"):
            ares.answers[(name, AF_INET)] = ["192.0.2.1"]
            await sut.resolve(name, timeout_s=TIMEOUT_S)
            assert sut.cached_count <= 2
        assert len(ares.asked) == 4


class TestBounds:
    """Queries under way and callers that wait are bounded."""

    async def test_two_callers_share_one_query(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers[("a.example", AF_INET)] = None
        sut = make(preference=FamilyPreference.IPV4_ONLY)
        async with asyncio.TaskGroup() as tasks:
            callers = [
                tasks.create_task(sut.resolve("a.example", timeout_s=TIMEOUT_S)) for _ in range(2)
            ]
            await asyncio.sleep(0)
            assert sut.in_flight_count == 1
            ares.finish(ares.open_queries["a.example", AF_INET], ["192.0.2.1"], AF_INET)
        assert [texts(caller.result()) for caller in callers] == [["192.0.2.1"]] * 2
        assert len(ares.asked) == 1

    async def test_more_lookups_wait_and_beyond_that_are_refused(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        limits = ResolverLimits(concurrent_queries=1, waiting_lookups=1)
        sut = make(preference=FamilyPreference.IPV4_ONLY, limits=limits)
        ares.answers = {("a.example", AF_INET): None, ("b.example", AF_INET): ["192.0.2.2"]}
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(sut.resolve("a.example", timeout_s=TIMEOUT_S))
            second = tasks.create_task(sut.resolve("b.example", timeout_s=TIMEOUT_S))
            await asyncio.sleep(0)
            assert sut.waiting_count == 1
            with pytest.raises(FlowError) as caught:
                await sut.resolve("c.example", timeout_s=TIMEOUT_S)
            assert caught.value.fault is FlowFault.RESOURCES
            ares.finish(ares.open_queries["a.example", AF_INET], ["192.0.2.1"], AF_INET)
        assert texts(first.result()) == ["192.0.2.1"]
        assert texts(second.result()) == ["192.0.2.2"]
        assert sut.waiting_count == 0

    async def test_waiting_for_a_free_query_ends_at_the_deadline(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        sut = make(
            preference=FamilyPreference.IPV4_ONLY, limits=ResolverLimits(concurrent_queries=1)
        )
        ares.answers[("a.example", AF_INET)] = None
        for host in ("a.example", "b.example"):
            with pytest.raises(FlowError) as caught:
                await sut.resolve(host, timeout_s=0.01)
            assert caught.value.fault is FlowFault.DNS_TIMEOUT
        assert ares.asked == [("a.example", AF_INET)]

    async def test_a_late_answer_frees_its_slot_and_feeds_the_cache(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        sut = make(
            preference=FamilyPreference.IPV4_ONLY, limits=ResolverLimits(concurrent_queries=1)
        )
        ares.answers[("a.example", AF_INET)] = None
        with pytest.raises(FlowError):
            await sut.resolve("a.example", timeout_s=0.01)
        ares.finish(ares.open_queries["a.example", AF_INET], ["192.0.2.1"], AF_INET)
        assert texts(await sut.resolve("a.example", timeout_s=TIMEOUT_S)) == ["192.0.2.1"]
        assert sut.in_flight_count == 0

    async def test_close_ends_callers_with_an_error(
        self, make: Callable[..., Resolver], ares: FakeAres
    ) -> None:
        ares.answers = {("a.example", AF_INET): None, ("a.example", AF_INET6): None}
        sut = make()
        async with asyncio.TaskGroup() as tasks:
            caller = tasks.create_task(
                expect_failure(sut.resolve("a.example", timeout_s=TIMEOUT_S))
            )
            await asyncio.sleep(0)
            await sut.close()
        assert caller.result().fault is FlowFault.DNS_ERROR


async def expect_failure(lookup: Any) -> FlowError:
    with pytest.raises(FlowError) as caught:
        await lookup
    return caught.value


def test_the_flags_are_those_of_c_ares() -> None:
    assert resolver._FLAG_NOSEARCH == pycares.ARES_FLAG_NOSEARCH
    assert resolver._FLAG_EDNS == pycares.ARES_FLAG_EDNS
