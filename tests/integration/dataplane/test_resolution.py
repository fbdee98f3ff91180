"""Tests the resolver against a real DNS server on loopback."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.limits import ResolverLimits

TIMEOUT_S = 20.0
LIMITS = ResolverLimits(attempt_timeout_s=5.0, resolution_delay_s=5.0)


class Zone(BaseResolver):
    """A few names of example; counts what is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.ttl_s = 60

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:
        del handler
        reply = request.reply()
        name = str(request.q.qname).rstrip(".")
        kind = QTYPE[request.q.qtype]
        self.asked.append((name, kind))
        match name, kind:
            case ("dual.example", "A"):
                for address in ("192.0.2.1", "192.0.2.2"):
                    reply.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=self.ttl_s))
            case ("dual.example", "AAAA"):
                reply.add_answer(RR(name, QTYPE.AAAA, rdata=AAAA("2001:db8::1"), ttl=self.ttl_s))
            case ("alias.example", "A"):
                reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME("dual.example"), ttl=60))
                reply.add_answer(RR("dual.example", QTYPE.A, rdata=A("192.0.2.1"), ttl=60))
            case ("rebind.example", "A"):
                reply.add_answer(RR(name, QTYPE.A, rdata=A("169.254.169.254"), ttl=0))
            case ("mapped.example", "AAAA"):
                rdata = AAAA("::ffff:a00:1")
                reply.add_answer(RR(name, QTYPE.AAAA, rdata=rdata, ttl=self.ttl_s))
            case ("broken.example", _):
                reply.header.rcode = RCODE.SERVFAIL
            case ("alias.example" | "empty.example" | "rebind.example" | "mapped.example", _):
                pass
            case _:
                reply.header.rcode = RCODE.NXDOMAIN
        return reply


@contextmanager
def serve(zone: Zone) -> Generator[int]:
    server = DNSServer(zone, address="127.0.0.1", port=0, logger=DNSLogger(logf=lambda _line: None))
    server.start_thread()
    try:
        yield server.server.server_address[1]
    finally:
        server.stop()
        server.thread.join(timeout=10)
        server.server.server_close()


@pytest.fixture
def zone() -> Zone:
    return Zone()


@pytest.fixture
def dns_port(zone: Zone) -> Generator[int]:
    with serve(zone) as port:
        yield port


@pytest.fixture
async def make() -> AsyncGenerator[Callable[..., InprocDataplane]]:
    made: list[InprocDataplane] = []

    def factory(port: int, **kwargs: Any) -> InprocDataplane:
        kwargs.setdefault("resolver_limits", LIMITS)
        made.append(InprocDataplane(nameservers=[f"127.0.0.1:{port}"], **kwargs))
        return made[-1]

    yield factory
    for dataplane in made:
        await dataplane.close()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dual.example", {"192.0.2.1", "192.0.2.2", "2001:db8::1"}),
        ("DUAL.example.", {"192.0.2.1", "192.0.2.2", "2001:db8::1"}),
        ("alias.example", {"192.0.2.1"}),
        ("rebind.example", {"169.254.169.254"}),
        ("mapped.example", {"10.0.0.1"}),
    ],
)
async def test_a_name_brings_the_addresses_of_both_families(
    make: Callable[..., InprocDataplane], dns_port: int, name: str, expected: set[str]
) -> None:
    found = await make(dns_port).resolve(name, timeout_s=TIMEOUT_S)
    assert set(map(str, found)) == expected


@pytest.mark.parametrize(
    ("name", "rcode"),
    [
        ("nosuch.example", "NXDOMAIN"),
        ("empty.example", "NOERROR"),
        ("broken.example", "SERVFAIL"),
    ],
)
async def test_a_failure_carries_the_response_code(
    make: Callable[..., InprocDataplane], dns_port: int, name: str, rcode: str
) -> None:
    dataplane = make(dns_port)
    with pytest.raises(FlowError) as caught:
        await dataplane.resolve(name, timeout_s=TIMEOUT_S)
    assert (caught.value.fault, caught.value.rcode) == (FlowFault.DNS_ERROR, rcode)
    assert dataplane.counters.lookups_failed == 1


async def test_a_silent_server_is_a_timeout(make: Callable[..., InprocDataplane]) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        dataplane = make(silent.getsockname()[1])
        with pytest.raises(FlowError) as caught:
            await dataplane.resolve("dual.example", timeout_s=0.2)
        assert caught.value.fault is FlowFault.DNS_TIMEOUT
        assert dataplane.counters.lookups_timed_out == 1
        await dataplane.close()


async def test_search_domains_are_not_applied(
    make: Callable[..., InprocDataplane], dns_port: int, zone: Zone
) -> None:
    with pytest.raises(FlowError):
        await make(dns_port).resolve("dual", timeout_s=TIMEOUT_S)
    assert {name for name, _ in zone.asked} == {"dual"}


async def test_the_hosts_file_wins(
    make: Callable[..., InprocDataplane], dns_port: int, zone: Zone
) -> None:
    found = await make(dns_port).resolve("localhost", timeout_s=TIMEOUT_S)
    assert ip_address("127.0.0.1") in found
    assert zone.asked == []


async def test_answers_are_cached_and_no_ttl_means_not_at_all(
    make: Callable[..., InprocDataplane], dns_port: int, zone: Zone
) -> None:
    dataplane = make(dns_port)
    for _ in range(3):
        await dataplane.resolve("dual.example", timeout_s=TIMEOUT_S)
        await dataplane.resolve("rebind.example", timeout_s=TIMEOUT_S)
    assert zone.asked.count(("dual.example", "A")) == 1
    assert zone.asked.count(("rebind.example", "A")) == 3


async def test_a_cleared_cache_asks_again(
    make: Callable[..., InprocDataplane], dns_port: int, zone: Zone
) -> None:
    dataplane = make(dns_port)
    await dataplane.resolve("dual.example", timeout_s=TIMEOUT_S)
    dataplane.resolver.clear_cache()
    await dataplane.resolve("dual.example", timeout_s=TIMEOUT_S)
    assert zone.asked.count(("dual.example", "A")) == 2


async def test_a_resolved_name_is_reached_at_exactly_that_address(
    make: Callable[..., InprocDataplane], dns_port: int
) -> None:
    pins = {"pinned.example": [ip_address("127.0.0.1")]}
    found = await make(dns_port, pins=pins).resolve("pinned.example", timeout_s=TIMEOUT_S)
    assert found == (ip_address("127.0.0.1"),)


async def test_many_names_at_once_are_all_answered(
    make: Callable[..., InprocDataplane], dns_port: int
) -> None:
    dataplane = make(dns_port, resolver_limits=ResolverLimits(concurrent_queries=4))
    results = await asyncio.gather(
        *(dataplane.resolve(f"n{n}.example", timeout_s=TIMEOUT_S) for n in range(50)),
        return_exceptions=True,
    )
    assert [getattr(result, "rcode", None) for result in results] == ["NXDOMAIN"] * 50
