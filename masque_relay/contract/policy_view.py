"""Owns PolicyView: what one identity may reach, as far as rules without a target can say it."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from masque_relay.contract.request import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class ReachRule:
    """One rule; the first that matches a destination counts. All that is not empty must match."""

    methods: frozenset[Method]
    """What carries matching traffic; empty: nothing does, whatever the rules below say."""
    domains: tuple[str, ...] = ()
    """Lower case; ``*.example.org`` means the domain itself too."""
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    """Inclusive ranges; empty means every port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """What the gate tells an identity about its own policy."""

    rules: tuple[ReachRule, ...]
    """In order. What none of them matches is not carried."""
    expires_s: float | None
    """When the credential that asked expires, in seconds since the epoch."""
