"""Owns what all Ghostwire sessions of one relay share: ports, limits, and words for an end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.ghostwire import Member, Switchboard
from masque_relay.contract.lease import Lease
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_channel import RelayChannel
from masque_relay.tunnels.ghostwire_handshake import HandshakePorts
from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.wire.ghostwire import Auth, ChannelKind, ErrorCode, Open

if TYPE_CHECKING:
    from masque_relay.tunnels.ghostwire import GhostwireSession

END_CODES = {
    EndReason.REVOKED: ErrorCode.REVOKED,
    EndReason.KICKED: ErrorCode.REVOKED,
    EndReason.DENIED: ErrorCode.UNAUTHENTICATED,
    EndReason.DRAINED: ErrorCode.DRAINED,
    EndReason.IDLE: ErrorCode.IDLE,
    EndReason.LIFETIME: ErrorCode.REVOKED,
    EndReason.BYTE_QUOTA: ErrorCode.QUOTA,
    EndReason.PROTOCOL_ERROR: ErrorCode.MALFORMED,
    EndReason.BUG: ErrorCode.INTERNAL,
}
"""What a session that we end is told; every other reason is a clean end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPorts:
    """What all sessions of one relay share."""

    switchboard: Switchboard
    may_reach: Callable[[Lease, Member, ChannelKind], bool]
    """Whether policy lets a lease reach a member by this kind of channel."""
    generation: Callable[[], int]
    """Changes when what ``may_reach`` answered may not hold any more."""
    authenticate: Callable[["GhostwireSession", Auth], None]
    """Show a proved key, and the token if there is one, to the gate; ``admitted`` or ``refused``
    follows."""
    open_host: Callable[["GhostwireSession", RelayChannel, Open], None]
    """Reach a host for a channel: sets ``far`` and calls ``opened``, or calls ``closed``."""
    session_over: Callable[["GhostwireSession"], None]
    """The session has ended; called once."""
    handshake: HandshakePorts
    monotonic_s: Callable[[], float]
    jitter: Callable[[], float]
    """0 to 1, random."""
    counters: MeshCounters
    limits: GhostwireLimits
    relays_document: bytes
    """The relay map; empty for none."""
    observer_port: Callable[[], int]
    """The UDP port that answers STUN Bindings; 0 for none."""
