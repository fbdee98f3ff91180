"""Ghostwire's frames as bytes: every frame comes back, nothing malformed gets through."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.wire.capsule import CapsuleDecoder
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    FRAME_TYPES,
    MAX_FRAME_BYTES,
    Auth,
    Batch,
    Binding,
    Candidates,
    Challenge,
    ChannelKind,
    Close,
    Credit,
    Data,
    End,
    Error,
    Frame,
    FrameType,
    Hello,
    Observed,
    Open,
    Opened,
    PeerCandidates,
    Ping,
    Pong,
    Presence,
    Relays,
    Restarting,
    Watch,
    Welcome,
)
from masque_relay.wire.ghostwire_codec import (
    MAX_BATCH_COUNT,
    batches_of,
    decode_frame,
    encode_frame,
    frame_value,
    runs_by_channel,
    split_datagram,
)

KEY = bytes(range(32))
FRAMES: list[Frame] = [
    Hello(versions=(2, 1), features=3, nonce=bytes(16), time_s=1_800_000_000),
    Challenge(version=1, features=1, nonce=bytes(32), time_s=7),
    Auth(peer_id=KEY, binding=Binding.CHALLENGE, signature=bytes(64), token="a.b.c"),
    Auth(peer_id=KEY, binding=Binding.EXPORTER, signature=bytes(64), token=""),
    Welcome(
        session_id=bytes(16),
        keepalive_ms=15_000,
        max_channels=64,
        max_frame_bytes=MAX_FRAME_BYTES,
        window_bytes=262_144,
    ),
    Error(code=8, retry_after_ms=5_000, reason="später"),
    Error(code=999),
    Open(channel=4, kind=ChannelKind.STREAM, priority=7, credit_bytes=1 << 20, peer_id=KEY),
    Open(channel=1, kind=ChannelKind.DATAGRAMS, peer_id=KEY, service=b"ghostwire-e2e"),
    Open(channel=0, kind=ChannelKind.UDP, host="2001:db8::1", port=53),
    Open(channel=2, kind=ChannelKind.TCP, host="web.example", port=443, credit_bytes=9),
    Opened(channel=4, credit_bytes=77),
    Close(channel=4, code=9, reason="no such service"),
    Data(channel=4, data=b"bytes"),
    Data(channel=70_000, data=b""),
    End(channel=4),
    Credit(channel=4, limit_bytes=1 << 40),
    Batch(channel=3, payloads=(b"aaaa", b"bbbb", b"cc")),
    Ping(opaque=b"12345678"),
    Pong(opaque=b"12345678"),
    Watch(peer_ids=()),
    Watch(peer_ids=(KEY, KEY[::-1])),
    Presence(peer_id=KEY, is_here=True),
    Presence(peer_id=KEY, is_here=False),
    Candidates(record=b"record", signature=bytes(64)),
    PeerCandidates(record=b"record", signature=bytes(64)),
    Observed(address=bytes(4), port=5, observer_port=443),
    Observed(address=bytes(16), port=5, observer_port=0),
    Relays(document=b'{"relays":[]}'),
    Restarting(reconnect_in_ms=250, try_for_ms=60_000),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frame_comes_back_from_its_bytes(frame: Frame) -> None:
    decoder = CapsuleDecoder(max_capsule_bytes=MAX_FRAME_BYTES, known_types=FRAME_TYPES)
    (capsule,) = decoder.feed(encode_frame(frame))

    assert decode_frame(capsule.type, capsule.value) == frame


def test_every_type_but_datagram_and_padding_has_a_frame() -> None:
    covered = {frame_value(frame)[0] for frame in FRAMES}

    assert covered == FRAME_TYPES - {FrameType.DATAGRAM, FrameType.PADDING}


@pytest.mark.parametrize(
    "frame",
    [frame for frame in FRAMES if not isinstance(frame, Data | Relays | Batch)],
    ids=lambda frame: type(frame).__name__,
)
def test_every_shorter_or_longer_value_is_refused_or_is_another_frame(frame: Frame) -> None:
    frame_type, value = frame_value(frame)
    for cut in [*(value[:end] for end in range(len(value))), value + b"\xff"]:
        with suppress(WireError):
            assert decode_frame(frame_type, cut) != frame


@pytest.mark.parametrize(
    ("frame_type", "value"),
    [
        (FrameType.HELLO, b"\x00" + bytes(28)),
        (FrameType.HELLO, b"\x11" + bytes(17 + 28)),
        (FrameType.AUTH, KEY + b"\x03" + bytes(66)),
        (FrameType.AUTH, KEY + b"\x01" + bytes(64) + b"\x00\x01\xff"),
        (FrameType.OPEN, b"\x00\x04\x00\x00" + KEY + b"\x00"),
        (FrameType.OPEN, b"\x00\x00\x08\x00" + KEY + b"\x00"),
        (FrameType.OPEN, b"\x00\x00\x00\x00" + KEY + b"\x40" + bytes(64)),
        (FrameType.OPEN, b"\x00\x02\x00\x00\x00\x00\x35\x00"),
        (FrameType.OPEN, b"\x00\x02\x00\x00\x01a\x00\x00\x00"),
        (FrameType.OPEN, b"\x00\x02\x00\x00\x01\xff\x00\x35\x00"),
        (FrameType.CLOSE, b"\x00\x00\x00\xff\xff"),
        (FrameType.CLOSE, b"\x00\x00\x00" + b"r" * 257),
        (FrameType.BATCH, b"\x00\x00\x00abc"),
        (FrameType.BATCH, b"\x00\x00\x04"),
        (FrameType.WATCH, KEY + b"\x00"),
        (FrameType.WATCH, KEY * 1_025),
        (FrameType.PRESENCE, KEY + b"\x02"),
        (FrameType.OBSERVED, b"\x05" + bytes(8)),
    ],
)
def test_number_out_of_its_range_is_refused(frame_type: FrameType, value: bytes) -> None:
    with pytest.raises(WireError):
        decode_frame(frame_type, value)


def test_unknown_types_and_padding_are_no_frames() -> None:
    assert decode_frame(0x475777, b"whatever") is None
    assert decode_frame(FrameType.PADDING, bytes(9)) is None


@given(st.sampled_from(sorted(FRAME_TYPES)), st.binary(max_size=120))
def test_any_bytes_are_a_frame_or_a_wire_error(frame_type: int, value: bytes) -> None:
    try:
        frame = decode_frame(frame_type, value)
    except WireError:
        return
    if frame is not None and not isinstance(frame, Batch):
        assert decode_frame(*frame_value(frame)) == frame


@given(st.lists(st.binary(max_size=9), max_size=40))
def test_batches_hold_the_datagrams_in_order(payloads: list[bytes]) -> None:
    batches = batches_of(6, payloads, max_bytes=20)

    assert [one for batch in batches for one in batch.payloads] == [one for one in payloads if one]
    for batch in batches:
        assert decode_frame(*frame_value(batch)) == batch
        assert sum(map(len, batch.payloads)) <= 20


def test_batch_holds_no_more_datagrams_than_a_receiver_can_take_in_a_turn() -> None:
    batches = batches_of(6, [b"x"] * (MAX_BATCH_COUNT + 1))
    assert [len(batch.payloads) for batch in batches] == [MAX_BATCH_COUNT, 1]

    frame_type, value = frame_value(batches[0])
    with pytest.raises(WireError, match="a batch of 1025 datagrams"):
        decode_frame(frame_type, value + b"x")


def test_reason_is_shortened_at_a_characters_end() -> None:
    frame = Error(code=1, reason="ä" * 200)
    decoded = decode_frame(*frame_value(frame))

    assert isinstance(decoded, Error)
    assert decoded.reason == "ä" * 128


def test_datagram_is_split_into_channel_and_payload() -> None:
    assert split_datagram(b"\x40\x41payload") == (0x41, b"payload")
    with pytest.raises(WireError):
        split_datagram(b"\x40")


def test_datagrams_of_one_channel_in_a_row_stay_together() -> None:
    payloads = [b"\x01a", b"\x40\x01b", b"\x02c", b"", b"\x40", b"\x01d"]
    assert list(runs_by_channel(payloads)) == [
        (1, [b"a", b"b"]),
        (2, [b"c"]),
        (None, [b"", b"\x40"]),
        (1, [b"d"]),
    ]
    assert list(runs_by_channel([])) == []
