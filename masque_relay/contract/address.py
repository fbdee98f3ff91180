"""Owns the address values: an IP address, an endpoint, a target that may still be a name."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An IP address and a port: one end of a UDP or TCP flow."""

    address: IPAddress
    """IPv4-mapped IPv6 addresses are unwrapped to IPv4 before they get here."""
    port: int

    def __str__(self) -> str:
        """Return ``192.0.2.1:53`` or ``[2001:db8::1]:53``."""
        if isinstance(self.address, IPv6Address):
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a peer asks to be connected to: a DNS name or a literal address, and a port."""

    host: str | IPAddress
    """A lower-case A-label DNS name without a trailing dot, or an address."""
    port: int
    """1..65535; anything else is refused before a Target exists."""

    def __str__(self) -> str:
        """Return the target as a person writes it; IPv6 in brackets."""
        if isinstance(self.host, IPv6Address):
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"
