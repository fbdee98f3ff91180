"""The WRAP_UP capsule (draft-ietf-httpbis-wrap-up)."""

import pytest

from masque_relay.wire.capsule import Capsule, CapsuleDecoder
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP, WRAP_UP_CAPSULE, WrapUpReader


def test_it_is_an_empty_capsule() -> None:
    decoder = CapsuleDecoder(max_capsule_bytes=10, known_types={WRAP_UP})
    assert decoder.feed(WRAP_UP_CAPSULE) == [Capsule(0x272DDA5E, b"")]


def test_one_is_told() -> None:
    told: list[int] = []
    WrapUpReader(lambda: told.append(1)).take(0)
    assert told == [1]


def test_a_second_one_and_one_with_a_value_are_faults() -> None:
    reader = WrapUpReader(lambda: None)
    reader.take(0)
    with pytest.raises(WireError, match="second"):
        reader.take(0)
    with pytest.raises(WireError, match="value"):
        WrapUpReader(lambda: None).take(1)


@pytest.mark.clause("wrap-up", "2.3", "MUST", "abort the stream on which a client sends one")
def test_a_proxy_takes_none() -> None:
    with pytest.raises(WireError, match="from a client"):
        WrapUpReader().take(0)
