"""Owns the section `[connect_ip]`: IP tunnels, off unless they are switched on."""

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from masque_relay.config.values import AnyIpAddress, DomainName, IpNetworkText, IpTemplateText
from masque_relay.dataplane.ip_egress_settings import TunSettings, UserspaceSettings
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.http.connect_ip_limits import ConnectIpLimits
from masque_relay.wire.connect_ip import DEFAULT_TEMPLATE
from masque_relay.wire.connect_ip_dns import PREF64_LENGTHS


class IpEgressKind(StrEnum):
    """The way out for IP packets."""

    TUN = "tun"
    """A TUN device of the kernel, with its routing and NAT; needs CAP_NET_ADMIN."""
    USERSPACE = "userspace"
    """One `passt` process per tunnel; no privileges."""
    LOOP = "loop"
    """No network at all: pings and UDP are answered in the process. For tests."""


class ConnectIpSection(BaseModel):
    """CONNECT-IP (RFC 9484): whole IP packets, a VPN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    enabled: bool = False
    """Take CONNECT-IP requests. Read at start only, like all of this section."""
    templates: tuple[IpTemplateText, ...] = (DEFAULT_TEMPLATE,)
    """URI templates, matched in this order. Both variables, `target` and `ipproto`, may be missing:
    `/vpn` is for clients that know no scope."""
    pools: tuple[IpNetworkText, ...] = (
        IPv4Network("10.71.0.0/16"),
        IPv6Network("fd71:6877:6970::/64"),
    )
    """The networks out of which clients get addresses, at most one of each IP version. The first
    address of each is the relay's own. Without a pool of a version there is no tunnel for it."""
    egress: IpEgressKind = IpEgressKind.USERSPACE
    """Where packets go: `tun` (needs CAP_NET_ADMIN), `userspace` (needs Debian's passt) or `loop`
    (nowhere; for tests)."""
    tun: TunSettings = TunSettings()
    """With `egress = "tun"`."""
    userspace: UserspaceSettings = UserspaceSettings()
    """With `egress = "userspace"`."""
    dns_servers: tuple[AnyIpAddress, ...] = ()
    """Resolvers that clients are told of (draft-ietf-masque-connect-ip-dns). Some clients end the
    tunnel when they see a capsule that they do not know, so nothing is sent unless you list any."""
    dns_domains: tuple[DomainName, ...] = ()
    """Names, with all below them, that these resolvers are for; without any they are for all."""
    dns_search: tuple[DomainName, ...] = ()
    """Search domains that go with them."""
    nat64_prefixes: tuple[IpNetworkText, ...] = ()
    """NAT64 prefixes that clients are told of (PREF64, the same draft)."""
    cloudflare_dialect: bool = False
    """Take `:protocol cf-connect-ip` at the path `/` too, as WARP clients such as usque send it.
    They get the pool's address from which they send, if it is free."""
    probe_ipv6: bool = False
    """Ask every client with IPv6 for an echo of 1,280 bytes and end the tunnel without an answer,
    as RFC 9484 section 7.2 wants where HTTP proxies stand between the client and this relay.
    Clients without a kernel behind them may not answer."""
    limits: ConnectIpLimits = ConnectIpLimits()
    """Rates and memory."""

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        pool = NetworkPool(self.pools)
        if self.enabled and not pool.networks():
            raise ValueError("pools: CONNECT-IP needs at least one")
        for network in self.nat64_prefixes:
            if network.version != 6 or network.prefixlen not in PREF64_LENGTHS:
                raise ValueError(
                    f"nat64_prefixes: {network} is no IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits"
                )
        return self
