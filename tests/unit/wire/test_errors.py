"""Tests of masque_relay.wire.errors."""

import pytest

from masque_relay.wire.errors import Scope, WireError


def test_an_error_carries_detail_section_and_scope() -> None:
    error = WireError("too short", section="RFC 9297 section 2.1", scope=Scope.CONNECTION)
    assert (error.detail, error.section, error.scope) == (
        "too short",
        "RFC 9297 section 2.1",
        Scope.CONNECTION,
    )
    assert str(error) == "too short (RFC 9297 section 2.1)"


def test_a_fault_concerns_only_its_stream_unless_said_otherwise() -> None:
    with pytest.raises(WireError) as caught:
        raise WireError("bad", section="RFC 9298 section 3")
    assert caught.value.scope is Scope.STREAM
