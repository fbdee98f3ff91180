"""Owns the wiring of CONNECT-IP: pool, egress and the capsules that tell clients of resolvers."""

from contextlib import AsyncExitStack
from ipaddress import IPv6Network
from typing import assert_never

from masque_relay.config import RelayConfig
from masque_relay.config.connect_ip import ConnectIpSection, IpEgressKind
from masque_relay.contract.counters import IpCounters, TunnelCounters
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.ip import IpEgress
from masque_relay.contract.ports import Clock, Dataplane, Gate
from masque_relay.dataplane.device_error import DeviceError
from masque_relay.dataplane.ip_loop import LoopEgress
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.dataplane.tun import TunEgress
from masque_relay.dataplane.userspace import UserspaceEgress
from masque_relay.http.connect_ip import ConnectIpServices, connect_ip_kinds
from masque_relay.http.tunnel import TunnelKind
from masque_relay.wire.connect_ip_dns import (
    DNS_ASSIGN,
    PREF64,
    DnsConfiguration,
    Nameserver,
    encode_dns_assign,
    encode_pref64,
)


async def open_connect_ip(
    stack: AsyncExitStack,
    config: RelayConfig,
    *,
    gate: Gate,
    dataplane: Dataplane,
    clock: Clock,
    counters: TunnelCounters,
    ip_counters: IpCounters,
) -> list[TunnelKind]:
    """Open the egress and return the kinds of tunnel; none where CONNECT-IP is off.

    Raises:
        ConfigError: the egress can't be opened.
    """
    section = config.connect_ip
    if not section.enabled:
        return []
    pool = NetworkPool(section.pools)
    services = ConnectIpServices(
        gate=gate,
        dataplane=dataplane,
        egress=await open_egress(stack, section, pool),
        pool=pool,
        clock=clock,
        counters=counters,
        ip_counters=ip_counters,
        limits=section.limits,
        resolve_timeout_s=config.http.resolve_timeout_s,
        proxy_name=config.connect_udp.proxy_name,
        extra_capsules=extra_capsules(section),
        probe_ipv6=section.probe_ipv6,
    )
    return connect_ip_kinds(services, section.templates, cloudflare=section.cloudflare_dialect)


def extra_capsules(section: ConnectIpSection) -> list[tuple[int, bytes]]:
    """Return the capsules about DNS and NAT64 that clients get; none unless they are configured."""
    capsules: list[tuple[int, bytes]] = []
    if section.dns_servers:
        configuration = DnsConfiguration(
            nameservers=(Nameserver(addresses=section.dns_servers),),
            # The empty name is the root: the resolvers are for every name.
            internal_domains=section.dns_domains or ("",),
            search_domains=section.dns_search,
        )
        capsules.append((DNS_ASSIGN, encode_dns_assign([configuration])))
    prefixes = [prefix for prefix in section.nat64_prefixes if isinstance(prefix, IPv6Network)]
    if prefixes:
        capsules.append((PREF64, encode_pref64(prefixes)))
    return capsules


async def open_egress(
    stack: AsyncExitStack, section: ConnectIpSection, pool: NetworkPool
) -> IpEgress:
    """Open the way out that is configured; the stack closes it.

    Raises:
        ConfigError: the system does not have it, or refuses it.
    """
    try:
        match section.egress:
            case IpEgressKind.LOOP:
                loop = LoopEgress(pool.ranges())
                stack.callback(loop.close)
                return loop
            case IpEgressKind.TUN:
                tun = await TunEgress.open(section.tun, pool.networks())
                stack.push_async_callback(tun.close)
                return tun
            case IpEgressKind.USERSPACE:
                userspace = await UserspaceEgress.open(section.userspace, pool.networks())
                stack.push_async_callback(userspace.close)
                return userspace
            case _:
                assert_never(section.egress)
    except DeviceError as error:
        raise ConfigError(
            [Problem(key_path="connect_ip.egress", detail=error.message, hint=error.hint)]
        ) from error
