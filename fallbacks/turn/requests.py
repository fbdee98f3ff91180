"""Owns what the owner of an allocation asks: Refresh, CreatePermission, ChannelBind, Connect."""

from ipaddress import ip_address
from typing import TYPE_CHECKING

from fallbacks.turn import replies
from fallbacks.turn.allocate import granted_lifetime_s
from fallbacks.turn.allocation import Allocation, Channel, Source
from fallbacks.turn.authentication import Presented
from fallbacks.turn.denials import error_of_fault
from fallbacks.turn.path import ClientPath
from fallbacks.turn.wish import parse_family, parse_lifetime
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.contract.verdict import EndReason
from masque_relay.stun.codepoints import AddressFamily, Attribute, ErrorCode, Method
from masque_relay.stun.values import (
    CHANNEL_MAX,
    CHANNEL_MIN,
    decode_channel,
    decode_xor_address,
    family_of,
)
from masque_relay.wire.errors import WireError

if TYPE_CHECKING:
    from fallbacks.turn.session import TurnSession


class AllocationRequests:
    """Changes allocations as their owners ask."""

    def __init__(self, session: "TurnSession") -> None:
        self._session = session

    def handle(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        """Do what an authenticated request asks, and answer it."""
        message = presented.message
        try:
            if message.method == Method.REFRESH:
                self._refresh(path, allocation, presented)
            elif message.method == Method.CREATE_PERMISSION:
                self._create_permission(path, allocation, presented)
            elif message.method == Method.CHANNEL_BIND:
                self._bind_channel(path, allocation, presented)
            else:
                self._connect(path, allocation, presented)
        except WireError:
            self._session.fail(path, presented, ErrorCode.BAD_REQUEST)

    # -- Refresh (RFC 8656 section 8, RFC 8016) --------------------------------------------------

    def _refresh(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        message = presented.message
        requested = message.get(Attribute.REQUESTED_ADDRESS_FAMILY)
        if requested is not None:
            family = parse_family(requested)
            if family is None or not _has_family(allocation, family):
                self._session.fail(path, presented, ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH)
                return
            if len(allocation.relayed) > 1 and parse_lifetime(message) == 0:
                self._drop_family(path, allocation, presented, family)
                return
        ticket = message.get(Attribute.MOBILITY_TICKET)
        if ticket is not None and ticket not in (allocation.ticket, allocation.previous_ticket):
            # RFC 8016 section 3.2.1: no ticket was asked for, or this is not the last one.
            self._session.fail(path, presented, ErrorCode.BAD_REQUEST)
            return
        self._extend(path, allocation, presented)

    def _drop_family(
        self,
        path: ClientPath,
        allocation: Allocation,
        presented: Presented,
        family: AddressFamily,
    ) -> None:
        """Give back one of two relayed addresses; the other one lives on (section 8.2)."""
        session = self._session
        for relayed in [one for one in allocation.relayed if one.family is family]:
            allocation.relayed.remove(relayed)
            session.services.unwatch(relayed.socket.fileno())
            session.ports.close(relayed)
            for channel in [one for one in allocation.channels.values() if one.relayed is relayed]:
                del allocation.channels[channel.prefix]
                allocation.channel_by_peer.pop(channel.destination, None)
        attributes = [(int(Attribute.LIFETIME), bytes(4))]
        path.send(replies.success(presented.message, attributes, key=allocation.key))

    def move(self, path: ClientPath, presented: Presented) -> None:
        """Take a Refresh with a ticket from a new address (RFC 8016 section 3.2.2)."""
        session = self._session
        ticket = presented.message.get(Attribute.MOBILITY_TICKET) or b""
        allocation = session.mobility.find(ticket)
        if allocation is None:
            session.fail(path, presented, ErrorCode.ALLOCATION_MISMATCH)
        elif presented.identity != allocation.identity or presented.key != allocation.key:
            session.fail(path, presented, ErrorCode.WRONG_CREDENTIALS)
        else:
            session.mobility.begin_move(allocation, path)
            try:
                self._extend(path, allocation, presented)
            except WireError:
                session.fail(path, presented, ErrorCode.BAD_REQUEST)

    def _extend(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        session, message = self._session, presented.message
        wanted_s = parse_lifetime(message)
        if wanted_s == 0:
            reply = replies.success(
                message, [(int(Attribute.LIFETIME), bytes(4))], key=allocation.key
            )
            session.end(allocation, EndReason.PEER_CLOSED)
            path.send(reply)
            return
        lifetime_s = granted_lifetime_s(session, wanted_s)
        allocation.lifetime_s = lifetime_s
        allocation.expires_s = session.services.clock.monotonic_s() + lifetime_s
        attributes = [(int(Attribute.LIFETIME), lifetime_s.to_bytes(4, "big"))]
        if allocation.ticket is not None and message.get(Attribute.MOBILITY_TICKET) is not None:
            session.mobility.issue(allocation)
            attributes.append((int(Attribute.MOBILITY_TICKET), allocation.ticket))
        path.send(replies.success(message, attributes, key=allocation.key))

    # -- CreatePermission (RFC 8656 section 10) ---------------------------------------------------

    def _create_permission(
        self, path: ClientPath, allocation: Allocation, presented: Presented
    ) -> None:
        """All addresses or none (section 10.2)."""
        session, message = self._session, presented.message
        values = message.get_all(Attribute.XOR_PEER_ADDRESS)
        if not values:
            session.fail(path, presented, ErrorCode.BAD_REQUEST)
            return
        peers = [decode_xor_address(value, message.transaction_id) for value in values]
        hosts = {str(peer.address) for peer in peers}
        if len(allocation.permissions.keys() | hosts) > self._limits.permissions_per_allocation:
            session.fail(path, presented, ErrorCode.INSUFFICIENT_CAPACITY)
            return
        for peer in peers:
            error = self._check_peer(allocation, peer, exactly=False)
            if error is not None:
                session.fail(path, presented, error)
                return
        expires_s = session.services.clock.monotonic_s() + self._limits.permission_lifetime_s
        for peer in peers:
            allocation.permit(str(peer.address), peer.port, expires_s)
        path.send(replies.success(message, (), key=allocation.key))

    # -- ChannelBind (RFC 8656 section 12) ------------------------------------------------------

    def _bind_channel(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        session, message = self._session, presented.message
        number_value = message.get(Attribute.CHANNEL_NUMBER)
        address_value = message.get(Attribute.XOR_PEER_ADDRESS)
        if number_value is None or address_value is None or allocation.is_tcp:
            session.fail(path, presented, ErrorCode.BAD_REQUEST)
            return
        number = decode_channel(number_value)
        peer = decode_xor_address(address_value, message.transaction_id)
        source = (str(peer.address), peer.port)
        if not CHANNEL_MIN <= number <= CHANNEL_MAX or not self._is_free(
            allocation, number, source
        ):
            session.fail(path, presented, ErrorCode.BAD_REQUEST)
            return
        error = self._check_peer(allocation, peer, exactly=True)
        if error is None and not self._fits(allocation, source[0], number):
            error = ErrorCode.INSUFFICIENT_CAPACITY
        if error is not None:
            session.fail(path, presented, error)
            return
        self._bind(allocation, number, peer)
        path.send(replies.success(message, (), key=allocation.key))

    def _bind(self, allocation: Allocation, number: int, peer: Endpoint) -> None:
        relayed = allocation.relayed_for(family_of(peer.address))
        assert relayed is not None  # noqa: S101 - _check_peer saw it
        now_s = self._session.services.clock.monotonic_s()
        source = (str(peer.address), peer.port)
        destination = self._session.ports.local_of(source)
        prefix = number.to_bytes(2, "big")
        channel = Channel(
            number=number,
            peer=source,
            destination=destination,
            relayed=relayed,
            expires_s=now_s + self._limits.channel_lifetime_s,
            prefix=prefix,
        )
        allocation.channels[prefix] = channel
        allocation.channel_by_peer[destination] = channel
        # Section 12.2: binding a channel installs or refreshes the permission too.
        allocation.permit(*source, now_s + self._limits.permission_lifetime_s)

    def _is_free(self, allocation: Allocation, number: int, source: Source) -> bool:
        """Return whether neither number nor peer is bound to another one (section 12.2)."""
        bound = allocation.channels.get(number.to_bytes(2, "big"))
        if bound is not None and bound.peer != source:
            return False
        other = allocation.channel_by_peer.get(self._session.ports.local_of(source))
        return other is None or other.number == number

    def _fits(self, allocation: Allocation, host: str, number: int) -> bool:
        limits = self._limits
        is_new_channel = number.to_bytes(2, "big") not in allocation.channels
        is_new_host = host not in allocation.permissions
        return (
            len(allocation.channels) + is_new_channel <= limits.channels_per_allocation
            and len(allocation.permissions) + is_new_host <= limits.permissions_per_allocation
        )

    # -- Connect (RFC 6062 section 5.2) ---------------------------------------------------------

    def _connect(self, path: ClientPath, allocation: Allocation, presented: Presented) -> None:
        session, message = self._session, presented.message
        value = message.get(Attribute.XOR_PEER_ADDRESS)
        if value is None or not allocation.is_tcp or message.method != Method.CONNECT:
            session.fail(path, presented, ErrorCode.BAD_REQUEST)
            return
        peer = decode_xor_address(value, message.transaction_id)
        error = self._check_peer(allocation, peer, exactly=True)
        if error is None and session.tcp.has_peer(allocation, peer):
            error = ErrorCode.CONNECTION_ALREADY_EXISTS
        elif error is None and not session.tcp.has_room(allocation):
            error = ErrorCode.INSUFFICIENT_CAPACITY
        if error is not None:
            session.fail(path, presented, error)
        elif not session.services.spawn(self._connect_now(path, allocation, presented, peer)):
            session.services.counters.over_pending += 1

    async def _connect_now(
        self, path: ClientPath, allocation: Allocation, presented: Presented, peer: Endpoint
    ) -> None:
        session = self._session
        try:
            connection = await session.tcp.connect(allocation, peer)
        except FlowError as error:
            session.fail(path, presented, error_of_fault(error.fault))
            return
        attributes = [(int(Attribute.CONNECTION_ID), connection.connection_id)]
        path.send(replies.success(presented.message, attributes, key=allocation.key))

    # -- peers ----------------------------------------------------------------------------------

    @property
    def _limits(self) -> TurnLimits:
        return self._session.services.settings.limits

    def _check_peer(
        self, allocation: Allocation, peer: Endpoint, *, exactly: bool
    ) -> ErrorCode | None:
        """Return why a client may not have to do with a peer.

        Args:
            allocation: the client's.
            peer: as the client names it.
            exactly: the port counts too. A permission is for an address (RFC 8656 section 9): there
                the gate is asked about the port that came with it, and again about every port that
                something is sent to.
        """
        if not _has_family(allocation, family_of(peer.address)):
            return ErrorCode.PEER_ADDRESS_FAMILY_MISMATCH
        source = (str(peer.address), peer.port)
        data_path = self._session.data_path
        if exactly:
            return None if data_path.admits(allocation, peer, source) else ErrorCode.FORBIDDEN
        return None if data_path.permits(allocation, peer) else ErrorCode.FORBIDDEN

    def ask_again(self, allocation: Allocation, generation: int) -> None:
        """After a reload: drop what the policy in force refuses."""
        allocation.gate_generation = generation
        allocation.admitted.clear()
        data_path = self._session.data_path
        for channel in tuple(allocation.channels.values()):
            peer = Endpoint(address=ip_address(channel.peer[0]), port=channel.peer[1])
            if not data_path.admits(allocation, peer, channel.peer):
                del allocation.channels[channel.prefix]
                allocation.channel_by_peer.pop(channel.destination, None)
                allocation.forbid(channel.peer[0])
        for host, port in tuple(allocation.permitted_ports.items()):
            if not data_path.permits(allocation, Endpoint(address=ip_address(host), port=port)):
                allocation.forbid(host)
        self._session.tcp.close_forbidden(allocation)


def _has_family(allocation: Allocation, family: object) -> bool:
    if allocation.tcp_relayed is not None:
        return family_of(allocation.tcp_relayed.address) is family
    return any(relayed.family is family for relayed in allocation.relayed)
