"""Owns the limits of DERP, each with the reason for its default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpLimits:
    """What a DERP client may hold before and after it has shown its key."""

    handshake_timeout_s: float = 10.0
    """From the connection to the gate's answer: five round trips of a bad satellite link."""
    max_unproved: int = 1_024
    """Connections that have not been admitted yet; more are answered 503."""
    early_bytes: int = 131_072
    """Frames that a client sends before the gate has answered. Packets beyond it are dropped."""
    keepalive_s: float = 60.0
    """DERP clients give a relay up after 120 s of silence."""
    keepalive_jitter_s: float = 5.0
    """So that the clients of one relay do not all hear it at once."""
    stall_timeout_s: float = 10.0
    """A client that takes none of the bytes that wait for it for so long is gone."""
    busy_bytes: int = 65_536
    """Beyond this many unsent bytes packets wait in the fair queue, where they can be dropped."""
    queue_datagrams: int = 512
    """For one receiver that is slower than its senders."""
    queue_bytes: int = 524_288
    """The same in bytes."""
    max_peers: int = 1_024
    """Peers with which one client has exchanged packets; the oldest is forgotten first."""
    held_datagrams: int = 8
    """For a Ghostwire peer that has not taken the call yet: a WireGuard handshake is one or two."""
