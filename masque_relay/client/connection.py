"""Owns RelayConnection: one connection to a relay, and which stream belongs to whom."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.errors import (
    ClientError,
    ConnectionLost,
    RelayIncapable,
    RelayLeaving,
    RelayTimeout,
)
from masque_relay.client.exchange import Exchange, Response
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import UdpTunnel, udp_request
from masque_relay.contract.address import Target
from masque_relay.http.codes import H3Error
from masque_relay.wire.connect_tcp import CapsuleFraming, DataCapsuleTypes, RawFraming, TcpFraming
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, UDP_PAYLOAD_CONTEXT
from masque_relay.wire.wrap_up import WrapUpReader

SETTINGS_ENABLE_CONNECT_PROTOCOL = 0x8  # RFC 9220 section 3
_HIGH_STREAM_ID = 65_532  # the last whose quarter stream ID takes two bytes


class StreamHandler(Protocol):
    """What belongs to one request stream."""

    def headers_received(self, headers: Headers, *, end_stream: bool) -> None:
        """A response head (1xx included), or trailers."""
        ...

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Body bytes; the handler grants the credit."""
        ...

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """HTTP Datagram payloads."""
        ...

    def reset_received(self, detail: str) -> None:
        """The stream is over, not cleanly. The last call."""
        ...

    def connection_lost(self, error: ClientError) -> None:
        """The connection is over. The last call."""
        ...


class RelayConnection:
    """HTTP as a client, on any version. Any number of tunnels and requests at once.

    The transport below is attached once and tells everything that arrives (an H3Application, which
    the transports of the other versions feed alike). Wait for :meth:`wait_ready` first.

    Attributes:
        is_leaving: the relay sent GOAWAY or WRAP_UP; what is open goes on, nothing new is taken.
        unknown_datagram_count: datagrams for a stream that is over or never was.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self.is_leaving = False
        self.unknown_datagram_count = 0
        self._limits = limits
        self._transport: HttpTransport | None = None
        self._handlers: dict[int, StreamHandler] = {}
        self._blocked: set[TcpTunnel] = set()
        """Those whose writers wait for room."""
        self._lost: ConnectionLost | None = None
        self._watchers: list[Callable[[], None]] = []
        self._settings: asyncio.Future[Mapping[int, int]] = (
            asyncio.get_running_loop().create_future()
        )

    def attach(self, transport: HttpTransport) -> None:
        """Use a transport that will tell us of what arrives."""
        self._transport = transport

    # -- state -----------------------------------------------------------------------------------

    @property
    def lost(self) -> ConnectionLost | None:
        """Why the connection is over; None while it lives."""
        return self._lost

    @property
    def stream_count(self) -> int:
        """Tunnels and requests that are open, opening or ending."""
        return len(self._handlers)

    @property
    def has_room(self) -> bool:
        """Whether one more request may be opened."""
        return (
            self._transport is not None
            and self._lost is None
            and not self.is_leaving
            and self.stream_count < min(self._limits.tunnels, self._transport.request_limit)
        )

    @property
    def http_version(self) -> str:
        """``"3"``, ``"2"`` or ``"1.1"``; empty before there is a transport."""
        return "" if self._transport is None else self._transport.http_version

    @property
    def datagrams_negotiated(self) -> bool:
        """Whether tunnels use QUIC datagrams, and not capsules."""
        return self._transport is not None and self._transport.datagrams_negotiated

    @property
    def max_udp_payload_bytes(self) -> int:
        """The largest UDP payload that fits any tunnel of this connection now.

        One or two bytes less than a tunnel of a low number takes, so that the figure does not
        change with the number of tunnels that were opened. 0 while there is no connection.
        """
        if self._transport is None or self._lost is not None:
            return 0
        if not self._transport.datagrams_negotiated:
            return MAX_UDP_PAYLOAD_BYTES
        room = self._transport.max_http_datagram_bytes(_HIGH_STREAM_ID)
        return max(0, min(room - len(UDP_PAYLOAD_CONTEXT), MAX_UDP_PAYLOAD_BYTES))

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` when the connection is lost, its relay is leaving, or a stream ended."""
        self._watchers.append(changed)

    async def wait_settings(self) -> Mapping[int, int]:
        """Wait for the peer's SETTINGS: from then on ordinary requests may be sent.

        Raises:
            RelayTimeout: none came within ``limits.settings_timeout_s``.
            ConnectionLost: the connection ended before.
        """
        try:
            async with asyncio.timeout(self._limits.settings_timeout_s):
                return await asyncio.shield(self._settings)
        except TimeoutError:
            raise RelayTimeout(
                "the relay accepted the connection but sent no HTTP/3 SETTINGS within "
                f"{self._limits.settings_timeout_s:g} s",
                hint="check that --relay names a relay",
            ) from None

    async def wait_ready(self) -> None:
        """Wait for the relay's SETTINGS and check that it takes extended CONNECT.

        Raises:
            RelayTimeout: no SETTINGS within ``limits.settings_timeout_s``.
            RelayIncapable: SETTINGS without ENABLE_CONNECT_PROTOCOL.
            ConnectionLost: the connection ended before.
        """
        settings = await self.wait_settings()
        # RFC 9220 section 3: a client must not send :protocol before it has seen this
        if settings.get(SETTINGS_ENABLE_CONNECT_PROTOCOL) != 1:
            raise RelayIncapable(
                "what answers there speaks HTTP/3 but takes no extended CONNECT",
                hint="check that --relay names a relay, and not a web site",
            )

    # -- what a client asks for ------------------------------------------------------------------

    async def open_tunnel(
        self,
        request: TunnelRequest,
        user: TunnelUser,
        *,
        authority: str,
        authorization: bytes | None = None,
    ) -> TunnelStream:
        """Open a tunnel by extended CONNECT, or Upgrade in HTTP/1.1, and wait for the answer.

        Args:
            request: what to ask for.
            user: told of everything, also of a tunnel that never opened.
            authority: the relay's own host and port.
            authorization: the value of the ``authorization`` field.

        Raises:
            TunnelRefused: the relay said no.
            RelayTimeout: it said nothing in time.
            RelayLeaving: it takes no new tunnels on this connection.
            ConnectionLost: the connection is over.
        """
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":protocol", request.protocol.encode("ascii")),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
            (b":path", request.path.encode("ascii")),
            (b"capsule-protocol", b"?1"),
            *request.headers,
        ]
        if authorization is not None:
            headers.append((b"authorization", authorization))
        transport = await self._ready_transport()
        stream_id = transport.open_request(headers, end_stream=False)
        stream = TunnelStream(
            transport,
            stream_id,
            request,
            user,
            limits=self._limits,
            credential_sent=authorization is not None,
            forget=self._forget,
            wrap_up=self._leave,
        )
        self._handlers[stream_id] = stream
        await stream.wait_open()
        return stream

    async def open_udp(
        self,
        target: Target,
        *,
        authority: str,
        path: str,
        authorization: bytes | None = None,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        """Open a CONNECT-UDP tunnel (RFC 9298 section 3.4) and wait for the relay's answer.

        Args:
            target: for messages; the relay reads the target out of ``path``.
            authority: the relay's own host and port.
            path: the expanded URI template.
            authorization: the value of the ``authorization`` field.
            on_batch: takes received payloads; without it they wait for ``receive()``.
            on_closed: called once when the tunnel is over, also when it never opened.

        Raises:
            TunnelRefused: the relay said no.
            RelayTimeout: it said nothing in time.
            RelayLeaving: it takes no new tunnels on this connection.
            ConnectionLost: the connection is over.
        """
        tunnel = UdpTunnel(target, limits=self._limits, on_batch=on_batch, on_closed=on_closed)
        await self.open_tunnel(
            udp_request(target, path), tunnel, authority=authority, authorization=authorization
        )
        return tunnel

    async def open_tcp(
        self,
        target: Target,
        *,
        authorization: bytes | None = None,
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> TcpTunnel:
        """Open a TCP connection by classic CONNECT (RFC 9114 section 4.4); wait for the answer.

        Args:
            target: where to; a name goes to the relay as a name.
            authorization: the value of the ``proxy-authorization`` field (RFC 9110 section 11.7).
            fields: further ones, names in lower case.

        Raises:
            TunnelRefused: the relay said no, or could not reach the target.
            RelayTimeout: it said nothing in time.
            RelayLeaving: it takes nothing new on this connection.
            ConnectionLost: the connection is over.
        """
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":authority", str(target).encode("ascii")),
            *fields,
        ]
        if authorization is not None:
            headers.append((b"proxy-authorization", authorization))
        return await self._open_bytes(
            target, headers, RawFraming(), credential_sent=authorization is not None
        )

    async def open_templated_tcp(
        self,
        target: Target,
        *,
        authority: str,
        path: str,
        capsule_types: DataCapsuleTypes | None = None,
        authorization: bytes | None = None,
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> TcpTunnel:
        """Open a TCP connection by ``connect-tcp`` (draft-ietf-httpbis-connect-tcp-18).

        Args:
            target: for messages; the relay reads the target out of ``path``.
            authority: the relay's own host and port.
            path: the expanded URI template.
            capsule_types: those of DATA and FINAL_DATA; by default the draft's for tests.
            authorization: the value of the ``authorization`` field.
            fields: further ones, names in lower case.

        Raises:
            ClientError: as :meth:`open_tcp`.
        """
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":protocol", b"connect-tcp"),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
            (b":path", path.encode("ascii")),
            (b"capsule-protocol", b"?1"),
            *fields,
        ]
        if authorization is not None:
            headers.append((b"authorization", authorization))
        framing = CapsuleFraming(capsule_types or DataCapsuleTypes(), WrapUpReader(self._leave))
        return await self._open_bytes(
            target, headers, framing, credential_sent=authorization is not None
        )

    async def request(
        self,
        method: str,
        *,
        authority: str,
        path: str = "/",
        fields: Sequence[tuple[bytes, bytes]] = (),
    ) -> Response:
        """Send an ordinary request without a body and return the whole response.

        ``fields`` follow the pseudo-headers; their names are in lower case.

        Raises:
            RelayTimeout: not complete within ``limits.request_timeout_s``.
            ClientError: the response is too large, broke off or was malformed.
            ConnectionLost: the connection is over.
        """
        transport = await self._ready_transport()
        headers: Headers = [
            (b":method", method.encode("ascii")),
            (b":scheme", b"https"),
            (b":authority", authority.encode("ascii")),
            (b":path", path.encode("ascii")),
            *fields,
        ]
        stream_id = transport.open_request(headers, end_stream=True)
        exchange = Exchange(transport, stream_id, limits=self._limits)
        self._handlers[stream_id] = exchange
        try:
            return await exchange.wait()
        finally:
            self._forget(stream_id)

    def ping(self) -> None:
        """Ask for a sign of life, so that NATs and idle timeouts see traffic."""
        if self._transport is not None and self._lost is None:
            self._transport.ping()

    def close(self, error: ConnectionLost | None = None) -> None:
        """Close the connection and all that is on it; idempotent.

        Args:
            error: what tunnels are told; by default that their user closed the connection.
        """
        if self._transport is not None and self._lost is None:
            self._transport.close(H3Error.NO_ERROR, "")
        self._end(error or ConnectionLost("the connection was closed by its user"))

    # -- H3Application ---------------------------------------------------------------------------

    def settings_received(self, settings: Mapping[int, int]) -> None:
        """The relay is ready for requests."""
        if not self._settings.done():
            self._settings.set_result(settings)

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        """A response head."""
        handler = self._handlers.get(stream_id)
        if handler is not None:
            handler.headers_received(headers, end_stream=end_stream)

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        """Body bytes, or capsules."""
        handler = self._handlers.get(stream_id)
        if handler is not None:
            handler.data_received(data, end_stream=end_stream)
        elif self._transport is not None:
            self._transport.consume(stream_id, len(data))

    def malformed_received(self, stream_id: int, detail: str) -> None:
        """A response that breaks HTTP/3 ends its stream only."""
        handler = self._handlers.get(stream_id)
        if handler is not None:
            handler.reset_received(f"malformed response ({detail})")

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        """HTTP Datagrams."""
        handler = self._handlers.get(stream_id)
        if handler is None:
            self.unknown_datagram_count += len(payloads)
        else:
            handler.datagrams_received(payloads)

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        """The relay broke a stream off."""
        handler = self._handlers.get(stream_id)
        if handler is not None:
            handler.reset_received(f"stream error {error_code:#x}")

    def goaway_received(self, stream_id: int) -> None:
        """The relay is going away (RFC 9114 section 5.2); requests from this id on never ran."""
        self.is_leaving = True
        for handler in [self._handlers[known] for known in self._handlers if known >= stream_id]:
            handler.reset_received("the relay is going away")
        self._leave()

    def streams_writable(self) -> None:
        """Acknowledgements arrived; only TCP waits for room, datagrams are dropped instead."""
        for tunnel in tuple(self._blocked):
            tunnel.writable()

    def connection_lost(self, error_code: int, reason: str) -> None:
        """The connection is over."""
        detail = f": {reason}" if reason else ""
        self._end(ConnectionLost(f"the connection to the relay is over ({error_code:#x}{detail})"))

    # -- parts -----------------------------------------------------------------------------------

    async def _open_bytes(
        self, target: Target, headers: Headers, framing: TcpFraming, *, credential_sent: bool
    ) -> TcpTunnel:
        transport = await self._ready_transport()
        stream_id = transport.open_request(headers, end_stream=False)
        tunnel = TcpTunnel(
            transport,
            stream_id,
            target,
            framing=framing,
            limits=self._limits,
            credential_sent=credential_sent,
            blocked=self._blocked,
            forget=self._forget,
        )
        self._handlers[stream_id] = tunnel
        await tunnel.wait_open()
        return tunnel

    async def _ready_transport(self) -> HttpTransport:
        """Return the transport, with room for one more request."""
        transport = self._usable_transport()
        await transport.prepare()
        return self._usable_transport()

    def _usable_transport(self) -> HttpTransport:
        if self._lost is not None:
            raise self._lost
        if self._transport is None or not self._settings.done():
            raise ConnectionLost("the connection is not set up yet", hint="await connect() first")
        if self.is_leaving:
            raise RelayLeaving("the relay is going away", hint="connect again, or to another one")
        return self._transport

    def _leave(self) -> None:
        """The relay wants nothing new here: GOAWAY, or WRAP_UP on any of the tunnels."""
        self.is_leaving = True
        self._tell_watchers()

    def _forget(self, stream_id: int) -> None:
        if self._handlers.pop(stream_id, None) is not None:
            self._tell_watchers()

    def _end(self, error: ConnectionLost) -> None:
        if self._lost is not None:
            return
        self._lost = error
        if not self._settings.done():
            self._settings.set_exception(error)
            self._settings.exception()  # nobody may be waiting; that is no error
        handlers, self._handlers = list(self._handlers.values()), {}
        for handler in handlers:
            handler.connection_lost(error)
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for changed in list(self._watchers):
            changed()
