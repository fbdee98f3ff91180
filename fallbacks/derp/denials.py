"""Owns how DERP refuses: every DenyReason and EndReason -> what a client hears before the end.

DERP has no frame for "no": Health carries a text for people, Restarting a time to come again. The
text never says which check failed.
"""

from typing import assert_never

from fallbacks.derp.wire import encode_health, encode_restarting
from masque_relay.contract.verdict import Denial, DenyReason, EndReason

NOT_ADMITTED = "this relay does not admit this node key"
REPLACED = "another connection uses the same node key"

_TRY_FOR_MS = 60_000
_RETRY_AFTER_S = 5


def frames_of_denial(denial: Denial) -> bytes:
    """Return the frames that tell a client that the gate refused it."""
    match denial.reason:
        case (
            DenyReason.CREDENTIAL_MISSING
            | DenyReason.CREDENTIAL_INVALID
            | DenyReason.CREDENTIAL_EXPIRED
            | DenyReason.CREDENTIAL_AUDIENCE
            | DenyReason.REVOKED
            | DenyReason.POLICY
            | DenyReason.ADDRESS_PROHIBITED
        ):
            return encode_health(NOT_ADMITTED)
        case DenyReason.TUNNEL_QUOTA | DenyReason.OPEN_RATE | DenyReason.BYTE_QUOTA:
            return encode_health("the quota of this node is used up") + _come_again(denial)
        case DenyReason.OVERLOADED:
            return encode_health("the relay is full") + _come_again(denial)
        case DenyReason.DRAINING:
            return encode_health("the relay is going away") + _come_again(denial)
        case _:
            assert_never(denial.reason)


def frames_of_end(reason: EndReason) -> bytes:
    """Return the frames that tell a client why the relay ends its connection; often none."""
    match reason:
        case EndReason.REVOKED | EndReason.KICKED | EndReason.DENIED:
            return encode_health(NOT_ADMITTED)
        case EndReason.LIFETIME | EndReason.BYTE_QUOTA:
            return encode_health("the quota of this node is used up")
        case EndReason.DRAINED:
            return encode_restarting(reconnect_in_ms=0, try_for_ms=_TRY_FOR_MS)
        case (
            EndReason.PEER_CLOSED
            | EndReason.PEER_RESET
            | EndReason.CONNECTION_LOST
            | EndReason.IDLE
            | EndReason.TARGET_FAILED
            | EndReason.PROTOCOL_ERROR
            | EndReason.BUG
        ):
            return b""
        case _:
            assert_never(reason)


def _come_again(denial: Denial) -> bytes:
    after_s = denial.retry_after_s or _RETRY_AFTER_S
    return encode_restarting(reconnect_in_ms=after_s * 1_000, try_for_ms=_TRY_FOR_MS)
