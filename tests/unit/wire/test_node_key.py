"""The text form of node keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.errors import WireError
from masque_relay.wire.node_key import format_node_key, parse_node_key


@given(st.binary(min_size=32, max_size=32))
def test_a_key_survives_its_text(key: bytes) -> None:
    assert parse_node_key(format_node_key(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nodekey:",
        "ab" * 32,
        "nodekey:" + "AB" * 32,
        "nodekey:" + "ab" * 31,
        "nodekey:" + "g" * 64,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_node_key(text)


def test_a_key_of_another_size_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        format_node_key(b"short")
