"""Owns WebSocket frames for tests: made by hand, so that they can be wrong, and read back."""

import os
import struct
from dataclasses import dataclass, field

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from masque_relay.quic.application import Headers

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

EXTENDED_HEAD: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/echo"),
    (b"sec-websocket-version", b"13"),
]
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def upgrade_head(path: str = "/echo", *lines: str) -> bytes:
    """Return an HTTP/1.1 handshake."""
    return "\r\n".join(
        [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Connection: Upgrade",
            "Upgrade: websocket",
            f"Sec-WebSocket-Key: {KEY}",
            "Sec-WebSocket-Version: 13",
            *lines,
            "\r\n",
        ]
    ).encode()


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Return one frame as a client sends it, unless told to be wrong."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size, mask_bit = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes([first, mask_bit | size])
    elif size < 65_536:
        head = bytes([first, mask_bit | 126]) + struct.pack("!H", size)
    else:
        head = bytes([first, mask_bit | 127]) + struct.pack("!Q", size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    pad = (key * (size // 4 + 1))[:size]
    scrambled = int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")
    return head + key + scrambled.to_bytes(size, "big")


def close_frame(code: int | None = 1000, reason: bytes = b"") -> bytes:
    """Return a close frame; without a code it is empty."""
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


@dataclass
class FrameReader:
    """Reads what a server sends."""

    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    closed: tuple[int, str] | None = None
    _connection: Connection = field(default_factory=lambda: Connection(ConnectionType.CLIENT))
    _text: str = ""
    _bytes: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Take stream bytes."""
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case TextMessage():
                    self._text += event.data
                    if event.message_finished:
                        self.messages.append(self._text)
                        self._text = ""
                case BytesMessage():
                    self._bytes += event.data
                    if event.message_finished:
                        self.messages.append(bytes(self._bytes))
                        self._bytes.clear()
                case Ping():
                    self.pings.append(bytes(event.payload))
                case Pong():
                    self.pongs.append(bytes(event.payload))
                case CloseConnection():
                    self.closed = (int(event.code), event.reason or "")
                case _:
                    pass
