"""Names from credentials are short and printable before anybody logs or compares them."""

import pytest

from masque_relay.control.auth.principal import is_presentable


@pytest.mark.parametrize("text", ["alice", "spiffe://x/y", "Jürgen", "a" * 256, "a b"])
def test_ordinary_names_are_presentable(text: str) -> None:
    assert is_presentable(text)


@pytest.mark.parametrize("text", ["", "a" * 257, "a\nb", "a\x00", "\x1b[2J", "a\u2028b", "\x85"])
def test_empty_long_and_unprintable_names_are_not(text: str) -> None:
    assert not is_presentable(text)
