"""Owns TURN's core: what becomes of each message of a client, sans I/O (RFC 8489, RFC 8656).

    stranger --Allocate--> challenged --Allocate with key--> gate --lease--> allocation
    allocation --Refresh, CreatePermission, ChannelBind, Send, ChannelData--> allocation
    allocation --Refresh 0, silence, connection lost, gate--> gone

Sockets hand messages in with the path that they came by. What has to wait (the gate, a TCP peer)
runs in a task of whoever gave us ``spawn``; everything else is answered at once.
"""

from collections.abc import Sequence

from fallbacks.turn import replies
from fallbacks.turn.allocate import Allocator
from fallbacks.turn.allocation import Allocation, Relayed
from fallbacks.turn.authentication import Challenge, LongTermMechanism, Presented
from fallbacks.turn.behaviour import answer_binding
from fallbacks.turn.budget import ReplyBudget
from fallbacks.turn.data_path import DataPath
from fallbacks.turn.denials import is_credential_reason
from fallbacks.turn.gate_request import relay_request, source_key
from fallbacks.turn.mobility import Mobility
from fallbacks.turn.nonce import NonceMaker
from fallbacks.turn.path import (
    ClientPath,
    PathKind,
    SplicedPath,
    TurnServices,
    TurnSettings,
)
from fallbacks.turn.relay_ports import RelayPorts
from fallbacks.turn.requests import AllocationRequests
from fallbacks.turn.tcp_relay import TcpRelays, bind_connection
from masque_relay.contract.request import Method as RelayMethod
from masque_relay.contract.verdict import Denial, EndReason
from masque_relay.stun.channel_data import is_channel_data
from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass, Method
from masque_relay.stun.message import StunMessage, decode_message, unknown_required
from masque_relay.wire.errors import WireError

MIN_AUTHENTICATED_BYTES = 100
"""No request with user name, realm, our nonce and integrity is shorter."""

_ALLOCATION_METHODS = frozenset(
    (
        Method.REFRESH,
        Method.CREATE_PERMISSION,
        Method.CHANNEL_BIND,
        Method.CONNECT,
        Method.CONNECTION_BIND,
    )
)


class TurnSession:
    """All clients of all listeners; one per process."""

    def __init__(self, services: TurnServices) -> None:
        self.services = services
        limits = services.settings.limits
        self.allocations: set[Allocation] = set()
        self.ports = RelayPorts(services)
        self.data_path = DataPath(services, self.ports)
        self.mechanism = LongTermMechanism(
            services.settings, NonceMaker(lifetime_s=limits.nonce_lifetime_s)
        )
        self._budget = ReplyBudget(
            per_s=limits.replies_per_s_per_source,
            burst=limits.replies_burst_per_source,
            total_per_s=limits.replies_per_s,
        )
        self.mobility = Mobility(services)
        self.tcp = TcpRelays(services)
        self._allocator = Allocator(self)
        self._requests = AllocationRequests(self)

    # -- from the sockets -----------------------------------------------------------------------

    def on_batch(self, path: ClientPath, messages: Sequence[bytes]) -> None:
        """Take messages of a client that has an allocation, in order; each is whole."""
        allocation = path.allocation
        if (
            allocation is not None
            and path is allocation.path
            and self.data_path.send_run(allocation, messages)
        ):
            return
        run: list[bytes] = []
        for message in messages:
            if message and is_channel_data(message[0]):
                run.append(message)
                continue
            self._send_run(path, run)
            run = []
            self.on_message(path, message)
        self._send_run(path, run)

    def _send_run(self, path: ClientPath, run: list[bytes]) -> None:
        allocation = path.allocation
        if not run:
            return
        if allocation is None:
            self.services.counters.no_channel += len(run)
            return
        self.mobility.arrived(allocation, path)
        self.data_path.send_channel_data(allocation, run)

    def wants(self, path_source: bytes, message: bytes) -> bool:
        """Return whether a stranger's message is worth reading; cheap, and takes nothing.

        Args:
            path_source: an IPv4 address or an IPv6 /64, packed.
            message: as it came.
        """
        if len(message) >= MIN_AUTHENTICATED_BYTES:
            return True
        return self._budget.has_room(path_source, self.services.clock.monotonic_s())

    def on_message(self, path: ClientPath, data: bytes) -> None:
        """Take one STUN message of anybody."""
        try:
            message = decode_message(data)
        except WireError:
            self.services.counters.malformed += 1
            return
        allocation = path.allocation
        if message.message_class is MessageClass.INDICATION:
            if message.method == Method.SEND and allocation is not None:
                self.mobility.arrived(allocation, path)
                self.data_path.send_indication(allocation, message)
        elif message.message_class is not MessageClass.REQUEST:
            self.services.counters.malformed += 1
        elif message.method == Method.BINDING:
            self._on_binding(path, message)
        else:
            self._on_request(path, message)

    def on_peer_readable(self, allocation: Allocation, relayed: Relayed) -> None:
        """Take what peers have sent to a relayed address."""
        if not allocation.ended:
            self.data_path.receive(allocation, relayed)

    def path_lost(self, path: ClientPath) -> None:
        """The connection of a client is gone (RFC 8656 section 3.3)."""
        allocation = path.allocation
        path.allocation = None
        if allocation is None:
            return
        if allocation.next_path is path:
            allocation.next_path = None
        elif allocation.path is path and allocation.ticket is None:
            self.end(allocation, EndReason.CONNECTION_LOST)

    # -- from the clock and the operator --------------------------------------------------------

    def tick(self) -> None:
        """End what is due; to be called about once per second."""
        now_s = self.services.clock.monotonic_s()
        generation = self.services.gate.generation
        for allocation in tuple(self.allocations):
            if allocation.expires_s <= now_s:
                self.end(allocation, EndReason.IDLE)
                continue
            allocation.expire_parts(now_s)
            if allocation.gate_generation != generation:
                self._requests.ask_again(allocation, generation)
        self.ports.expire(now_s)
        self.tcp.expire(now_s)

    def apply(self, settings: TurnSettings) -> None:
        """Use other settings from now on; allocations go on as they are."""
        self.services.settings = settings
        self.mechanism.settings = settings

    def end_all(self, reason: EndReason) -> None:
        """End every allocation."""
        for allocation in tuple(self.allocations):
            self.end(allocation, reason)
        self.ports.close_all()

    def end(self, allocation: Allocation, reason: EndReason) -> None:
        """Close an allocation's sockets and give its lease back. Idempotent."""
        if allocation.ended:
            return
        allocation.ended = True
        self.allocations.discard(allocation)
        self.services.counters.allocations_open -= 1
        for relayed in allocation.relayed:
            self.services.unwatch(relayed.socket.fileno())
            self.ports.close(relayed)
        self.tcp.close(allocation)
        self.mobility.forget(allocation)
        for path in (allocation.path, allocation.next_path):
            if path is not None and path.allocation is allocation:
                path.allocation = None
                path.forget()
                if path.kind is not PathKind.UDP and reason is not EndReason.PEER_CLOSED:
                    path.close()
        allocation.lease.release(reason)

    # -- requests -------------------------------------------------------------------------------

    def _on_binding(self, path: ClientPath, message: StunMessage) -> None:
        self.services.counters.binding_requests += 1
        unknown = unknown_required(message)
        if unknown:
            self.answer_stranger(path, replies.unknown_attributes(message, unknown))
            return
        by_path, reply = answer_binding(path, message)
        self.answer_stranger(by_path, reply)

    def _on_request(self, path: ClientPath, message: StunMessage) -> None:
        is_allocate = message.method == Method.ALLOCATE
        if not is_allocate and message.method not in _ALLOCATION_METHODS:
            self.services.counters.malformed += 1
            return
        if is_allocate:
            self.services.counters.allocate_requests += 1
        else:
            self.services.counters.other_requests += 1
        presented = self.mechanism.read(message, path, self.services.clock.monotonic_s())
        if isinstance(presented, Challenge):
            self.challenge(path, message, presented)
            return
        if message.method == Method.CONNECTION_BIND and self._on_connection_bind(path, presented):
            return
        allocation = path.allocation
        token = presented.credential.access_token
        if allocation is None or token not in (None, allocation.access_token):
            self._ask_the_gate(path, presented)
            return
        error = check_owner(allocation, presented)
        if error is ErrorCode.UNAUTHENTICATED:
            self.challenge(path, message, Challenge(code=error))
        elif error is not None:
            self.fail(path, presented, error)
        else:
            self.on_owner_request(path, allocation, presented)

    def on_owner_request(
        self, path: ClientPath, allocation: Allocation, presented: Presented
    ) -> None:
        """Do what the owner of an allocation asks, by the path that it lives on."""
        message = presented.message
        self.mobility.arrived(allocation, path)
        unknown = unknown_required(message)
        if unknown:
            path.send(replies.unknown_attributes(message, unknown, key=presented.key))
        elif message.method == Method.ALLOCATE:
            self._allocator.repeat(path, allocation, presented)
        else:
            self._requests.handle(path, allocation, presented)

    def _ask_the_gate(self, path: ClientPath, presented: Presented) -> None:
        """Let the gate find the key: there is no allocation yet that has it."""
        source = source_key(path.client)
        if not self._budget.has_room(source, self.services.clock.monotonic_s()):
            # Wrong keys take from the budget too: guessing is bounded, and so is its cost.
            self.services.counters.over_budget += 1
            return
        if presented.message.method == Method.ALLOCATE and path.allocation is None:
            waiting = self._allocator.allocate(path, presented)
        else:
            waiting = self._without_allocation(path, presented)
        if not self.services.spawn(waiting):
            self.services.counters.over_pending += 1

    async def _without_allocation(self, path: ClientPath, presented: Presented) -> None:
        """A request on a path without an allocation, or with another access token than before."""
        request = relay_request(path, presented, RelayMethod.BIND_UDP)
        subject = await self.services.gate.recognize(request)
        if isinstance(subject, Denial):
            self.deny(path, presented, subject)
            return
        allocation = path.allocation
        if allocation is not None and presented.key is not None:
            if allocation.ended or allocation.lease.subject != subject:
                self.fail(path, presented, ErrorCode.WRONG_CREDENTIALS)
                return
            # RFC 7635 section 4: a fresh token, and with it a fresh key.
            allocation.key = presented.key
            allocation.access_token = presented.credential.access_token
            allocation.identity = presented.identity
            self.on_owner_request(path, allocation, presented)
        elif presented.message.method == Method.REFRESH and presented.message.get(
            Attribute.MOBILITY_TICKET
        ):
            self._requests.move(path, presented)
        elif presented.message.method == Method.CONNECTION_BIND:
            # RFC 6062 section 5.4: no such connection, or not by TCP.
            self.fail(path, presented, ErrorCode.BAD_REQUEST)
        else:
            self.fail(path, presented, ErrorCode.ALLOCATION_MISMATCH)

    # -- TCP peers (RFC 6062) -------------------------------------------------------------------

    def _on_connection_bind(self, path: ClientPath, presented: Presented) -> bool:
        """Join a data connection with a peer's; False if there is no peer with that number."""
        connection_id = presented.message.get(Attribute.CONNECTION_ID)
        connection = self.tcp.find(connection_id or b"")
        if connection is None or not isinstance(path, SplicedPath):
            return False
        error = check_owner(connection.allocation, presented)
        if error is ErrorCode.UNAUTHENTICATED:
            self.challenge(path, presented.message, Challenge(code=error))
        elif error is not None:
            self.fail(path, presented, error)
        else:
            bind_connection(path, path, connection, presented)
        return True

    # -- answers --------------------------------------------------------------------------------

    def challenge(self, path: ClientPath, message: StunMessage, challenge: Challenge) -> None:
        """Answer a request that has not shown who sends it."""
        attributes = (
            self.mechanism.challenge_attributes(path, self.services.clock.monotonic_s())
            if challenge.with_nonce
            else ()
        )
        if self.answer_stranger(path, replies.error(message, challenge.code, attributes)):
            if challenge.with_nonce:
                self.services.counters.challenges += 1
            else:
                self.services.counters.errors += 1

    def answer_stranger(self, path: ClientPath, reply: bytes) -> bool:
        """Send within the budget of those who have not shown who they are; False if it is spent."""
        now_s = self.services.clock.monotonic_s()
        if not self._budget.take(source_key(path.client), now_s):
            self.services.counters.over_budget += 1
            return False
        path.send(reply)
        return True

    def deny(self, path: ClientPath, presented: Presented, denial: Denial) -> None:
        """Answer what the gate refused."""
        if is_credential_reason(denial.reason):
            challenge = Challenge(code=ErrorCode.UNAUTHENTICATED)
            self.challenge(path, presented.message, challenge)
            return
        self._allocator.refuse(path, presented, denial)

    def fail(self, path: ClientPath, presented: Presented, code: ErrorCode) -> None:
        """Answer with an error, signed where the key is known."""
        self.services.counters.errors += 1
        path.send(replies.error(presented.message, code, key=presented.key))


def check_owner(allocation: Allocation, presented: Presented) -> ErrorCode | None:
    """Return what is wrong with the credential of a request on an allocation."""
    if (
        presented.identity != allocation.identity
        or presented.credential.uses_sha256 != allocation.uses_sha256
    ):
        # RFC 8656 section 5: the same credentials for the whole life of an allocation.
        return ErrorCode.WRONG_CREDENTIALS
    return None if presented.is_signed_by(allocation.key) else ErrorCode.UNAUTHENTICATED
