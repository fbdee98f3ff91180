"""Owns what a benchmark is asked for, and what it has found so far."""

from dataclasses import dataclass, field

from masque_relay.client.bench.figures import (
    AddedFigures,
    BulkFigures,
    OpenFigures,
    RoundTripFigures,
    best_bulk,
)
from masque_relay.contract.address import Target

DEFAULT_SIZES_BYTES = (64, 1_200)
"""What costs per datagram, and what fills a path: QUIC's smallest full packet fits every tunnel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to measure."""

    target: Target | None = None
    """A UDP echo that the relay reaches; None: one of our own, on loopback."""
    sizes_bytes: tuple[int, ...] = DEFAULT_SIZES_BYTES
    seconds: float = 5.0
    """Of round trips, and of bulk, for each size; steps on the way to the load are shorter."""
    tunnels: int = 1
    """Kept full at once, on one connection (over HTTP/1.1 each has its own)."""


@dataclass(slots=True, kw_only=True)
class SizeReport:
    """What was found for datagrams of one size."""

    size_bytes: int
    fits: bool
    """Whether a tunnel takes datagrams of that size; if not, nothing was measured."""
    relay: RoundTripFigures | None = None
    direct: RoundTripFigures | None = None
    """None where no answer comes on the direct way."""
    loads: list[BulkFigures] = field(default_factory=list[BulkFigures])
    """Every load that was tried, in that order."""

    @property
    def added(self) -> AddedFigures | None:
        """What the relay adds to the round trip; None without a direct one."""
        if self.relay is None or self.direct is None:
            return None
        return AddedFigures.of(self.relay, self.direct)

    @property
    def bulk(self) -> BulkFigures | None:
        """The load to quote; None where each lost too much, or none was tried."""
        return best_bulk(self.loads)


@dataclass(slots=True, kw_only=True)
class BenchReport:
    """What was found so far: it is filled in as the measurements go on."""

    relay: str
    target: str | None = None
    has_own_echo: bool = False
    http_version: str | None = None
    next_hop: str | None = None
    """The address that the relay connected to, if it said so."""
    tunnels: int = 1
    seconds: float = 0.0
    connect_ms: float | None = None
    """Name, handshake, and whatever else is needed before the first request."""
    max_payload_bytes: int | None = None
    is_reliable: bool | None = None
    """Capsules on a stream carry the datagrams."""
    opening: OpenFigures | None = None
    sizes: list[SizeReport] = field(default_factory=list[SizeReport])
    is_complete: bool = False
