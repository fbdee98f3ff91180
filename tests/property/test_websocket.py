"""A WebSocket session under any bytes: bad ones close it, and no credit is lost."""

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.http.websocket_session import WebSocketSession
from masque_relay.http.websocket_settings import WebSocketSettings
from tests.support.websocket_frames import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    FrameReader,
    close_frame,
    frame,
)

SETTINGS = WebSocketSettings(max_message_bytes=200, queue_bytes=300, queue_count=4)
FRAMES = st.builds(
    frame,
    st.sampled_from([CONTINUATION, TEXT, BINARY, 0x3, 0x8, PING, 0xA]),
    st.binary(max_size=260),
    fin=st.booleans(),
    rsv=st.sampled_from([0, 0, 0, 0, 4]),
    masked=st.sampled_from([True, True, True, True, False]),
)
PIECES = st.lists(st.one_of(FRAMES, st.binary(max_size=40), st.just(close_frame())), max_size=12)


def drive(session: WebSocketSession, chunks: list[bytes]) -> tuple[list[str | bytes], int]:
    """Feed and take by turns; return the messages and all credit."""
    messages: list[str | bytes] = []
    credit = 0
    for chunk in chunks:
        session.feed(chunk)
        credit += session.take_credit()
        message = session.take()
        if message is not None:
            messages.append(message)
    while (message := session.take()) is not None:
        messages.append(message)
    return messages, credit + session.take_credit() + session.release_credit()


@given(PIECES)
def test_any_bytes_are_messages_or_an_orderly_end(chunks: list[bytes]) -> None:
    client = FrameReader()
    session = WebSocketSession(
        SETTINGS, write=lambda data: client.feed(bytes(data)), has_room=lambda: True
    )
    messages, credit = drive(session, chunks)

    assert credit == sum(map(len, chunks))
    assert all(len(message) <= SETTINGS.max_message_bytes for message in messages)
    if session.closed is not None:
        assert client.closed is not None
        assert not session.is_open


@given(
    st.lists(st.one_of(st.text(max_size=40), st.binary(max_size=150)), max_size=10),
    st.integers(1, 60),
    st.integers(1, 50),
)
def test_messages_come_out_as_they_went_in_however_they_are_cut(
    sent: list[str | bytes], fragment_bytes: int, chunk_bytes: int
) -> None:
    stream = bytearray()
    for message in sent:
        data = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        starts = range(0, max(1, len(data)), fragment_bytes)
        for start in starts:
            stream += frame(opcode, data[start : start + fragment_bytes], fin=start == starts[-1])
            opcode = CONTINUATION
    session = WebSocketSession(SETTINGS, write=lambda _: None, has_room=lambda: True)
    chunks = [
        bytes(stream[start : start + chunk_bytes]) for start in range(0, len(stream), chunk_bytes)
    ]
    messages, credit = drive(session, chunks)

    assert messages == sent
    assert credit == len(stream)
