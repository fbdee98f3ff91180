"""Owns Allocate: from a wish with a good key to an allocation (RFC 8656 section 7)."""

from typing import TYPE_CHECKING

from fallbacks.turn import replies
from fallbacks.turn.allocation import Allocation, Relayed
from fallbacks.turn.authentication import Presented
from fallbacks.turn.denials import error_of_denial, error_of_fault, is_credential_reason
from fallbacks.turn.gate_request import relay_request
from fallbacks.turn.path import ClientPath, PathKind, RelayAddress
from fallbacks.turn.wish import AllocateWish, parse_wish
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError, FlowFault
from masque_relay.contract.lease import Lease
from masque_relay.contract.request import Method as RelayMethod
from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.stun.codepoints import AddressFamily, Attribute, ErrorCode
from masque_relay.stun.message import unknown_required
from masque_relay.stun.values import (
    encode_address,
    encode_address_error,
    encode_xor_address,
    family_of,
)

if TYPE_CHECKING:
    from fallbacks.turn.session import TurnSession


class Allocator:
    """Makes allocations."""

    def __init__(self, session: "TurnSession") -> None:
        self._session = session
        self._pending: set[tuple[PathKind, Endpoint, Endpoint]] = set()

    async def allocate(self, path: ClientPath, presented: Presented) -> None:
        """Ask the gate, bind sockets, answer. A repeated request meanwhile is dropped."""
        waiting = (path.kind, path.client, path.server)
        if waiting in self._pending:
            return
        self._pending.add(waiting)
        try:
            await self._allocate(path, presented)
        finally:
            self._pending.discard(waiting)

    async def _allocate(self, path: ClientPath, presented: Presented) -> None:
        session, message = self._session, presented.message
        wish = parse_wish(message, may_be_tcp=path.kind is not PathKind.UDP)
        unknown = unknown_required(message)
        is_tcp = isinstance(wish, AllocateWish) and wish.is_tcp
        method = RelayMethod.CONNECT_TCP if is_tcp else RelayMethod.BIND_UDP
        request = relay_request(path, presented, method)
        if unknown or isinstance(wish, ErrorCode) or not self._has_room():
            # The key is still to be found: errors are for those who have shown who they are.
            subject = await session.services.gate.recognize(request)
            if isinstance(subject, Denial):
                session.deny(path, presented, subject)
            elif unknown:
                path.send(replies.unknown_attributes(message, unknown, key=presented.key))
            else:
                no_room = ErrorCode.INSUFFICIENT_CAPACITY
                session.fail(path, presented, wish if isinstance(wish, ErrorCode) else no_room)
            return
        verdict = await session.services.gate.admit(request)
        if isinstance(verdict, Denial):
            await self._deny(path, presented, request, verdict)
            return
        self._grant(path, presented, wish, verdict)

    def _has_room(self) -> bool:
        limits = self._session.services.settings.limits
        return len(self._session.allocations) < limits.max_allocations

    async def _deny(
        self, path: ClientPath, presented: Presented, request: RelayRequest, denial: Denial
    ) -> None:
        if presented.key is None and not is_credential_reason(denial.reason):
            # Refused before the credential was looked at; only who has shown one hears more.
            subject = await self._session.services.gate.recognize(request)
            if isinstance(subject, Denial):
                denial = subject
        self._session.deny(path, presented, denial)

    def refuse(self, path: ClientPath, presented: Presented, denial: Denial) -> None:
        """Answer a denial that is not about the credential."""
        session, services = self._session, self._session.services
        code = error_of_denial(denial.reason)
        if denial.reason is not DenyReason.DRAINING:
            session.fail(path, presented, code)
            return
        family = family_of(path.client.address)
        for server in services.settings.alternate_servers:
            if family_of(server.address) is family:
                services.counters.redirects += 1
                attributes = [(int(Attribute.ALTERNATE_SERVER), encode_address(server))]
                reply = replies.error(presented.message, code, attributes, key=presented.key)
                path.send(reply)
                return
        # RFC 8489 section 10: 300 says where to go; without that it is of no use.
        session.fail(path, presented, ErrorCode.INSUFFICIENT_CAPACITY)

    # -- making one -----------------------------------------------------------------------------

    def _grant(
        self, path: ClientPath, presented: Presented, wish: AllocateWish, lease: Lease
    ) -> None:
        """Make the allocation under a lease, which is given back if that fails."""
        session = self._session
        if path.is_lost:
            lease.release(EndReason.CONNECTION_LOST)
            return
        result: Allocation | ErrorCode = ErrorCode.SERVER_ERROR
        try:
            if path.allocation is not None or presented.key is None:
                result = ErrorCode.ALLOCATION_MISMATCH
            else:
                result = self._make(path, presented, presented.key, wish, lease)
        finally:
            if isinstance(result, ErrorCode):
                lease.release(EndReason.TARGET_FAILED, detail=f"TURN error {result.value}")
        if isinstance(result, ErrorCode):
            session.fail(path, presented, result)
            return
        path.send(self._success(path, result, presented, wish))

    def _make(
        self,
        path: ClientPath,
        presented: Presented,
        key: bytes,
        wish: AllocateWish,
        lease: Lease,
    ) -> Allocation | ErrorCode:
        session, services = self._session, self._session.services
        now_s = services.clock.monotonic_s()
        lifetime_s = granted_lifetime_s(session, wish.lifetime_s)
        allocation = Allocation(
            lease=lease,
            path=path,
            key=key,
            uses_sha256=presented.credential.uses_sha256,
            identity=presented.identity,
            access_token=presented.credential.access_token,
            transaction_id=presented.message.transaction_id,
            is_tcp=wish.is_tcp,
            expires_s=now_s + lifetime_s,
            lifetime_s=lifetime_s,
            gate_generation=services.gate.generation,
        )
        try:
            error = self._open_relayed(allocation, wish)
        except FlowError as fault:
            error = error_of_fault(fault.fault)
        if error is not None:
            for relayed in allocation.relayed:
                session.ports.close(relayed)
            return error
        if wish.wants_mobility:
            session.mobility.issue(allocation)
        path.allocation = allocation
        path.keep()
        session.allocations.add(allocation)
        services.counters.allocations_opened += 1
        services.counters.allocations_open += 1
        for relayed in allocation.relayed:
            self._watch(allocation, relayed)
        lease.on_end(lambda reason: session.end(allocation, reason))
        return allocation

    def _watch(self, allocation: Allocation, relayed: Relayed) -> None:
        session = self._session
        session.services.watch(
            relayed.socket.fileno(), lambda: session.on_peer_readable(allocation, relayed)
        )

    def _open_relayed(self, allocation: Allocation, wish: AllocateWish) -> ErrorCode | None:
        """Bind what is asked for.

        Raises:
            FlowError: no port or no resources.
        """
        ports = self._session.ports
        if wish.reservation_token is not None:
            reserved = ports.take_reserved(wish.reservation_token)
            if reserved is None:
                return ErrorCode.INSUFFICIENT_CAPACITY
            allocation.relayed.append(reserved)
            return None
        address = ports.address_for(wish.family)
        if address is None:
            return ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED
        if wish.is_tcp:
            self._open_tcp(allocation, address)
            return None
        if wish.reserve:
            relayed, allocation.reservation_token = ports.open_pair(address)
        else:
            relayed = ports.open(address, even=wish.even)
        allocation.relayed.append(relayed)
        if wish.additional_family is not None:
            second = ports.address_for(wish.additional_family)
            if second is not None:
                allocation.relayed.append(ports.open(second))
        return None

    def _open_tcp(self, allocation: Allocation, address: RelayAddress) -> None:
        """Listen for TCP peers on a random port (RFC 6062 section 5.1).

        Raises:
            FlowError: no port or no resources.
        """
        session = self._session
        for port in session.ports.random_ports():
            try:
                session.tcp.listen(
                    allocation,
                    Endpoint(address=address.local, port=port),
                    Endpoint(address=address.public, port=port),
                )
            except FlowError as taken:
                if taken.fault is not FlowFault.RESOURCES:
                    raise
            else:
                return
        raise FlowError(FlowFault.RESOURCES, "no free port for a relayed address")

    # -- answers --------------------------------------------------------------------------------

    def repeat(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        """Answer an Allocate on a path that has an allocation (RFC 8656 section 7.2, step 2)."""
        wish = parse_wish(presented.message, may_be_tcp=path.kind is not PathKind.UDP)
        same = presented.message.transaction_id == allocation.transaction_id
        if same and isinstance(wish, AllocateWish):
            path.send(self._success(path, allocation, presented, wish))
        else:
            self._session.fail(path, presented, ErrorCode.ALLOCATION_MISMATCH)

    def _success(
        self, path: ClientPath, allocation: Allocation, presented: Presented, wish: AllocateWish
    ) -> bytes:
        message = presented.message
        relayed = [one.public for one in allocation.relayed]
        if allocation.tcp_relayed is not None:
            relayed.append(allocation.tcp_relayed)
        attributes = [
            (
                int(Attribute.XOR_RELAYED_ADDRESS),
                encode_xor_address(public, message.transaction_id),
            )
            for public in relayed
        ]
        attributes += [
            (Attribute.LIFETIME, allocation.lifetime_s.to_bytes(4, "big")),
            (
                Attribute.XOR_MAPPED_ADDRESS,
                encode_xor_address(path.client, message.transaction_id),
            ),
        ]
        if wish.additional_family is not None and len(relayed) == 1:
            value = encode_address_error(AddressFamily.IPV6, ErrorCode.ADDRESS_FAMILY_NOT_SUPPORTED)
            attributes.append((Attribute.ADDRESS_ERROR_CODE, value))
        if allocation.reservation_token is not None:
            attributes.append((Attribute.RESERVATION_TOKEN, allocation.reservation_token))
        if allocation.ticket is not None:
            attributes.append((Attribute.MOBILITY_TICKET, allocation.ticket))
        software = self._session.services.settings.software
        return replies.success(message, attributes, key=allocation.key, software=software)


def granted_lifetime_s(session: "TurnSession", wanted_s: int | None) -> int:
    """Return the lifetime that is granted (RFC 8656 section 7.2): never less than the default."""
    limits = session.services.settings.limits
    if wanted_s is None:
        return limits.allocation_lifetime_s
    return max(limits.allocation_lifetime_s, min(wanted_s, limits.max_allocation_lifetime_s))
