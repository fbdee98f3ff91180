"""Tests of masque_relay.wire.capsule."""

import random
import time

import pytest

from masque_relay.wire.capsule import Capsule, CapsuleDecoder, CapsuleType, encode_capsule
from masque_relay.wire.errors import Scope, WireError
from masque_relay.wire.varint import MAX_VARINT, encode_varint

KNOWN = frozenset({CapsuleType.DATAGRAM, 0x11})
UNKNOWN_TYPE = 0x2028_D7F2


def make_decoder(max_capsule_bytes: int = 1000) -> CapsuleDecoder:
    return CapsuleDecoder(max_capsule_bytes=max_capsule_bytes, known_types=KNOWN)


class TestCapsuleEncoding:
    """RFC 9297 section 3.2: type, length, value."""

    @pytest.mark.parametrize(
        ("capsule_type", "value", "encoded"),
        [
            (CapsuleType.DATAGRAM, b"", "0000"),
            (CapsuleType.DATAGRAM, b"\x00hi", "0003006869"),
            (0x11, b"\x02\x00", "11020200"),
            (0x272DDA5E, b"", "a72dda5e00"),
            (CapsuleType.DATAGRAM, bytes(1201), "0044b1" + "00" * 1201),  # curl's first one
        ],
    )
    def test_known_byte_vectors(self, capsule_type: int, value: bytes, encoded: str) -> None:
        assert encode_capsule(capsule_type, value) == bytes.fromhex(encoded)


class TestCapsuleParsing:
    """RFC 9297 sections 3.2 and 3.3."""

    def test_several_capsules_in_one_piece_come_out_in_order(self) -> None:
        stream = encode_capsule(0, b"one") + encode_capsule(0x11, b"") + encode_capsule(0, b"two")
        assert make_decoder().feed(stream) == [
            Capsule(0, b"one"),
            Capsule(0x11, b""),
            Capsule(0, b"two"),
        ]

    def test_a_stream_may_come_one_byte_at_a_time(self) -> None:
        stream = encode_capsule(0, b"one") + encode_capsule(UNKNOWN_TYPE, bytes(300))
        stream += encode_capsule(0x11, bytes(100))
        decoder = make_decoder()
        capsules = [capsule for byte in stream for capsule in decoder.feed(bytes([byte]))]
        decoder.finish()
        assert capsules == [Capsule(0, b"one"), Capsule(0x11, bytes(100))]

    @pytest.mark.parametrize("seed", range(20))
    def test_a_stream_may_come_in_any_pieces(self, seed: int) -> None:
        generator = random.Random(seed)
        expected: list[Capsule] = []
        stream = b""
        for _ in range(50):
            capsule_type = generator.choice([0, 0x11, UNKNOWN_TYPE, MAX_VARINT])
            value = generator.randbytes(generator.choice([0, 1, 63, 64, 500]))
            stream += encode_capsule(capsule_type, value)
            if capsule_type in KNOWN:
                expected.append(Capsule(capsule_type, value))
        decoder = make_decoder()
        capsules: list[Capsule] = []
        offset = 0
        while offset < len(stream):
            step = generator.choice([0, 1, 2, 7, 100, 700])
            capsules += decoder.feed(stream[offset : offset + step])
            offset += step
        decoder.finish()
        assert capsules == expected

    @pytest.mark.clause("RFC 9297", "3.2", "MUST", "skip capsules of unknown types silently")
    def test_unknown_capsules_are_skipped_and_counted(self) -> None:
        decoder = make_decoder()
        stream = encode_capsule(UNKNOWN_TYPE, b"x" * 50) + encode_capsule(0x40, b"")
        assert decoder.feed(stream + encode_capsule(0, b"after")) == [Capsule(0, b"after")]
        assert decoder.skipped_count == 2
        decoder.finish()

    @pytest.mark.clause(
        "RFC 9297", "3.2", "SHOULD NOT", "accumulate a capsule whose value is not needed"
    )
    @pytest.mark.parametrize("announced_bytes", [2**30, MAX_VARINT])
    def test_a_huge_unknown_capsule_is_skipped_without_memory(self, announced_bytes: int) -> None:
        decoder = make_decoder()
        assert decoder.feed(encode_varint(UNKNOWN_TYPE) + encode_varint(announced_bytes)) == []
        for _ in range(100):
            assert decoder.feed(bytes(10_000)) == []
        assert not decoder._head
        assert decoder._value is None
        with pytest.raises(WireError, match="inside a capsule"):
            decoder.finish()

    @pytest.mark.parametrize("announced_bytes", [1001, 2**30, MAX_VARINT])
    def test_a_known_capsule_beyond_the_limit_is_refused_at_its_head(
        self, announced_bytes: int
    ) -> None:
        decoder = make_decoder(max_capsule_bytes=1000)
        with pytest.raises(WireError, match="the limit is 1000") as caught:
            decoder.feed(encode_varint(0) + encode_varint(announced_bytes))
        assert caught.value.scope is Scope.STREAM
        assert decoder._value is None

    def test_a_capsule_of_exactly_the_limit_is_taken(self) -> None:
        decoder = make_decoder(max_capsule_bytes=1000)
        assert decoder.feed(encode_capsule(0, bytes(1000))) == [Capsule(0, bytes(1000))]

    def test_a_decoder_that_failed_stays_failed(self) -> None:
        decoder = make_decoder(max_capsule_bytes=10)
        with pytest.raises(WireError) as first:
            decoder.feed(encode_capsule(0, bytes(11)))
        with pytest.raises(WireError) as second:
            decoder.feed(encode_capsule(0, b"fine"))
        with pytest.raises(WireError) as third:
            decoder.finish()
        assert first.value is second.value is third.value

    def test_every_truncation_is_refused_at_the_end_of_the_stream(self) -> None:
        stream = encode_capsule(0, bytes(70)) + encode_capsule(UNKNOWN_TYPE, bytes(70))
        borders = {0, len(encode_capsule(0, bytes(70))), len(stream)}
        for end in range(len(stream) + 1):
            decoder = make_decoder()
            decoder.feed(stream[:end])
            if end in borders:
                decoder.finish()
            else:
                with pytest.raises(WireError, match="inside a capsule") as caught:
                    decoder.finish()
                assert caught.value.section == "RFC 9297 section 3.3"

    def test_feeding_nothing_yields_nothing(self) -> None:
        decoder = make_decoder()
        assert decoder.feed(b"") == []
        decoder.finish()

    def test_time_grows_linearly_with_the_pieces_of_a_capsule(self) -> None:
        def seconds_for(size_bytes: int) -> float:
            stream = encode_capsule(0, bytes(size_bytes))
            decoder = make_decoder(max_capsule_bytes=size_bytes)
            begin = time.process_time()
            for offset in range(0, len(stream), 10):
                decoder.feed(stream[offset : offset + 10])
            return time.process_time() - begin

        # 16 times the bytes: linear is 16 times the time, quadratic 256 times.
        small = min(seconds_for(100_000) for _ in range(3))
        assert min(seconds_for(1_600_000) for _ in range(2)) < small * 100
