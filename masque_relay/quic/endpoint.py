"""Owns QuicEndpoint: UDP sockets, the turn of the loop, and which connection a packet belongs to.

One turn: read up to a bounded number of datagrams, sort them by connection ID, hand each connection
its packets in one call, then flush every connection that has something to say, then arm one timer
for all. No task and no asyncio timer per connection; an exception of one connection ends that one.
"""

import asyncio
import contextlib
import logging
from ipaddress import IPv4Address, IPv6Address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import Clock, DatagramSocketFactory, ReceivedBatch
from masque_relay.quic.adapter import AdapterOwner, QuicAdapter
from masque_relay.quic.admission import Admission
from masque_relay.quic.application import ApplicationFactory, QuicTransport
from masque_relay.quic.connecting import accept_connection, open_connection
from masque_relay.quic.connection_settings import ClientSettings, ServerSettings, server_settings
from masque_relay.quic.doorkeeper import Doorkeeper
from masque_relay.quic.lobby import Lobby
from masque_relay.quic.packet import CONNECTION_ID_BYTES
from masque_relay.quic.qlog import QlogDirectory, open_key_log
from masque_relay.quic.settings import ClientTls, ConnectFailed, EndpointSettings
from masque_relay.quic.table import Connection, ConnectionTable, Port
from masque_relay.quic.timers import Alarm, DeadlineHeap

logger = logging.getLogger(__name__)

_CID_END = 1 + CONNECTION_ID_BYTES
_CRASHED = "bug: a connection failed in %s and is dropped: %s"


class QuicEndpoint(AdapterOwner):
    """QUIC on UDP sockets, server and client in one. Lives in one event loop; close it there."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        socket_factory: DatagramSocketFactory,
        clock: Clock,
        counters: QuicCounters,
    ) -> None:
        self._bind = socket_factory
        self._clock = clock
        self._counters = counters
        self._settings = settings
        self._admission = Admission(settings.limits, counters)
        self._doorkeeper = Doorkeeper(
            self._admission, counters, settings.limits, settings.secrets, settings.new_connection_id
        )
        self._qlog = QlogDirectory(settings.qlog_directory) if settings.qlog_directory else None
        self._key_log = open_key_log(settings.key_log_file) if settings.key_log_file else None
        self._server = self._server_settings(settings)
        self._listeners: list[Port] = []
        self._table = ConnectionTable()
        self._connections = self._table.by_adapter
        self._lobby = Lobby(self._doorkeeper, self._admission, counters, clock, settings.neighbours)
        self._dirty: dict[QuicAdapter, None] = {}
        self._deadlines: DeadlineHeap[Connection] = DeadlineHeap()
        self._alarm = Alarm(clock, self._on_timer)
        self._in_turn = False
        self._turn_scheduled = False
        self._emptied: asyncio.Event | None = None
        self._closed = False

    # -- life ------------------------------------------------------------------------------------

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """Accept connections on an address from now on; return it with the real port.

        ``[::]`` takes IPv4 too. May be called several times.

        Raises:
            FlowError: the address is taken or not ours.
            ValueError: the endpoint has no certificates.
        """
        if self._server is None:
            msg = "an endpoint without certificates cannot listen"
            raise ValueError(msg)
        port = self._open_port(endpoint)
        self._listeners.append(port)
        return port.socket.local

    async def connect(
        self,
        destination: Endpoint,
        *,
        server_name: str,
        alpn: str,
        application: ApplicationFactory,
        tls: ClientTls | None = None,
        timeout_s: float = 10.0,
    ) -> QuicTransport:
        """Open a connection from a socket of its own; return it once the handshake is complete.

        Raises:
            ConnectFailed: refused, not trusted, or no answer in time.
            FlowError: no socket to be had.
        """
        tls = tls or ClientTls()
        is_ipv4 = isinstance(destination.address, IPv4Address)
        wildcard = IPv4Address(0) if is_ipv4 else IPv6Address(0)
        port = self._open_port(Endpoint(address=wildcard, port=0))
        now_s = self._clock.monotonic_s()
        adapter = open_connection(
            ClientSettings(
                applications={alpn: application},
                server_name=server_name,
                ca_pem=tls.ca_pem,
                insecure_skip_verify=tls.insecure_skip_verify,
                identity=tls.identity,
                limits=self._settings.limits,
                quic_logger=self._qlog,
                secrets_log=self._key_log,
            ),
            owner=self,
            counters=self._counters,
            destination=(str(destination.address), destination.port),
            now=now_s,
        )
        connection = Connection(adapter, port, handshake_due_s=now_s + timeout_s)
        connection.waiter = asyncio.get_running_loop().create_future()
        port.client = connection
        self._table.add(connection)
        self.adapter_dirty(adapter)
        try:
            # The deadline of the handshake ends the wait.
            await connection.waiter
        except asyncio.CancelledError:
            self._end(connection, "connect was cancelled")
            raise
        return adapter

    def apply(self, settings: EndpointSettings) -> None:
        """Use other settings for new connections and packets; what is open goes on as it is.

        Where diagnostics go and whether there are certificates at all cannot change.
        """
        self._settings = settings
        self._admission.replace_limits(settings.limits)
        self._doorkeeper.replace(settings.limits, settings.secrets)
        self._server = self._server_settings(settings)

    def drain(self) -> None:
        """Refuse new connections from now on; the others live."""
        self._admission.draining = True

    async def close(self, *, error_code: int = 0, reason: str = "", timeout_s: float = 1.0) -> None:
        """Close every connection with a transport error code, then the sockets. Idempotent.

        Waits for at most ``timeout_s`` so that a CONNECTION_CLOSE that was lost can be repeated.
        """
        if self._closed:
            return
        self._closed = True
        self.drain()
        self._lobby.clear()
        for connection in list(self._connections.values()):
            if not connection.adapter.is_closing:
                connection.adapter.close_transport(error_code, reason)
            self._dirty[connection.adapter] = None
        self._finish_turn(self._clock.monotonic_s())
        if self._connections and timeout_s > 0:
            self._emptied = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), timeout_s)
        self._shut()

    def snapshot(self) -> dict[str, object]:
        """Return the state of the endpoint for a status page; JSON-ready, without identities."""
        return {
            "listeners": [str(port.socket.local) for port in self._listeners],
            "connections_open": len(self._connections),
            "connections_half_open": self._admission.half_open_count,
            "retry_active": self._admission.retry_wanted(self._clock.monotonic_s()),
            "draining": self._admission.draining,
        }

    # -- AdapterOwner ----------------------------------------------------------------------------

    def adapter_dirty(self, adapter: QuicAdapter) -> None:
        """Flush this adapter at the end of the running turn, or in one of its own."""
        self._dirty[adapter] = None
        self._want_turn()

    def connection_id_issued(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        """Route an ID."""
        self._table.issue(adapter, connection_id)

    def connection_id_retired(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        """Route an ID no more."""
        self._table.retire(adapter, connection_id)

    def handshake_completed(self, adapter: QuicAdapter) -> None:
        """Count it; wake whoever waits for it."""
        connection = self._connections.get(adapter)
        if connection is None or connection.handshake_due_s is None:
            return
        connection.handshake_due_s = None
        self._counters.handshakes_completed += 1
        connection.count_way(self._counters)
        if connection.key is not None:
            self._admission.established()
        if connection.waiter is not None and not connection.waiter.done():
            connection.waiter.set_result(None)

    def peer_moved(self, adapter: QuicAdapter) -> None:
        """Answer through the socket that the authenticated packet came by."""
        connection = self._connections.get(adapter)
        if connection is not None:
            connection.port = connection.arrival

    def adapter_terminated(self, adapter: QuicAdapter) -> None:
        """Forget a connection: O(its own connection IDs)."""
        connection = self._connections.get(adapter)
        if connection is not None:
            self._forget(connection)

    # -- a turn: receive -------------------------------------------------------------------------

    def take_handed_over(self, batches: list[ReceivedBatch]) -> None:
        """Take packets that a neighbour received; whatever they are, they end here."""
        if not self._listeners:
            return
        neighbours, self._lobby.neighbours = self._lobby.neighbours, None
        try:
            self._take(self._listeners[0], batches)
        finally:
            self._lobby.neighbours = neighbours

    def _on_readable(self, port: Port) -> None:
        self._take(port, port.receive(self._settings.limits.receive_batch_count))

    def _take(self, port: Port, batches: list[ReceivedBatch]) -> None:
        now_s = self._clock.monotonic_s()
        self._in_turn = True
        try:
            ready: list[Connection] = []
            for batch in batches:
                self._sort(port, batch, ready, now_s)
            for connection in ready:
                self._deliver(connection, now_s)
        finally:
            self._in_turn = False
            self._finish_turn(now_s)

    def _sort(
        self, port: Port, batch: ReceivedBatch, ready: list[Connection], now_s: float
    ) -> None:
        counters = self._counters
        counters.datagrams_received += len(batch.payloads)
        counters.bytes_received += sum(map(len, batch.payloads))
        by_cid = self._table.by_cid
        source = batch.source
        run_cid: bytes | None = None
        inbox: list[bytes] = []
        for data in batch.payloads:
            cid = data[1:_CID_END]
            # A run of 1-RTT packets of one connection: the common case, without a look-up each.
            if cid == run_cid and data[0] & 0xC0 == 0x40:
                inbox.append(data)
                continue
            run_cid = None
            connection = by_cid.get(cid) if data and data[0] & 0xC0 == 0x40 else None
            if connection is None:
                connection = self._find(port, data, source, now_s)
                if connection is None:
                    continue
            elif len(cid) == CONNECTION_ID_BYTES:
                run_cid = cid
            if connection.inbox and connection.source != source:
                # The peer moves within this turn: keep its packets in order.
                self._deliver(connection, now_s)
            if not connection.inbox:
                ready.append(connection)
                connection.source = source
                connection.arrival = port
            inbox = connection.inbox
            inbox.append(data)

    def _find(
        self, port: Port, data: bytes, source: tuple[str, int], now_s: float
    ) -> Connection | None:
        """Return whose a packet is when it is no 1-RTT packet with a known ID."""
        if port.client is not None and data:
            # A socket of one connection: its adapter tells a stateless reset from noise.
            return port.client
        if len(data) > 6 and data[0] & 0x80:
            known = self._table.find_long(data[6 : 6 + data[5]])
            if known is not None:
                return known
        answer = self._lobby.meet(port, data, source, now_s)
        if answer is not None:
            self._send(port, [answer], source)
        return None

    def _deliver(self, connection: Connection, now_s: float) -> None:
        packets, connection.inbox = connection.inbox, []
        if not packets or connection.adapter not in self._connections:
            return
        self._dirty[connection.adapter] = None
        try:
            connection.adapter.receive_packets(packets, connection.source, now_s)
        except Exception:
            logger.exception(_CRASHED, "receive", connection.adapter.connection_id)
            self._end(connection, "internal error")

    # -- a turn: begin connections ---------------------------------------------------------------

    def _begin(self, server: ServerSettings, now_s: float) -> None:
        for waiting in self._lobby.leave():
            newcomer = waiting.newcomer
            try:
                adapter = accept_connection(
                    server,
                    owner=self,
                    counters=self._counters,
                    source=waiting.source,
                    original_destination_cid=newcomer.original_destination_cid,
                    retry_source_cid=newcomer.retry_source_cid,
                )
            except Exception:
                # For instance a certificate that cannot sign: this peer is out, others go on.
                logger.exception("bug: a connection could not be accepted")
                self._admission.closed(newcomer.key, half_open=True)
                continue
            due_s = now_s + self._settings.limits.handshake_timeout_s
            connection = Connection(adapter, waiting.port, handshake_due_s=due_s)
            connection.key = newcomer.key
            connection.initial_cid = waiting.initial_cid
            connection.inbox = waiting.packets
            connection.source = waiting.source
            self._table.add(connection)
            self._deliver(connection, now_s)

    # -- a turn: send ----------------------------------------------------------------------------

    def _want_turn(self) -> None:
        if not self._in_turn and not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._on_turn)

    def _on_turn(self) -> None:
        self._turn_scheduled = False
        self._finish_turn(self._clock.monotonic_s())

    def _finish_turn(self, now_s: float) -> None:
        """Begin newcomers, flush whoever has something to say, arm the timer."""
        self._in_turn = True
        try:
            if self._server is not None and self._lobby:
                self._begin(self._server, now_s)
            # One pass: what a flush makes dirty again is flushed in a turn of its own.
            dirty, self._dirty = self._dirty, {}
            for adapter in dirty:
                connection = self._connections.get(adapter)
                if connection is not None:
                    self._flush(connection, now_s)
        finally:
            self._in_turn = False
        if self._dirty or self._lobby:
            self._want_turn()
        self._alarm.set(self._deadlines.next_s())

    def _flush(self, connection: Connection, now_s: float) -> None:
        adapter = connection.adapter
        quiet_until_s = adapter.quiet_timer(now_s) if connection.handshake_due_s is None else None
        if quiet_until_s is not None:
            self._deadlines.set(connection, quiet_until_s)
            return
        try:
            for payloads, destination in adapter.packets_to_send(now_s):
                connection.answered = True
                self._send(connection.port, payloads, destination)
            due_s = adapter.next_timer()
        except Exception:
            logger.exception(_CRASHED, "send", connection.adapter.connection_id)
            self._end(connection, "internal error")
            return
        if adapter not in self._connections:
            return
        if not connection.answered:
            # Nothing to say to its first packets: they were no Initial that can be decrypted.
            self._counters.packets_unroutable += 1
            self._end(connection, "nothing readable in the first packet")
            return
        if connection.waiter is not None and adapter.termination is not None:
            # Refused: whoever waits need not wait for the closing period too.
            self._fail_waiter(connection)
        handshake_due_s = connection.handshake_due_s
        if handshake_due_s is not None and (due_s is None or handshake_due_s < due_s):
            due_s = handshake_due_s
        self._deadlines.set(connection, due_s)

    def _send(self, port: Port, payloads: list[bytes], destination: tuple[str, int]) -> None:
        counters = self._counters
        sent = port.socket.send_batch(payloads, destination)
        counters.datagrams_sent += sent
        if sent == len(payloads):
            counters.bytes_sent += sum(map(len, payloads))
        else:
            # Which ones were lost is not known; QUIC recovers, the figure is for operators.
            counters.sends_dropped += len(payloads) - sent
            counters.bytes_sent += sum(map(len, payloads)) * sent // len(payloads)

    # -- time ------------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        for port in self._listeners:
            for batches in port.backlog(self._settings.limits.receive_batch_count):
                self._take(port, batches)
        now_s = self._clock.monotonic_s()
        self._in_turn = True
        try:
            for connection in self._deadlines.pop_due(now_s):
                self._handle_due(connection, now_s)
        finally:
            self._in_turn = False
            self._finish_turn(now_s)

    def _handle_due(self, connection: Connection, now_s: float) -> None:
        adapter = connection.adapter
        if adapter not in self._connections:
            return
        if connection.handshake_due_s is not None and connection.handshake_due_s <= now_s:
            self._counters.handshakes_expired += 1
            self._end(connection, "the handshake took too long")
            return
        self._dirty[adapter] = None
        try:
            adapter.handle_timer(now_s)
        except Exception:
            logger.exception(_CRASHED, "timer", connection.adapter.connection_id)
            self._end(connection, "internal error")

    # -- ends ------------------------------------------------------------------------------------

    def _end(self, connection: Connection, reason: str) -> None:
        """Forget a connection without a word to the peer."""
        try:
            connection.adapter.abandon(reason)
        except Exception:
            logger.exception("A connection failed while it was dropped (bug)")
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        if not self._table.remove(connection):
            return
        self._counters.connections_closed += 1
        connection.uncount_way(self._counters)
        self._deadlines.cancel(connection)
        if connection.key is not None:
            self._admission.closed(connection.key, half_open=connection.handshake_due_s is not None)
        else:
            self._close_port(connection.port)
        self._fail_waiter(connection)
        if not self._connections and self._emptied is not None:
            self._emptied.set()

    def _fail_waiter(self, connection: Connection) -> None:
        waiter = connection.waiter
        if waiter is not None and not waiter.done():
            error_code, reason = connection.adapter.termination or (None, "the connection is over")
            waiter.set_exception(ConnectFailed(error_code, reason))

    def _shut(self) -> None:
        for connection in list(self._connections.values()):
            self._end(connection, "the endpoint was closed")
        for port in self._listeners:
            self._close_port(port)
        self._listeners.clear()
        self._alarm.cancel()
        if self._qlog is not None:
            self._qlog.close()
        if self._key_log is not None:
            self._key_log.close()

    # -- sockets ---------------------------------------------------------------------------------

    def _open_port(self, endpoint: Endpoint) -> Port:
        port = Port(self._bind(endpoint))
        asyncio.get_running_loop().add_reader(port.socket.fileno(), self._on_readable, port)
        return port

    def _close_port(self, port: Port) -> None:
        descriptor = port.socket.fileno()
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
            port.socket.close()

    def _server_settings(self, settings: EndpointSettings) -> ServerSettings | None:
        return server_settings(
            settings,
            reset_token_for=self._doorkeeper.reset_tokens.token_for,
            quic_logger=self._qlog,
            secrets_log=self._key_log,
        )
