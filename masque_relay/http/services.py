"""Owns StreamServices: what every stream of one HTTP connection shares."""

from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.contract.counters import HttpCounters
from masque_relay.contract.ports import Clock
from masque_relay.http.limits import HttpLimits
from masque_relay.http.transport import HttpTransport, HttpVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamServices:
    """The transport below and the values that the front end gave the connection."""

    transport: HttpTransport
    limits: HttpLimits
    counters: HttpCounters
    clock: Clock
    stop_when_sent: Callable[[int], None]
    """STOP_SENDING without an error for a stream, once what we sent on it has arrived. Not before:
    it could overtake the response, and clients exist that take it for a refusal."""
    http_version: HttpVersion = HttpVersion.HTTP3
