"""Owns a tunnel's way out over a request stream: QUIC datagrams, or DATAGRAM capsules."""

from collections.abc import Callable, Sequence
from enum import Enum, auto

from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import error_for_end
from masque_relay.http.services import StreamServices
from masque_relay.wire.capsule import CapsuleType, encode_capsule

MAX_CAPSULE_PAYLOAD_BYTES = 65_535
"""A context ID of 8 bytes and the largest UDP payload (65,527, RFC 9298 section 5)."""


BUSY_BYTES = 65_536
BUSY_DATAGRAMS = 64
"""One batch of the packet path: more at once does not make it faster."""


class _Form(Enum):
    UNDECIDED = auto()
    DATAGRAMS = auto()
    CAPSULES = auto()


class HttpCarrier:
    """Sends HTTP Datagrams of one request stream, in the form in which the client speaks.

    QUIC datagrams where the client announced H3_DATAGRAM; DATAGRAM capsules where it did not, or
    where capsules are what it sent first. A QUIC datagram from the client settles it for good.
    Capsules are bounded by the stream's unacknowledged bytes: beyond ``capsule_backlog_bytes`` the
    new ones are dropped and counted.

    Attributes:
        sent_datagrams: HTTP Datagrams queued.
        sent_bytes: their payload bytes, context ID included; where a batch went in part, a share.
        dropped_datagrams: too large, or pushed out of a full queue.
    """

    __slots__ = (
        "_backlog_bytes",
        "_counters",
        "_form",
        "_on_over",
        "_over",
        "_stop_when_sent",
        "_stream_id",
        "_transport",
        "dropped_datagrams",
        "sent_bytes",
        "sent_datagrams",
    )

    def __init__(
        self,
        services: StreamServices,
        stream_id: int,
        *,
        on_over: Callable[[EndReason | None], None],
    ) -> None:
        self._transport = services.transport
        self._stop_when_sent = services.stop_when_sent
        self._stream_id = stream_id
        self._backlog_bytes = services.limits.capsule_backlog_bytes
        self._counters = services.counters
        self._on_over = on_over
        self._over = False
        self._form = _Form.UNDECIDED
        self.sent_datagrams = 0
        self.sent_bytes = 0
        self.dropped_datagrams = 0

    @property
    def uses_capsules(self) -> bool:
        """Whether the next datagram would go as a capsule."""
        if self._form is _Form.UNDECIDED:
            return not self._transport.datagrams_negotiated
        return self._form is _Form.CAPSULES

    @property
    def max_payload_bytes(self) -> int:
        """The largest HTTP Datagram payload that fits now."""
        if self.uses_capsules:
            return MAX_CAPSULE_PAYLOAD_BYTES
        return self._transport.max_http_datagram_bytes(self._stream_id)

    @property
    def unsent_bytes(self) -> int:
        """Stream bytes queued that the client has not acknowledged yet."""
        return self._transport.unsent_bytes(self._stream_id)

    @property
    def is_busy(self) -> bool:
        """Whether what is queued is enough to keep the connection at work."""
        if self.uses_capsules:
            return self.unsent_bytes >= BUSY_BYTES
        return self._transport.queued_datagrams >= BUSY_DATAGRAMS

    def quic_datagram_seen(self) -> None:
        """Learn that the client sent a QUIC datagram on this stream."""
        if self._form is not _Form.DATAGRAMS and self._transport.datagrams_negotiated:
            self._form = _Form.DATAGRAMS

    def datagram_capsule_seen(self) -> None:
        """Learn that the client sent a DATAGRAM capsule on this stream."""
        if self._form is _Form.UNDECIDED:
            self._form = _Form.CAPSULES

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Queue ``prefix + payload`` each; return how many fitted."""
        if self._over:
            return 0
        if self.uses_capsules:
            sent = self._send_capsules(prefix, payloads)
        else:
            sent = self._transport.send_datagrams(self._stream_id, prefix, payloads)
            size = sum(map(len, payloads)) + len(prefix) * len(payloads)
            self.sent_bytes += size if sent == len(payloads) else size * sent // len(payloads)
        self.sent_datagrams += sent
        self.dropped_datagrams += len(payloads) - sent
        return sent

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        """Queue one capsule of another type; the caller keeps it within reason."""
        if not self._over:
            self._send_stream(encode_capsule(capsule_type, value))

    def abort(self, reason: EndReason) -> None:
        """Reset the stream; idempotent."""
        self.abort_with_code(error_for_end(reason), reason)

    def abort_with_code(self, code: int, reason: EndReason | None) -> None:
        """Reset the stream with a code of the application's choice; idempotent."""
        if self._over:
            return
        self._over = True
        self._transport.reset(self._stream_id, code)
        self._on_over(reason)

    def finish(self) -> None:
        """End our side cleanly and ask for no more; idempotent."""
        if self._over:
            return
        self._over = True
        self._transport.send_data(self._stream_id, b"", end_stream=True)
        self._stop_when_sent(self._stream_id)
        self._on_over(None)

    def stream_over(self) -> None:
        """Learn that the stream ended without us; nothing is sent any more."""
        self._over = True

    def _send_capsules(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """All capsules of a batch leave in one DATA frame."""
        room_bytes = self._backlog_bytes - self._transport.unsent_bytes(self._stream_id)
        capsules: list[bytes] = []
        for payload in payloads:
            if room_bytes <= 0:
                break
            capsule = encode_capsule(CapsuleType.DATAGRAM, prefix + payload)
            room_bytes -= len(capsule)
            capsules.append(capsule)
            self.sent_bytes += len(prefix) + len(payload)
        self._counters.capsule_datagrams_dropped += len(payloads) - len(capsules)
        if capsules:
            self._send_stream(b"".join(capsules))
        return len(capsules)

    def _send_stream(self, data: bytes) -> None:
        self._transport.send_data(self._stream_id, data, end_stream=False)
