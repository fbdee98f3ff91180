"""Owns the values of CONNECT-IP: the scope of a request, and ranges that can be reached."""

from dataclasses import dataclass

from masque_relay.wire.ip_range import ANY_PROTOCOL, IPNetwork, IpRange

__all__ = ["ANY_PROTOCOL", "IPNetwork", "IpRange", "IpScope"]


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
