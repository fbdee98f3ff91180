"""ChannelData, and streams cut into messages however they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.stun.channel_data import (
    StreamDecoder,
    encode_channel_head,
    is_channel_data,
)
from masque_relay.stun.codepoints import MessageClass, Method
from masque_relay.stun.message import encode_message
from masque_relay.wire.errors import Scope, WireError

STUN = encode_message(Method.BINDING, MessageClass.REQUEST, bytes(12), [(0x8022, b"abc")])


def channel_data(payload: bytes) -> bytes:
    return encode_channel_head(0x4001, len(payload)) + payload


@given(
    messages=st.lists(
        st.one_of(st.just(STUN), st.binary(max_size=50).map(channel_data)), max_size=8
    ),
    data=st.data(),
)
def test_messages_come_whole_however_the_stream_is_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(message + bytes(-len(message) & 3) for message in messages)
    decoder, found = StreamDecoder(), []
    while stream:
        step = data.draw(st.integers(1, len(stream)))
        found += decoder.feed(stream[:step])
        stream = stream[step:]
    assert found == messages
    assert decoder.pending_bytes == 0


def test_a_flood_in_one_read_is_handed_out_in_parts() -> None:
    decoder = StreamDecoder()
    assert len(decoder.feed(STUN * 5, max_messages=2)) == 2
    assert len(decoder.feed(b"", max_messages=2)) == 2
    assert len(decoder.feed(b"", max_messages=2)) == 1


@pytest.mark.parametrize("data", [b"\x80\0\0\0", b"\xff" * 4, b"GET / HTTP/1.1", b"\0\1\0\3"])
def test_what_is_neither_breaks_the_stream_for_good(data: bytes) -> None:
    if data == b"GET / HTTP/1.1":
        data = b"\xc3" + data
    decoder = StreamDecoder()
    with pytest.raises(WireError) as caught:
        decoder.feed(data)
    assert caught.value.scope is Scope.CONNECTION
    with pytest.raises(WireError):
        decoder.feed(STUN)


def test_what_follows_a_connection_bind_is_left_alone() -> None:
    decoder = StreamDecoder()
    assert decoder.feed(STUN + b"\0\1", max_messages=1) == [STUN]
    assert decoder.take_rest() == b"\0\1"
    assert decoder.pending_bytes == 0


def test_channels_of_both_generations_are_told_from_stun() -> None:
    assert [is_channel_data(byte) for byte in (0x00, 0x3F, 0x40, 0x4F, 0x7F, 0x80)] == [
        False, False, True, True, True, False,
    ]  # fmt: skip
