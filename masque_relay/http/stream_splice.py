"""Owns one running splice of bytes: the bulk path of a TCP tunnel, without ASGI."""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from starlette.types import Message

from masque_relay.contract.tunnel import StreamSession
from masque_relay.contract.verdict import EndReason
from masque_relay.http.carrier import HttpCarrier
from masque_relay.http.services import StreamServices
from masque_relay.http.splice import FINISHED
from masque_relay.wire.errors import WireError

WAKE_S = 0.05
"""How often bytes that a rate refused are offered again: a burst of 50 ms is smooth enough."""

_log = structlog.get_logger(__name__)


class StreamSplice:
    """Feeds a session with stream bytes and is its StreamCarrier; watches idleness.

    An exception of the session resets its tunnel with one log record; nothing else notices. The
    session grants the credit: ``consumes`` tells the stream that it must not.

    Attributes:
        received_bytes: stream bytes from the client.
        sent_bytes: stream bytes to the client.
    """

    __slots__ = (
        "_carrier",
        "_clock",
        "_counters",
        "_idle_timeout_s",
        "_idle_timer",
        "_is_done",
        "_on_done",
        "_request_id",
        "_session",
        "_stream_id",
        "_transport",
        "_ungranted_bytes",
        "_wake_timer",
        "received_bytes",
        "sent_bytes",
    )

    consumes = True

    def __init__(
        self,
        session: StreamSession,
        carrier: HttpCarrier,
        services: StreamServices,
        *,
        stream_id: int,
        idle_timeout_s: float | None,
        request_id: str,
        on_done: Callable[[Message], None],
    ) -> None:
        self._session = session
        self._carrier = carrier
        self._transport = services.transport
        self._counters = services.counters
        self._clock = services.clock
        self._stream_id = stream_id
        self._idle_timeout_s = idle_timeout_s
        self._request_id = request_id
        self._on_done = on_done
        self._idle_timer: asyncio.TimerHandle | None = None
        self._wake_timer: asyncio.TimerHandle | None = None
        self._is_done = False
        self._ungranted_bytes = 0
        self.received_bytes = 0
        self.sent_bytes = 0

    # What the stream calls.

    def start(self) -> None:
        """Attach the session; from here bytes flow both ways."""
        self._session.attach(self)
        if self._idle_timeout_s is not None and not self._is_done:
            self._watch_idle(self._idle_timeout_s, -1, self._clock.monotonic_s())

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Drop them: a TCP tunnel has no datagrams (RFC 9297 section 2.1 lets us)."""

    def on_stream_data(self, data: bytes) -> None:
        """Take stream bytes; the session grants the credit.

        Raises:
            WireError: malformed; the stream is to be aborted.
        """
        if self._is_done:
            self._transport.consume(self._stream_id, len(data))
            return
        self.received_bytes += len(data)
        self._ungranted_bytes += len(data)
        try:
            self._session.on_stream_data(data)
        except WireError:
            raise
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one tunnel ends that tunnel)
            self._session_failed()

    def on_stream_end(self) -> None:
        """The client ended its side: TCP can go on half-closed.

        Raises:
            WireError: in the wrong place.
        """
        if self._is_done:
            return
        try:
            self._session.on_stream_end()
        except WireError:
            raise
        except Exception:  # noqa: BLE001  (STYLE 17)
            self._session_failed()

    def on_writable(self) -> None:
        """Bytes have left."""
        if not self._is_done:
            self._guard(self._session.on_stream_writable)

    def end(self, reason: EndReason | None) -> None:
        """Close the session and report; idempotent. None is a clean end from our side."""
        if self._is_done:
            return
        self._is_done = True
        for timer in (self._idle_timer, self._wake_timer):
            if timer is not None:
                timer.cancel()
        self._idle_timer = self._wake_timer = None
        self._session.ended(reason or EndReason.PEER_CLOSED)
        # What the session kept would count against the connection, and so its neighbours, for ever.
        self._transport.consume(self._stream_id, self._ungranted_bytes)
        self._on_done(
            {
                "type": "http.splice.done",
                "reason": FINISHED if reason is None else str(reason),
                "rx_packets": 0,
                "tx_packets": 0,
                "rx_bytes": self.received_bytes,
                "tx_bytes": self.sent_bytes,
                "drops": 0,
            }
        )

    # StreamCarrier.

    @property
    def unsent_bytes(self) -> int:
        """Queued for the client and still ours to hold."""
        return self._transport.unsent_bytes(self._stream_id)

    def send(self, data: bytes) -> None:
        """Queue stream bytes."""
        if not self._is_done:
            self.sent_bytes += len(data)
            self._transport.send_data(self._stream_id, data, end_stream=False)

    def end_sending(self) -> None:
        """End our side of the stream."""
        if not self._is_done:
            self._transport.send_data(self._stream_id, b"", end_stream=True)

    def consume(self, byte_count: int) -> None:
        """Grant the client credit."""
        if not self._is_done:
            self._ungranted_bytes -= byte_count
            self._transport.consume(self._stream_id, byte_count)

    def wake_later(self) -> None:
        """Wake the session in a moment."""
        if self._wake_timer is None and not self._is_done:
            self._wake_timer = asyncio.get_running_loop().call_later(WAKE_S, self._wake)

    def abort(self, reason: EndReason) -> None:
        """Reset the stream."""
        self._carrier.abort(reason)

    def finish(self) -> None:
        """End the stream."""
        self._carrier.finish()

    def _wake(self) -> None:
        self._wake_timer = None
        if not self._is_done:
            self._guard(self._session.on_wake)

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001  (STYLE 17)
            self._session_failed()

    def _session_failed(self) -> None:
        _log.exception("tunnel session raised", request_id=self._request_id)
        self._counters.application_errors += 1
        self._carrier.abort(EndReason.BUG)

    def _watch_idle(self, timeout_s: float, last_count: int, since_s: float) -> None:
        """Compare the counters now and again in a quarter of the period.

        Bytes that wait for a client or a target that takes nothing are no sign of life.
        """
        self._idle_timer = None
        if self._is_done:
            return
        now_s = self._clock.monotonic_s()
        count = self.received_bytes + self.sent_bytes - self.unsent_bytes
        if count != last_count:
            since_s = now_s
        elif now_s - since_s >= timeout_s:
            self._session.ended(EndReason.IDLE)
            self._carrier.abort(EndReason.IDLE)
            return
        self._idle_timer = asyncio.get_running_loop().call_later(
            timeout_s / 4, self._watch_idle, timeout_s, count, since_s
        )
