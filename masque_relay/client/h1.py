"""Owns HTTP/1.1 below the client (RFC 9112): an HttpTransport with a TLS connection per request."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto

import h11

from masque_relay.client.errors import ClientError, RelayLeaving
from masque_relay.client.limits import TcpWayLimits
from masque_relay.http.codes import H3Error
from masque_relay.http.tcp_wire import TcpSession, Wire
from masque_relay.quic.application import H3Application, Headers

SETTINGS_ENABLE_CONNECT_PROTOCOL = 0x8
DIAL_ATTEMPTS = 8
"""For one request: another one may take the connection that was dialled, or the relay close it."""
_NEVER_ID = 1 << 62
"""Beyond every stream id: of a relay that goes away and processes all that was asked."""
_HOP_NAMES = frozenset({b"connection", b"upgrade"})

Begin = Callable[[Wire], TcpSession]
Dial = Callable[[Begin], Awaitable[None]]
"""Opens one TLS connection to the relay, and has ``Begin`` put a session on it."""


class _Phase(Enum):
    SPARE = auto()
    """Connected, nothing asked yet."""
    ASKED = auto()
    """No capsule may go out before the 101 (RFC 9931 section 3.1)."""
    BODY = auto()
    TUNNEL = auto()
    OVER = auto()


class _Socket:
    """One TLS connection and the request on it; a TcpSession."""

    def __init__(self, owner: "H1ClientTransport", wire: Wire) -> None:
        self.stream_id = -1
        self.out_bytes = 0
        self._owner = owner
        self._application = owner.application
        self._wire = wire
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=owner.limits.head_bytes)
        self._phase = _Phase.SPARE
        self._upgrade: bytes | None = None
        self._unread_bytes = 0
        self._out: deque[bytes] = deque()
        """What the socket does not take yet; bounded by those who send."""
        self._closes_when_sent = False

    @property
    def is_spare(self) -> bool:
        """Whether it is connected and free."""
        return self._phase is _Phase.SPARE

    # -- TcpSession ------------------------------------------------------------------------------

    def start(self) -> None:
        """Nothing: the request comes when somebody asks."""

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        match self._phase:
            case _Phase.TUNNEL:
                self._deliver(data)
            case _Phase.ASKED | _Phase.BODY:
                self._h11.receive_data(data)
                self._read()
            case _Phase.SPARE | _Phase.OVER:
                self._finish()

    def end_received(self) -> None:
        """The relay sends no more: of a tunnel, and of a body without a length, that is the end."""
        if self._phase is _Phase.TUNNEL:
            self._phase = _Phase.OVER
            self._application.data_received(self.stream_id, b"", end_stream=True)
            # ... and of the other direction; a tunnel that ended with it is not told twice
            self._application.stream_reset_received(self.stream_id, H3Error.CONNECT_ERROR)
        elif self._phase in {_Phase.ASKED, _Phase.BODY}:
            self._h11.receive_data(b"")
            self._read()
        self._finish()

    def writable(self) -> None:
        """Go on with what waited for the socket."""
        while self._out and not self._wire.is_congested:
            data = self._out.popleft()
            self.out_bytes -= len(data)
            self._wire.write(data)
        if not self._out and self._closes_when_sent:
            self._wire.close()
        self._application.streams_writable()

    def wire_lost(self) -> None:
        """The connection broke."""
        was_asked = self._phase in {_Phase.ASKED, _Phase.BODY, _Phase.TUNNEL}
        self._phase = _Phase.OVER
        self._owner.forget(self)
        if was_asked:
            self._application.stream_reset_received(self.stream_id, H3Error.CONNECT_ERROR)

    def overdue(self, now_s: float) -> bool:
        """A client's deadlines are those of its requests."""
        del now_s
        return False

    def expire(self) -> None:
        """Nothing expires here."""

    # -- for the transport -----------------------------------------------------------------------

    def ask(self, stream_id: int, headers: Headers) -> None:
        """Send a request that was made for HTTP/2 or 3."""
        self.stream_id = stream_id
        self._phase = _Phase.ASKED
        named = dict(headers)
        self._upgrade = named.get(b":protocol")
        fields = [(name, value) for name, value in headers if not name.startswith(b":")]
        fields.insert(0, (b"host", named[b":authority"]))
        method, target = named[b":method"], named.get(b":path", named[b":authority"])
        if self._upgrade is not None:  # RFC 9298 section 3.2
            method = b"GET"
            fields += [(b"connection", b"Upgrade"), (b"upgrade", self._upgrade)]
        request = h11.Request(method=method, target=target, headers=fields)
        self._write((self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b""))

    def send_data(self, data: bytes, *, end_stream: bool) -> None:
        """Send tunnel bytes.

        TLS here cannot be half-closed. The end of a capsule tunnel is the end of both directions;
        that of a classic CONNECT is held back until the target ends, or its answer would be lost.
        """
        if self._phase is not _Phase.TUNNEL:
            return
        if data:
            self._write(data)
        if end_stream and self._upgrade is not None:
            self._closes_when_sent = True
            if not self._out:
                self._wire.close()

    def consume(self, byte_count: int) -> None:
        """Read on once enough was read."""
        self._unread_bytes -= byte_count
        if self._unread_bytes <= self._owner.limits.stream_window_bytes // 2:
            self._wire.resume_reading()

    def abort(self) -> None:
        """Cut the connection off, without a word to the application."""
        self._phase = _Phase.OVER
        self._owner.forget(self)
        self._wire.abort()

    # -- parts -----------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take the response apart."""
        while self._phase in {_Phase.ASKED, _Phase.BODY}:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                self._malformed(str(error))
                return
            match event:
                case h11.InformationalResponse(status_code=101):
                    self._switched(event)
                case h11.InformationalResponse() | h11.Response():
                    self._answered(event)
                case h11.Data():
                    self._deliver(bytes(event.data))
                case h11.EndOfMessage():
                    self._phase = _Phase.OVER
                    self._application.data_received(self.stream_id, b"", end_stream=True)
                    self._finish()
                case _:
                    return

    def _switched(self, event: h11.InformationalResponse) -> None:
        """RFC 9298 section 3.3: 101, and the protocol that was asked for."""
        fields = dict(event.headers)
        if self._upgrade is None or fields.get(b"upgrade", b"").lower() != self._upgrade:
            self._malformed("it switched to a protocol that nobody asked for")
            return
        self._begin_tunnel([field for field in event.headers if field[0] not in _HOP_NAMES])

    def _answered(self, event: h11.InformationalResponse | h11.Response) -> None:
        fields = list(event.headers)
        is_ok = 200 <= event.status_code < 300
        if is_ok and self._upgrade is not None:
            self._malformed(f"it answered {event.status_code} and did not upgrade")
        elif is_ok and self._h11.our_state is h11.SWITCHED_PROTOCOL:  # classic CONNECT
            self._begin_tunnel(fields)
        else:
            if event.status_code >= 200:
                self._phase = _Phase.BODY
            head = [(b":status", b"%d" % event.status_code), *fields]
            self._application.headers_received(self.stream_id, head, end_stream=False)

    def _begin_tunnel(self, fields: Headers) -> None:
        self._phase = _Phase.TUNNEL
        rest = self._h11.trailing_data[0]
        head = [(b":status", b"200"), *fields]
        self._application.headers_received(self.stream_id, head, end_stream=False)
        if rest:
            self._deliver(rest)

    def _deliver(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        if self._unread_bytes > self._owner.limits.stream_window_bytes:
            self._wire.pause_reading()
        self._application.data_received(self.stream_id, data, end_stream=False)

    def _malformed(self, detail: str) -> None:
        self._application.malformed_received(self.stream_id, detail)
        self.abort()

    def _finish(self) -> None:
        """Close; a socket carries one request only."""
        self._phase = _Phase.OVER
        self._owner.forget(self)
        self._wire.close()

    def _write(self, data: bytes) -> None:
        if self._out or self._wire.is_congested:
            self._out.append(data)
            self.out_bytes += len(data)
        else:
            self._wire.write(data)


class H1ClientTransport:
    """As many HTTP/1.1 connections to a relay as there are requests; an HttpTransport.

    A relay that cannot be dialled any more counts as one that is leaving: what is open goes on.

    Args:
        application: told of what arrives.
        dial: opens one further TLS connection.
        limits: bounds.
    """

    http_version = "1.1"
    datagrams_negotiated = False
    queued_datagrams = 0
    exporter = None  # Python's ssl has none

    def __init__(self, application: H3Application, dial: Dial, *, limits: TcpWayLimits) -> None:
        self.application = application
        self.limits = limits
        self._dial = dial
        self._next_stream_id = 0
        self._spares: list[_Socket] = []
        self._sockets: dict[int, _Socket] = {}
        self._is_leaving = False
        self._is_closed = False

    def begin(self, wire: Wire) -> TcpSession:
        """Take over a TLS connection for the next request."""
        spare = _Socket(self, wire)
        self._spares.append(spare)
        return spare

    def started(self) -> None:
        """The first connection is there: HTTP/1.1 has no SETTINGS to wait for."""
        self.application.settings_received({SETTINGS_ENABLE_CONNECT_PROTOCOL: 1})

    # -- HttpTransport ---------------------------------------------------------------------------

    @property
    def request_limit(self) -> int:
        """How many sockets we may have at once."""
        return self.limits.sockets

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        """HTTP/1.1 has no datagrams."""
        del stream_id
        return 0

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """HTTP/1.1 has no datagrams."""
        del stream_id, prefix, payloads
        return 0

    async def prepare(self) -> None:
        """Dial, unless there is a spare connection.

        Raises:
            RelayLeaving: the relay can't be reached any more.
        """
        for _ in range(DIAL_ATTEMPTS):
            if self._spares:
                return
            try:
                await self._dial(self.begin)
            except ClientError as error:
                self._leave()
                raise RelayLeaving(error.message, hint=error.hint) from error
            if self._is_closed:
                self._cut_spares()
                return  # which whoever asks sees by itself
        if not self._spares:
            self._leave()
            raise RelayLeaving(
                "the relay closes every connection at once", hint="check its log; try again later"
            )

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        """Send a request on a spare connection; return its stream id."""
        del end_stream  # RFC 9112 section 6: without a length there is no body
        socket = self._spares.pop()
        stream_id = self._next_stream_id
        self._next_stream_id += 1
        self._sockets[stream_id] = socket
        socket.ask(stream_id, headers)
        return stream_id

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Send tunnel bytes."""
        if (socket := self._sockets.get(stream_id)) is not None:
            socket.send_data(data, end_stream=end_stream)

    def unsent_bytes(self, stream_id: int) -> int:
        """Bytes that the socket does not take yet."""
        socket = self._sockets.get(stream_id)
        return 0 if socket is None else socket.out_bytes

    def consume(self, stream_id: int, byte_count: int) -> None:
        """Read on once enough was read."""
        if (socket := self._sockets.get(stream_id)) is not None:
            socket.consume(byte_count)

    def reset(self, stream_id: int, error_code: int) -> None:
        """Cut the connection off: HTTP/1.1 has no other way, and no codes."""
        del error_code
        if (socket := self._sockets.get(stream_id)) is not None:
            socket.abort()

    def ping(self) -> None:
        """HTTP/1.1 has none; the kernel's keep-alives watch the sockets."""

    def close(self, error_code: int, reason: str) -> None:
        """Close all sockets."""
        del error_code, reason
        self._is_closed = True
        self._cut_spares()
        for socket in tuple(self._sockets.values()):
            socket.abort()

    # -- for the sockets -------------------------------------------------------------------------

    def forget(self, socket: _Socket) -> None:
        """A socket is over."""
        if socket in self._spares:
            self._spares.remove(socket)
        self._sockets.pop(socket.stream_id, None)
        if self._is_leaving and not self._sockets and not self._is_closed:
            self._end()

    def _leave(self) -> None:
        self._is_leaving = True
        self.application.goaway_received(_NEVER_ID)
        if not self._sockets:
            self._end()

    def _end(self) -> None:
        self._is_closed = True
        self.application.connection_lost(H3Error.NO_ERROR, "it can't be reached any more")

    def _cut_spares(self) -> None:
        for spare in tuple(self._spares):
            spare.abort()
