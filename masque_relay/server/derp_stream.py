"""Owns UpgradedStream: the Upgrade at another DERP server (RFC 9110 section 7.8), and its bytes."""

import asyncio
from collections import deque
from enum import Enum, auto

import h11

from fallbacks.derp.mesh_client import MeshClient
from masque_relay.contract.verdict import EndReason
from masque_relay.http.tcp_wire import Wire
from masque_relay.wire.errors import WireError

MAX_HEAD_BYTES = 16_384
"""The head of a 101 has some 200 bytes; a front before the other server may add its own."""
UPGRADE = "DERP"


class _Phase(Enum):
    HEAD = auto()
    STREAM = auto()
    OVER = auto()


class UpgradedStream:
    """A TcpSession for the connection, a StreamCarrier for the session.

    What the socket does not take waits here; the session keeps it within its bound.

    Attributes:
        changed: set whenever the session may have another state.
        unsent_bytes: what waits.
        fault: what was wrong with the answer, for people; empty: nothing.
    """

    def __init__(self, session: MeshClient, wire: Wire, *, authority: str, path: str) -> None:
        self._session = session
        self._wire = wire
        self._authority = authority
        self._path = path
        self._phase = _Phase.HEAD
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._out: deque[bytes] = deque()
        self._closes_when_sent = False
        self.changed = asyncio.Event()
        self.unsent_bytes = 0
        self.fault = ""

    # -- TcpSession: what the connection calls ----------------------------------------------------

    def start(self) -> None:
        """Ask."""
        request = h11.Request(
            method="GET",
            target=self._path,
            headers=[("Host", self._authority), ("Connection", "Upgrade"), ("Upgrade", UPGRADE)],
        )
        head = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        self._wire.write(head)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._phase is _Phase.HEAD:
            self._http.receive_data(data)
            self._read_head()
        elif self._phase is _Phase.STREAM:
            self._feed(data)
        self.changed.set()

    def end_received(self) -> None:
        """The other server sends no more."""
        if self._phase is _Phase.STREAM:
            try:
                self._session.on_stream_end()
            except WireError as error:
                self._break(error.detail)
        elif self._phase is _Phase.HEAD:
            self._break("the other server closed the connection without an answer")
        self.changed.set()

    def writable(self) -> None:
        """Go on with what waited for the socket."""
        while self._out and not self._wire.is_congested:
            data = self._out.popleft()
            self.unsent_bytes -= len(data)
            self._wire.write(data)
        if self._closes_when_sent and not self._out:
            self._wire.close()
        elif self._phase is _Phase.STREAM:
            self._session.on_stream_writable()

    def wire_lost(self) -> None:
        """The connection is gone."""
        self._phase = _Phase.OVER
        self._session.ended(EndReason.CONNECTION_LOST)
        self.changed.set()

    def overdue(self, now_s: float) -> bool:
        """Whether a deadline has passed: the session watches its own."""
        del now_s
        return False

    def expire(self) -> None:
        """Nothing expires here."""

    # -- StreamCarrier: what the session calls ----------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send, or keep it until the socket has room."""
        if self._phase is _Phase.OVER or self._closes_when_sent:
            return
        if self._out or self._wire.is_congested:
            self._out.append(data)
            self.unsent_bytes += len(data)
        else:
            self._wire.write(data)

    def end_sending(self) -> None:
        """End both directions: TLS here has no half."""
        self.finish()

    def consume(self, byte_count: int) -> None:
        """Nothing: all is taken as it comes."""

    def wake_later(self) -> None:
        """Nothing: the session never asks for it."""

    def abort(self, reason: EndReason) -> None:
        """Cut the connection off."""
        del reason
        self._phase = _Phase.OVER
        self._out.clear()
        self.unsent_bytes = 0
        self._wire.abort()
        self.changed.set()

    def finish(self) -> None:
        """Close when everything is sent; the connection has a deadline for it."""
        self._closes_when_sent = True
        if not self._out:
            self._wire.close()
        self.changed.set()

    # -- parts ------------------------------------------------------------------------------------

    def _read_head(self) -> None:
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._break(f"the answer is not HTTP: {error}")
            return
        if event is h11.NEED_DATA:
            return
        if not isinstance(event, h11.InformationalResponse | h11.Response):
            self._break("the answer is not one to a request")
        elif event.status_code != 101:
            self._break(f"the other server answered {event.status_code}: is DERP there?")
        elif dict(event.headers).get(b"upgrade", b"").decode("latin-1").upper() != UPGRADE:
            self._break("the other server switched to something else than DERP")
        else:
            self._phase = _Phase.STREAM
            self._session.attach(self)
            rest = self._http.trailing_data[0]
            if rest:
                self._feed(rest)

    def _feed(self, data: bytes) -> None:
        try:
            self._session.on_stream_data(data)
        except WireError as error:
            self._break(f"the other server breaks the protocol: {error.detail}")

    def _break(self, fault: str) -> None:
        self.fault = fault
        self._session.ended(EndReason.PROTOCOL_ERROR)
        self.abort(EndReason.PROTOCOL_ERROR)
