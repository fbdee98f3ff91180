"""WebSocket frames <-> messages: RFC 6455 case by case, bounds, credit."""

import random
import zlib
from dataclasses import dataclass

import pytest
from wsproto.extensions import PerMessageDeflate

from masque_relay.http.websocket_session import CloseCode, WebSocketSession
from masque_relay.http.websocket_settings import WebSocketSettings
from tests.support.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    FrameReader,
    close_frame,
    frame,
)


class Side:
    """A session, and what its client reads."""

    def __init__(
        self,
        settings: WebSocketSettings | None = None,
        *,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        self.has_room = True
        self.client = FrameReader()
        self.session = WebSocketSession(
            settings or WebSocketSettings(),
            write=lambda data: self.client.feed(bytes(data)),
            has_room=lambda: self.has_room,
            deflate=deflate,
        )

    def messages(self) -> list[str | bytes]:
        taken: list[str | bytes] = []
        while (message := self.session.take()) is not None:
            taken.append(message)
        return taken


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a client sends, and what has to come of it."""

    name: str
    sent: bytes
    messages: tuple[str | bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    closed: tuple[int, str] | int | None = None
    """What the client reads; only the code where the reason is our own words."""


UTF8 = "κόσμε 𝄞"
CASES = [
    # Framing.
    Case(name="empty text", sent=frame(TEXT), messages=("",)),
    Case(name="empty binary", sent=frame(BINARY), messages=(b"",)),
    *(
        Case(name=f"{size} bytes", sent=frame(BINARY, b"x" * size), messages=(b"x" * size,))
        for size in (1, 125, 126, 127, 65_535, 65_536, 200_000)
    ),
    Case(name="utf-8", sent=frame(TEXT, UTF8.encode()), messages=(UTF8,)),
    # Pings and pongs.
    Case(name="ping", sent=frame(PING), pongs=(b"",)),
    Case(name="ping with payload", sent=frame(PING, b"a" * 125), pongs=(b"a" * 125,)),
    Case(
        name="ten pings",
        sent=b"".join(frame(PING, bytes([n])) for n in range(10)),
        pongs=tuple(bytes([n]) for n in range(10)),
    ),
    Case(name="unsolicited pong", sent=frame(PONG, b"?") + frame(TEXT, b"a"), messages=("a",)),
    Case(name="ping too long", sent=frame(PING, b"a" * 126), closed=1002),
    # Reserved bits and opcodes, masks, lengths.
    *(
        Case(name=f"rsv {rsv}", sent=frame(TEXT, b"a", rsv=rsv), closed=1002)
        for rsv in (1, 2, 3, 4, 7)
    ),
    *(
        Case(name=f"opcode {opcode:#x}", sent=frame(opcode, b"a"), closed=1002)
        for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)
    ),
    Case(name="unmasked", sent=frame(TEXT, b"a", masked=False), closed=1002),
    Case(name="length in too many bytes", sent=b"\x82\xfe\x00\x01\0\0\0\0a", closed=1002),
    Case(name="length of 2**63", sent=b"\x82\xff\x80" + bytes(7) + bytes(4), closed=1002),
    # Fragments.
    Case(
        name="two fragments",
        sent=frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b"),
        messages=("ab",),
    ),
    Case(
        name="a ping between fragments",
        sent=frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
        messages=("ab",),
        pongs=(b"p",),
    ),
    Case(
        name="empty fragments",
        sent=frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
        messages=(b"",),
    ),
    Case(
        name="a character in two fragments",
        sent=frame(TEXT, "é".encode()[:1], fin=False) + frame(CONTINUATION, "é".encode()[1:]),
        messages=("é",),
    ),
    Case(name="fragmented ping", sent=frame(PING, b"a", fin=False), closed=1002),
    Case(name="continuation of nothing", sent=frame(CONTINUATION, b"a"), closed=1002),
    Case(
        name="a message inside another",
        sent=frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        closed=1002,
    ),
    # Text.
    *(
        Case(name=f"utf-8 {bad!r}", sent=frame(TEXT, bad), closed=1007)
        for bad in (b"\xff", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"a\xce")
    ),
    # Close.
    Case(name="close", sent=close_frame(1000, b"bye"), closed=(1000, "bye")),
    Case(name="close without a code", sent=close_frame(None), closed=(1005, "")),
    Case(name="close of one byte", sent=frame(CLOSE, b"\x03"), closed=1002),
    Case(name="close too long", sent=frame(CLOSE, b"\x03\xe8" + b"a" * 124), closed=1002),
    Case(name="close with bad utf-8", sent=close_frame(1000, b"\xff"), closed=1007),
    *(
        Case(name=f"close {code}", sent=close_frame(code), closed=(code, ""))
        for code in (1000, 1001, 1003, 1007, 1009, 1011, 3000, 3999, 4000, 4999)
    ),
    *(
        Case(name=f"close {code}", sent=close_frame(code), closed=1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535)
    ),
    Case(
        name="frames after close",
        sent=frame(TEXT, b"a") + close_frame() + frame(TEXT, b"b") + frame(PING),
        messages=("a",),
        closed=(1000, ""),
    ),
]


def check(case: Case, side: Side) -> None:
    messages, client = side.messages(), side.client
    assert messages == list(case.messages)
    assert client.pongs == list(case.pongs)
    if isinstance(case.closed, tuple) or case.closed is None:
        assert client.closed == case.closed
        assert not side.session.has_failed
    else:
        assert client.closed is not None
        assert client.closed[0] == case.closed
        assert side.session.has_failed
    assert side.session.is_open == (case.closed is None)


class TestCases:
    """RFC 6455 sections 5 to 8."""

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_at_once(self, case: Case) -> None:
        side = Side()
        side.session.feed(case.sent)
        check(case, side)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_in_random_pieces(self, case: Case) -> None:
        side, pieces = Side(), random.Random(case.name)
        rest = case.sent
        while rest:
            size = pieces.randint(1, max(1, len(rest) // 4))
            side.session.feed(rest[:size])
            rest = rest[size:]
        check(case, side)

    def test_the_application_hears_code_and_reason(self) -> None:
        side = Side()
        side.session.feed(close_frame(4001, "Grüße".encode()))
        assert side.session.closed == CloseCode(code=4001, reason="Grüße")


class TestSending:
    def test_messages_and_pings(self) -> None:
        side = Side()
        side.session.send("text")
        side.session.send(b"bytes" * 50_000)
        side.session.ping()
        assert side.client.messages == ["text", b"bytes" * 50_000]
        assert side.client.pings == [b""]

    def test_close_is_sent_once_and_a_long_reason_is_cut_between_characters(self) -> None:
        side = Side()
        side.session.close(4000, "ü" * 100)
        side.session.close(1000)
        assert side.client.closed == (4000, "ü" * 61)
        assert not side.session.is_open

    def test_after_our_close_messages_are_dropped_until_the_client_closes(self) -> None:
        side = Side()
        side.session.close(1000)
        side.session.feed(frame(TEXT, b"late") + frame(PING))
        assert side.messages() == []
        assert side.client.pongs == []
        assert side.session.closed is None
        side.session.feed(close_frame(1000))
        assert side.session.closed == CloseCode(code=1000)

    def test_of_pings_that_find_no_room_the_last_is_answered(self) -> None:
        side = Side()
        side.has_room = False
        side.session.feed(frame(PING, b"1") + frame(PING, b"2"))
        assert side.client.pongs == []
        side.has_room = True
        side.session.answer_ping()
        side.session.answer_ping()
        assert side.client.pongs == [b"2"]


class TestBounds:
    def test_too_large_a_message_is_1009_however_it_comes(self) -> None:
        for sent in (
            frame(BINARY, b"x" * 101),
            frame(BINARY, b"x" * 60, fin=False) + frame(CONTINUATION, b"x" * 41),
            frame(TEXT, "é".encode() * 51),
        ):
            side = Side(WebSocketSettings(max_message_bytes=100))
            side.session.feed(sent)
            assert side.client.closed is not None
            assert side.client.closed[0] == 1009
            assert side.messages() == []

    def test_an_announced_length_reserves_nothing(self) -> None:
        side = Side(WebSocketSettings(max_message_bytes=100))
        side.session.feed(frame(BINARY, b"x" * 100_000)[:90])
        assert side.session.closed is None
        assert side.session.take_credit() == 90

    def test_a_message_of_the_limit_passes_again_and_again(self) -> None:
        side = Side(WebSocketSettings(max_message_bytes=100))
        for _ in range(5):
            side.session.feed(frame(BINARY, b"x" * 100))
        assert side.messages() == [b"x" * 100] * 5

    @pytest.mark.parametrize(
        "bound", [WebSocketSettings(queue_count=3), WebSocketSettings(queue_bytes=30)]
    )
    def test_a_full_queue_stops_the_parser_pings_and_all(self, bound: WebSocketSettings) -> None:
        side = Side(bound)
        for _ in range(5):
            side.session.feed(frame(BINARY, b"x" * 10))
        side.session.feed(frame(PING) + close_frame())
        assert side.session.is_full
        assert side.client.pongs == []
        assert side.messages() == [b"x" * 10] * 5
        assert side.client.pongs == [b""]
        assert side.client.closed == (1000, "")


class TestCredit:
    def test_what_waits_for_the_application_is_owed(self) -> None:
        side = Side()
        sent = frame(BINARY, b"x" * 1_000)
        side.session.feed(sent)
        assert side.session.take_credit() == len(sent) - 1_000
        assert side.session.take_credit() == 0
        side.messages()
        assert side.session.take_credit() == 1_000

    def test_control_frames_and_half_messages_are_not(self) -> None:
        side = Side()
        sent = frame(PING) + frame(BINARY, b"x" * 1_000, fin=False)
        side.session.feed(sent)
        assert side.session.take_credit() == len(sent)

    def test_a_full_queue_gives_none(self) -> None:
        side = Side(WebSocketSettings(queue_count=1))
        sent = frame(BINARY, b"a") + frame(BINARY, b"b")
        side.session.feed(sent)
        assert side.session.take_credit() == 0
        side.messages()
        assert side.session.take_credit() == len(sent)

    def test_at_the_end_all_of_it_is_given_back(self) -> None:
        side = Side(WebSocketSettings(queue_count=1))
        sent = frame(BINARY, b"a") * 3
        side.session.feed(sent)
        assert side.session.release_credit() == len(sent)
        assert side.session.release_credit() == 0


class TestCompression:
    @staticmethod
    def deflate() -> PerMessageDeflate:
        extension = PerMessageDeflate(
            client_no_context_takeover=True, server_no_context_takeover=True
        )
        extension.accept("permessage-deflate")
        return extension

    @staticmethod
    def compressed(data: bytes) -> bytes:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]

    def test_a_message_is_inflated(self) -> None:
        side = Side(deflate=self.deflate())
        for _ in range(2):
            side.session.feed(frame(TEXT, self.compressed(b"hello " * 100), rsv=4))
        assert side.messages() == ["hello " * 100] * 2

    def test_a_bomb_is_1009_before_it_is_inflated_whole(self) -> None:
        side = Side(WebSocketSettings(max_message_bytes=100_000), deflate=self.deflate())
        bomb = frame(BINARY, self.compressed(bytes(100_000_000)), rsv=4)
        assert len(bomb) < 120_000
        side.session.feed(bomb)
        assert side.session.closed == CloseCode(code=1009, reason="message too big")

    def test_garbage_is_1007(self) -> None:
        side = Side(deflate=self.deflate())
        side.session.feed(frame(BINARY, b"\xff" * 20, rsv=4))
        assert side.session.closed is not None
        assert side.session.closed.code == 1007
