"""OctetReader: fields from the front of a message."""

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.octets import OctetReader


def reader(data: bytes) -> OctetReader:
    return OctetReader(data, section="a test")


def test_fields_are_taken_in_order() -> None:
    fields = reader(b"\x01\x02\x03\x40\x41abcd")

    assert fields.uint(1) == 1
    assert fields.uint(2) == 0x0203
    assert fields.varint() == 0x41
    assert fields.take(2) == b"ab"
    assert fields.left_bytes == 2
    assert fields.rest() == b"cd"
    fields.finish()


@pytest.mark.parametrize("take", ["uint", "take", "varint"])
def test_message_that_ends_too_early_is_refused_with_the_section(take: str) -> None:
    fields = reader(b"\x40")

    with pytest.raises(WireError, match="a test"):
        getattr(fields, take)(*([] if take == "varint" else [2]))


def test_bytes_left_over_are_refused() -> None:
    fields = reader(b"abc")
    fields.take(1)

    with pytest.raises(WireError, match="2 bytes too many"):
        fields.finish()
