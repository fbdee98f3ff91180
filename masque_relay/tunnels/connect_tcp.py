"""Owns the TCP tunnel between a request stream and a TCP flow, sans I/O (classic and templated)."""

from collections import deque

from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import FlowError, TcpFlow
from masque_relay.contract.lease import Meter
from masque_relay.contract.tunnel import StreamCarrier
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.connect_tcp import TcpFraming

SEND_HIGH_WATER_BYTES = 1_048_576
"""The target is paused while so much waits for the client: 80 Mbit/s at 100 ms."""
UPLINK_LOW_WATER_BYTES = 65_536
"""The client gets credit for what it sent once no more than this waits for the target."""

_METERED_STEP_BYTES = 1_024


class ConnectTcpSession:
    """Moves bytes between one stream and one flow, within the meters; nothing is ever dropped.

    It is the flow's ByteSink and the carrier's StreamSession. A side that takes nothing stops the
    other one: the target is paused while the client's queue is full, the client gets no credit
    while the target's is. What a rate refuses waits for ``on_wake`` and stops its side meanwhile.

    Attributes:
        end_reason: why the tunnel is over; None while it lives.
        flow_error: how the flow was lost.
    """

    __slots__ = (
        "_carrier",
        "_counters",
        "_down",
        "_down_ended",
        "_down_fin",
        "_downlink",
        "_flow",
        "_framing",
        "_uncredited_bytes",
        "_up",
        "_up_ended",
        "_uplink",
        "end_reason",
        "flow_error",
    )

    def __init__(
        self, *, framing: TcpFraming, uplink: Meter, downlink: Meter, counters: TunnelCounters
    ) -> None:
        self._framing = framing
        self._uplink = uplink
        self._downlink = downlink
        self._counters = counters
        self._flow: TcpFlow | None = None
        self._carrier: StreamCarrier | None = None
        self._up: deque[bytes] = deque()
        """Payload from the client that its rate holds back; bounded by the stream's window."""
        self._uncredited_bytes = 0
        self._up_ended = False
        """FIN was passed on to the target."""
        self._down = b""
        """Payload from the target that its rate holds back: at most one read."""
        self._down_fin = False
        self._down_ended = False
        """FIN was passed on to the client."""
        self.end_reason: EndReason | None = None
        self.flow_error: FlowError | None = None

    def bind_flow(self, flow: TcpFlow) -> None:
        """Take the flow; from here the session closes it when the tunnel ends."""
        if self.end_reason is None:
            self._flow = flow
        else:
            flow.close()

    def attach(self, carrier: StreamCarrier) -> None:
        """Learn the way to the client; a session that was closed meanwhile ends the stream now."""
        if self.end_reason is not None:
            _end_stream(carrier, self.end_reason)
            return
        self._carrier = carrier
        if self._flow is not None:
            self._flow.resume()

    def close(self, reason: EndReason) -> None:
        """End the tunnel from our side: the lease ended, or the flow died. Idempotent."""
        if self.end_reason is not None:
            return
        carrier = self._carrier
        self.ended(reason)
        if carrier is not None:
            _end_stream(carrier, reason)

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; end the flow. Idempotent, the first reason stays.

        RFC 9114 section 4.4: what the client broke off is reset towards the target too, unless the
        client had ended its side before.
        """
        flow, self._flow = self._flow, None
        self._carrier = None
        # RFC 9110 section 9.3.6: where a stream has one end for both sides, the target's FIN is the
        # end of the tunnel, and the lost connection only what follows from it.
        is_over = self._down_ended and self._framing.ends_with_stream
        if reason is EndReason.CONNECTION_LOST and (self._up_ended or is_over):
            reason = EndReason.PEER_CLOSED
        if self.end_reason is None:
            self.end_reason = reason
        self._up.clear()
        self._down = b""
        if flow is None:
            return
        if reason is EndReason.PEER_CLOSED:
            flow.close()
        else:
            flow.abort()

    # From the client.

    def on_stream_data(self, data: bytes) -> None:
        """Take stream bytes.

        Raises:
            WireError: they break the framing.
        """
        self._uncredited_bytes += len(data)
        self._up.extend(self._framing.feed(data))
        self._pump_up()

    def on_stream_end(self) -> None:
        """Pass FIN on; a stream that ends without one was cut short.

        Raises:
            WireError: it ended inside a capsule.
        """
        if self._framing.finish():
            self._pump_up()
        else:
            # connect-tcp, "Closing Connections": the receive stream closed without FINAL_DATA.
            self.close(EndReason.PEER_RESET)

    def on_stream_writable(self) -> None:
        """Let the target go on once half of the queue has left."""
        carrier, flow = self._carrier, self._flow
        if carrier is None or flow is None or self._down:
            return
        if carrier.unsent_bytes <= SEND_HIGH_WATER_BYTES // 2:
            flow.resume()

    def on_wake(self) -> None:
        """Try again what a rate refused."""
        self._pump_up()
        if self._down:
            data, self._down = self._down, b""
            self._send_down(data)
            if not self._down:
                self._end_down()
                self.on_stream_writable()

    # From the target.

    def on_bytes(self, data: bytes) -> None:
        """Send bytes to the client."""
        if self._carrier is not None:
            self._send_down(data)

    def on_bytes_end(self) -> None:
        """Pass FIN on."""
        self._down_fin = True
        self._end_down()

    def on_flow_writable(self) -> None:
        """Grant the credit that waited."""
        self._grant()

    def on_flow_lost(self, error: FlowError) -> None:
        """Reset the stream: the client must not take what came for everything."""
        self.flow_error = error
        self.close(EndReason.TARGET_FAILED)

    def _pump_up(self) -> None:
        up, meter = self._up, self._uplink
        while up:
            payload = up[0]
            admitted_bytes = _admit(meter, payload)
            flow, carrier = self._flow, self._carrier
            if flow is None or carrier is None:  # taking the last of a quota may end the lease
                return
            self._counters.stream_uplink_bytes += admitted_bytes
            if admitted_bytes < len(payload):
                flow.send(payload[:admitted_bytes])
                up[0] = payload[admitted_bytes:]
                carrier.wake_later()
                return
            flow.send(payload)
            up.popleft()
        if self._framing.has_ended and not self._up_ended and self._flow is not None:
            self._up_ended = True
            self._flow.end()
        self._grant()

    def _grant(self) -> None:
        """Grant credit for everything once little enough waits, and see whether all is over."""
        flow, carrier = self._flow, self._carrier
        if flow is None or carrier is None or self._up:
            return
        if self._uncredited_bytes and flow.unsent_bytes <= UPLINK_LOW_WATER_BYTES:
            credit_bytes, self._uncredited_bytes = self._uncredited_bytes, 0
            carrier.consume(credit_bytes)
        self._finish_if_over()

    def _send_down(self, data: bytes) -> None:
        admitted_bytes = _admit(self._downlink, data)
        carrier, flow = self._carrier, self._flow
        if carrier is None or flow is None:
            return
        self._counters.stream_downlink_bytes += admitted_bytes
        if admitted_bytes < len(data):
            self._down = data[admitted_bytes:]
            data = data[:admitted_bytes]
            flow.pause()
            carrier.wake_later()
        if data:
            carrier.send(self._framing.encode(data))
        if carrier.unsent_bytes > SEND_HIGH_WATER_BYTES:
            flow.pause()

    def _end_down(self) -> None:
        carrier = self._carrier
        if carrier is None or not self._down_fin or self._down or self._down_ended:
            return
        self._down_ended = True
        end = self._framing.encode_end()
        if end:
            carrier.send(end)
        if self._framing.ends_with_stream:
            carrier.end_sending()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        """Both sides sent FIN and everything was passed on: end cleanly."""
        flow = self._flow
        if self._up_ended and self._down_ended and flow is not None and not flow.unsent_bytes:
            self.close(EndReason.PEER_CLOSED)


def _end_stream(carrier: StreamCarrier, reason: EndReason) -> None:
    # IDLE, LIFETIME and DRAINED cut TCP off in the middle, so that they are no clean end here: the
    # client must not take what came for everything.
    if reason is EndReason.PEER_CLOSED:
        carrier.finish()
    else:
        carrier.abort(reason)


def _admit(meter: Meter, data: bytes) -> int:
    """Return how many bytes of the data the meter admits now."""
    if meter.take(0, len(data)):
        return len(data)
    admitted_bytes = 0
    while admitted_bytes < len(data):
        step_bytes = min(_METERED_STEP_BYTES, len(data) - admitted_bytes)
        if not meter.take(0, step_bytes):
            break
        admitted_bytes += step_bytes
    return admitted_bytes
