"""Tests of masque_relay.wire.connect_udp."""

import pytest

from masque_relay.wire.connect_udp import (
    DEFAULT_TEMPLATE,
    MAX_UDP_PAYLOAD_BYTES,
    UDP_PAYLOAD_CONTEXT,
    split_context,
)
from masque_relay.wire.errors import Scope, WireError
from masque_relay.wire.uri_template import UriTemplate


class TestContextId:
    """RFC 9298 section 5."""

    def test_context_zero_is_a_udp_payload(self) -> None:
        assert split_context(UDP_PAYLOAD_CONTEXT + b"query") == (0, b"query")

    def test_another_context_is_told_apart(self) -> None:
        assert split_context(b"\x02x") == (2, b"x")
        assert split_context(b"\x40\x80") == (128, b"")

    @pytest.mark.parametrize("payload", [b"", b"\x80\x00"])
    def test_a_truncated_context_id_is_the_streams_fault(self, payload: bytes) -> None:
        with pytest.raises(WireError, match="context ID") as caught:
            split_context(payload)
        assert caught.value.scope is Scope.STREAM


def test_the_largest_udp_payload_leaves_room_for_the_udp_header() -> None:
    assert MAX_UDP_PAYLOAD_BYTES == 65_535 - 8


@pytest.mark.clause("RFC 9298", "2", "SHOULD", "serve the well-known default template")
def test_the_default_template_is_the_well_known_one() -> None:
    """RFC 9298 section 3.1 has this example."""
    template = UriTemplate.parse(DEFAULT_TEMPLATE, required=("target_host", "target_port"))
    variables = {"target_host": "2001:db8::42", "target_port": "443"}
    path = "/.well-known/masque/udp/2001%3Adb8%3A%3A42/443/"
    assert template.expand(variables) == path
    assert template.match(path.encode()) == variables
