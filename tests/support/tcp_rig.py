"""Owns the rig for sessions over TCP: a real front end above, a recording wire below."""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address

import h2.config
import h2.connection
import h2.events
from starlette.types import ASGIApp

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import HttpCounters, TcpCounters
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.h1_session import H1Session
from masque_relay.http.h2_session import H2Session
from masque_relay.http.limits import HttpLimits
from masque_relay.http.tcp_connection import TcpLink
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_wire import TcpServices
from masque_relay.http.transport import HttpVersion
from masque_relay.quic.application import Headers
from tests.support.h3_client import Exchange
from tests.support.http_fakes import FakeClock, settle

LINK = TcpLink(
    connection_id="c0ffee",
    peer=Endpoint(address=ip_address("198.51.100.9"), port=40_000),
    server_name="relay.example",
    peer_certificate_chain=(),
    tls_version=0x0304,
    alpn=None,
)


@dataclass
class FakeWire:
    """A Wire that keeps what is written."""

    is_congested: bool = False
    written: bytearray = field(default_factory=bytearray)
    writes: int = 0
    is_paused: bool = False
    is_closed: bool = False
    is_aborted: bool = False

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.written += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def take(self) -> bytes:
        """Return what was written since the last time."""
        data = bytes(self.written)
        self.written.clear()
        return data


@dataclass
class TcpRig:
    """What is around a session."""

    front_end: HttpFrontEnd
    http: HttpCounters
    tcp: TcpCounters
    clock: FakeClock
    wire: FakeWire
    services: TcpServices

    def h1(self) -> H1Session:
        """Begin an HTTP/1.1 connection."""
        session = self.front_end.serve_connection(
            lambda application: H1Session(application, self.wire, self.services),
            LINK,
            http_version=HttpVersion.HTTP1,
        )
        session.start()
        return session

    def h2(self) -> "H2Peer":
        """Begin an HTTP/2 connection and return its client."""
        session = self.front_end.serve_connection(
            lambda application: H2Session(
                application,
                self.wire,
                self.services,
                call_soon=asyncio.get_running_loop().call_soon,
            ),
            LINK,
            http_version=HttpVersion.HTTP2,
        )
        session.start()
        return H2Peer(session, self.wire)


@asynccontextmanager
async def tcp_rig(
    app: ASGIApp,
    *,
    limits: HttpLimits | None = None,
    tcp_limits: TcpLimits | None = None,
    alt_svc: bytes | None = None,
) -> AsyncGenerator[TcpRig]:
    """Run a front end while the block runs."""
    http, tcp, clock = HttpCounters(), TcpCounters(), FakeClock()
    # Applications here may wait for ever: the end of the test need not.
    limits = dataclasses.replace(limits or HttpLimits(), application_exit_s=0.01)
    front_end = HttpFrontEnd(app, limits=limits, counters=http, clock=clock)
    services = TcpServices(
        limits=tcp_limits or TcpLimits(),
        counters=tcp,
        clock=clock,
        alt_svc=alt_svc,
        connection_id="c0ffee",
    )
    async with front_end:
        yield TcpRig(
            front_end=front_end,
            http=http,
            tcp=tcp,
            clock=clock,
            wire=FakeWire(),
            services=services,
        )


class H2Peer:
    """An HTTP/2 client in memory; :meth:`settle` carries bytes both ways."""

    def __init__(self, session: H2Session, wire: FakeWire) -> None:
        self.session = session
        self.wire = wire
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.exchanges: dict[int, Exchange] = {}
        self.trailers: dict[int, Headers] = {}
        self.goaway: tuple[int, int] | None = None
        self.grants_credit = True
        self.h2.initiate_connection()

    def exchange(self, stream_id: int) -> Exchange:
        return self.exchanges.setdefault(stream_id, Exchange())

    async def settle(self) -> None:
        """Let everything arrive on both sides."""
        for _ in range(20):
            data = self.h2.data_to_send()
            if data:
                self.session.data_received(data)
            await settle()
            answer = self.wire.take()
            for event in self.h2.receive_data(answer):
                self._handle(event)
            if not data and not answer:
                return

    async def request(self, headers: Headers, body: bytes = b"", *, end: bool = True) -> int:
        """Send a request and let it be answered."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers, end_stream=end and not body)
        if body:
            self.h2.send_data(stream_id, body, end_stream=end)
        await self.settle()
        return stream_id

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                self.exchange(event.stream_id).heads.append(list(event.headers))
            case h2.events.TrailersReceived():
                self.trailers[event.stream_id] = list(event.headers)
            case h2.events.DataReceived():
                self.exchange(event.stream_id).data += event.data
                if self.grants_credit and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.exchange(event.stream_id).ended = True
            case h2.events.StreamReset():
                self.exchange(event.stream_id).reset = int(event.error_code)
            case h2.events.ConnectionTerminated():
                self.goaway = (int(event.error_code), event.last_stream_id or 0)
            case _:
                pass
