"""The guard before h2: sizes and rates of frames (RFC 9113 section 10.5)."""

import pytest
from h2.errors import ErrorCodes

from masque_relay.http.h2_frame_guard import (
    MAX_FRAME_BYTES,
    PREFACE_BYTES,
    FrameError,
    FrameGuard,
)
from masque_relay.http.rate import EventRate
from tests.support.http_fakes import FakeClock

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


def guard(*, burst_count: int = 10, clock: FakeClock | None = None) -> FrameGuard:
    rate = EventRate(rate_per_s=1, burst_count=burst_count, clock=clock or FakeClock())
    return FrameGuard(max_block_bytes=1_000, rate=rate)


def fed(wire: bytes, *, burst_count: int = 10) -> FrameGuard:
    """Feed everything at once, then byte by byte: both must agree."""
    whole, parts = guard(burst_count=burst_count), guard(burst_count=burst_count)
    whole.feed(PREFACE + wire)
    for byte in PREFACE + wire:
        parts.feed(bytes([byte]))
    assert (whole.has_begun, whole.is_inside_head) == (parts.has_begun, parts.is_inside_head)
    return whole


def test_connection_begins_with_the_first_frame_after_the_preface() -> None:
    assert len(PREFACE) == PREFACE_BYTES
    assert not fed(b"").has_begun
    assert fed(frame(SETTINGS)).has_begun


def test_head_is_open_until_its_last_frame() -> None:
    assert fed(frame(HEADERS, 0, b"x")).is_inside_head
    assert fed(frame(HEADERS, 0, b"x") + frame(CONTINUATION, 0, b"x")).is_inside_head
    assert not fed(frame(HEADERS, 0, b"x") + frame(CONTINUATION, END_HEADERS)).is_inside_head
    assert not fed(frame(HEADERS, END_HEADERS, b"x")).is_inside_head


def test_largest_frame_passes_and_a_larger_one_is_refused_by_its_head_alone() -> None:
    fed(frame(DATA, 0, bytes(MAX_FRAME_BYTES)))
    with pytest.raises(FrameError) as caught:
        guard().feed(PREFACE + frame(DATA, 0, bytes(MAX_FRAME_BYTES + 1))[:9])
    assert caught.value.code is ErrorCodes.FRAME_SIZE_ERROR


def test_header_block_is_bounded_over_all_its_frames() -> None:
    fed((frame(HEADERS, END_HEADERS, bytes(900))) * 5)
    with pytest.raises(FrameError, match="header block"):
        fed(frame(HEADERS, 0, bytes(900)) + frame(CONTINUATION, 0, bytes(101)))


@pytest.mark.parametrize("kind", [2, RST_STREAM, SETTINGS, PING, 7, CONTINUATION, 0x10, 0xFA])
def test_control_frames_are_bounded_in_rate(kind: int) -> None:
    fed(frame(kind) * 10)
    with pytest.raises(FrameError) as caught:
        fed(frame(kind) * 11)
    assert caught.value.code is ErrorCodes.ENHANCE_YOUR_CALM


def test_rate_recovers_with_time() -> None:
    clock = FakeClock()
    one = guard(clock=clock)
    one.feed(PREFACE + frame(PING) * 10)
    clock.now_s += 5
    one.feed(frame(PING) * 5)
    with pytest.raises(FrameError):
        one.feed(frame(PING))


def test_what_carries_a_tunnel_is_not_bounded() -> None:
    fed(frame(DATA, 0, b"x") * 100 + frame(WINDOW_UPDATE, 0, bytes(4)) * 100)
    fed(frame(DATA, END_STREAM) * 100)


def test_empty_data_that_ends_nothing_is_a_control_frame() -> None:
    """CVE-2019-9518."""
    with pytest.raises(FrameError):
        fed(frame(DATA) * 11)
