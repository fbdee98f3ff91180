"""Owns the limits of Ghostwire sessions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GhostwireLimits:
    """What one session may hold at a relay."""

    max_channels: int = 256
    """Open at once, both ways. A machine that serves twenty peers ten channels each has 200."""
    max_channels_per_caller: int = 64
    """Of those, what one other peer may have called into being: a quarter, so that one caller who
    rings and rings leaves room for others, and six times what those ten need."""
    window_bytes: int = 262_144
    """The most that waits for a slow receiver before credit is held back: 20 Mbit/s at 100 ms."""
    queue_datagrams: int = 512
    """For one receiver that is slower than its senders; half a second of a video call."""
    queue_bytes: int = 524_288
    """The same in bytes, so that large datagrams do not count as small ones."""
    max_unsent_bytes: int = 2_097_152
    """Answers and news that a peer does not take: twice what the two limits above let wait, and
    room for a burst. Beyond it the session ends."""
    handshake_timeout_s: float = 10.0
    """From the carrier to WELCOME: five round trips of a bad satellite link."""
    keepalive_s: float = 15.0
    """Under the 30 s after which the shortest-lived NATs forget a UDP mapping."""
    max_watched: int = 1_024
    """Peers of which one peer wants to hear; a list of 32 KiB."""
    require_exporter: bool = False
    """Refuse binding 2 (challenge). Only where no front ends TLS and every client has QUIC."""
    require_bound_key: bool = True
    """Refuse tokens without ``cnf``: they would let whoever holds one take any peer id."""
