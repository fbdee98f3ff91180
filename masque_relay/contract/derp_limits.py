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


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpMeshLimits:
    """What one DERP server that we dial may cost, and how patient we are with it."""

    connect_timeout_s: float = 10.0
    """For the TCP and TLS handshakes over all addresses: three lost flights at 1 s, and some."""
    handshake_timeout_s: float = 10.0
    """From the request to ServerInfo; the other server may ask a verifier in between."""
    keepalive_s: float = 15.0
    """Ping after so much time: many NATs forget a TCP connection after some minutes, and a server
    that is gone should be noticed before its clients have come back elsewhere."""
    keepalive_jitter_s: float = 5.0
    """So that the servers of a region do not all ping at once."""
    silence_timeout_s: float = 45.0
    """A server that says nothing for so long, though it is pinged, is gone: two lost Pings."""
    stall_timeout_s: float = 10.0
    """A server that takes none of the bytes that wait for it for so long is gone."""
    busy_bytes: int = 262_144
    """Beyond this many unsent bytes packets wait in the fair queue, where they can be dropped."""
    queue_datagrams: int = 4_096
    """For one server that is slower than our clients: what eight slow clients may hold."""
    queue_bytes: int = 4_194_304
    """The same in bytes."""
    max_clients: int = 65_536
    """Clients of one server that we remember; about 300 bytes each. Others are not reached."""
    first_delay_s: float = 0.5
    """Before the server is dialled again; doubles with every failure."""
    longest_delay_s: float = 30.0
    """A server that is away for hours costs two handshakes a minute."""
    stable_after_s: float = 10.0
    """A connection that lived so long sets the delay back to the first one."""
