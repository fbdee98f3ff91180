"""The older framing, byte by byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_legacy import (
    LegacyFlag,
    LegacyFrame,
    LegacyType,
    decode_frames,
)

FRAMES = st.builds(
    LegacyFrame,
    type=st.sampled_from(LegacyType),
    flags=st.integers(0, 15).map(LegacyFlag),
    stream_id=st.integers(0, 65_535),
    payload=st.binary(max_size=300),
)


def test_layout_is_the_eight_byte_head() -> None:
    frame = LegacyFrame(
        type=LegacyType.STREAM_DATA,
        flags=LegacyFlag.ENCRYPTED | LegacyFlag.FINAL,
        stream_id=0x0102,
        payload=b"abc",
    )
    assert frame.encode() == bytes.fromhex("0001 41 09 0102 0003") + b"abc"


@given(st.lists(FRAMES, max_size=5), st.integers(0, 7))
def test_frames_come_back_and_an_unfinished_one_is_left(
    frames: list[LegacyFrame], missing: int
) -> None:
    data = b"".join(frame.encode() for frame in frames)
    tail = LegacyFrame(
        type=LegacyType.DATA, flags=LegacyFlag(0), stream_id=0, payload=b""
    ).encode()[:missing]

    assert decode_frames(data + tail) == (frames, tail)


@pytest.mark.parametrize(
    "head", ["0002 10 00 0000 0000", "0001 11 00 0000 0000", "0001 10 10 0000 0000"]
)
def test_unknown_version_type_or_flag_is_refused(head: str) -> None:
    with pytest.raises(WireError, match="older framing"):
        decode_frames(bytes.fromhex(head))


def test_payload_that_fits_no_length_is_the_callers_bug() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        LegacyFrame(
            type=LegacyType.DATA, flags=LegacyFlag(0), stream_id=0, payload=bytes(65_536)
        ).encode()
