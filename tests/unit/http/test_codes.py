"""HTTP/3 error codes (RFC 9114 section 8.1)."""

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error, error_for_end


@pytest.mark.clause(
    "RFC 9114", "4.1.1", "MUST NOT", "use H3_REQUEST_REJECTED for requests that were processed"
)
@pytest.mark.parametrize("reason", list(EndReason))
def test_every_end_has_a_code(reason: EndReason) -> None:
    special = {
        EndReason.TARGET_FAILED: H3Error.CONNECT_ERROR,
        EndReason.PROTOCOL_ERROR: H3Error.MESSAGE_ERROR,
        EndReason.BUG: H3Error.INTERNAL_ERROR,
    }

    assert error_for_end(reason) == special.get(reason, H3Error.REQUEST_CANCELLED)


def test_codes_are_those_of_the_registry() -> None:
    assert [code.value for code in H3Error] == [
        0x100,
        0x102,
        0x107,
        0x10B,
        0x10C,
        0x10E,
        0x10F,
        0x33,
    ]
