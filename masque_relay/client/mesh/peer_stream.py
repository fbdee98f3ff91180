"""Owns PeerStream: bytes to and from a service of another peer, with back-pressure both ways."""

import asyncio
from collections.abc import Callable

from masque_relay.client.errors import ClientError, ConnectionLost, PeerRefused
from masque_relay.quic.application import QuicTransport

SEND_BUFFER_BYTES = 262_144
"""Unacknowledged bytes after which ``write`` waits: 20 Mbit/s at 100 ms."""
READ_BYTES = 65_536


class PeerStream:
    """One bidirectional stream. One reader and one writer at a time."""

    def __init__(
        self, transport: QuicTransport, stream_id: int, *, forget: Callable[[int], None]
    ) -> None:
        self._transport = transport
        self._stream_id = stream_id
        self._forget = forget
        self._received = bytearray()
        self._has_ended = False
        self._sent_end = False
        self._error: ClientError | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    async def read(self, max_bytes: int = READ_BYTES) -> bytes:
        """Return what is there, at least one byte; empty at the end.

        Raises:
            ClientError: the stream or the connection broke off.
        """
        while not self._received:
            if self._has_ended:
                return b""
            if self._error is not None:
                raise self._error
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        self._transport.consume_stream_bytes(self._stream_id, len(data))
        return data

    async def write(self, data: bytes) -> None:
        """Send; waits while too much is on its way.

        Raises:
            ClientError: the stream or the connection broke off.
        """
        while True:
            if self._error is not None:
                raise self._error
            if self._transport.unsent_stream_bytes(self._stream_id) < SEND_BUFFER_BYTES:
                break
            self._writable.clear()
            await self._writable.wait()
        self._transport.send_stream_data(self._stream_id, data, end_stream=False)

    async def drain(self) -> None:
        """Wait until the other peer's QUIC has acknowledged everything.

        Raises:
            ClientError: the stream or the connection broke off.
        """
        while self._transport.unsent_stream_bytes(self._stream_id):
            if self._error is not None:
                raise self._error
            self._writable.clear()
            await self._writable.wait()

    def write_eof(self) -> None:
        """Say that nothing follows; the other side may go on. Idempotent."""
        if not self._sent_end and self._error is None:
            self._sent_end = True
            self._transport.send_stream_data(self._stream_id, b"", end_stream=True)
            self._leave_when_over()

    def abort(self) -> None:
        """Break the stream off, both ways; idempotent."""
        if self._error is None and not (self._has_ended and self._sent_end):
            self._transport.reset_stream(self._stream_id, 0)
            self._transport.stop_stream(self._stream_id, 0)
            self._fail(ConnectionLost("the stream was broken off here"))
        self._forget(self._stream_id)

    # What the connection calls.

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take bytes; credit is granted when they are read."""
        self._received += data
        if end_stream:
            self._has_ended = True
            self._leave_when_over()
        self._readable.set()

    def reset_received(self, error_code: int) -> None:
        """The other side broke off."""
        del error_code
        self._fail(PeerRefused("the peer broke the stream off, or has no such service"))

    def stopped(self, error_code: int) -> None:
        """The other side wants no more."""
        self.reset_received(error_code)

    def writable(self) -> None:
        """Acknowledgements came."""
        self._writable.set()

    def connection_lost(self, error: ClientError) -> None:
        """The connection is over."""
        self._fail(error)

    def _fail(self, error: ClientError) -> None:
        if self._error is None:
            self._error = error
        self._readable.set()
        self._writable.set()

    def _leave_when_over(self) -> None:
        # Still known while unacknowledged bytes wait: drain() wants to hear of them.
        if self._has_ended and self._sent_end:
            self._writable.set()
