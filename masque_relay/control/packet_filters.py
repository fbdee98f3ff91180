"""Owns the packet filters of live CONNECT-IP leases, and how a reload reaches them."""

from masque_relay.control.leases import RelayLease
from masque_relay.control.policy import CompiledPolicy
from masque_relay.control.policy.packets import LeaseFilter, PacketTable
from masque_relay.control.policy.rules import Query, normalize_name


class PacketFilters:
    """One filter for each lease that asked for one, until the lease is given back."""

    def __init__(self) -> None:
        self._filters: dict[str, tuple[RelayLease, LeaseFilter]] = {}

    def open(self, lease: RelayLease, policy: CompiledPolicy, now_s: float) -> LeaseFilter:
        """Return the filter of a lease; the rules whose times hold now are the ones that count."""
        _, known = self._filters.get(lease.lease_id, (lease, None))
        if known is not None:
            return known
        opened = LeaseFilter(_table(lease, policy, now_s))
        self._filters[lease.lease_id] = (lease, opened)
        return opened

    def forget(self, lease_id: str) -> None:
        """Drop the filter of a lease that is over."""
        self._filters.pop(lease_id, None)

    def replace(self, policy: CompiledPolicy, now_s: float) -> None:
        """Put another policy in force for every live lease."""
        for lease, lease_filter in list(self._filters.values()):
            lease_filter.replace(_table(lease, policy, now_s))


def _table(lease: RelayLease, policy: CompiledPolicy, now_s: float) -> PacketTable:
    scope = lease.request.ip_scope
    target = None if scope is None else scope.target
    return policy.packet_table(
        Query(
            subject=lease.principal.subject,
            groups=lease.principal.groups,
            method=lease.request.method,
            name=normalize_name(target) if isinstance(target, str) else None,
            source=lease.request.source.address,
            now_s=now_s,
        )
    )
