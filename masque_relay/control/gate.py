"""Owns the gate: authenticate -> decide -> lease, the one way to a tunnel for every transport."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, ip_network

from masque_relay.contract.address import IPAddress
from masque_relay.contract.ip import PacketFilter
from masque_relay.contract.ip_scope import IPNetwork
from masque_relay.contract.lease import Lease
from masque_relay.contract.policy_view import PolicyView
from masque_relay.contract.ports import Clock, TunnelSnapshot
from masque_relay.contract.request import Method, NodeKey, RelayRequest
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.control.audit import AuditTrail, format_time
from masque_relay.control.auth.principal import Principal
from masque_relay.control.leases import LeaseEnd, LeaseTable, RelayLease
from masque_relay.control.packet_filters import PacketFilters
from masque_relay.control.policy import CompiledPolicy
from masque_relay.control.policy.addresses import unwrap
from masque_relay.control.policy.rules import Decision, Outcome, Query, normalize_name
from masque_relay.control.policy.view import view_rules
from masque_relay.control.quota import OpenRates, QuotaLedger
from masque_relay.control.quota_book import LocalBook, QuotaBook
from masque_relay.control.records import decision_record, end_record
from masque_relay.control.revocation import RevocationError, RevocationList
from masque_relay.control.settings import GateSettings
from masque_relay.control.state import GateState, build_state

DRAIN_RETRY_AFTER_S = 5


class RelayGate:
    """Implements the port ``Gate``, and what the operator may do to live tunnels.

    Attributes:
        decisions: count by (transport, method, ``allowed`` or the reason of the denial).
        tunnel_ends: count by (transport, reason).
    """

    def __init__(
        self,
        state: GateState,
        *,
        clock: Clock,
        audit: AuditTrail,
        revocations: RevocationList,
        pool: ThreadPoolExecutor,
        book: QuotaBook | None = None,
    ) -> None:
        """Take the parts that outlive a reload; gate_build.py makes them."""
        self._state = state
        self._clock = clock
        self._audit = audit
        self._revocations = revocations
        self._pool = pool
        self._book: QuotaBook = book or LocalBook(state.settings.limits.tracked_subjects)
        self._ledger = QuotaLedger(state.settings.limits, self._book)
        self._rates = OpenRates(state.settings.limits, self._book)
        self._leases = LeaseTable(self._ledger, clock=clock, on_release=self._released)
        self._filters = PacketFilters()
        self._draining = False
        self._generation = 0
        self.decisions: Counter[tuple[str, str, str]] = Counter()
        self.tunnel_ends: Counter[tuple[str, str]] = Counter()

    # -- the port -------------------------------------------------------------------------------

    async def admit(self, request: RelayRequest) -> Lease | Denial:
        """Decide on credential, method, target name and port, and quota; write the audit record."""
        denial = self._closed()
        if denial is not None:
            return self._refuse(request, denial, None)
        while True:
            state = self._state
            principal = await state.chain.authenticate(request, now_s=self._clock.wall_s())
            if state is self._state:  # else keys or users were replaced while we waited
                break
        if isinstance(principal, Denial):
            return self._refuse(request, principal, None)
        return self._admit_principal(request, principal)

    def admit_under(self, lease: Lease, request: RelayRequest) -> Lease | Denial:
        """Decide on a request inside an admitted session, for the session's own principal."""
        return self._admit_principal(request, _own(lease).principal)

    async def recognize(self, request: RelayRequest) -> str | Denial:
        """Return the subject that the credential proves, or why not; a revoked one is none."""
        principal = await self._state.chain.authenticate(request, now_s=self._clock.wall_s())
        if isinstance(principal, Denial):
            return principal
        denial = self._distrusted(request, principal)
        if denial is not None:
            return denial
        return principal.subject

    async def describe(self, request: RelayRequest) -> PolicyView | Denial:
        """Return what the credential's identity may reach; a refusal is in the audit trail."""
        state, now_s = self._state, self._clock.wall_s()
        principal = await state.chain.authenticate(request, now_s=now_s)
        if isinstance(principal, Denial):
            self._audit.write(
                {**self._decision_record(request, None, None, principal), "event": "describe"}
            )
            return principal
        denial = self._distrusted(request, principal)
        if denial is not None:
            return denial
        return PolicyView(
            rules=view_rules(
                state.policy, principal, source=unwrap(request.source.address), now_s=now_s
            ),
            expires_s=principal.expires_s,
        )

    def admit_address(self, lease: Lease, address: IPAddress, port: int) -> Denial | None:
        """Decide on one resolved address with all that is known; None means admitted.

        The first admitted address binds the lease to the rule that admits it. Ask about every
        address you may use; asking again is cheap.
        """
        return self._admit_reach(_own(lease), address, port)

    def admit_name(self, lease: Lease) -> Denial | None:
        """Decide by the target's name alone; where it takes the address to decide, deny."""
        return self._admit_reach(_own(lease), None, None)

    @property
    def generation(self) -> int:
        """Changes with every reload: what was answered before may not hold any more."""
        return self._generation

    def packet_filter(self, lease: Lease) -> PacketFilter:
        """Return the policy for a CONNECT-IP lease's packets; a reload changes it in place."""
        return self._filters.open(_own(lease), self._state.policy, self._clock.wall_s())

    def admit_peer(self, lease: Lease, callee: Lease) -> Denial | None:
        """Decide whether one mesh peer may call another; None means admitted."""
        return self._decide_peer(lease, _own(callee).principal)

    def admit_distant_peer(self, lease: Lease, callee: NodeKey) -> Denial | None:
        """Decide whether a peer may send to one at another relay; None means admitted."""
        other = self._state.chain.recall(callee)
        if other is None:
            return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail="nobody's node key")
        if self._revocations.holds(subject=other.subject, token_id=None):
            return Denial(reason=DenyReason.REVOKED, detail="the peer's subject is revoked")
        return self._decide_peer(lease, other)

    # -- the operator ---------------------------------------------------------------------------

    @property
    def policy(self) -> CompiledPolicy:
        """The policy in force."""
        return self._state.policy

    @property
    def tunnel_count(self) -> int:
        """Leases not yet given back."""
        return len(self._leases)

    @property
    def draining(self) -> bool:
        """Whether new tunnels are refused because the relay is going away."""
        return self._draining

    def tick(self) -> None:
        """End what is due; to be called about once per second."""
        self._leases.tick()

    def snapshots(self) -> Sequence[TunnelSnapshot]:
        """Return the live tunnels, oldest first."""
        return self._leases.snapshots()

    def tunnels_open(self) -> Mapping[tuple[str, ...], int]:
        """Return how many leases are held, by (transport, method)."""
        return Counter(
            (lease.request.transport.value, lease.request.method.value) for lease in self._leases
        )

    def kick(self, lease_id: str) -> bool:
        """End one tunnel; False if there is none of that id."""
        lease = self._leases.get(lease_id)
        ended = lease is not None and lease.end(EndReason.KICKED)
        self._audit.write(self._operator_record("kick", lease_id=lease_id, ended=int(ended)))
        return ended

    def revoke(self, *, subject: str | None, token_id: str | None) -> int:
        """Refuse a subject or a token id from now on; return how many tunnels that ended.

        Raises:
            ValueError: neither is given.
            RevocationError: the list is full or can't be saved; the tunnels have ended all the
                same.
        """
        if not subject and not token_id:
            raise ValueError("name a subject or a token id")
        now_s = self._clock.wall_s()
        hit = [
            lease
            for lease in self._leases
            if (subject and lease.subject == subject)
            or (token_id and lease.principal.token_id == token_id)
        ]
        trouble: RevocationError | None = None
        try:
            self._revocations.revoke(
                subject=subject or None,
                token_id=token_id or None,
                until_s=self.revoked_until_s(token_id),
                now_s=now_s,
            )
        except RevocationError as error:
            trouble = error
        ended = sum(lease.end(EndReason.REVOKED, "revoked by the operator") for lease in hit)
        self._audit.write(
            self._operator_record("revoke", subject=subject, token_id=token_id, ended=ended)
        )
        if trouble is not None:
            raise trouble
        return ended

    def revoked_until_s(self, token_id: str | None) -> float:
        """Return until when a revocation must be kept, seconds since the epoch.

        Until the token expires, where a live tunnel of it tells when.
        """
        keep_s = self._clock.wall_s() + self._state.settings.limits.revocation_keep_s
        known_s = {
            lease.principal.expires_s
            for lease in self._leases
            if token_id and lease.principal.token_id == token_id
        }
        return max((at_s or keep_s for at_s in known_s), default=keep_s)

    def holds(self, lease_id: str) -> bool:
        """Whether a live tunnel has this id."""
        return self._leases.get(lease_id) is not None

    def reinstate(self, subject: str) -> bool:
        """Take a subject off the revocation list; False if it was not on it.

        Raises:
            RevocationError: the list can't be saved.
        """
        found = self._revocations.reinstate(subject)
        self._audit.write(self._operator_record("reinstate", subject=subject, found=found))
        return found

    def drain(self) -> None:
        """Refuse new tunnels from now on; the live ones go on."""
        self._draining = True

    def end_all(self, reason: EndReason) -> int:
        """End every tunnel; return how many."""
        return sum(lease.end(reason) for lease in self._leases)

    def prepare(self, settings: GateSettings) -> GateState:
        """Build a new state aside; nothing changes.

        Raises:
            ConfigError: with the problems of policy, keys, users and CAs together.
        """
        return build_state(settings, now_s=self._clock.wall_s(), pool=self._pool)

    def commit(self, state: GateState) -> int:
        """Put a prepared state in force; return how many tunnels it ended. Never fails."""
        self._state = state
        self._generation += 1
        self._ledger.limits = state.settings.limits
        self._rates.configure(state.settings.limits)
        ended = 0
        if state.settings.recheck_tunnels:
            ended = self._recheck()
            self._filters.replace(state.policy, self._clock.wall_s())
        self._audit.write(self._operator_record("reload", policy=state.policy.digest, ended=ended))
        return ended

    def reload(self, settings: GateSettings) -> int:
        """Prepare and commit; return how many tunnels that ended.

        Raises:
            ConfigError: something is wrong with the new files; the old state stays in force.
        """
        return self.commit(self.prepare(settings))

    def close(self) -> None:
        """Stop the password threads; the audit trail belongs to the caller."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- steps ----------------------------------------------------------------------------------

    def _closed(self) -> Denial | None:
        if self._draining:
            return Denial(
                reason=DenyReason.DRAINING,
                detail="the relay is draining",
                retry_after_s=DRAIN_RETRY_AFTER_S,
            )
        return self._ledger.room()

    def _admit_principal(self, request: RelayRequest, principal: Principal) -> RelayLease | Denial:
        result = (
            self._closed()
            or self._distrusted(request, principal)
            or self._grant(request, principal)
        )
        if isinstance(result, Denial):
            return self._refuse(request, result, principal)
        self._count(request, "allowed")
        self._audit.write(self._decision_record(request, principal, result, None))
        return result

    def _distrusted(self, request: RelayRequest, principal: Principal) -> Denial | None:
        """Return why a credential that checks out counts for nothing here, if it does."""
        if self._revocations.holds(subject=principal.subject, token_id=principal.token_id):
            return Denial(reason=DenyReason.REVOKED, detail="subject or token id is revoked")
        return _unproved(request, principal)

    def _grant(self, request: RelayRequest, principal: Principal) -> RelayLease | Denial:
        denial = self._rates.ask(principal.subject, self._clock.monotonic_s())
        if denial is not None:
            return denial
        decision = self._decide(request, principal)
        if decision.outcome is Outcome.DENY or decision.rule is None:
            return _denial(decision)
        return self._leases.grant(request, principal, decision.rule)

    def _decide(
        self,
        request: RelayRequest,
        principal: Principal,
        *,
        address: IPAddress | None = None,
        port: int | None = None,
        is_blind: bool = False,
    ) -> Decision:
        name: str | None = None
        if request.target is not None:
            host = request.target.host
            port = request.target.port if port is None else port
            if isinstance(host, IPv4Address | IPv6Address):
                address = host if address is None else address
            else:
                name = normalize_name(host)
        network: IPNetwork | None = None
        if request.ip_scope is not None:
            scope = request.ip_scope.target
            if isinstance(scope, str):
                name = normalize_name(scope)
            else:
                network = scope
            if address is not None and not port:
                network, address, port = ip_network(address), None, None
        return self._state.policy.decide(
            Query(
                subject=principal.subject,
                groups=principal.groups,
                method=request.method,
                name=name,
                address=None if address is None else unwrap(address),
                network=network if address is None else None,
                port=port,
                is_blind=is_blind,
                source=request.source.address,
                now_s=self._clock.wall_s(),
            )
        )

    def _decide_peer(self, lease: Lease, other: Principal) -> Denial | None:
        principal = _own(lease).principal
        decision = self._state.policy.decide(
            Query(
                subject=principal.subject,
                groups=principal.groups,
                method=lease.request.method,
                peer_subject=other.subject,
                peer_groups=other.groups,
                source=lease.request.source.address,
                now_s=self._clock.wall_s(),
            )
        )
        return None if decision.outcome is Outcome.ALLOW else _denial(decision)

    def _admit_reach(
        self, own: RelayLease, address: IPAddress | None, port: int | None
    ) -> Denial | None:
        known = None if address is None else unwrap(address)
        denial = self._check_reach(own, known, port)
        if denial is not None:
            self._count(own.request, denial.reason.value)
            record = self._decision_record(own.request, own.principal, own, denial)
            self._audit.write({**record, "event": "address", "address": str(address or "unknown")})
        return denial

    def _check_reach(
        self, lease: RelayLease, address: IPAddress | None, port: int | None
    ) -> Denial | None:
        if lease.ended is not None or lease.released:
            return Denial(reason=DenyReason.REVOKED, detail="the lease is over", rule=lease.rule)
        decision = self._decide(
            lease.request, lease.principal, address=address, port=port, is_blind=address is None
        )
        # A scope is never allowed as a whole: what may pass is for the packet filter to say.
        is_scope = lease.request.ip_scope is not None and decision.outcome is Outcome.PENDING
        if decision.rule is None or not (is_scope or decision.outcome is Outcome.ALLOW):
            return _denial(decision)
        if lease.request.target is None or address is None:
            # Many addresses share such a lease: each is checked, none changes its rule.
            return None
        return self._leases.bind_address(lease, address, decision.rule)

    def _recheck(self) -> int:
        ended = 0
        for lease in self._leases:
            why = self._why_no_longer(lease)
            if why is not None:
                ended += lease.end(EndReason.REVOKED, why)
        return ended

    def _why_no_longer(self, lease: RelayLease) -> str | None:
        """Return why the state in force would not admit a live tunnel, or None."""
        principal = lease.principal
        if self._revocations.holds(subject=principal.subject, token_id=principal.token_id):
            return "revoked"
        if not self._state.chain.still_trusts(principal):
            return "the credential is no longer trusted after a reload"
        for address in lease.addresses or (None,):
            decision = self._decide(lease.request, principal, address=address)
            if decision.outcome is Outcome.DENY:
                return f"the new policy refuses it: {decision.detail}"
        return None

    # -- records --------------------------------------------------------------------------------

    def _refuse(self, request: RelayRequest, denial: Denial, principal: Principal | None) -> Denial:
        self._count(request, denial.reason.value)
        self._audit.write(self._decision_record(request, principal, None, denial))
        return denial

    def _count(self, request: RelayRequest, reason: str) -> None:
        self.decisions[request.transport.value, request.method.value, reason] += 1

    def _decision_record(
        self,
        request: RelayRequest,
        principal: Principal | None,
        lease: RelayLease | None,
        denial: Denial | None,
    ) -> dict[str, object]:
        return decision_record(
            request,
            principal,
            lease,
            denial,
            policy_digest=self._state.policy.digest,
            now_s=self._clock.wall_s(),
        )

    def _released(self, end: LeaseEnd) -> None:
        self._filters.forget(end.lease.lease_id)
        self.tunnel_ends[end.lease.request.transport.value, end.reason.value] += 1
        self._audit.write(end_record(end, now_s=self._clock.wall_s()))

    def _operator_record(self, event: str, **fields: object) -> dict[str, object]:
        return {"at": format_time(self._clock.wall_s()), "event": event, **fields}


def _own(lease: Lease) -> RelayLease:
    if not isinstance(lease, RelayLease):
        raise TypeError("the lease is not one of this gate")
    return lease


def _unproved(request: RelayRequest, principal: Principal) -> Denial | None:
    """Refuse a credential that is bound to a key where nobody proves to hold it (RFC 7800).

    A Ghostwire session proves it after its admission, before anything else.
    """
    if (
        principal.peer_id is None
        or request.method is Method.GHOSTWIRE
        or request.proved_peer_id == principal.peer_id
    ):
        return None
    detail = "the credential is bound to a key that was not proved"
    return Denial(reason=DenyReason.CREDENTIAL_INVALID, detail=detail)


def _denial(decision: Decision) -> Denial:
    return Denial(
        reason=decision.reason or DenyReason.POLICY,
        detail=decision.detail,
        rule=None if decision.rule is None else decision.rule.name,
    )
