"""Owns one TLS connection of the TCP listener: from its handshake to its last byte."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import Clock
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_tls import peer_chain
from masque_relay.http.tcp_wire import TcpSession, Wire

WRITE_HIGH_WATER_BYTES = 65_536
"""What the socket's buffer may hold before sessions keep their bytes to themselves."""

_TLS_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpLink:
    """Who is at the other end (a ClientLink)."""

    connection_id: str
    peer: Endpoint
    server_name: str | None
    peer_certificate_chain: tuple[bytes, ...]
    tls_version: int
    alpn: str | None


class ConnectionOwner(Protocol):
    """What a connection needs of its listener."""

    def begin(self, connection: "TcpConnection", link: TcpLink) -> TcpSession:
        """The handshake is complete: return what the connection is to feed."""
        ...

    def lost(self, connection: "TcpConnection") -> None:
        """The connection is gone; called once, handshake complete or not."""
        ...


class TcpConnection(asyncio.Protocol):
    """Between asyncio's TLS transport and a session; a Wire for that session.

    Attributes:
        is_established: the TLS handshake is complete.
        peer: the client's address.
    """

    def __init__(
        self,
        owner: ConnectionOwner,
        peer: Endpoint,
        *,
        connection_id: str,
        limits: TcpLimits,
        clock: Clock,
    ) -> None:
        self._owner = owner
        self.peer = peer
        self._connection_id = connection_id
        self._limits = limits
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._session: TcpSession | None = None
        self._congested_since_s: float | None = None
        self._is_reading = True
        self._cutting: asyncio.TimerHandle | None = None
        self.is_established = False

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TLS handshake is complete."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self.is_established = True
        tls: ssl.SSLObject = transport.get_extra_info("ssl_object")
        link = TcpLink(
            connection_id=self._connection_id,
            peer=self.peer,
            server_name=getattr(tls, "client_server_name", None),
            peer_certificate_chain=peer_chain(tls),
            tls_version=_TLS_VERSIONS.get(tls.version() or "", 0),
            alpn=tls.selected_alpn_protocol(),
        )
        self._session = self._owner.begin(self, link)
        self._session.start()

    def data_received(self, data: bytes) -> None:
        """Feed the session."""
        if self._session is not None:
            self._session.data_received(data)

    def eof_received(self) -> bool:
        """Tell the session; TLS transports close whatever we return."""
        if self._session is not None:
            self._session.end_received()
        return False

    def pause_writing(self) -> None:
        """The socket is full."""
        self._congested_since_s = self._clock.monotonic_s()

    def resume_writing(self) -> None:
        """The socket has room."""
        self._congested_since_s = None
        if self._session is not None:
            self._session.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody."""
        if self._cutting is not None:
            self._cutting.cancel()
        self._transport = None
        session, self._session = self._session, None
        if session is not None:
            session.wire_lost()
        self._owner.lost(self)

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
        """Let the peer wait."""
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if not self._is_reading and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        """Close once everything is sent, or at the deadline."""
        if self._transport is not None and self._cutting is None:
            self._cutting = asyncio.get_running_loop().call_later(
                self._limits.close_timeout_s, self.abort
            )
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()

    # What the listener calls.

    def enforce_deadlines(self, now_s: float, passed: Callable[[], None]) -> None:
        """Close a connection whose peer takes too long; ``passed`` counts it."""
        session = self._session
        if session is None or self._cutting is not None:
            return
        since_s = self._congested_since_s
        if since_s is not None and now_s - since_s > self._limits.write_timeout_s:
            passed()
            self.abort()
        elif session.overdue(now_s):
            passed()
            session.expire()


def as_wire(connection: TcpConnection) -> Wire:
    """Return the connection as its session sees it; holds the class to the Protocol."""
    return connection
