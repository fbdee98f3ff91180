"""Owns WatchedSink: what stands between a flow and its session, so that nothing fails silently."""

from collections.abc import Sequence

import structlog

from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.verdict import EndReason
from masque_relay.http.rate import EventRate
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from masque_relay.tunnels.connect_udp_bind import BoundUdpSession

OVERSIZE_NOTICES_PER_S = 0.2
"""Log lines for all tunnels together: an operator wants to know that it happens, not how often (the
metric says that), and whoever is a target must not fill the disk."""
OVERSIZE_NOTICES_BURST = 5

_log = structlog.get_logger(__name__)


class WatchedSink:
    """Feeds a session with what its flow brings; costs one call per batch.

    The flow runs in the event loop's own callbacks, where an exception would only be printed: here
    it ends its tunnel (STYLE 17) with one log record. And it says, once per tunnel and within the
    rate, that the target sends more than the client's path takes.
    """

    __slots__ = ("_oversize_notices", "_request_id", "_session")

    def __init__(
        self, session: ConnectUdpSession, *, request_id: str, oversize_notices: EventRate
    ) -> None:
        """Watch one session.

        Args:
            session: closed when it raises.
            request_id: for the log.
            oversize_notices: shared by all tunnels.
        """
        self._session = session
        self._request_id = request_id
        self._oversize_notices = oversize_notices

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Hand UDP payloads on."""
        session = self._session
        oversize_count = session.oversize_downlink_count
        try:
            session.on_batch(payloads)
        except Exception:  # noqa: BLE001 (STYLE 17: a bug in one tunnel ends that tunnel)
            self._failed()
            return
        if oversize_count == 0 and session.oversize_downlink_count:
            self._tell_oversize(payloads)

    def on_flow_error(self, error: FlowError) -> None:
        """Hand an asynchronous error on."""
        try:
            self._session.on_flow_error(error)
        except Exception:  # noqa: BLE001 (STYLE 17)
            self._failed()

    def _failed(self) -> None:
        _log.exception("tunnel session raised", request_id=self._request_id)
        self._session.close(EndReason.BUG)

    def _tell_oversize(self, payloads: Sequence[bytes]) -> None:
        if self._oversize_notices.allow():
            tell_oversize(self._request_id, max(map(len, payloads)))


class WatchedBoundSink:
    """The same for a bound UDP session."""

    __slots__ = ("_oversize_notices", "_request_id", "_session")

    def __init__(
        self, session: BoundUdpSession, *, request_id: str, oversize_notices: EventRate
    ) -> None:
        """Watch one session; the arguments are those of :class:`WatchedSink`."""
        self._session = session
        self._request_id = request_id
        self._oversize_notices = oversize_notices

    def on_batches(self, batches: Sequence[ReceivedBatch]) -> None:
        """Hand what peers sent on."""
        session = self._session
        oversize_count = session.oversize_downlink_count
        try:
            session.on_batches(batches)
        except Exception:  # noqa: BLE001 (STYLE 17: a bug in one tunnel ends that tunnel)
            _log.exception("tunnel session raised", request_id=self._request_id)
            session.close(EndReason.BUG)
            return
        is_first = oversize_count == 0 and session.oversize_downlink_count > 0
        if is_first and self._oversize_notices.allow():
            largest_bytes = max(max(map(len, batch.payloads)) for batch in batches)
            tell_oversize(self._request_id, largest_bytes)


def tell_oversize(request_id: str, largest_bytes: int) -> None:
    """Log that a path is too narrow for what comes in; the caller keeps the rate."""
    _log.warning(
        "datagrams from the target are too large for the client's path and are dropped",
        request_id=request_id,
        largest_bytes=largest_bytes,
        hint="a smaller MTU at the client; `ghostctl tunnel check` says what fits",
    )
