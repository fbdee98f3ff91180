"""Owns WatchedByteSink: what stands between a TCP flow and its session."""

from collections.abc import Callable

import structlog

from masque_relay.contract.flow import FlowError
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.connect_tcp import ConnectTcpSession

_log = structlog.get_logger(__name__)


class WatchedByteSink:
    """Feeds a session with what its flow brings.

    The flow runs in the event loop's own callbacks, where an exception would only be printed: here
    it ends its tunnel (STYLE 17) with one log record.
    """

    __slots__ = ("_request_id", "_session")

    def __init__(self, session: ConnectTcpSession, *, request_id: str) -> None:
        self._session = session
        self._request_id = request_id

    def on_bytes(self, data: bytes) -> None:
        """Hand bytes on."""
        try:
            self._session.on_bytes(data)
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one tunnel ends that tunnel)
            self._failed()

    def on_bytes_end(self) -> None:
        """Hand FIN on."""
        self._guard(self._session.on_bytes_end)

    def on_flow_writable(self) -> None:
        """Hand it on."""
        self._guard(self._session.on_flow_writable)

    def on_flow_lost(self, error: FlowError) -> None:
        """Hand it on."""
        self._guard(lambda: self._session.on_flow_lost(error))

    def _guard(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001  (STYLE 17)
            self._failed()

    def _failed(self) -> None:
        _log.exception("tunnel session raised", request_id=self._request_id)
        self._session.close(EndReason.BUG)
