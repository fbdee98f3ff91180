"""Tests of masque_relay.wire.varint."""

import pytest

from masque_relay.wire.errors import WireError
from masque_relay.wire.varint import MAX_VARINT, decode_varint, encode_varint, peek_varint

RFC_9000_A1 = [
    (151_288_809_941_952_652, "c2197c5eff14e88c"),
    (494_878_333, "9d7f3e7d"),
    (15_293, "7bbd"),
    (37, "25"),
]
BORDERS = [
    (0, "00"),
    (63, "3f"),
    (64, "4040"),
    (16_383, "7fff"),
    (16_384, "80004000"),
    (2**30 - 1, "bfffffff"),
    (2**30, "c000000040000000"),
    (MAX_VARINT, "ffffffffffffffff"),
]


class TestVariableLengthIntegers:
    """RFC 9000 section 16 and appendix A.1."""

    @pytest.mark.parametrize(("value", "encoded"), RFC_9000_A1 + BORDERS)
    def test_known_values_are_read_and_written(self, value: int, encoded: str) -> None:
        data = bytes.fromhex(encoded)
        assert encode_varint(value) == data
        assert decode_varint(data) == (value, len(data))

    def test_a_longer_encoding_than_necessary_is_accepted(self) -> None:
        assert decode_varint(bytes.fromhex("4025")) == (37, 2)
        assert decode_varint(bytes.fromhex("c000000000000025")) == (37, 8)

    def test_reading_starts_at_the_offset_and_ignores_what_follows(self) -> None:
        assert decode_varint(b"\xff\x7b\xbd\xff", 1) == (15_293, 3)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_is_read(self, kind: type) -> None:
        assert decode_varint(kind(b"\x9d\x7f\x3e\x7d")) == (494_878_333, 4)

    @pytest.mark.parametrize(("value", "encoded"), RFC_9000_A1)
    def test_every_truncation_is_refused(self, value: int, encoded: str) -> None:
        data = bytes.fromhex(encoded)
        for end in range(len(data)):
            assert peek_varint(data[:end]) is None
            with pytest.raises(WireError, match="truncated"):
                decode_varint(data[:end])

    def test_an_offset_at_the_end_is_incomplete(self) -> None:
        assert peek_varint(b"\x25", 1) is None

    @pytest.mark.parametrize("value", [-1, MAX_VARINT + 1])
    def test_a_value_out_of_range_is_a_bug_of_the_caller(self, value: int) -> None:
        with pytest.raises(ValueError, match="does not fit"):
            encode_varint(value)
