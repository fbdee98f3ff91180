"""Owns how STUN refuses: every DenyReason and FlowFault -> error code.

A client sees the code and its standard phrase, never a detail. Reasons that begin with a bad
credential are all 401: which of several checks failed is not told.
"""

from typing import assert_never

from masque_relay.contract.flow import FlowFault
from masque_relay.contract.verdict import DenyReason
from masque_relay.stun.codepoints import ErrorCode

_CREDENTIAL_REASONS = frozenset(
    {
        DenyReason.CREDENTIAL_MISSING,
        DenyReason.CREDENTIAL_INVALID,
        DenyReason.CREDENTIAL_EXPIRED,
        DenyReason.CREDENTIAL_AUDIENCE,
        DenyReason.REVOKED,
    }
)


def is_credential_reason(reason: DenyReason) -> bool:
    """Return whether a denial is about the credential, so that a challenge answers it."""
    return reason in _CREDENTIAL_REASONS


def error_of_denial(reason: DenyReason) -> ErrorCode:
    """Return the error code for a gate's denial."""
    match reason:
        case (
            DenyReason.CREDENTIAL_MISSING
            | DenyReason.CREDENTIAL_INVALID
            | DenyReason.CREDENTIAL_EXPIRED
            | DenyReason.CREDENTIAL_AUDIENCE
            | DenyReason.REVOKED
        ):
            return ErrorCode.UNAUTHENTICATED
        case DenyReason.POLICY | DenyReason.ADDRESS_PROHIBITED:
            return ErrorCode.FORBIDDEN
        case DenyReason.TUNNEL_QUOTA | DenyReason.BYTE_QUOTA | DenyReason.OPEN_RATE:
            # RFC 8656 section 7.2: 486 is "too many allocations for this user, at present".
            return ErrorCode.ALLOCATION_QUOTA_REACHED
        case DenyReason.OVERLOADED:
            return ErrorCode.INSUFFICIENT_CAPACITY
        case DenyReason.DRAINING:
            # RFC 8489 section 10: 300 goes with ALTERNATE-SERVER; without one it is 508.
            return ErrorCode.TRY_ALTERNATE
        case _:
            assert_never(reason)


def error_of_fault(fault: FlowFault) -> ErrorCode:
    """Return the error code for a peer that could not be reached, or a socket not to be had."""
    match fault:
        case FlowFault.RESOURCES:
            return ErrorCode.INSUFFICIENT_CAPACITY
        case FlowFault.DESTINATION_IP_PROHIBITED:
            return ErrorCode.FORBIDDEN
        case (
            FlowFault.DNS_ERROR
            | FlowFault.DNS_TIMEOUT
            | FlowFault.DESTINATION_UNAVAILABLE
            | FlowFault.DESTINATION_IP_UNROUTABLE
            | FlowFault.CONNECTION_REFUSED
            | FlowFault.CONNECTION_TIMEOUT
            | FlowFault.CONNECTION_TERMINATED
            | FlowFault.DATAGRAM_TOO_LARGE
        ):
            return ErrorCode.CONNECTION_TIMEOUT_OR_FAILURE
        case _:
            assert_never(fault)
