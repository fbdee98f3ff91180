"""DERP's frames: vectors written out by hand, however the stream is cut."""

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fallbacks.derp import wire
from fallbacks.derp.wire import Frame, FrameDecoder, FrameType, GoneReason, PresentFlag
from masque_relay.contract.address import Endpoint
from masque_relay.wire.errors import WireError

KEY = bytes(range(32))


def frames(decoder: FrameDecoder) -> list[Frame]:
    found: list[Frame] = []
    while (frame := decoder.take()) is not None:
        found.append(frame)
    return found


def test_the_greeting_of_the_server_is_the_magic_and_its_key() -> None:
    assert wire.encode_server_key(KEY).hex() == "0100000028" + "44455250f09f9491" + KEY.hex()


def test_a_packet_travels_behind_its_source() -> None:
    assert wire.encode_packets(KEY, [b"ab", b""]).hex() == (
        "0500000022" + KEY.hex() + "6162" + "0500000020" + KEY.hex()
    )


def test_what_servers_say_has_these_bytes() -> None:
    six = Endpoint(address=ip_address("2001:db8::1"), port=443)
    four = Endpoint(address=ip_address("192.0.2.1"), port=258)
    flags = PresentFlag.REGULAR | PresentFlag.NOT_IDEAL
    assert wire.encode_peer_gone(KEY, GoneReason.NOT_HERE).hex() == "0800000021" + KEY.hex() + "01"
    assert wire.encode_peer_present(KEY, six, PresentFlag.MESH).hex() == (
        "0900000033" + KEY.hex() + "20010db8000000000000000000000001" + "01bb" + "02"
    )
    assert wire.encode_peer_present(KEY, four, flags).hex() == (
        "0900000033" + KEY.hex() + "00000000000000000000ffffc0000201" + "0102" + "09"
    )
    assert wire.encode_health("duplicate").hex() == "1400000009" + b"duplicate".hex()
    restarting = wire.encode_restarting(reconnect_in_ms=1_000, try_for_ms=60_000)
    assert restarting.hex() == "1500000008" + "000003e8" + "0000ea60"


def test_what_a_server_says_to_another_has_these_bytes() -> None:
    pair = KEY + bytes(32)
    assert wire.encode_forwards(pair, [b"ab", b""]).hex() == (
        "0a00000042" + pair.hex() + "6162" + "0a00000040" + pair.hex()
    )
    assert wire.encode_client_info(KEY, b"box").hex() == "0200000023" + KEY.hex() + b"box".hex()


def test_what_a_server_says_is_understood() -> None:
    source = Endpoint(address=ip_address("192.0.2.1"), port=258)
    flags = PresentFlag.MESH | PresentFlag.NOT_IDEAL
    decoder = FrameDecoder(known=wire.FROM_SERVER)
    decoder.feed(
        wire.encode_server_key(KEY)
        + wire.encode_packets(KEY, [b"for nobody"])
        + wire.encode_peer_present(KEY, source, flags)
        + wire.encode_peer_gone(KEY, GoneReason.NOT_HERE)
        + wire.encode_peer_gone(KEY, GoneReason.DISCONNECTED)
    )
    key, present, absent, gone = frames(decoder)
    assert wire.split_server_key(key.body) == KEY
    assert wire.split_peer_present(present.body) == (KEY, flags)
    assert wire.split_peer_present(KEY) == (KEY, PresentFlag.REGULAR)
    assert wire.split_peer_gone(absent.body) == (KEY, True)
    assert wire.split_peer_gone(gone.body) == (KEY, False)
    assert wire.split_peer_gone(KEY) == (KEY, False)
    assert decoder.skipped_count == 1


@pytest.mark.parametrize(
    "split", [wire.split_server_key, wire.split_peer_present, wire.split_peer_gone]
)
def test_what_a_server_says_without_a_key_is_refused(split: Callable[[bytes], object]) -> None:
    with pytest.raises(WireError):
        split(KEY[:-1])


def test_another_magic_is_not_a_derp_server() -> None:
    with pytest.raises(WireError, match="not that of DERP"):
        wire.split_server_key(b"DERQ\xf0\x9f\x94\x91" + KEY)


def test_a_long_health_text_is_cut() -> None:
    assert len(wire.encode_health("x" * 5_000)) == 5 + wire.MAX_HEALTH_BYTES


@given(
    st.lists(
        st.tuples(
            st.sampled_from([FrameType.SEND_PACKET, FrameType.PING, FrameType.WATCH_CONNS]),
            st.binary(max_size=80),
        ),
        max_size=6,
    ),
    st.integers(min_value=1, max_value=40),
)
def test_frames_are_the_same_however_the_stream_is_cut(
    sent: list[tuple[FrameType, bytes]], size: int
) -> None:
    data = b"".join(wire.encode_frame(kind, body) for kind, body in sent)
    decoder, got = FrameDecoder(), []
    for start in range(0, len(data), size):
        decoder.feed(data[start : start + size])
        got += frames(decoder)
    decoder.finish()
    assert [(frame.type, frame.body) for frame in got] == sent


def test_types_that_a_client_does_not_send_are_skipped_and_counted() -> None:
    decoder = FrameDecoder()
    for number in (0x00, 0x03, 0x05, 0x0B, 0x7F, 0xFF):
        decoder.feed(bytes([number]) + b"\x00\x00\x00\x02xx")
    decoder.feed(wire.encode_frame(FrameType.PING, b"12345678"))
    assert frames(decoder) == [Frame(FrameType.PING, b"12345678")]
    assert decoder.skipped_count == 6


@pytest.mark.parametrize("number", [FrameType.SEND_PACKET, 0x77])
def test_a_frame_that_is_announced_as_too_long_is_refused_before_it_comes(number: int) -> None:
    decoder = FrameDecoder(max_frame_bytes=100)
    decoder.feed(bytes([number]) + (101).to_bytes(4, "big"))
    with pytest.raises(WireError, match="101 bytes"):
        decoder.take()


def test_an_end_inside_a_frame_is_an_error() -> None:
    decoder = FrameDecoder()
    decoder.feed(wire.encode_frame(FrameType.PING, b"12345678")[:-1])
    assert decoder.take() is None
    assert decoder.held_bytes == 12
    with pytest.raises(WireError, match="inside a frame"):
        decoder.finish()


@pytest.mark.parametrize(
    ("split", "bad"),
    [
        (wire.split_client_info, bytes(56)),
        (wire.split_packet, bytes(31)),
        (wire.split_packet, bytes(32 + 65_537)),
        (wire.split_forward, bytes(63)),
        (wire.split_key, bytes(31)),
        (wire.split_ping, bytes(7)),
        (wire.split_preferred, b""),
        (wire.split_preferred, b"\x02"),
        (wire.split_preferred, b"\x01\x01"),
    ],
)
def test_bodies_that_are_too_short_too_long_or_out_of_range_are_refused(
    split: object, bad: bytes
) -> None:
    assert callable(split)
    with pytest.raises(WireError):
        split(bad)


def test_bodies_are_split_where_the_keys_end() -> None:
    assert wire.split_packet(KEY + b"x") == (KEY, b"x")
    assert wire.split_forward(KEY + KEY[::-1] + b"x") == (KEY, KEY[::-1], b"x")
    assert wire.split_client_info(KEY + bytes(25)) == (KEY, bytes(25))
    assert wire.split_key(KEY + b"more") == KEY
    assert wire.split_ping(b"12345678more") == b"12345678"
    assert wire.split_preferred(b"\x01")
    assert not wire.split_preferred(b"\x00")
