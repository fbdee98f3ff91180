"""Owns the values of CONNECT-IP: the scope of a request, and ranges that can be reached."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from masque_relay.contract.address import IPAddress

IPNetwork = IPv4Network | IPv6Network

ANY_PROTOCOL = 0
"""RFC 9484 section 4.7.3: protocol 0 in a route stands for every protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IpScope:
    """What a CONNECT-IP request is limited to (RFC 9484 section 4.6)."""

    target: str | IPNetwork | None = None
    """A DNS name, a prefix (a single address is a /32 or /128), or None for ``*``."""
    ip_protocol: int | None = None
    """0..255, or None for ``*``."""

    def __str__(self) -> str:
        """Return the scope as logs show it: ``192.0.2.0/24 proto 17``, ``*``."""
        target = "*" if self.target is None else str(self.target)
        return target if self.ip_protocol is None else f"{target} proto {self.ip_protocol}"


@dataclass(frozen=True, slots=True, order=True)
class IpRange:
    """A range of addresses of one family that can be reached, for one IP protocol."""

    first: IPAddress
    last: IPAddress
    """Inclusive; of the family of ``first`` and not below it."""
    ip_protocol: int = ANY_PROTOCOL
