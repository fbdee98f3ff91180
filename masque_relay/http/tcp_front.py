"""Owns the TCP listener: who may connect, TLS handshakes, and which session a connection feeds."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import TracebackType
from typing import Self
from uuid import uuid4

import structlog

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import TcpCounters
from masque_relay.contract.ports import Clock
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.h1_session import H1Session
from masque_relay.http.h2_session import H2Session
from masque_relay.http.tcp_connection import TcpConnection, TcpLink
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_tls import ALPN_H2, accept_tls
from masque_relay.http.tcp_wire import TcpServices, TcpSession
from masque_relay.http.transport import HttpVersion
from masque_relay.quic.admission import source_key

BACKLOG_COUNT = 1_024
ACCEPTS_PER_TURN = 64
"""More at once would keep the loop from the connections that exist."""
ACCEPT_PAUSE_S = 1.0
"""How long to leave a queue alone from which the kernel could not give us a connection."""
SWEEP_S = 1.0
"""How exact the deadlines of connections are."""
KEEPALIVE_IDLE_S = 60
"""A dead peer is found after two minutes, tunnel or not: as with QUIC's idle timeout."""
UNSENT_BYTES = 131_072
"""What the kernel may hold unsent: a datagram behind megabytes of others is stale."""

_log = structlog.get_logger(__name__)


ForeignSession = Callable[[TcpConnection, TcpLink], TcpSession]
"""Makes the session of a connection whose ALPN is not HTTP's; the connection is its Wire."""


class TcpFront:
    """HTTP/2 and HTTP/1.1 over TLS for the application of an HttpFrontEnd; a context manager.

    Leaving waits a moment for connections that the front end has told to close, then cuts them.
    """

    def __init__(
        self,
        front_end: HttpFrontEnd,
        context: ssl.SSLContext,
        *,
        limits: TcpLimits,
        counters: TcpCounters,
        clock: Clock,
    ) -> None:
        self._front_end = front_end
        self._context = context
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._alt_svc: bytes | None = None
        self._foreign: dict[str, ForeignSession] = {}
        self._listener: socket.socket | None = None
        self._keys: dict[TcpConnection, bytes] = {}
        self._per_source: Counter[bytes] = Counter()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._group = asyncio.TaskGroup()
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._accept_timer: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._all_gone.set()

    async def __aenter__(self) -> Self:
        """Be ready to listen."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close everything."""
        self.drain()
        for task in tuple(self._handshakes):
            task.cancel()
        try:
            async with asyncio.timeout(self._limits.close_timeout_s):
                await self._all_gone.wait()
        except TimeoutError:
            for connection in tuple(self._keys):
                connection.abort()
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        if exc_type is asyncio.CancelledError:
            await self._group.__aexit__(exc_type, exc, traceback)
        else:
            await self._group.__aexit__(None, None, None)

    def listen(
        self,
        address: Endpoint,
        *,
        h3_port: int | None = None,
        open_socket: Callable[[Endpoint], socket.socket] | None = None,
    ) -> Endpoint:
        """Take connections; return the address with the real port.

        Args:
            address: port 0 lets the kernel choose.
            h3_port: where clients find HTTP/3 on the same host (Alt-Svc, RFC 7838).
            open_socket: gives a socket like :func:`open_listener`, which other processes may
                accept from too; ours is closed, the others' is not.

        Raises:
            OSError: the address can't be used.
        """
        if h3_port is not None:
            self._alt_svc = b'h3=":%d"; ma=86400' % h3_port
        self._listener = (open_socket or open_listener)(address)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)
        self._sweep_timer = loop.call_later(SWEEP_S, self._sweep)
        return Endpoint(address=address.address, port=self._listener.getsockname()[1])

    def serve_alpn(self, alpn: str, begin: ForeignSession) -> None:
        """Hand connections that agree on a foreign ALPN to somebody else.

        The context must offer it; caps, handshakes and deadlines stay ours.
        """
        self._foreign[alpn] = begin

    def replace_context(self, context: ssl.SSLContext) -> None:
        """Use other certificates for handshakes that begin from now on."""
        self._context = context

    def apply_limits(self, limits: TcpLimits) -> None:
        """Use other limits for connections that begin from now on."""
        self._limits = limits

    def drain(self) -> None:
        """Take no new connections; those that exist go on. Idempotent."""
        if self._accept_timer is not None:
            self._accept_timer.cancel()
            self._accept_timer = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    # ConnectionOwner.

    def begin(self, connection: TcpConnection, link: TcpLink) -> TcpSession:
        """Return the session for what ALPN agreed on; without ALPN it is HTTP/1.1."""
        self._counters.connections_half_open -= 1
        foreign = self._foreign.get(link.alpn or "")
        if foreign is not None:
            self._counters.handshakes_other += 1
            return foreign(connection, link)
        services = TcpServices(
            limits=self._limits,
            counters=self._counters,
            clock=self._clock,
            alt_svc=self._alt_svc,
            connection_id=link.connection_id,
        )
        if link.alpn == ALPN_H2:
            self._counters.handshakes_h2 += 1
            return self._front_end.serve_connection(
                lambda application: H2Session(
                    application,
                    connection,
                    services,
                    call_soon=asyncio.get_running_loop().call_soon,
                ),
                link,
                http_version=HttpVersion.HTTP2,
            )
        self._counters.handshakes_h1 += 1
        return self._front_end.serve_connection(
            lambda application: H1Session(application, connection, services),
            link,
            http_version=HttpVersion.HTTP1,
        )

    def lost(self, connection: TcpConnection) -> None:
        """Forget a connection."""
        key = self._keys.pop(connection, None)
        if key is None:
            return
        self._per_source[key] -= 1
        if not self._per_source[key]:
            del self._per_source[key]
        self._counters.connections_closed += 1
        self._counters.connections_open -= 1
        if not connection.is_established:
            self._counters.connections_half_open -= 1
            self._counters.handshakes_failed += 1
        if not self._keys:
            self._all_gone.set()

    # Accepting.

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        for _ in range(ACCEPTS_PER_TURN):
            try:
                client, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._counters.accepts_failed += 1
                _log.error("can't accept a connection", error=error.strerror)
                self._pause_accepting(listener)
                return
            client.settimeout(0)
            self._admit(client, _endpoint(address))

    def _pause_accepting(self, listener: socket.socket) -> None:
        """The queue stays readable: without a pause we would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        self._accept_timer = loop.call_later(
            ACCEPT_PAUSE_S, loop.add_reader, listener.fileno(), self._accept
        )

    def _admit(self, client: socket.socket, peer: Endpoint) -> None:
        limits, counters = self._limits, self._counters
        key = source_key(str(peer.address))
        if len(self._keys) >= limits.max_connections:
            counters.refused_total += 1
        elif counters.connections_half_open >= limits.max_half_open:
            counters.refused_half_open += 1
        elif self._per_source[key] >= limits.max_connections_per_source:
            counters.refused_per_source += 1
        else:
            self._open(client, peer, key)
            return
        if not self._per_source[key]:
            del self._per_source[key]
        client.close()

    def _open(self, client: socket.socket, peer: Endpoint, key: bytes) -> None:
        connection = TcpConnection(
            self, peer, connection_id=uuid4().hex[:16], limits=self._limits, clock=self._clock
        )
        self._keys[connection] = key
        self._per_source[key] += 1
        self._all_gone.clear()
        self._counters.connections_opened += 1
        self._counters.connections_open += 1
        self._counters.connections_half_open += 1
        task = self._group.create_task(self._handshake(client, connection), name="TLS handshake")
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, client: socket.socket, connection: TcpConnection) -> None:
        try:
            await accept_tls(
                client,
                connection,
                self._context,
                handshake_timeout_s=self._limits.handshake_timeout_s,
                close_timeout_s=self._limits.close_timeout_s,
            )
        except OSError as error:  # ssl.SSLError and timeouts included
            _log.debug("TLS handshake failed", peer=str(connection.peer), error=str(error))
        finally:
            if not connection.is_established:
                client.close()
                self.lost(connection)

    # Deadlines.

    def _sweep(self) -> None:
        now_s = self._clock.monotonic_s()
        for connection in tuple(self._keys):
            connection.enforce_deadlines(now_s, self._deadline_passed)
        self._sweep_timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _deadline_passed(self) -> None:
        self._counters.deadlines_passed += 1


def open_listener(address: Endpoint) -> socket.socket:
    """Return a listening, non-blocking TCP socket; port 0 lets the kernel choose.

    Raises:
        OSError: the address can't be used.
    """
    is_ipv6 = address.address.version == 6
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if is_ipv6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit all of these.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # asyncio sets it only on sockets that were made with IPPROTO_TCP; without it every small
        # write waits for the client's delayed acknowledgement, 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_IDLE_S // 4)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        listener.settimeout(0)
        listener.bind((str(address.address), address.port))
        listener.listen(BACKLOG_COUNT)
    except OSError:
        listener.close()
        raise
    return listener


def _endpoint(address: tuple[str, int]) -> Endpoint:
    """Return a peer's address; IPv4 over a dual-stack socket is IPv4."""
    host = ip_address(address[0].partition("%")[0])
    peer: IPv4Address | IPv6Address = host
    if isinstance(host, IPv6Address) and host.ipv4_mapped is not None:
        peer = host.ipv4_mapped
    return Endpoint(address=peer, port=address[1])
