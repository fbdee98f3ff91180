"""Owns WebSocketSettings: every bound and choice of WebSocket, with the reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketSettings:
    """What one WebSocket may use, and from where browsers may open it."""

    max_message_bytes: int = 1_048_576
    """A message, all fragments together and inflated; a larger one ends the connection with 1009.
    The relays' own frames stay below 64 KiB."""
    queue_bytes: int = 262_144
    """Messages that wait for the application; beyond it nothing more is read, and the stream's flow
    control stops the client."""
    queue_count: int = 256
    """Bounds the same in messages: tiny ones cost more than their bytes."""
    handshake_timeout_s: float = 30.0
    """For the application to accept or refuse; resolving and connecting may be part of it."""
    ping_interval_s: float = 20.0
    """A client that was silent for so long is sent a ping: it keeps the mappings of NATs alive, the
    shortest of which last 30 seconds."""
    idle_timeout_s: float = 60.0
    """A client that was silent for so long, pings and all, is gone: two lost answers."""
    close_timeout_s: float = 5.0
    """For the client's half of the closing handshake; then the stream ends without it."""
    compression: bool = False
    """Agree to permessage-deflate (RFC 7692). Off: it costs up to 300 KiB per connection, and what
    the relays carry is encrypted."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages (such as `https://app.example`) that may connect, besides pages of the
    relay's own host; `*` allows all. Programs send no Origin and are not concerned."""
