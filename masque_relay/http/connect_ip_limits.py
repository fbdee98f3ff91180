"""Owns the limits of CONNECT-IP tunnels, each with the reason for its default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectIpLimits:
    """Of all CONNECT-IP tunnels of one relay together."""

    remembered_identities: int = 4_096
    """Identities that get their last addresses again while these are free; about 300 bytes each. 0
    gives out addresses without memory."""
    icmp_errors_per_s: float = 100.0
    """ICMP errors sent, to clients and towards the network, sustained (RFC 4443 section 2.4 f)."""
    icmp_errors_burst: int = 200
    """A client that starts with a wrong route hears of it at once."""
    ipv6_settle_s: float = 5.0
    """What path MTU discovery may take. A path that does not take the 1,280 bytes of IPv6 after it
    ends the tunnel (RFC 9484 section 7.2)."""
    ipv6_probe_timeout_s: float = 5.0
    """What the answer to a probe of 1,280 bytes may take, where probes are on."""
