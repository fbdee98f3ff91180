"""Owns the seam between an HTTP session over TCP and its socket."""

from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.counters import TcpCounters
from masque_relay.contract.ports import Clock
from masque_relay.http.tcp_limits import TcpLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpServices:
    """What the listener gives to every session."""

    limits: TcpLimits
    counters: TcpCounters
    clock: Clock
    alt_svc: bytes | None
    """Where HTTP/3 is (RFC 7838); goes with every final response."""
    connection_id: str
    """For logs."""


class Wire(Protocol):
    """The TLS connection below an H2Session or an H1Session."""

    @property
    def is_congested(self) -> bool:
        """The socket holds more than it should; ``writable`` of the session ends it."""
        ...

    def write(self, data: bytes) -> None:
        """Send; never blocks."""
        ...

    def pause_reading(self) -> None:
        """Let the peer wait: TCP's own flow control."""
        ...

    def resume_reading(self) -> None:
        """Read on; idempotent."""
        ...

    def close(self) -> None:
        """Close once everything is sent; cut off at the deadline. Idempotent."""
        ...

    def abort(self) -> None:
        """Close now; what is queued is lost. Idempotent."""
        ...


class TcpSession(Protocol):
    """What feeds on a Wire."""

    def start(self) -> None:
        """The TLS handshake is complete."""
        ...

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        ...

    def end_received(self) -> None:
        """The peer sends no more."""
        ...

    def writable(self) -> None:
        """The wire is congested no more."""
        ...

    def wire_lost(self) -> None:
        """The connection is gone; the last call."""
        ...

    def overdue(self, now_s: float) -> bool:
        """Whether the peer let a deadline of the session pass."""
        ...

    def expire(self) -> None:
        """A deadline has passed: close in the protocol's own way."""
        ...
