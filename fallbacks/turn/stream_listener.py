"""Owns a TCP listener for clients, with or without TLS: who may connect, handshakes, deadlines."""

import asyncio
import socket
import ssl
from collections import Counter
from ipaddress import IPv6Address, ip_address

import structlog

from fallbacks.turn.gate_request import source_key
from fallbacks.turn.path import PathKind
from fallbacks.turn.session import TurnSession
from fallbacks.turn.stream import TurnStream
from masque_relay.contract.address import Endpoint

ACCEPTS_PER_TURN = 64
"""More at once would keep the loop from the connections that exist."""
ACCEPT_PAUSE_S = 1.0
"""How long to leave a queue alone from which the kernel could not give us a connection."""
CLOSE_TIMEOUT_S = 5.0
"""For the last bytes and TLS's goodbye."""

_log = structlog.get_logger(__name__)


class StreamConnection(asyncio.Protocol):
    """Between asyncio's transport and a TurnStream; a Wire for that stream."""

    def __init__(self, listener: "StreamListener", peer: Endpoint) -> None:
        self.peer = peer
        self.stream: TurnStream | None = None
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._congested_since_s: float | None = None
        self._is_reading = True
        self._cutting: asyncio.TimerHandle | None = None

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is ready, TLS included."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self._transport = transport
        transport.set_write_buffer_limits(high=self._listener.write_buffer_bytes)
        self.stream = self._listener.begin(self)

    def data_received(self, data: bytes) -> None:
        """Feed the stream."""
        if self.stream is not None:
            self.stream.data_received(data)

    def eof_received(self) -> bool:
        """Tell the stream; without TLS the connection stays open for our side."""
        if self.stream is not None:
            self.stream.end_received()
        return True

    def pause_writing(self) -> None:
        """The socket is full."""
        self._congested_since_s = self._listener.now_s()

    def resume_writing(self) -> None:
        """The socket has room."""
        self._congested_since_s = None
        if self.stream is not None:
            self.stream.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody."""
        del exc
        if self._cutting is not None:
            self._cutting.cancel()
        self._transport = None
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.wire_lost()
        self._listener.lost(self)

    # Wire.

    @property
    def is_congested(self) -> bool:
        """The socket holds more than it should."""
        return self._congested_since_s is not None

    def write(self, data: bytes) -> None:
        """Send; a connection that closes ignores it."""
        if self._transport is not None and self._cutting is None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Let the client wait."""
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def end(self) -> None:
        """Send no more, but read on, where the transport can."""
        if self._transport is not None and self._cutting is None:
            if self._transport.can_write_eof():
                self._transport.write_eof()
            else:
                self.close()

    def close(self) -> None:
        """Close once everything is sent, or at the deadline."""
        if self._transport is not None and self._cutting is None:
            loop = asyncio.get_running_loop()
            self._cutting = loop.call_later(CLOSE_TIMEOUT_S, self.abort)
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # What the listener calls.

    def enforce_deadlines(self, now_s: float) -> bool:
        """Close a connection that holds nothing, or whose client takes nothing; True if it did."""
        stream = self.stream
        if stream is None or self._cutting is not None:
            return False
        since_s = self._congested_since_s
        if stream.overdue(now_s) or (since_s is not None and now_s - since_s > WRITE_TIMEOUT_S):
            self.abort()
            return True
        return False


WRITE_TIMEOUT_S = 30.0
"""A client that takes nothing for so long loses the connection; its memory is ours."""


class StreamListener:
    """Accepts clients on one listening socket. Handshakes are tasks of the server's group."""

    def __init__(
        self,
        session: TurnSession,
        listening: socket.socket,
        *,
        tls: ssl.SSLContext | None,
        group: asyncio.TaskGroup,
    ) -> None:
        """Take over a listening, non-blocking socket and begin to accept."""
        self._session = session
        self._socket = listening
        self._tls = tls
        self._group = group
        self._connections: dict[StreamConnection, bytes] = {}
        self._per_source: Counter[bytes] = Counter()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self.local = _endpoint(listening.getsockname())
        asyncio.get_running_loop().add_reader(listening.fileno(), self._accept)

    @property
    def kind(self) -> PathKind:
        """TCP or TLS."""
        return PathKind.TCP if self._tls is None else PathKind.TLS

    @property
    def write_buffer_bytes(self) -> int:
        """How much a client may leave unread."""
        return self._session.services.settings.limits.write_buffer_bytes

    def now_s(self) -> float:
        """Return the monotonic time."""
        return self._session.services.clock.monotonic_s()

    def replace_tls(self, context: ssl.SSLContext) -> None:
        """Use other certificates for handshakes that begin from now on."""
        if self._tls is not None:
            self._tls = context

    def stop_accepting(self) -> None:
        """Take no new connections; those that exist go on. Idempotent."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def close(self) -> None:
        """Cut every connection."""
        self.stop_accepting()
        for task in tuple(self._handshakes):
            task.cancel()
        for connection in tuple(self._connections):
            connection.abort()

    def sweep(self) -> None:
        """Enforce deadlines; to be called about once per second."""
        now_s = self.now_s()
        for connection in tuple(self._connections):
            if connection.enforce_deadlines(now_s):
                self._session.services.counters.deadlines_passed += 1

    # What a connection calls.

    def begin(self, connection: StreamConnection) -> TurnStream:
        """Return what the connection is to feed."""
        return TurnStream(
            self._session,
            connection,
            kind=self.kind,
            client=connection.peer,
            server=self.local,
        )

    def lost(self, connection: StreamConnection) -> None:
        """Forget a connection. Idempotent."""
        key = self._connections.pop(connection, None)
        if key is None:
            return
        self._per_source[key] -= 1
        if not self._per_source[key]:
            del self._per_source[key]
        self._session.services.counters.connections_open -= 1

    # Accepting.

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.error("can't accept a TURN connection", error=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._socket.fileno())
                self._pause = loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
                return
            client.settimeout(0)
            self._admit(client, _endpoint(address))

    def _accept_again(self) -> None:
        """The queue stays readable: without a pause we would spin."""
        self._pause = None
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._accept)

    def _admit(self, client: socket.socket, peer: Endpoint) -> None:
        counters = self._session.services.counters
        limits = self._session.services.settings.limits
        key = source_key(peer)
        if counters.connections_open >= limits.max_connections:
            counters.refused_total += 1
            client.close()
            return
        if self._per_source[key] >= limits.max_connections_per_source:
            counters.refused_per_source += 1
            client.close()
            return
        connection = StreamConnection(self, peer)
        self._connections[connection] = key
        self._per_source[key] += 1
        counters.connections_opened += 1
        counters.connections_open += 1
        task = self._group.create_task(self._connect(client, connection), name="turn handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _connect(self, client: socket.socket, connection: StreamConnection) -> None:
        timeout_s = self._session.services.settings.limits.handshake_timeout_s
        loop = asyncio.get_running_loop()
        try:
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: connection, client)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    client,
                    ssl=self._tls,
                    ssl_handshake_timeout=timeout_s,
                    ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
                )
        except OSError as error:  # ssl.SSLError and timeouts included
            self._session.services.counters.connections_failed += 1
            _log.debug("turn_handshake_failed", error=str(error))
        finally:
            if connection.stream is None:
                client.close()
                self.lost(connection)


def _endpoint(address: tuple[str, int]) -> Endpoint:
    """Return a peer's address; IPv4 over a dual-stack socket is IPv4."""
    host = ip_address(address[0].partition("%")[0])
    if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
        return Endpoint(address=host.ipv4_mapped, port=address[1])
    return Endpoint(address=host, port=address[1])
