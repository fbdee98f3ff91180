"""Owns the lease: the gate's permission to hold one tunnel, with its meters and limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import EndReason


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelLimits:
    """What one tunnel may use. None means that no limit applies."""

    rate_bytes_per_s: int | None = None
    """Sustained payload rate, each way on its own."""
    burst_bytes: int | None = None
    """Bucket depth; None = one second of the rate, at least 65,535 so that one datagram fits."""
    rate_datagrams_per_s: int | None = None
    burst_datagrams: int | None = None
    lifetime_s: float | None = None
    max_bytes: int | None = None
    """Payload bytes, both ways together, after which the tunnel ends."""
    idle_timeout_s: float = 120.0
    """RFC 9298 section 3.1 asks for at least two minutes (RFC 4787 REQ-5)."""


class Meter(Protocol):
    """Counts one direction of one tunnel and says whether more may pass.

    Plain ints; the clock is asked only where a rate is set.
    """

    @property
    def datagram_count(self) -> int:
        """Datagrams admitted so far."""
        ...

    @property
    def byte_count(self) -> int:
        """Payload bytes admitted so far."""
        ...

    @property
    def dropped_count(self) -> int:
        """Datagrams refused by the rate so far."""
        ...

    def take(self, datagram_count: int, byte_count: int) -> bool:
        """Admit all of it and count it, or admit nothing and return False.

        A refused batch may be offered again in smaller parts; a datagram that is refused on its own
        is reported by :meth:`drop`.
        """
        ...

    def drop(self, datagram_count: int) -> None:
        """Count datagrams that the rate refused for good."""
        ...


class Lease(Protocol):
    """Permission for one tunnel. Only the gate makes one; whoever holds it must release it.

    The control plane can end a lease by itself (revocation, kick, lifetime, byte quota): then the
    callback given to :meth:`on_end` runs once, in the event loop, and the holder closes the tunnel
    and still calls :meth:`release`.
    """

    @property
    def lease_id(self) -> str:
        """Unique in this process; in logs, audit and the admin API."""
        ...

    @property
    def request(self) -> RelayRequest:
        """What was asked."""
        ...

    @property
    def subject(self) -> str:
        """Who holds it, as the credential named them. Never a metric label."""
        ...

    @property
    def peer_id(self) -> bytes | None:
        """The Ed25519 key that the credential is bound to (RFC 7800); None where it has none."""
        ...

    @property
    def rule(self) -> str:
        """The name of the policy rule that allowed it."""
        ...

    @property
    def limits(self) -> TunnelLimits:
        """What the tunnel may use."""
        ...

    @property
    def uplink(self) -> Meter:
        """Client -> target."""
        ...

    @property
    def downlink(self) -> Meter:
        """Target -> client."""
        ...

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        """Set what runs when the control plane ends the lease; at once if it already has."""
        ...

    def release(self, reason: EndReason, *, detail: str = "") -> None:
        """Give the lease back: quota freed, one audit record written. Idempotent; the first counts.

        If the control plane ended the lease, its reason wins over the one given here.
        """
        ...
