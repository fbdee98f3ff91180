"""Owns TcpLimits: every bound of HTTP/2 and HTTP/1.1 over TLS, with the reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpLimits:
    """What the TCP listener and each of its connections may use."""

    max_connections: int = 10_000
    """About 70 KiB each when idle, half of it the read buffer: bounds the process near 700 MB.
    Lower it where memory is scarce."""
    max_half_open: int = 1_000
    """TLS handshakes that are not complete; each costs about 1 ms of CPU."""
    max_connections_per_source: int = 256
    """Per IPv4 address and per IPv6 /64, as for QUIC."""
    handshake_timeout_s: float = 10.0
    """A TLS handshake that is not complete by then is dropped."""
    head_timeout_s: float = 15.0
    """For a whole request head, or for the HTTP/2 preface: one that trickles in for longer is the
    slow-loris attack."""
    idle_timeout_s: float = 120.0
    """A connection without a request for so long is closed; the same as for QUIC."""
    write_timeout_s: float = 30.0
    """A client that takes nothing for so long loses the connection; its memory is ours."""
    close_timeout_s: float = 5.0
    """For the last bytes and TLS's goodbye; then the connection is cut."""
    max_head_bytes: int = 16_384
    """A request head, decoded; announced as SETTINGS_MAX_HEADER_LIST_SIZE. A JWT of 8 KiB fits
    twice."""
    max_concurrent_streams: int = 128
    """Requests open at once on an HTTP/2 connection; the same as for QUIC."""
    stream_window_bytes: int = 262_144
    """Unread bytes per request: 20 Mbit/s at 100 ms, and what one stuck reader can pin."""
    connection_window_bytes: int = 1_048_576
    """HTTP/2 bytes in flight per connection: 80 Mbit/s at 100 ms."""
    max_unread_bytes: int = 8_388_608
    """Unread bytes per HTTP/2 connection before it is stopped as a whole: 32 stuck requests do not
    stall their neighbours."""
    control_frames_per_s: float = 200.0
    """PING, SETTINGS, PRIORITY, RST_STREAM, empty and unknown frames (CVE-2019-9512 and its
    siblings): browsers and proxies stay far below. Beyond it (and the burst) the connection closes,
    ENHANCE_YOUR_CALM."""
    control_frames_burst_count: int = 1_000
    """A client that gives up all its requests at once must pass."""
