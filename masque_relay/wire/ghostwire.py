"""Owns the frames of the Ghostwire protocol as values (docs/protocol/ghostwire.md)."""

from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
FEATURE_BATCH = 1
FEATURE_DIRECT = 2

MAX_FRAME_BYTES = 65_536 + 64
"""One datagram of any UDP size, and a head."""
MAX_REASON_BYTES = 256
MAX_SERVICE_BYTES = 63
MAX_TOKEN_BYTES = 8_192
"""A JWT with many groups has 2 KiB; the HTTP carriers allow as much for a field."""
MAX_WATCHED = 1_024

NONCE_BYTES = 16
CHALLENGE_BYTES = 32
SIGNATURE_BYTES = 64
SESSION_ID_BYTES = 16

_BASE = 0x475700


class FrameType(IntEnum):
    """Capsule types of the frame stream. DATAGRAM is RFC 9297's own."""

    DATAGRAM = 0x00
    HELLO = _BASE + 0x00
    CHALLENGE = _BASE + 0x01
    AUTH = _BASE + 0x02
    WELCOME = _BASE + 0x03
    ERROR = _BASE + 0x04
    PADDING = _BASE + 0x08
    OPEN = _BASE + 0x10
    OPENED = _BASE + 0x11
    CLOSE = _BASE + 0x12
    DATA = _BASE + 0x13
    END = _BASE + 0x14
    CREDIT = _BASE + 0x15
    BATCH = _BASE + 0x16
    PING = _BASE + 0x20
    PONG = _BASE + 0x21
    WATCH = _BASE + 0x30
    PRESENCE = _BASE + 0x31
    CANDIDATES = _BASE + 0x32
    PEER_CANDIDATES = _BASE + 0x33
    OBSERVED = _BASE + 0x34
    RELAYS = _BASE + 0x35
    RESTARTING = _BASE + 0x40


FRAME_TYPES = frozenset(FrameType)
"""What a decoder of the frame stream must know; other types are skipped."""


class ErrorCode(IntEnum):
    """Why a session or a channel ends."""

    NONE = 0
    VERSION = 1
    MALFORMED = 2
    UNAUTHENTICATED = 3
    DENIED = 4
    QUOTA = 5
    FRAME_TOO_LARGE = 6
    CREDIT = 7
    PEER_UNAVAILABLE = 8
    REFUSED = 9
    REPLACED = 10
    REVOKED = 11
    IDLE = 12
    DRAINED = 13
    TARGET = 14
    RESET = 15
    INTERNAL = 16
    OVERLOADED = 17


class Binding(IntEnum):
    """What a peer's proof is bound to."""

    EXPORTER = 1
    CHALLENGE = 2


class ChannelKind(IntEnum):
    """Where a channel leads, and what it carries."""

    DATAGRAMS = 0
    STREAM = 1
    UDP = 2
    TCP = 3

    @property
    def is_to_peer(self) -> bool:
        """Whether the other end is a peer, not a host."""
        return self <= ChannelKind.STREAM

    @property
    def is_stream(self) -> bool:
        """Whether it carries ordered bytes, under credit."""
        return self in (ChannelKind.STREAM, ChannelKind.TCP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The peer's first frame."""

    versions: tuple[int, ...]
    features: int
    nonce: bytes
    time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The relay's answer to HELLO."""

    version: int
    features: int
    nonce: bytes
    time_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """Who the peer is, and the proof."""

    peer_id: bytes
    binding: Binding
    signature: bytes
    token: str
    """Empty where the HTTP request had it. Never in a log."""

    def __repr__(self) -> str:
        """Return the type only: the token is a secret."""
        return "Auth(...)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The session is open."""

    session_id: bytes
    keepalive_ms: int
    max_channels: int
    max_frame_bytes: int
    window_bytes: int
    """The credit that the relay itself gives on streams to hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """The session ends."""

    code: int
    """Of ErrorCode, or one that a later version made."""
    retry_after_ms: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A channel begins."""

    channel: int
    kind: ChannelKind
    priority: int = 0
    credit_bytes: int = 0
    peer_id: bytes = b""
    """Of the other peer; empty for kinds to a host."""
    host: str = ""
    port: int = 0
    service: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The callee takes the channel."""

    channel: int
    credit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """A channel ends, both ways."""

    channel: int
    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Bytes of a stream channel."""

    channel: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """No DATA follows on this channel."""

    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """How far the other side may send on this channel, counted from its beginning."""

    channel: int
    limit_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Datagrams of one channel."""

    channel: int
    payloads: tuple[bytes, ...]
    """All of one size but the last, which may be shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Asks for a PONG."""

    opaque: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Answers a PING."""

    opaque: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Whose coming and going the peer wants to hear of; replaces the former list."""

    peer_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """A watched peer came or went."""

    peer_id: bytes
    is_here: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The peer's own signed record, to the relay."""

    record: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCandidates:
    """Another peer's signed record, from the relay."""

    record: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The peer's address as the relay saw it."""

    address: bytes
    """4 or 16 bytes."""
    port: int
    observer_port: int
    """The relay's UDP port that answers address queries; 0 for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relays:
    """The relay map, as JSON."""

    document: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarting:
    """The relay will go."""

    reconnect_in_ms: int
    try_for_ms: int


Frame = (
    Hello
    | Challenge
    | Auth
    | Welcome
    | Error
    | Open
    | Opened
    | Close
    | Data
    | End
    | Credit
    | Batch
    | Ping
    | Pong
    | Watch
    | Presence
    | Candidates
    | PeerCandidates
    | Observed
    | Relays
    | Restarting
)
"""Every frame but DATAGRAM and PADDING, which need no value."""
