"""Owns the count of packets that a connection drops without a word: forged ones and duplicates.

aioquic 1.7.2 drops them as RFC 9001 section 5.5 and RFC 9000 section 12.3 want it and tells nobody
but a debug log and qlog. An operator wants to know of a flood of either.
"""

import logging
from typing import Any

from aioquic._crypto import CryptoError
from aioquic.quic.connection import QuicConnectionAdapter
from aioquic.quic.recovery import QuicPacketNumberWindow

from masque_relay.contract.counters import QuicCounters


class CountingWindow(QuicPacketNumberWindow):
    """The packet numbers of a space, that counts how often one had been received before."""

    def __init__(self, counters: QuicCounters) -> None:
        super().__init__()
        self._counters = counters

    def __contains__(self, packet_number: int) -> bool:
        was_received = super().__contains__(packet_number)
        self._counters.packets_duplicate += was_received
        return was_received


class CountingLogger(QuicConnectionAdapter):
    """aioquic's logger of a connection, that counts what could not be authenticated."""

    def __init__(self, logger: logging.Logger, connection_id: str, counters: QuicCounters) -> None:
        super().__init__(logger, {"id": connection_id})  # pyright: ignore[reportUnknownMemberType]  # untyped
        self._counters = counters

    def debug(self, msg: object, *args: object, **kwargs: Any) -> None:  # noqa: ANN401 - its signature
        """Log; a CryptoError is a packet whose tag does not fit."""
        self._counters.packets_forged += isinstance(msg, CryptoError)
        super().debug(msg, *args, **kwargs)
