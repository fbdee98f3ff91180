"""Owns what a running split tunnel reports: values for a terminal or a script."""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.client.errors import ClientError
from masque_relay.contract.ip_scope import IPNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelUp:
    """The tunnel carries packets: for the first time, again, or with other values than before."""

    device: str
    addresses: tuple[IPNetwork, ...]
    """Ours in the tunnel."""
    routes: tuple[IPNetwork, ...]
    """What leads into it, exclusions cut out."""
    mtu_bytes: int
    http_version: str
    """``"3"``, ``"2"`` or ``"1.1"``."""
    name_servers: str | None
    """What was told of the name servers: ``systemd-resolved``, a file, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelDown:
    """No packets pass; the device stays, and the same addresses will be asked for."""

    error: ClientError
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAdvertised:
    """Wanted networks of which the relay says that it cannot reach them."""

    networks: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressesChanged:
    """The relay gave other addresses than before: connections through the tunnel are lost."""

    before: tuple[IPNetwork, ...]
    now: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv6Impossible:
    """The path takes less than the 1,280 bytes that IPv6 needs; IPv4 alone is used."""

    mtu_bytes: int


IpEvent = TunnelUp | TunnelDown | NotAdvertised | AddressesChanged | Ipv6Impossible

OnIpEvent = Callable[[IpEvent], None]
