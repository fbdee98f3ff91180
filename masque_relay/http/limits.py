"""Owns HttpLimits: every bound of the HTTP front ends, with the reason."""

from dataclasses import dataclass, field

from masque_relay.http.websocket_settings import WebSocketSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """What one HTTP connection and each of its requests may use."""

    max_requests_per_connection: int = 128
    """Requests open at once; more are reset with H3_REQUEST_REJECTED. Equal to the QUIC stream
    limit, so it only speaks up where that one is larger."""
    request_rate_per_s: float = 200.0
    """Sustained new requests per second and connection; a browser or a resolver stays far below.
    Beyond it (and the burst) a request is reset with H3_REQUEST_REJECTED: it may be retried."""
    request_burst_count: int = 1_000
    """A client that reopens all its tunnels after a reconnect must pass at once."""
    reset_rate_per_s: float = 20.0
    """Requests that the peer cancels or that are malformed, per second: the rapid-reset attack
    (CVE-2023-44487) costs us a task each. Beyond it the connection closes, H3_EXCESSIVE_LOAD."""
    reset_burst_count: int = 1_000
    """A closing client may cancel every tunnel it has, several times over."""
    early_datagrams_per_stream: int = 16
    """Datagrams kept before the 2xx; DNS and the gate take about one round trip, and the peers
    that send early (Firefox, neqo) send a handful."""
    early_datagram_bytes_per_stream: int = 65_536
    """Bounds the same in bytes."""
    early_unknown_streams: int = 16
    """Streams whose datagrams overtook their HEADERS (RFC 9297 section 2.1: keep about one round
    trip, bounded)."""
    early_datagram_bytes_per_connection: int = 131_072
    """All datagrams of streams that have not begun, together."""
    early_datagram_lifetime_s: float = 1.0
    """Generous for one round trip; then the buffer of a stream that never began is dropped."""
    datagram_queue_count: int = 256
    """Datagrams that wait for an ASGI application's receive(); the oldest is dropped."""
    datagram_queue_bytes: int = 524_288
    """Bounds the same in bytes."""
    max_capsule_bytes: int = 65_552
    """RFC 9297 leaves it open; a context ID and the largest UDP payload fit (65,535 bytes)."""
    send_high_water_bytes: int = 262_144
    """send() waits while so much of a response is unacknowledged: 20 Mbit/s at 100 ms."""
    send_timeout_s: float = 30.0
    """A reader that takes nothing for so long loses the stream; its memory is ours."""
    body_timeout_s: float = 30.0
    """An ordinary request whose body stops for so long is given up (slow-loris)."""
    capsule_backlog_bytes: int = 262_144
    """DATAGRAM capsules are dropped while the stream holds so much that is unacknowledged: a
    datagram that would wait longer is stale."""
    resolve_timeout_s: float = 5.0
    """DNS before the 2xx (RFC 9298 section 3.1): two tries at the usual two seconds."""
    connect_timeout_s: float = 10.0
    """The TCP connection to a target, all its addresses together, before the 2xx: three SYNs on a
    lossy path; browsers wait longer."""
    application_exit_s: float = 5.0
    """How long an application may run on after its client is gone and it is being shut down."""
    lifespan_timeout_s: float = 30.0
    """An application's start-up or shut-down; then the relay's own goes wrong."""
    websocket: WebSocketSettings = field(default_factory=WebSocketSettings)
    """WebSockets, over every HTTP version."""
