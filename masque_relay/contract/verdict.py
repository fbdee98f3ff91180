"""Owns the verdict vocabulary: why the gate said no, and why a tunnel ended."""

from dataclasses import dataclass
from enum import StrEnum


class DenyReason(StrEnum):
    """Every reason for which the gate refuses. Each transport maps every member (a test checks)."""

    CREDENTIAL_MISSING = "credential_missing"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_EXPIRED = "credential_expired"
    CREDENTIAL_AUDIENCE = "credential_audience"
    """A good signature, made for somebody else's relay."""
    REVOKED = "revoked"
    POLICY = "policy"
    """A rule denied it, or no rule allowed it."""
    ADDRESS_PROHIBITED = "address_prohibited"
    """A private, loopback, link-local or metadata address that no rule names."""
    TUNNEL_QUOTA = "tunnel_quota"
    """The identity or its rule has as many tunnels as it may."""
    OPEN_RATE = "open_rate"
    """The identity opens tunnels faster than it may."""
    BYTE_QUOTA = "byte_quota"
    OVERLOADED = "overloaded"
    """The relay's own cap on tunnels."""
    DRAINING = "draining"
    """The relay is going away; ask another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A refusal: a value, not an exception."""

    reason: DenyReason
    detail: str
    """For our log and the audit trail only; the peer sees what denials.py maps."""
    rule: str | None = None
    """The policy rule that decided, where one did."""
    retry_after_s: int | None = None
    """When asking again may help."""


class EndReason(StrEnum):
    """Why a tunnel ended. The values are metric labels and audit words."""

    PEER_CLOSED = "peer_closed"
    """The client ended its stream."""
    PEER_RESET = "peer_reset"
    CONNECTION_LOST = "connection_lost"
    IDLE = "idle"
    LIFETIME = "lifetime"
    BYTE_QUOTA = "byte_quota"
    REVOKED = "revoked"
    KICKED = "kicked"
    DRAINED = "drained"
    TARGET_FAILED = "target_failed"
    """Resolution, connection or the flow itself failed."""
    PROTOCOL_ERROR = "protocol_error"
    """The peer broke the tunnel's protocol."""
    DENIED = "denied"
    """Admitted by name, refused by address after resolution."""
    BUG = "bug"
    """Our code raised; the log has the record."""
