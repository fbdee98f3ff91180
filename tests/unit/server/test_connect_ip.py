"""The wiring of CONNECT-IP: what clients are told, and an egress that is not there."""

from contextlib import AsyncExitStack
from ipaddress import ip_address, ip_network

import pytest

from masque_relay.config.connect_ip import ConnectIpSection, IpEgressKind
from masque_relay.contract.errors import ConfigError
from masque_relay.dataplane.ip_egress_settings import UserspaceSettings
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.server.connect_ip import extra_capsules, open_egress
from masque_relay.wire.connect_ip_dns import (
    DNS_ASSIGN,
    PREF64,
    decode_dns_assign,
    decode_pref64,
)


def section(**keys: object) -> ConnectIpSection:
    """Validate as the loader does: values out of TOML."""
    return ConnectIpSection.model_validate(keys)


def test_nothing_is_told_unless_it_is_configured() -> None:
    assert extra_capsules(ConnectIpSection()) == []
    assert extra_capsules(ConnectIpSection(dns_search=("corp.example",))) == []


@pytest.mark.clause(
    "connect-ip-dns-06", "3.2", "MUST", "have an address where plain DNS is offered"
)
@pytest.mark.clause(
    "connect-ip-dns-06", "3.5", "MAY", "name the root where resolvers are for all names"
)
def test_resolvers_are_for_every_name_unless_some_are_listed() -> None:
    ((kind, value),) = extra_capsules(section(dns_servers=("10.71.0.1", "fd71::1")))
    (configuration,) = decode_dns_assign(value)
    assert kind == DNS_ASSIGN
    assert configuration.nameservers[0].addresses == (
        ip_address("10.71.0.1"),
        ip_address("fd71::1"),
    )
    assert configuration.internal_domains == ("",)
    ((_, value),) = extra_capsules(
        section(dns_servers=("10.71.0.1",), dns_domains=("corp.example",))
    )
    assert decode_dns_assign(value)[0].internal_domains == ("corp.example",)


def test_nat64_prefixes() -> None:
    ((kind, value),) = extra_capsules(section(nat64_prefixes=("64:ff9b::/96",)))
    assert (kind, decode_pref64(value)) == (PREF64, (ip_network("64:ff9b::/96"),))


async def test_the_loop_reaches_the_pools() -> None:
    looped = ConnectIpSection(egress=IpEgressKind.LOOP)
    pool = NetworkPool(looped.pools)
    async with AsyncExitStack() as stack:
        egress = await open_egress(stack, looped, pool)
        assert list(egress.routes()) == pool.ranges()


async def test_a_missing_passt_is_a_problem_of_the_configuration() -> None:
    without = ConnectIpSection(userspace=UserspaceSettings(program="/nowhere/passt"))
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError) as caught:
            await open_egress(stack, without, NetworkPool(without.pools))
    (problem,) = caught.value.problems
    assert problem.key_path == "connect_ip.egress"
    assert problem.hint
