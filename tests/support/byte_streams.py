"""Owns in-memory ByteStreams: pipes whose ends, breaks and writes a test sees."""

import asyncio
import socket

from masque_relay.client.errors import ClientError, TunnelClosed
from masque_relay.client.socket_stream import SocketStream
from masque_relay.contract.verdict import EndReason


class FakeStream:
    """A ByteStream whose far side is the test."""

    def __init__(self) -> None:
        self.written = b""
        self.has_sent_end = False
        self.is_aborted = False
        self.takes = asyncio.Event()
        """Cleared: a write waits."""
        self.takes.set()
        self.write_error: ClientError | None = None
        self._incoming: asyncio.Queue[bytes | ClientError] = asyncio.Queue()

    def arrive(self, *items: bytes | ClientError) -> None:
        """Let the far side send bytes, its end (empty), or break off."""
        for item in items:
            self._incoming.put_nowait(item)

    @property
    def unread_count(self) -> int:
        return self._incoming.qsize()

    async def read(self) -> bytes:
        item = await self._incoming.get()
        if isinstance(item, bytes):
            return item
        raise item

    async def write(self, data: bytes) -> None:
        await self.takes.wait()
        if self.write_error is not None:
            raise self.write_error
        self.written += data

    def write_eof(self) -> None:
        self.has_sent_end = True

    def abort(self) -> None:
        self.is_aborted = True
        self._incoming.put_nowait(broken())


def broken() -> TunnelClosed:
    """What a stream raises that broke off."""
    return TunnelClosed(EndReason.PEER_RESET, "it broke off")


def stream_pair() -> tuple[SocketStream, socket.socket]:
    """Return a real stream and its far end; both are to be closed."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(0.0)
    return SocketStream(ours), theirs
