"""Owns the leases: live tunnels, their meters and deadlines, and their end by the relay."""

import heapq
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import structlog

from masque_relay.contract.address import IPAddress
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.ports import Clock, TunnelSnapshot
from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import Denial, EndReason
from masque_relay.control.auth.principal import Principal
from masque_relay.control.meter import ByteBudget, TunnelMeter
from masque_relay.control.policy.rules import Rule
from masque_relay.control.quota import QuotaLedger

MAX_LEASE_ADDRESSES = 32  # a name has a handful; bounds what one lease remembers for re-checks
_HEAP_SLACK = 1024  # dead deadlines that may stay before the heap is built anew

_log = structlog.get_logger(__name__)
_GATE_ONLY = object()

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseEnd:
    """What is known when a lease was given back."""

    lease: "RelayLease"
    reason: EndReason
    detail: str
    age_s: float


class RelayLease:
    """Permission for one tunnel; implements the port ``Lease``. Only a LeaseTable makes one."""

    __slots__ = (
        "_budget",
        "_callback",
        "_detail",
        "_expires_s",
        "_settled_bytes",
        "_table",
        "addresses",
        "downlink",
        "ended",
        "lease_id",
        "limits",
        "opened_s",
        "principal",
        "released",
        "request",
        "rules",
        "uplink",
    )

    def __init__(
        self,
        gate_only: object,
        table: "LeaseTable",
        *,
        request: RelayRequest,
        principal: Principal,
        opened_s: float,
        expires_s: float | None,
        clock: Clock,
    ) -> None:
        """Refuse everybody but the table.

        Raises:
            TypeError: somebody else called.
        """
        if gate_only is not _GATE_ONLY:
            raise TypeError("only the gate makes leases")
        self._table = table
        self._callback: Callable[[EndReason], None] | None = None
        self._detail = ""
        self._budget: ByteBudget | None = None
        self._settled_bytes = 0
        self.lease_id = secrets.token_hex(8)
        # The credential has done its work: a secret does not stay in memory for hours.
        self.request = replace(request, credentials=())
        self.principal = principal
        self.opened_s = opened_s
        self._expires_s = expires_s
        self.rules: tuple[Rule, ...] = ()
        self.addresses: tuple[IPAddress, ...] = ()
        self.limits = TunnelLimits()
        self.uplink = TunnelMeter(clock)
        self.downlink = TunnelMeter(clock)
        self.ended: EndReason | None = None
        self.released = False

    @property
    def subject(self) -> str:
        """Who holds it."""
        return self.principal.subject

    @property
    def peer_id(self) -> bytes | None:
        """The key that the credential is bound to."""
        return self.principal.peer_id

    @property
    def rule(self) -> str:
        """The policy rule that allowed it; until an address is admitted, the one by the name."""
        return self.rules[0].name

    @property
    def byte_count(self) -> int:
        """Payload bytes so far, both ways."""
        return self.uplink.byte_count + self.downlink.byte_count

    @property
    def deadline(self) -> tuple[float, str] | None:
        """The monotonic moment at which it ends, and why."""
        lifetime_s = self.limits.lifetime_s
        ends: list[tuple[float, str]] = []
        if lifetime_s is not None:
            ends.append((self.opened_s + lifetime_s, "the rule's lifetime is over"))
        if self._expires_s is not None:
            ends.append((self._expires_s, "the credential has expired"))
        return min(ends, default=None)

    @property
    def has_byte_quota(self) -> bool:
        """Whether its bytes have to be watched."""
        return self._budget is not None or any(
            rule.limits.bytes_per_subject_per_day is not None for rule in self.rules
        )

    @property
    def budget_exhausted(self) -> bool:
        """Whether the byte quota of this tunnel refused something."""
        return self._budget is not None and self._budget.exhausted

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        """Set what runs when the control plane ends the lease; at once if it already has."""
        self._callback = callback
        if self.ended is not None:
            self._call_back(self.ended)

    def release(self, reason: EndReason, *, detail: str = "") -> None:
        """Give the lease back; the control plane's reason wins. Idempotent; the first counts."""
        if self.released:
            return
        self.released = True
        self._callback = None
        if self.ended is not None:
            reason, detail = self.ended, self._detail or detail
        self._table.forget(self, reason, detail)

    def end(self, reason: EndReason, detail: str = "") -> bool:
        """End the lease from the control plane; False if it is over already."""
        if self.released or self.ended is not None:
            return False
        self.ended = reason
        self._detail = detail
        self._call_back(reason)
        return True

    def bind(self, rules: tuple[Rule, ...], limits: TunnelLimits) -> None:
        """Put rules and limits in force; the meters the tunnel holds change in place."""
        self.rules = rules
        if limits == self.limits:
            return
        self.limits = limits
        self._budget = None
        if limits.max_bytes is not None:
            self._budget = ByteBudget(max(0, limits.max_bytes - self.byte_count))
        self.uplink.limit(limits, self._budget)
        self.downlink.limit(limits, self._budget)

    def unsettled_bytes(self) -> int:
        """Return the bytes since the last call, for the daily quota."""
        count = self.byte_count
        new = count - self._settled_bytes
        self._settled_bytes = count
        return new

    def _call_back(self, reason: EndReason) -> None:
        callback, self._callback = self._callback, None
        if callback is None:
            return
        try:
            callback(reason)
        except Exception:  # noqa: BLE001 (a bug of one tunnel must not keep the others alive)
            _log.exception("tunnel_end_callback_failed", lease_id=self.lease_id)


class LeaseTable:
    """Every lease that is not yet given back, and the deadlines."""

    def __init__(
        self, ledger: QuotaLedger, *, clock: Clock, on_release: Callable[[LeaseEnd], None]
    ) -> None:
        """Take what runs for every lease that is given back."""
        self._ledger = ledger
        self._clock = clock
        self._on_release = on_release
        self._leases: dict[str, RelayLease] = {}
        self._watched: dict[str, RelayLease] = {}
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[RelayLease]:
        """Iterate over a copy, oldest first: ending a lease may release it at once."""
        return iter(list(self._leases.values()))

    def get(self, lease_id: str) -> RelayLease | None:
        """Return a live lease by its id."""
        return self._leases.get(lease_id)

    def grant(self, request: RelayRequest, principal: Principal, rule: Rule) -> RelayLease | Denial:
        """Return a lease under a rule, or the quota that is in the way."""
        wall_s = self._clock.wall_s()
        denial = self._ledger.take(principal.subject)
        if denial is not None:
            return denial
        denial = self._ledger.take_rule(rule, principal.subject, wall_s)
        if denial is not None:
            self._ledger.give_back(principal.subject)
            return denial
        now_s = self._clock.monotonic_s()
        lease = RelayLease(
            _GATE_ONLY,
            self,
            request=request,
            principal=principal,
            opened_s=now_s,
            expires_s=None if principal.expires_s is None else now_s + principal.expires_s - wall_s,
            clock=self._clock,
        )
        self._leases[lease.lease_id] = lease
        self._bind(lease, (rule,))
        return lease

    def bind_address(self, lease: RelayLease, address: IPAddress, rule: Rule) -> Denial | None:
        """Bind a lease to the rule that admits an address; a quota of that rule may be in the way.

        The first address replaces the rule that was found by the name. Every further address that
        another rule admits adds that rule, and the tightest limits of all hold: the caller may use
        any address that was admitted.
        """
        first = not lease.addresses
        known = any(held.name == rule.name for held in lease.rules)
        if not known:
            denial = self._ledger.take_rule(rule, lease.subject, self._clock.wall_s())
            if denial is not None:
                return denial
        rules = lease.rules if known else (*lease.rules, rule)
        if first:
            for held in lease.rules:
                if held.name != rule.name:
                    self._ledger.give_back_rule(held, lease.subject)
            rules = (rule,)
        if rules != lease.rules:
            self._bind(lease, rules)
        if address not in lease.addresses and len(lease.addresses) < MAX_LEASE_ADDRESSES:
            lease.addresses = (*lease.addresses, address)
        return None

    def forget(self, lease: RelayLease, reason: EndReason, detail: str) -> None:
        """Free what a released lease held; called by the lease itself."""
        del self._leases[lease.lease_id]
        self._watched.pop(lease.lease_id, None)
        self._settle(lease)
        self._ledger.give_back(lease.subject)
        for rule in lease.rules:
            self._ledger.give_back_rule(rule, lease.subject)
        age_s = max(0.0, self._clock.monotonic_s() - lease.opened_s)
        self._on_release(LeaseEnd(lease=lease, reason=reason, detail=detail, age_s=age_s))

    def tick(self) -> int:
        """End what is due: lifetimes, expired credentials, used-up bytes. Return how many.

        To be called about once per second; that is how exact the deadlines are.
        """
        ended = 0
        now_s = self._clock.monotonic_s()
        while self._deadlines and self._deadlines[0][0] <= now_s:
            lease = self._leases.get(heapq.heappop(self._deadlines)[1])
            deadline = None if lease is None else lease.deadline
            if lease is None or deadline is None:
                continue
            if deadline[0] <= now_s:
                ended += lease.end(EndReason.LIFETIME, deadline[1])
            else:  # it was bound to a rule with a longer lifetime meanwhile
                heapq.heappush(self._deadlines, (deadline[0], lease.lease_id))
        wall_s = self._clock.wall_s()
        for lease in list(self._watched.values()):
            if lease.budget_exhausted:
                ended += lease.end(EndReason.BYTE_QUOTA, "the tunnel's bytes are used up")
            elif self._settle(lease) and any(
                self._ledger.day_bytes_used_up(rule, lease.subject, wall_s) for rule in lease.rules
            ):
                ended += lease.end(EndReason.BYTE_QUOTA, "the subject's bytes of today are used up")
        if len(self._deadlines) > 2 * len(self._leases) + _HEAP_SLACK:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._leases]
            heapq.heapify(self._deadlines)
        return ended

    def snapshots(self) -> list[TunnelSnapshot]:
        """Return the live tunnels, oldest first."""
        now_s = self._clock.monotonic_s()
        return [_snapshot(lease, now_s) for lease in self]

    def _settle(self, lease: RelayLease) -> bool:
        """Count a lease's bytes against daily quotas; False if none of its rules has one."""
        limited = [
            rule for rule in lease.rules if rule.limits.bytes_per_subject_per_day is not None
        ]
        if limited:
            byte_count, wall_s = lease.unsettled_bytes(), self._clock.wall_s()
            for rule in limited:
                self._ledger.add_day_bytes(rule, lease.subject, byte_count, wall_s)
        return bool(limited)

    def _bind(self, lease: RelayLease, rules: tuple[Rule, ...]) -> None:
        limits = rules[0].limits.tunnel
        for other in rules[1:]:
            limits = tightest(limits, other.limits.tunnel)
        lease.bind(rules, limits)
        if lease.has_byte_quota:
            self._watched[lease.lease_id] = lease
        deadline = lease.deadline
        if deadline is not None:
            heapq.heappush(self._deadlines, (deadline[0], lease.lease_id))


def tightest(one: TunnelLimits, other: TunnelLimits) -> TunnelLimits:
    """Return limits that keep within both."""
    return TunnelLimits(
        rate_bytes_per_s=_least(one.rate_bytes_per_s, other.rate_bytes_per_s),
        burst_bytes=_least(one.burst_bytes, other.burst_bytes),
        rate_datagrams_per_s=_least(one.rate_datagrams_per_s, other.rate_datagrams_per_s),
        burst_datagrams=_least(one.burst_datagrams, other.burst_datagrams),
        lifetime_s=_least(one.lifetime_s, other.lifetime_s),
        max_bytes=_least(one.max_bytes, other.max_bytes),
        idle_timeout_s=min(one.idle_timeout_s, other.idle_timeout_s),
    )


def _least(one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _snapshot(lease: RelayLease, now_s: float) -> TunnelSnapshot:
    request = lease.request
    return TunnelSnapshot(
        lease_id=lease.lease_id,
        subject=lease.subject,
        rule=lease.rule,
        method=request.method.value,
        transport=request.transport.value,
        target=describe_target(request),
        source=str(request.source),
        age_s=round(max(0.0, now_s - lease.opened_s), 3),
        uplink_datagrams=lease.uplink.datagram_count,
        uplink_bytes=lease.uplink.byte_count,
        downlink_datagrams=lease.downlink.datagram_count,
        downlink_bytes=lease.downlink.byte_count,
        dropped_datagrams=lease.uplink.dropped_count + lease.downlink.dropped_count,
    )


def describe_target(request: RelayRequest) -> str:
    """Return what a request is for, as records and the admin API name it; empty for no target."""
    asked = request.target if request.target is not None else request.ip_scope
    return "" if asked is None else str(asked)
