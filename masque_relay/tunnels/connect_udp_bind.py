"""Owns the bound UDP tunnel between a carrier and public UDP ports, sans I/O.

draft-ietf-masque-connect-udp-listen-15: one tunnel, many peers. A datagram names its peer by its
context: a compressed one stands for a peer, the uncompressed one carries the peer in front of the
payload, and context 0 is the target of the request, where it named one.

Who may send in: peers that the policy lets the client reach, while the client has a context that
can carry them. An uncompressed context is the client's own wish to hear from anybody (section 8.1),
which is what a listening program needs, and the policy denies by default. With
``inbound = "contacted"`` a peer's address must also have been sent to lately, as TURN's permissions
ask: for relays whose users only call, and never listen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import BindCounters, TunnelCounters
from masque_relay.contract.lease import Lease
from masque_relay.contract.ports import BoundUdpFlow, Clock, ReceivedBatch
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.bind_peers import BindPeer, PeerTable, endpoint_of
from masque_relay.tunnels.context_table import ContextLimits, ContextTable
from masque_relay.tunnels.peer_policy import PeerPolicy
from masque_relay.tunnels.session import DatagramSession, admit_batch
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, UDP_PAYLOAD_CONTEXT
from masque_relay.wire.connect_udp_bind import (
    BIND_CAPSULE_TYPES,
    encode_peer,
    peer_end,
)
from masque_relay.wire.varint import peek_varint


class Inbound(StrEnum):
    """Which peers may send in, among those that the policy allows."""

    POLICY = "policy"
    """All of them."""
    CONTACTED = "contacted"
    """Those to whose address the client has sent lately, and those it has registered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindLimits:
    """What one bound UDP tunnel may use."""

    contexts: ContextLimits = field(default_factory=ContextLimits)
    """Open contexts."""
    idle_timeout_s: float = 86_400.0
    """Without a datagram either way; a rule's own idle timeout does not count here. Who listens may
    wait for long, and must not lose the port meanwhile; a client that is gone is noticed by its
    connection."""
    peers: int = 4_096
    """Peers known by address, about 1 MiB when full; the oldest is forgotten and met anew."""
    contacted_s: float = 300.0
    """With `inbound = "contacted"`: how long a peer's address may answer (RFC 8656 section 9)."""
    compress_after_datagrams: int = 8
    """Datagrams of a peer after which the relay registers a context for it. A stray datagram is
    not worth one; and the sooner it is, the less the client's path MTU search is disturbed."""
    reply_backlog_bytes: int = 524_288
    """Stream bytes that wait for a client which keeps registering contexts and does not read the
    answers; then the tunnel is aborted. Twice what DATAGRAM capsules may fill."""


class BoundUdpSession(DatagramSession):
    """Moves UDP payloads between one carrier and many peers, within the meters and the policy.

    It is the flow's BoundUdpSink and the carrier's TunnelSession. Nothing here blocks or waits.

    Attributes:
        capsule_types: capsule types that it wants besides DATAGRAM.
        contexts: what both ends have registered.
        denied_count: datagrams that the policy refused, both ways.
        oversize_downlink_count: payloads from peers that no HTTP Datagram could carry.
    """

    __slots__ = (
        "_bind_counters",
        "_clock",
        "_contacted",
        "_counters",
        "_downlink",
        "_flow",
        "_inbound",
        "_limits",
        "_peers",
        "_policy",
        "_target",
        "_uplink",
        "contexts",
        "denied_count",
        "oversize_downlink_count",
    )

    capsule_types: frozenset[int] = BIND_CAPSULE_TYPES

    def __init__(
        self,
        lease: Lease,
        policy: PeerPolicy,
        *,
        clock: Clock,
        counters: TunnelCounters,
        bind_counters: BindCounters,
        limits: BindLimits,
        inbound: Inbound,
    ) -> None:
        """Begin without contexts.

        Args:
            lease: whose meters count.
            policy: asked about every peer, both ways.
            clock: for ``inbound = "contacted"``.
            counters: of all tunnels.
            bind_counters: of all bound UDP tunnels.
            limits: of this one.
            inbound: which peers may send in.
        """
        super().__init__()
        self._uplink = lease.uplink
        self._downlink = lease.downlink
        self._policy = policy
        self._clock = clock
        self._counters = counters
        self._bind_counters = bind_counters
        self._limits = limits
        self._inbound = inbound
        self._flow: BoundUdpFlow | None = None
        self._target: BindPeer | None = None
        self._peers = PeerTable(limits.peers)
        self._contacted: dict[IPAddress, float] = {}
        self.contexts = ContextTable(
            is_proxy=True, limits=limits.contexts, send=self._send_capsule, accepts=self._accepts
        )
        self.denied_count = 0
        self.oversize_downlink_count = 0

    def bind_flow(self, flow: BoundUdpFlow, target: Endpoint | None = None) -> None:
        """Take the flow; from here the session closes it when the tunnel ends.

        Args:
            flow: feeds this session.
            target: what the request named and the gate admitted: the peer of context 0.
        """
        if self.end_reason is not None:
            flow.close()
            return
        self._flow = self._peers.flow = flow
        if target is not None:
            self._target = BindPeer(target)

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; close the flow. Idempotent, the first reason stays."""
        super().ended(reason)
        if self._flow is not None:
            self._flow.close()
            self._flow = self._peers.flow = None

    # -- client -> peers -------------------------------------------------------------------------

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Send HTTP Datagram payloads to their peers, one batch per peer."""
        batches: dict[BindPeer, list[bytes]] = {}
        prefix, skip = b"", 0
        batch: list[bytes] = []
        for payload in payloads:
            if not (skip and payload.startswith(prefix)):
                found = self._route(payload)
                if found is None:
                    if self.end_reason is not None:
                        return
                    continue
                peer, skip = found
                prefix = payload[:skip]
                batch = batches.setdefault(peer, [])
            batch.append(payload[skip:])
        for peer, udp in batches.items():
            self._send(peer, udp)

    def _route(self, payload: bytes) -> tuple[BindPeer, int] | None:
        """Return whom a datagram is for and where its UDP payload begins; count it if nobody."""
        context_id, offset = peek_varint(payload) or (None, 0)
        if context_id == 0:
            if self._target is None:
                # Section 3: context 0 of a request without a target aborts the stream.
                self.close(EndReason.PROTOCOL_ERROR)
                return None
            return self._target, offset
        context = None if context_id is None else self.contexts.by_id.get(context_id)
        if context is None:
            self._counters.unknown_context_dropped += 1
            return None
        wire = context.peer
        if wire is None:
            end = peer_end(payload, offset)
            wire, offset = payload[offset:end], end
            if not end:
                self._bind_counters.malformed_dropped += 1
                return None
        peer = self._peers.of_wire(wire)
        if peer is None:
            self._bind_counters.unreachable_dropped += 1
            return None
        return peer, offset

    def _send(self, peer: BindPeer, udp: Sequence[bytes]) -> None:
        flow = self._flow
        if flow is None:
            return
        endpoint = peer.endpoint
        admitted = self._policy.admits(endpoint.address, endpoint.port)
        if not admitted:
            self._refuse(peer, len(udp), asked=admitted is not None)
            return
        # RFC 9298 section 5: a longer payload than UDP can carry aborts the stream.
        if max(map(len, udp)) > MAX_UDP_PAYLOAD_BYTES:
            self._counters.oversize_uplink_dropped += 1
            self.close(EndReason.PROTOCOL_ERROR)
            return
        offered_count = len(udp)
        udp = admit_batch(self._uplink, udp)
        self._counters.rate_dropped += offered_count - len(udp)
        if not udp or self._flow is not flow:  # taking the last of a quota may have ended the lease
            return
        if self._inbound is Inbound.CONTACTED:
            self._note_contact(endpoint.address)
        flow.send_batch(udp, peer.source)
        self._counters.uplink_datagrams += len(udp)
        self._counters.uplink_bytes += sum(map(len, udp))

    def _note_contact(self, address: IPAddress) -> None:
        contacted = self._contacted
        if address not in contacted and len(contacted) >= self._limits.peers:
            del contacted[next(iter(contacted))]
        contacted[address] = self._clock.monotonic_s() + self._limits.contacted_s

    # -- peers -> client -------------------------------------------------------------------------

    def on_batches(self, batches: Sequence[ReceivedBatch]) -> None:
        """Send what peers sent to the client, in the context that each of them has."""
        for batch in batches:
            carrier = self._carrier
            if carrier is None:
                return
            if not self._peers.knows(batch.source) and not self._may_meet(batch):
                continue
            peer = self._peers.of_source(batch.source)
            if peer is None:
                self._bind_counters.unreachable_dropped += len(batch.payloads)
                continue
            self._receive(carrier, peer, batch.payloads)

    def _may_meet(self, batch: ReceivedBatch) -> bool:
        """Whether a new source is worth a record; else its datagrams are dropped and counted.

        Sources can be forged: nothing costly may be done for one before the policy, which is asked
        at a bounded rate, has admitted it.
        """
        endpoint = endpoint_of(batch.source)
        count = len(batch.payloads)
        if endpoint is None:
            self._bind_counters.unreachable_dropped += count
            return False
        wire = encode_peer(endpoint.address, endpoint.port)
        if wire in self.contexts.by_peer or (self._target and wire == self._target.wire):
            return True
        if self.contexts.uncompressed is None:
            self._bind_counters.unregistered_dropped += count
        elif not self._may_send_in(endpoint.address):
            self._bind_counters.uncontacted_dropped += count
        else:
            admitted = self._policy.admits(endpoint.address, endpoint.port, unsolicited=True)
            if admitted:
                return True
            self._count_refused(count, asked=admitted is not None)
        return False

    def _receive(self, carrier: Carrier, peer: BindPeer, payloads: Sequence[bytes]) -> None:
        context = self.contexts.by_peer.get(peer.wire)
        # By wire form: the record of a peer may have been forgotten and made anew.
        is_target = self._target is not None and peer.wire == self._target.wire
        is_asked = context is not None or is_target
        if context is not None and context.usable:
            prefix = context.prefix
        elif is_target:
            prefix = UDP_PAYLOAD_CONTEXT
        elif self.contexts.uncompressed is not None:
            prefix = self.contexts.uncompressed.prefix + peer.wire
        else:
            # Section 8: no registration carries it. It is dropped; buffering would only help a
            # client that registers a peer after that peer has sent.
            self._bind_counters.unregistered_dropped += len(payloads)
            return
        if not is_asked and not self._may_send_in(peer.endpoint.address):
            self._bind_counters.uncontacted_dropped += len(payloads)
            return
        endpoint = peer.endpoint
        admitted = self._policy.admits(endpoint.address, endpoint.port, unsolicited=not is_asked)
        if not admitted:
            self._refuse(peer, len(payloads), asked=admitted is not None)
            return
        self._deliver(carrier, prefix, payloads)
        if not is_asked:
            peer.received_count += len(payloads)
            if peer.received_count >= self._limits.compress_after_datagrams:
                self.contexts.assign(peer.wire)

    def _may_send_in(self, address: IPAddress) -> bool:
        if self._inbound is Inbound.POLICY:
            return True
        return self._contacted.get(address, 0.0) > self._clock.monotonic_s()

    def _deliver(self, carrier: Carrier, prefix: bytes, payloads: Sequence[bytes]) -> None:
        limit_bytes = carrier.max_payload_bytes - len(prefix)
        if max(map(len, payloads)) > limit_bytes:
            fitting = [payload for payload in payloads if len(payload) <= limit_bytes]
            self.oversize_downlink_count += len(payloads) - len(fitting)
            self._counters.oversize_downlink_dropped += len(payloads) - len(fitting)
            payloads = fitting
            if not payloads:
                return
        offered_count = len(payloads)
        payloads = admit_batch(self._downlink, payloads)
        self._counters.rate_dropped += offered_count - len(payloads)
        if not payloads or self._carrier is not carrier:
            return
        sent_count = carrier.send_datagrams(prefix, payloads)
        size = sum(map(len, payloads))
        self._counters.downlink_datagrams += sent_count
        self._counters.downlink_bytes += (
            size if sent_count == len(payloads) else size * sent_count // len(payloads)
        )

    # -- contexts --------------------------------------------------------------------------------

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Take one capsule of the client.

        Raises:
            WireError: it is malformed; the front end aborts the stream.
        """
        accepted, rejected = self.contexts.accepted_count, self.contexts.rejected_count
        self.contexts.on_capsule(capsule_type, value)
        self._bind_counters.contexts_opened += self.contexts.accepted_count - accepted
        self._bind_counters.contexts_rejected += self.contexts.rejected_count - rejected

    def _accepts(self, wire: bytes) -> bool:
        """Whether a peer that the client registers is one that it may reach (section 9)."""
        peer = self._peers.of_wire(wire)
        if peer is None:
            return False
        return bool(self._policy.admits(peer.endpoint.address, peer.endpoint.port))

    def _send_capsule(self, capsule_type: int, value: bytes) -> None:
        carrier = self._carrier
        if carrier is None:
            return
        if carrier.unsent_bytes > self._limits.reply_backlog_bytes:
            # Section 9: answers that can't leave must not pile up.
            self.close(EndReason.PROTOCOL_ERROR)
            return
        carrier.send_capsule(capsule_type, value)

    # -- peers -----------------------------------------------------------------------------------

    def _refuse(self, peer: BindPeer, count: int, *, asked: bool) -> None:
        """Count what the policy refuses; a context for such a peer is closed (section 3.3)."""
        self._count_refused(count, asked=asked)
        if not asked:
            return
        context = self.contexts.by_peer.get(peer.wire)
        if context is not None:
            self.contexts.close(context)

    def _count_refused(self, count: int, *, asked: bool) -> None:
        if asked:
            self.denied_count += count
            self._bind_counters.denied_dropped += count
        else:
            self._bind_counters.unasked_dropped += count
