"""Owns the CONNECT-UDP tunnel between a carrier and a UDP flow (RFC 9298 section 5), sans I/O."""

from collections.abc import Callable, Sequence

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, FlowFault, UdpFlow
from masque_relay.contract.lease import Meter
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.session import DatagramSession, admit_batch
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, split_context
from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import encode_varint


class ConnectUdpSession(DatagramSession):
    """Moves UDP payloads between one carrier and one flow, within the meters.

    It is the flow's DatagramSink and the carrier's TunnelSession. Nothing here blocks, waits or
    looks at a clock: idle and lifetime deadlines belong to the front end and to the lease.

    Attributes:
        capsule_types: capsule types that it wants besides DATAGRAM: none.
        flow_error_count: asynchronous errors (ICMP) that the flow reported.
        last_flow_error: the latest of them.
        oversize_downlink_count: payloads from the target that no HTTP Datagram could carry.
    """

    __slots__ = (
        "_context_id",
        "_counters",
        "_downlink",
        "_flow",
        "_prefix",
        "_spare_flow",
        "_unanswered",
        "_uplink",
        "flow_error_count",
        "last_flow_error",
        "oversize_downlink_count",
    )

    capsule_types: frozenset[int] = frozenset()

    def __init__(
        self, *, uplink: Meter, downlink: Meter, counters: TunnelCounters, context_id: int = 0
    ) -> None:
        super().__init__()
        self._uplink = uplink
        self._downlink = downlink
        self._counters = counters
        self._context_id = context_id
        self._prefix = encode_varint(context_id)
        self._flow: UdpFlow | None = None
        self._spare_flow: Callable[[], UdpFlow | None] | None = None
        self._unanswered: Sequence[bytes] = ()
        self.flow_error_count = 0
        self.last_flow_error: FlowError | None = None
        self.oversize_downlink_count = 0

    def bind_flow(
        self, flow: UdpFlow, *, spare_flow: Callable[[], UdpFlow | None] | None = None
    ) -> None:
        """Take the flow; from here the session closes it when the tunnel ends.

        Args:
            flow: to the first of the target's addresses.
            spare_flow: opens the next address, or returns None when there is none. UDP has no
                handshake to race (RFC 8305), so the first address that refuses before anything came
                back makes room for the next; after the first answer the address stays.
        """
        if self.end_reason is None:
            self._flow = flow
            self._spare_flow = spare_flow
        else:
            flow.close()

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; close the flow. Idempotent, the first reason stays."""
        super().ended(reason)
        self._spare_flow = None
        self._unanswered = ()
        if self._flow is not None:
            self._flow.close()
            self._flow = None

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Send HTTP Datagram payloads of our context to the target."""
        flow = self._flow
        if flow is None:
            return
        prefix = self._prefix
        skip = len(prefix)
        udp: Sequence[bytes] = [p[skip:] for p in payloads if p.startswith(prefix)]
        if len(udp) != len(payloads):
            udp = self._sort_out(payloads)
            if not udp:
                return
        size = sum(map(len, udp))
        # RFC 9298 section 5: a longer payload than UDP can carry aborts the stream.
        if size > MAX_UDP_PAYLOAD_BYTES and max(map(len, udp)) > MAX_UDP_PAYLOAD_BYTES:
            self._counters.oversize_uplink_dropped += 1
            self.close(EndReason.PROTOCOL_ERROR)
            return
        if not self._uplink.take(len(udp), size):
            offered = len(udp)
            udp = admit_batch(self._uplink, udp)
            self._counters.rate_dropped += offered - len(udp)
            size = sum(map(len, udp))
        if udp and self._flow is flow:  # taking the last of a quota may have ended the lease
            flow.send_batch(udp)
            if self._spare_flow is not None:
                self._unanswered = udp
            self._counters.uplink_datagrams += len(udp)
            self._counters.uplink_bytes += size

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Skip it: CONNECT-UDP has no capsules of its own (RFC 9297 section 3.2)."""

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Send UDP payloads from the target to the client."""
        if self._spare_flow is not None:  # this address answers: it stays
            self._spare_flow = None
            self._unanswered = ()
        carrier = self._carrier
        if carrier is None:
            return
        limit_bytes = carrier.max_payload_bytes - len(self._prefix)
        if max(map(len, payloads)) > limit_bytes:
            payloads = self._fitting(payloads, limit_bytes)
            if not payloads:
                return
        size = sum(map(len, payloads))
        if not self._downlink.take(len(payloads), size):
            offered = len(payloads)
            payloads = admit_batch(self._downlink, payloads)
            self._counters.rate_dropped += offered - len(payloads)
            size = sum(map(len, payloads))
        if payloads and self._carrier is carrier:
            sent = carrier.send_datagrams(self._prefix, payloads)
            self._counters.downlink_datagrams += sent
            self._counters.downlink_bytes += (
                size if sent == len(payloads) else size * sent // len(payloads)
            )

    def on_flow_error(self, error: FlowError) -> None:
        """Count it.

        Deviation from RFC 9298 section 3.1, whose example closes the stream after ICMP unreachable:
        a connected UDP socket stays usable, the target may come back (a WireGuard peer that
        restarts), and whoever can forge ICMP must not be able to cut tunnels.
        """
        self.flow_error_count += 1
        self.last_flow_error = error
        if error.fault is FlowFault.CONNECTION_REFUSED and self._spare_flow is not None:
            self._try_next_address(self._spare_flow)

    def _try_next_address(self, spare_flow: Callable[[], UdpFlow | None]) -> None:
        """Go on at the target's next address and say there again what nobody answered."""
        flow = spare_flow()
        if flow is None:
            self._spare_flow = None
        else:
            if self._flow is not None:
                self._flow.close()
            self._flow = flow
            flow.send_batch(self._unanswered)
        self._unanswered = ()

    def _sort_out(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Drop and count other contexts; accept every legal spelling of ours."""
        udp: list[bytes] = []
        for payload in payloads:
            try:
                context_id, rest = split_context(payload)
            except WireError:
                continue
            if context_id == self._context_id:
                udp.append(rest)
        # RFC 9298 section 4: an unknown context is dropped; the client may register it later.
        self._counters.unknown_context_dropped += len(payloads) - len(udp)
        return udp

    def _fitting(self, payloads: Sequence[bytes], limit_bytes: int) -> list[bytes]:
        fitting = [payload for payload in payloads if len(payload) <= limit_bytes]
        oversize = len(payloads) - len(fitting)
        self.oversize_downlink_count += oversize
        self._counters.oversize_downlink_dropped += oversize
        return fitting
