"""Owns QuicLimits and H3Limits: what an endpoint and its connections may use, and why."""

from dataclasses import dataclass
from enum import StrEnum

MIN_DATAGRAM_BYTES = 1_200  # RFC 9000 section 14.1
MAX_UDP_PAYLOAD_BYTES = 65_527  # RFC 9000 section 18.2


class RetryMode(StrEnum):
    """When a new peer must prove its address with a Retry (RFC 9000 section 8.1.2)."""

    NEVER = "never"
    """Trust every source address; for tests and closed networks."""
    ADAPTIVE = "adaptive"
    """Only under load, so that an ordinary day costs no extra round trip."""
    ALWAYS = "always"


class FastPath(StrEnum):
    """Whether packets of datagrams go past aioquic's own routine (``docs/decisions/0004``)."""

    AUTO = "auto"
    """Where it is safe: AES-GCM, no qlog, the version of aioquic that it was made for."""
    ON = "on"
    """Whatever the version of aioquic; for trying another one."""
    OFF = "off"
    """Every packet through aioquic."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicLimits:
    """What one endpoint and each of its connections may use."""

    idle_timeout_s: float = 120.0
    """A connection that hears nothing for so long is gone. RFC 4787 REQ-5 wants two minutes for a
    UDP mapping, and a tunnel must not die before its mapping."""
    handshake_timeout_s: float = 10.0
    """A handshake that is not complete by then is dropped: three lost flights at a 1 s round trip
    still fit, and a half-open connection holds about 50 KiB."""
    max_connections: int = 10_000
    """About 90 KiB of heap each when idle: bounds the process near 1 GB."""
    max_half_open: int = 1_000
    """A handshake costs about 2 ms CPU: as many as one core finishes in two seconds."""
    max_connections_per_source: int = 256
    """Per IPv4 address and per IPv6 /64, half-open ones included: generous to carrier NAT, and 40
    sources are needed to fill the endpoint."""
    retry_mode: RetryMode = RetryMode.ADAPTIVE
    """Retry costs every honest client a round trip, a spoofed Initial without it costs us 1 ms."""
    retry_half_open_count: int = 64
    """Adaptive: Retry while so many handshakes are unfinished; a quiet relay never has so many."""
    retry_handshakes_per_s: int = 100
    """Adaptive: Retry beyond this rate; about a quarter of what one core can do."""
    retry_token_lifetime_s: float = 30.0
    """A client returns the token at once (RFC 9000 section 8.1.4); clocks of relays that share a
    key may differ by some seconds."""
    version_negotiations_per_s: int = 100
    """Bounds what a spoofed source can make us send to somebody else."""
    refusals_per_s: int = 200
    """CONNECTION_REFUSED and INVALID_TOKEN answers; each costs 0.2 ms of key derivation. Beyond
    the rate the Initial is dropped silently."""
    stateless_resets_per_s: int = 100
    """Enough for a restarted relay to tell its clients, too few to be a reflector."""
    receive_batch_count: int = 256
    """UDP datagrams per wake-up of the receive loop: amortises the wake-up, and other work of the
    event loop waits at most some milliseconds."""
    initial_datagram_bytes: int = 1_280
    """UDP payload before path MTU discovery; at least 1,200 (RFC 9000 section 14.1). Proxied QUIC
    needs 1,235; 1,280 passes on every path that takes 1,328-byte packets."""
    max_datagram_bytes: int = 1_472
    """UDP payload that path MTU discovery tries at most: an Ethernet frame over IPv4."""
    max_datagram_frame_bytes: int = 65_535
    """What we announce to take in a DATAGRAM frame (RFC 9221 section 3 recommends the maximum)."""
    stream_window_bytes: int = 262_144
    """Unread bytes per stream: 20 Mbit/s at 100 ms, and what one stuck reader can pin."""
    connection_window_bytes: int = 1_048_576
    """Unread bytes per connection: four stuck streams before the others must wait."""
    max_bidirectional_streams: int = 128
    """Requests that a peer may have open at once."""
    max_unidirectional_streams: int = 16
    """HTTP/3 needs three; a little is left for reserved stream types (RFC 9114 section 6.2.3)."""
    datagram_queue_count: int = 512
    """DATAGRAM frames that wait for the congestion window, per connection; the oldest is dropped.
    About 30 ms at 200 Mbit/s: more would be latency, not throughput."""

    fast_path: FastPath = FastPath.AUTO
    """Batches of datagrams at a fraction of the CPU; `off` helps to find out whether it is to blame
    for something. New connections only."""
    accelerator: bool = True
    """Let compiled code open and seal the packets of the fast path, where `make accelerator` has
    been run; without it this changes nothing. New connections only."""

    def __post_init__(self) -> None:
        """Refuse packet sizes with which no connection could work.

        Raises:
            ValueError: names the field.
        """
        if not MIN_DATAGRAM_BYTES <= self.initial_datagram_bytes <= self.max_datagram_bytes:
            msg = f"initial_datagram_bytes must be {MIN_DATAGRAM_BYTES}..max_datagram_bytes"
            raise ValueError(msg)
        if self.max_datagram_bytes > MAX_UDP_PAYLOAD_BYTES:
            msg = f"max_datagram_bytes must be at most {MAX_UDP_PAYLOAD_BYTES}"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class H3Limits:
    """What one HTTP/3 connection may make us buffer."""

    max_field_section_bytes: int = 16_384
    """Announced as SETTINGS_MAX_FIELD_SECTION_SIZE and enforced, encoded and decoded: a JWT of
    8 KiB fits twice."""
    max_settings_bytes: int = 4_096
    """A SETTINGS frame: 256 settings, of which peers send six."""
