"""Owns the client's limits: every queue, deadline and cap, with the reason for the default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """One connection to a relay and its tunnels."""

    resolve_timeout_s: float = 5.0
    """Looking up the relay's own name; the system resolver gives up after about as long."""
    connect_timeout_s: float = 10.0
    """Handshake over all addresses of the relay: three lost flights at 1 s, and some."""
    settings_timeout_s: float = 5.0
    """The relay's SETTINGS are in its first flight: later than this means it is not HTTP/3."""
    open_timeout_s: float = 15.0
    """CONNECT -> final response. The relay resolves the target first and may wait 5 s and more."""
    request_timeout_s: float = 15.0
    """An ordinary request, head to end of the body."""
    response_bytes: int = 4_194_304
    """The body of one ordinary response, which is kept in memory whole."""
    keepalive_interval_s: float = 10.0
    """QUIC PING: below the 30 s after which many NATs forget a UDP flow, and below the idle timeout
    of every relay that we know."""
    silence_timeout_s: float = 8.0
    """A relay that answers nothing for so long, though PINGs are sent each second, is gone: one
    that was killed cannot say so, and the idle timeout would be noticed minutes later."""
    linger_s: float = 5.0
    """How long an ended tunnel waits for the relay's end of the stream before it is reset."""
    tunnels: int = 100
    """Streams per connection, beyond which a RelayLink opens a further one: what most HTTP/3
    servers grant at a time."""
    receive_datagrams: int = 256
    """Waiting in a tunnel's receive() queue; the oldest is dropped and counted beyond it."""
    capsule_buffer_bytes: int = 1_048_576
    """DATAGRAM capsules sent and not yet acknowledged, per tunnel, when the relay takes no QUIC
    datagrams; beyond it datagrams are dropped and counted, as a full socket buffer does."""
    stream_buffer_bytes: int = 1_048_576
    """TCP bytes sent and not yet acknowledged, per tunnel; beyond it a writer waits. 80 Mbit/s at
    100 ms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpWayLimits:
    """HTTP/2 and HTTP/1.1 to a relay, over TLS."""

    head_start_s: float = 0.5
    """How long HTTP/3 is tried alone before TCP is tried beside it. A handshake over QUIC takes one
    round trip, over TLS two: whoever loses this race in spite of its head start is blocked."""
    head_bytes: int = 65_536
    """A response head, decoded; announced as SETTINGS_MAX_HEADER_LIST_SIZE."""
    stream_window_bytes: int = 1_048_576
    """Unread bytes per tunnel: 80 Mbit/s at 100 ms."""
    connection_window_bytes: int = 8_388_608
    """HTTP/2 bytes in flight per connection; opened again as they arrive, so that a tunnel that
    nobody reads stalls itself alone."""
    control_frames_per_s: float = 200.0
    """PING, SETTINGS, RST_STREAM and such; a relay that floods us loses the connection."""
    control_frames_burst_count: int = 1_000
    """A relay that ends all its tunnels at once must pass."""
    sockets: int = 100
    """Tunnels over HTTP/1.1 at once: each has a TCP connection of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectLimits:
    """How a lost relay is tried again."""

    first_delay_s: float = 0.5
    """Long enough for a restarting relay to bind its port again, short enough not to be noticed."""
    longest_delay_s: float = 30.0
    """A relay that is away for hours costs two handshakes a minute."""
    factor: float = 2.0
    jitter: float = 0.5
    """Each delay is shortened by up to this share, so that clients of one relay do not come back
    in step."""
    connections: int = 4
    """Connections to one relay, for more tunnels than one may carry."""
    stable_after_s: float = 10.0
    """A connection that lived this long sets the delay back to the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardLimits:
    """One local UDP listener and its local peers."""

    peers: int = 256
    """Local peers (address and port) with a tunnel each; the longest idle one makes room for a new
    one. Stub resolvers use a new port for every query."""
    opening: int = 16
    """Tunnels that are being opened at once; later peers wait with their pending datagrams."""
    idle_timeout_s: float = 120.0
    """A local peer without traffic either way loses its tunnel. RFC 4787 section 4.3 asks a NAT for
    two minutes at least."""
    pending_datagrams: int = 32
    """Kept per local peer while its tunnel opens; the oldest is dropped and counted beyond it."""
    pending_lifetime_s: float = 3.0
    """Older pending datagrams are dropped, not sent: whoever waited has sent again or given up."""
    receive_batch_datagrams: int = 256
    """Read from the listener per turn of the loop, so that a busy forward cannot starve others."""
    sweep_interval_s: float = 1.0
    """How often idleness, the payload size and oversize drops are looked at; reports are at most as
    frequent."""
    refused_delay_s: float = 1.0
    """After a refusal a forward asks for no tunnel for so long, doubling up to the longest one."""
    refused_longest_delay_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """The local SOCKS5 and HTTP proxy."""

    connections: int = 256
    """Programs' TCP connections at once, over all listeners; further ones are closed at once and
    counted. Below what a link's connections carry, and below 1,024 descriptors with room to spare.
    """
    handshake_timeout_s: float = 20.0
    """From accept to the whole request of a program; browsers open connections ahead of need."""
    head_bytes: int = 65_536
    """An HTTP request head; cookies of real sites reach 16 KiB."""
    direct_connect_timeout_s: float = 15.0
    """Resolve and connect, where a rule sends a connection around the relay."""
    idle_timeout_s: float = 7_440.0
    """A connection on which nothing moved: RFC 5382 section 5 asks for 2 h 4 min."""
    associations: int = 32
    """UDP ASSOCIATE at once; each has a UDP socket."""
    association_targets: int = 64
    """Targets of one association, each with a tunnel; the longest idle one makes room."""
    association_idle_timeout_s: float = 120.0
    """A target without traffic either way loses its tunnel (RFC 4787 section 4.3)."""
    pending_datagrams: int = 32
    """Kept per target while its tunnel opens; the oldest is dropped and counted beyond it."""
    receive_batch_datagrams: int = 256
    """Read from an association per turn of the loop."""
    sweep_interval_s: float = 1.0
    """How often idleness is looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundForwardLimits:
    """A public port that leads to a local program."""

    peers: int = 256
    """Remote peers with a local socket each, so that the program tells them apart by their port;
    the longest idle one makes room for a new one."""
    idle_timeout_s: float = 120.0
    """A remote peer without traffic either way loses its local port (RFC 4787 section 4.3). A
    WireGuard peer's keep-alive every 25 s holds it."""
    receive_batch_datagrams: int = 64
    """Read from one local socket per turn of the loop."""
    sweep_interval_s: float = 1.0
    """How often idleness is looked at."""
    retry_delay_s: float = 1.0
    """A port that was lost, or refused after it had been had, is asked for again after so long,
    doubling up to the longest one."""
    longest_retry_delay_s: float = 60.0
