"""A DERP client on plain sockets, for what no library does: any bytes, any head, any time."""

import json
import socket
import ssl
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from nacl.public import Box, PrivateKey, PublicKey

from fallbacks.derp.wire import FrameType, encode_frame

WAIT_S = 20.0


class DerpSocket:
    """One TLS connection to the relay's HTTPS port."""

    def __init__(self, address: str, ca_file: Path, key: PrivateKey) -> None:
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(ca_file))
        raw = socket.create_connection((host, int(port)), timeout=WAIT_S)
        self.socket = context.wrap_socket(raw, server_hostname=host)
        self.key = key
        self.public = bytes(key.public_key)
        self.server_key = b""
        self._buffer = b""

    def __enter__(self) -> Self:
        """Nothing more is to be done."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.socket.close()

    def request(self, *lines: str, path: str = "/derp") -> None:
        """Send the head of an Upgrade."""
        fields = "".join(f"{line}\r\n" for line in lines)
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            f"Upgrade: DERP\r\n{fields}\r\n".encode()
        )

    def head(self) -> str:
        """Return the head of the response."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.decode()

    def frame(self) -> tuple[int, bytes]:
        """Return the next frame.

        Raises:
            EOFError: the relay has closed.
        """
        while len(self._buffer) < 5:
            self._more()
        number, length = struct.unpack_from("!BI", self._buffer)
        while len(self._buffer) < 5 + length:
            self._more()
        body, self._buffer = self._buffer[5 : 5 + length], self._buffer[5 + length :]
        return number, body

    def expect(self, number: FrameType) -> bytes:
        """Return the body of the next frame, which is of this type."""
        got, body = self.frame()
        assert got == number, (got, body)
        return body

    def rest(self) -> list[tuple[int, bytes]]:
        """Return the frames up to the end of the connection."""
        frames: list[tuple[int, bytes]] = []
        while True:
            try:
                frames.append(self.frame())
            except (EOFError, ConnectionError):
                return frames

    def send(self, number: int, body: bytes = b"") -> None:
        """Send one frame; the type may be none that exists."""
        self.socket.sendall(struct.pack("!BI", number, len(body)) + body)

    def greeting(self, **info: Any) -> bytes:
        """Return the body of ClientInfo."""
        return seal_greeting(self.key, self.public, self.server_key, **info)

    def greet(self, **info: Any) -> None:
        """Take the server's key, show ours."""
        self.server_key = self.expect(FrameType.SERVER_KEY)[8:]
        self.socket.sendall(encode_frame(FrameType.CLIENT_INFO, self.greeting(**info)))

    def enter(self, **info: Any) -> Self:
        """Ask, greet, be admitted."""
        self.request()
        assert self.head().startswith("HTTP/1.1 101 ")
        self.greet(**info)
        self.expect(FrameType.SERVER_INFO)
        return self

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError
        self._buffer += data


def seal_greeting(key: PrivateKey, public: bytes, server_key: bytes, **info: Any) -> bytes:
    """Return the body of ClientInfo; a good one has the public key of the private one."""
    text = json.dumps({"version": 2, **info}).encode()
    return public + bytes(Box(key, PublicKey(server_key)).encrypt(text))
