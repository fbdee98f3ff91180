"""Owns the two ways to a TURN server: datagrams, or a stream of TCP or TLS cut into messages."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from masque_relay.client.errors import RelayUnreachable
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import DatagramSocket
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.stun.channel_data import StreamDecoder
from masque_relay.wire.errors import WireError

MAX_UNSENT_BYTES = 262_144
"""Waiting in a stream; beyond it datagrams are dropped, as a full socket buffer does."""
MAX_DATAGRAMS = 256
"""Taken from the socket in one turn of the loop."""

OnMessages = Callable[[Sequence[bytes]], None]
"""Takes STUN messages and ChannelData as they came, in order."""


class TurnWire(Protocol):
    """A connection to one server, one address of it."""

    is_reliable: bool
    """Whether what was sent arrives, or the connection ends: no request is sent twice then."""

    def send(self, messages: Sequence[bytes]) -> int:
        """Send STUN messages or ChannelData; return how many were taken. Never blocks or raises."""
        ...

    def close(self) -> None:
        """Close; idempotent."""
        ...


class UdpWire:
    """A UDP socket of its own; moves batches."""

    is_reliable = False

    def __init__(self, server: Endpoint, on_messages: OnMessages) -> None:
        """Bind a socket.

        Raises:
            RelayUnreachable: there is none to be had.
        """
        any_address = IPv4Address(0) if server.address.version == 4 else IPv6Address(0)
        try:
            self._socket: DatagramSocket = socket_factory(SocketLimits(), FlowCounters())(
                Endpoint(address=any_address, port=0)
            )
        except FlowError as error:
            raise RelayUnreachable(f"no UDP socket towards {server}: {error.detail}") from error
        self._server = str(server.address), server.port
        self._on_messages = on_messages
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def send(self, messages: Sequence[bytes]) -> int:
        """Send datagrams."""
        if self._socket.fileno() < 0:
            return 0
        return self._socket.send_batch(messages, self._server)

    def close(self) -> None:
        """Close the socket."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _receive(self) -> None:
        for batch in self._socket.receive_batches(MAX_DATAGRAMS):
            if batch.source[:2] == self._server:
                self._on_messages([bytes(payload) for payload in batch.payloads])


class StreamWire(asyncio.Protocol):
    """A TCP or TLS connection."""

    is_reliable = True

    def __init__(self, on_messages: OnMessages, on_lost: Callable[[], None]) -> None:
        """Prepare; :func:`open_stream_wire` connects."""
        self._on_messages = on_messages
        self._on_lost = on_lost
        self._decoder = StreamDecoder()
        self._transport: asyncio.Transport | None = None

    def send(self, messages: Sequence[bytes]) -> int:
        """Write messages, padded to four bytes each (RFC 8656 section 12.5)."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return 0
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            return 0
        transport.write(b"".join(message + bytes(-len(message) & 3) for message in messages))
        return len(messages)

    def close(self) -> None:
        """Cut the connection: what matters was answered before."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        if isinstance(transport, asyncio.Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        try:
            messages = self._decoder.feed(data)
        except WireError:
            self.close()
            return
        if messages:
            self._on_messages(messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so."""
        self._on_lost()


async def open_stream_wire(
    server: Endpoint,
    host: str,
    tls: ssl.SSLContext | None,
    *,
    on_messages: OnMessages,
    on_lost: Callable[[], None],
) -> StreamWire:
    """Connect to a server by TCP, or by TLS where there is a context.

    Raises:
        OSError: no connection (``ssl.SSLError`` where it is not trusted).
    """
    _, wire = await asyncio.get_running_loop().create_connection(
        lambda: StreamWire(on_messages, on_lost),
        str(server.address),
        server.port,
        ssl=tls,
        server_hostname=None if tls is None else host,
    )
    return wire
