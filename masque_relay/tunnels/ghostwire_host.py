"""Owns the far end of a Ghostwire channel that leads to a host: a UDP or a TCP flow."""

from collections.abc import Callable, Sequence

from masque_relay.contract.flow import FlowError, TcpFlow, UdpFlow
from masque_relay.contract.lease import Lease
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_channel import RelayChannel
from masque_relay.tunnels.session import admit_batch
from masque_relay.wire.ghostwire import ErrorCode

Release = Callable[[EndReason, str], None]
"""Gives the channel's own lease back, once."""


class _Idleness:
    """A flag for the packet path, and how long nothing has come either way, for a tick."""

    __slots__ = ("_quiet_since_s", "_timeout_s", "is_used")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._quiet_since_s = 0.0
        self.is_used = True

    def is_over(self, now_s: float) -> bool:
        """Whether it has been unused for too long; exact to a tick."""
        if self.is_used:
            self._quiet_since_s, self.is_used = now_s, False
        return now_s - self._quiet_since_s >= self._timeout_s


class HostUdpEnd:
    """A ChannelEnd and a DatagramSink: the channel's peer on one side, a UDP socket on the other.

    The channel has a lease of its own, whose meters count: the session's count what peers send to
    peers.
    """

    def __init__(self, channel: RelayChannel, lease: Lease, release: Release) -> None:
        self._channel: RelayChannel | None = channel
        self._lease = lease
        self._release = release
        self._idleness = _Idleness(lease.limits.idle_timeout_s)
        self._flow: UdpFlow | None = None

    def bind_flow(self, flow: UdpFlow) -> None:
        """Take the flow; from here the end closes it. Nobody waits for it any more: it ends."""
        if self._channel is None or self._channel.is_closed:
            flow.close()
            self.closed(ErrorCode.NONE, "")
            return
        self._flow = flow
        self._channel.far = self
        self._channel.opened(0)

    @property
    def is_open(self) -> bool:
        """The channel and the host are joined."""
        return self._flow is not None

    def on_tick(self, now_s: float) -> None:
        """End what is idle; to be called about once per second."""
        if self._idleness.is_over(now_s):
            self.close(EndReason.IDLE)

    def close(self, reason: EndReason) -> None:
        """End the channel from the relay's side; idempotent."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.closed(_CODES.get(reason, ErrorCode.RESET), "")
            self._finish(reason, "")

    # ChannelEnd.

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Send datagrams to the host."""
        self._idleness.is_used = True
        admitted = admit_batch(self._lease.uplink, payloads)
        if admitted and self._flow is not None:
            self._flow.send_batch(admitted)

    def deliver_data(self, data: bytes) -> bool:
        """No stream bytes come here."""
        return True

    def deliver_end(self) -> None:
        """No stream ends here."""

    def opened(self, credit_bytes: int) -> None:
        """We are the callee."""

    def grant(self, limit_bytes: int) -> None:
        """Datagrams have no credit."""

    def closed(self, code: int, reason: str) -> None:
        """The peer closed the channel, or is gone."""
        self._channel = None
        self._finish(EndReason.PEER_CLOSED, "")

    # DatagramSink.

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Send datagrams from the host to the peer."""
        self._idleness.is_used = True
        admitted = admit_batch(self._lease.downlink, payloads)
        if admitted and self._channel is not None:
            self._channel.deliver(admitted)

    def on_flow_error(self, error: FlowError) -> None:
        """Count nothing: a connected UDP socket stays usable (see ConnectUdpSession)."""

    def _finish(self, reason: EndReason, detail: str) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.close()
        self._release(reason, detail)


class HostTcpEnd:
    """A ChannelEnd and a ByteSink: credit on one side, TCP's own flow control on the other."""

    def __init__(
        self, channel: RelayChannel, lease: Lease, release: Release, *, window_bytes: int
    ) -> None:
        self._channel: RelayChannel | None = channel
        self._lease = lease
        self._release = release
        self._idleness = _Idleness(lease.limits.idle_timeout_s)
        self._window_bytes = window_bytes
        self._flow: TcpFlow | None = None
        self._up_bytes = 0
        self._granted_bytes = window_bytes
        self._down_bytes = 0
        self._limit_bytes = 0
        self._held = b""
        """What the host sent beyond the peer's credit: at most one read."""
        self._host_ended = False
        self._peer_ended = False

    def bind_flow(self, flow: TcpFlow) -> None:
        """Take the flow, tell the peer that the host is reached, and begin to read.

        Where the channel has been closed meanwhile, nobody will close the flow later: it ends now.
        """
        channel = self._channel
        if channel is None or channel.is_closed:
            flow.abort()
            self.closed(ErrorCode.NONE, "")
            return
        self._flow = flow
        channel.far = self
        channel.opened(self._granted_bytes)
        self._limit_bytes = channel.next_offer_bytes()
        self._pump_down()

    @property
    def is_open(self) -> bool:
        """The channel and the host are joined."""
        return self._flow is not None

    def on_tick(self, now_s: float) -> None:
        """Offer again what a rate refused, or end what is idle; about once per second."""
        if self._held:
            self._pump_down()
        if self._idleness.is_over(now_s):
            self.close(EndReason.IDLE)

    def close(self, reason: EndReason) -> None:
        """End the channel from the relay's side; idempotent."""
        self._end(_CODES.get(reason, ErrorCode.RESET), "", reason)

    # ChannelEnd.

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """No datagrams come here."""

    def deliver_data(self, data: bytes) -> bool:
        """Send bytes to the host, if the rate has room."""
        if self._flow is None:
            return True
        if not self._lease.uplink.take(0, len(data)):
            return False
        self._idleness.is_used = True
        self._up_bytes += len(data)
        self._flow.send(data)
        self._grant()
        return True

    def deliver_end(self) -> None:
        """The peer's FIN is the host's."""
        self._peer_ended = True
        if self._flow is not None:
            self._flow.end()
        self._finish_if_over()

    def opened(self, credit_bytes: int) -> None:
        """We are the callee."""

    def grant(self, limit_bytes: int) -> None:
        """The peer takes more."""
        self._limit_bytes = max(self._limit_bytes, limit_bytes)
        self._pump_down()

    def closed(self, code: int, reason: str) -> None:
        """The peer closed the channel, or is gone."""
        self._channel = None
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        self._release(EndReason.PEER_RESET if code else EndReason.PEER_CLOSED, "")

    # ByteSink.

    def on_bytes(self, data: bytes) -> None:
        """Take bytes from the host."""
        self._held += data
        self._pump_down()

    def on_bytes_end(self) -> None:
        """The host's FIN is the peer's END."""
        self._host_ended = True
        self._pump_down()

    def on_flow_writable(self) -> None:
        """The host took what waited: the peer may send more."""
        self._grant()

    def on_flow_lost(self, error: FlowError) -> None:
        """The connection to the host is gone."""
        self._flow = None
        self._end(ErrorCode.TARGET, str(error.fault), EndReason.TARGET_FAILED)

    def _pump_down(self) -> None:
        """Send what credit and rate allow; while something is held, the host is not read."""
        channel, flow = self._channel, self._flow
        if channel is None or flow is None:
            return
        room_bytes = self._limit_bytes - self._down_bytes
        data = self._held[:room_bytes]
        if data and self._lease.downlink.take(0, len(data)) and channel.deliver_data(data):
            self._idleness.is_used = True
            self._held = self._held[len(data) :]
            self._down_bytes += len(data)
        if self._held:
            flow.pause()
        elif self._host_ended:
            self._host_ended = False
            channel.deliver_end()
            self._finish_if_over()
        elif self._limit_bytes > self._down_bytes:
            flow.resume()

    def _grant(self) -> None:
        """Let the peer send what fits the window beyond what the host has taken."""
        channel, flow = self._channel, self._flow
        if channel is None or flow is None:
            return
        limit_bytes = self._up_bytes - flow.unsent_bytes + self._window_bytes
        if limit_bytes - self._granted_bytes >= self._window_bytes // 2:
            self._granted_bytes = limit_bytes
            channel.grant(limit_bytes)

    def _finish_if_over(self) -> None:
        channel = self._channel
        if channel is not None and channel.is_over:
            self._channel = None
            flow, self._flow = self._flow, None
            if flow is not None:
                flow.close()
            self._release(EndReason.PEER_CLOSED, "")

    def _end(self, code: ErrorCode, text: str, reason: EndReason) -> None:
        channel, self._channel = self._channel, None
        if channel is None:
            return
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.abort()
        channel.closed(code, text)
        self._release(reason, text)


_CODES = {
    EndReason.REVOKED: ErrorCode.REVOKED,
    EndReason.KICKED: ErrorCode.REVOKED,
    EndReason.LIFETIME: ErrorCode.REVOKED,
    EndReason.BYTE_QUOTA: ErrorCode.QUOTA,
    EndReason.DRAINED: ErrorCode.DRAINED,
    EndReason.IDLE: ErrorCode.IDLE,
    EndReason.TARGET_FAILED: ErrorCode.TARGET,
}
