"""The text form of a peer id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.errors import WireError
from masque_relay.wire.peer_id import PEER_ID_CHARACTERS, format_peer_id, parse_peer_id


@given(st.binary(min_size=32, max_size=32))
def test_every_key_has_one_text_and_comes_back(key: bytes) -> None:
    text = format_peer_id(key)

    assert len(text) == PEER_ID_CHARACTERS
    assert text == text.lower()
    assert parse_peer_id(text) == key
    assert parse_peer_id(text.upper()) == key


@pytest.mark.parametrize(
    "text", ["", "a" * 51, "a" * 53, "1" * 52, "ä" * 52, "a" * 51 + "b", "a" * 52 + "===="]
)
def test_other_text_is_refused(text: str) -> None:
    """The last character of 52 has 4 spare bits: only zeros are a peer id."""
    with pytest.raises(WireError):
        parse_peer_id(text)


def test_key_of_another_size_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        format_peer_id(bytes(31))
