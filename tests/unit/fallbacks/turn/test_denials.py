"""Every reason and every fault has an error code."""

import pytest

from fallbacks.turn.denials import error_of_denial, error_of_fault, is_credential_reason
from masque_relay.contract.flow import FlowFault
from masque_relay.contract.verdict import DenyReason
from masque_relay.stun.codepoints import ErrorCode

EXPECTED = {
    DenyReason.CREDENTIAL_MISSING: ErrorCode.UNAUTHENTICATED,
    DenyReason.CREDENTIAL_INVALID: ErrorCode.UNAUTHENTICATED,
    DenyReason.CREDENTIAL_EXPIRED: ErrorCode.UNAUTHENTICATED,
    DenyReason.CREDENTIAL_AUDIENCE: ErrorCode.UNAUTHENTICATED,
    DenyReason.REVOKED: ErrorCode.UNAUTHENTICATED,
    DenyReason.POLICY: ErrorCode.FORBIDDEN,
    DenyReason.ADDRESS_PROHIBITED: ErrorCode.FORBIDDEN,
    DenyReason.TUNNEL_QUOTA: ErrorCode.ALLOCATION_QUOTA_REACHED,
    DenyReason.OPEN_RATE: ErrorCode.ALLOCATION_QUOTA_REACHED,
    DenyReason.BYTE_QUOTA: ErrorCode.ALLOCATION_QUOTA_REACHED,
    DenyReason.OVERLOADED: ErrorCode.INSUFFICIENT_CAPACITY,
    DenyReason.DRAINING: ErrorCode.TRY_ALTERNATE,
}


@pytest.mark.parametrize("reason", DenyReason)
def test_every_reason_is_mapped(reason: DenyReason) -> None:
    assert error_of_denial(reason) is EXPECTED[reason]
    assert is_credential_reason(reason) == (EXPECTED[reason] is ErrorCode.UNAUTHENTICATED)


@pytest.mark.parametrize("fault", FlowFault)
def test_every_fault_is_mapped(fault: FlowFault) -> None:
    code = error_of_fault(fault)
    if fault is FlowFault.RESOURCES:
        assert code is ErrorCode.INSUFFICIENT_CAPACITY
    elif fault is FlowFault.DESTINATION_IP_PROHIBITED:
        assert code is ErrorCode.FORBIDDEN
    else:
        assert code is ErrorCode.CONNECTION_TIMEOUT_OR_FAILURE
