"""Owns one running splice: the bulk path between a stream and a tunnel session, without ASGI."""

import asyncio
from collections.abc import Callable, Sequence

import structlog
from starlette.types import Message

from masque_relay.contract.tunnel import Carrier, TunnelSession
from masque_relay.contract.verdict import EndReason
from masque_relay.http.carrier import HttpCarrier
from masque_relay.http.services import StreamServices
from masque_relay.http.splice_limits import (
    FilteredCarrier,
    PayloadHook,
    SpliceFilter,
    SpliceLimits,
)
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, CapsuleType
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP, WrapUpReader

FINISHED = "finished"
"""``reason`` of a splice that its session or its application ended cleanly."""

_log = structlog.get_logger(__name__)


class Splice:
    """Feeds a session with what comes from the client and watches limits and idleness.

    An exception of the session is a bug of that session: its tunnel is reset, one log record is
    written, and nothing else notices. The idle deadline costs the packet path nothing: a timer
    compares counters four times per period.

    Attributes:
        received_datagrams: HTTP Datagrams from the client.
        received_bytes: their payload bytes, context ID included.
    """

    consumes = False
    """The stream grants the credit for what the splice was given."""

    __slots__ = (
        "_carrier",
        "_clock",
        "_counters",
        "_decoder",
        "_filter",
        "_idle_timeout_s",
        "_idle_timer",
        "_is_done",
        "_on_done",
        "_request_id",
        "_session",
        "_session_on_writable",
        "received_bytes",
        "received_datagrams",
    )

    def __init__(
        self,
        session: TunnelSession,
        carrier: HttpCarrier,
        services: StreamServices,
        *,
        limits: SpliceLimits,
        hook: PayloadHook | None,
        request_id: str,
        on_done: Callable[[Message], None],
    ) -> None:
        self._session = session
        self._session_on_writable: Callable[[], None] | None = getattr(session, "on_writable", None)
        self._carrier = carrier
        self._counters = services.counters
        self._clock = services.clock
        self._request_id = request_id
        self._on_done = on_done
        self._idle_timeout_s = limits.idle_timeout_s
        self._filter = (
            SpliceFilter(limits, hook, services.clock, carrier.abort)
            if limits.filters or hook is not None
            else None
        )
        self._decoder = CapsuleDecoder(
            max_capsule_bytes=services.limits.max_capsule_bytes,
            known_types={CapsuleType.DATAGRAM, WRAP_UP, *getattr(session, "capsule_types", ())},
        )
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_done = False
        self.received_datagrams = 0
        self.received_bytes = 0

    def start(self) -> None:
        """Attach the session; from here datagrams flow both ways."""
        carrier: Carrier = self._carrier
        if self._filter is not None:
            carrier = FilteredCarrier(carrier, self._filter)
        self._session.attach(carrier)
        if self._idle_timeout_s is not None and not self._is_done:
            self._watch_idle(self._idle_timeout_s, -1, self._clock.monotonic_s())

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Take QUIC datagrams of this stream."""
        if self._is_done:
            return
        self._carrier.quic_datagram_seen()
        self._deliver(payloads)

    def on_stream_data(self, data: bytes) -> None:
        """Take capsule bytes; the caller grants the credit.

        Raises:
            WireError: malformed; the stream is to be aborted.
        """
        if self._is_done:
            return
        skipped_before = self._decoder.skipped_count
        capsules = self._decoder.feed(data)
        self._counters.capsules_received += len(capsules)
        self._counters.capsules_skipped += self._decoder.skipped_count - skipped_before
        payloads: list[bytes] = []
        for capsule in capsules:
            if capsule.type == CapsuleType.DATAGRAM:
                payloads.append(capsule.value)
                continue
            self._flush_capsule_datagrams(payloads)
            self._deliver_capsule(capsule)
        self._flush_capsule_datagrams(payloads)

    def on_stream_end(self) -> None:
        """The client ended its side: so ends the tunnel (RFC 9297 section 2).

        Raises:
            WireError: it ended inside a capsule.
        """
        if not self._is_done:
            self._decoder.finish()
            self.end(EndReason.PEER_CLOSED)
            self._carrier.finish()

    def on_writable(self) -> None:
        """Tell a session that keeps a queue of its own; most drop what does not fit."""
        if self._session_on_writable is not None and not self._is_done:
            try:
                self._session_on_writable()
            except Exception:  # noqa: BLE001  (STYLE 17)
                self._session_failed()

    def end(self, reason: EndReason | None) -> None:
        """Close the session and report; idempotent. None is a clean end from our side."""
        if self._is_done:
            return
        self._is_done = True
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._session.ended(reason or EndReason.PEER_CLOSED)
        filtered = 0 if self._filter is None else self._filter.dropped_datagrams
        self._on_done(
            {
                "type": "http.splice.done",
                "reason": FINISHED if reason is None else str(reason),
                "rx_packets": self.received_datagrams,
                "tx_packets": self._carrier.sent_datagrams,
                "rx_bytes": self.received_bytes,
                "tx_bytes": self._carrier.sent_bytes,
                "drops": self._carrier.dropped_datagrams + filtered,
            }
        )

    def _deliver(self, payloads: Sequence[bytes]) -> None:
        self.received_datagrams += len(payloads)
        self.received_bytes += sum(map(len, payloads))
        if self._filter is not None:
            payloads = self._filter.passing("rx", payloads)
            if not payloads or self._is_done:
                return
        try:
            self._session.on_datagrams(payloads)
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one tunnel ends that tunnel)
            self._session_failed()

    def _flush_capsule_datagrams(self, payloads: list[bytes]) -> None:
        if payloads:
            self._carrier.datagram_capsule_seen()
            batch = payloads.copy()
            payloads.clear()
            self._deliver(batch)

    def _deliver_capsule(self, capsule: Capsule) -> None:
        if capsule.type == WRAP_UP:
            WrapUpReader().take(len(capsule.value))
        try:
            self._session.on_capsule(capsule.type, capsule.value)
        except WireError:
            raise
        except Exception:  # noqa: BLE001  (STYLE 17)
            self._session_failed()

    def _session_failed(self) -> None:
        _log.exception("tunnel session raised", request_id=self._request_id)
        self._counters.application_errors += 1
        self._carrier.abort(EndReason.BUG)

    def _watch_idle(self, timeout_s: float, last_count: int, since_s: float) -> None:
        """Compare the counters now and again in a quarter of the period."""
        self._idle_timer = None
        if self._is_done:
            return
        now_s = self._clock.monotonic_s()
        count = self.received_datagrams + self._carrier.sent_datagrams
        if count != last_count:
            since_s = now_s
        elif now_s - since_s >= timeout_s:
            self.end(EndReason.IDLE)
            self._carrier.finish()
            return
        self._idle_timer = asyncio.get_running_loop().call_later(
            timeout_s / 4, self._watch_idle, timeout_s, count, since_s
        )
