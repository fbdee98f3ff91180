"""Owns an attacker's wire to a relay's QUIC and HTTP/3 engine: ours, or stock aioquic's.

Both ends are in memory. The attacker is a stock client connection whose packets the test may write
by hand, as a hostile peer would.
"""

from collections.abc import Mapping
from typing import Protocol

from aioquic import tls
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, DatagramFrameReceived, QuicEvent
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.adapter import AdapterOwner, QuicAdapter
from masque_relay.quic.application import Headers, QuicTransport
from masque_relay.quic.connecting import accept_connection
from masque_relay.quic.connection_settings import ServerSettings
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.quic.tls import CertificateStore
from tests.support.quic_pair import CLIENT, SERVER, certificate_authority, server_identity


class RecordingH3Application:
    """An H3Application that writes everything down and consumes bodies when told to."""

    def __init__(self, *, consumes: bool = True) -> None:
        self.consumes = consumes
        self.session: H3Session | None = None
        self.headers: list[tuple[int, Headers, bool]] = []
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.malformed: list[tuple[int, str]] = []
        self.resets: list[tuple[int, int]] = []
        self.datagrams: list[tuple[int, list[bytes]]] = []
        self.settings: Mapping[int, int] | None = None
        self.goaways: list[int] = []
        self.lost: tuple[int, str] | None = None

    def settings_received(self, settings: Mapping[int, int]) -> None:
        assert self.settings is None
        self.settings = settings

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        self.headers.append((stream_id, headers, end_stream))
        if end_stream:
            self.ended.add(stream_id)

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        self.bodies.setdefault(stream_id, bytearray()).extend(data)
        if self.consumes and self.session is not None:
            self.session.consume(stream_id, len(data))
        if end_stream:
            self.ended.add(stream_id)

    def malformed_received(self, stream_id: int, detail: str) -> None:
        self.malformed.append((stream_id, detail))

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        self.datagrams.append((stream_id, payloads))

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        self.resets.append((stream_id, error_code))

    def goaway_received(self, stream_id: int) -> None:
        self.goaways.append(stream_id)

    def streams_writable(self) -> None:
        pass

    def connection_lost(self, error_code: int, reason: str) -> None:
        assert self.lost is None
        self.lost = (error_code, reason)


class Relay(Protocol):
    """The end under attack."""

    @property
    def quic(self) -> QuicConnection: ...
    @property
    def h3(self) -> H3Connection: ...
    @property
    def requests(self) -> list[Headers]: ...
    def receive(self, packets: list[bytes], now: float) -> None: ...
    def flush(self, now: float) -> list[bytes]: ...
    def send_datagram(self, payload: bytes) -> None: ...


class StockRelay:
    """aioquic 1.7.2 as it comes."""

    def __init__(self, original_destination_cid: bytes) -> None:
        identity = server_identity()
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                is_client=False,
                alpn_protocols=["h3"],
                max_datagram_frame_size=65_535,
                certificate=identity.certificate,
                private_key=identity.private_key,
            ),
            original_destination_connection_id=original_destination_cid,
        )
        self._h3: H3Connection | None = None
        self.requests: list[Headers] = []

    @property
    def h3(self) -> H3Connection:
        """The HTTP/3 layer, made when the handshake is complete."""
        assert self._h3 is not None
        return self._h3

    def receive(self, packets: list[bytes], now: float) -> None:
        """Do what aioquic's own server does with packets."""
        for packet in packets:
            self.quic.receive_datagram(packet, CLIENT, now)
        while (event := self.quic.next_event()) is not None:
            if self._h3 is None and type(event).__name__ == "HandshakeCompleted":
                self._h3 = H3Connection(self.quic, enable_webtransport=True)
            if self._h3 is not None:
                for http_event in self._h3.handle_event(event):
                    if isinstance(http_event, HeadersReceived):
                        self.requests.append(http_event.headers)

    def flush(self, now: float) -> list[bytes]:
        """Return what is due."""
        timer_at = self.quic.get_timer()
        if timer_at is not None and timer_at <= now:
            self.quic.handle_timer(now)
        return [packet for packet, _ in self.quic.datagrams_to_send(now)]

    def send_datagram(self, payload: bytes) -> None:
        """Send as a relay that trusts the library does."""
        self.quic.send_datagram_frame(payload)


class OurRelay:
    """QuicAdapter and H3Session."""

    def __init__(self, original_destination_cid: bytes) -> None:
        self.application = RecordingH3Application()
        self.counters = QuicCounters()
        self.adapter: QuicAdapter = accept_connection(
            ServerSettings(
                applications={"h3": self._begin},
                certificates=CertificateStore(server_identity()),
            ),
            owner=AdapterOwner(),
            counters=self.counters,
            source=CLIENT,
            original_destination_cid=original_destination_cid,
            retry_source_cid=None,
        )

    def _begin(self, transport: QuicTransport) -> H3Session:
        self.application.session = H3Session(transport, self.application)
        return self.application.session

    @property
    def quic(self) -> QuicConnection:
        """The engine inside."""
        return self.adapter._connection

    @property
    def h3(self) -> H3Connection:
        """The HTTP/3 engine inside."""
        assert self.application.session is not None
        return self.application.session._framing

    @property
    def requests(self) -> list[Headers]:
        """The heads that reached the application."""
        return [headers for _, headers, _ in self.application.headers]

    def receive(self, packets: list[bytes], now: float) -> None:
        """Take a batch."""
        self.adapter.receive_packets(packets, CLIENT, now)

    def flush(self, now: float) -> list[bytes]:
        """Return what is due."""
        self.adapter.handle_timer(now)
        return [packet for group, _ in self.adapter.packets_to_send(now) for packet in group]

    def send_datagram(self, payload: bytes) -> None:
        """Send as our tunnels do."""
        self.adapter.send_datagrams(b"", [payload])


class Attacker:
    """A stock client, and the wire between it and a relay."""

    def __init__(
        self, relay_class: type[StockRelay] | type[OurRelay], *, opens_http: bool = True
    ) -> None:
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"],
                server_name="relay.test",
                cadata=certificate_authority().pem,
                max_datagram_frame_size=65_535,
            )
        )
        self.now = 100.0
        self.quic.connect(SERVER, self.now)
        self.relay = relay_class(self.quic.original_destination_connection_id)
        self.events: list[QuicEvent] = []
        self.http_events: list[H3Event] = []
        self.h3: H3Connection | None = None
        self.settle()
        if opens_http:
            self.h3 = H3Connection(self.quic, enable_webtransport=True)
            self.settle()

    @property
    def is_closed(self) -> bool:
        """Whether the relay gave the whole connection up."""
        return self.close_code is not None

    @property
    def close_code(self) -> int | None:
        """The relay's error code, once it closed the connection."""
        event = self.quic._close_event
        return event.error_code if isinstance(event, ConnectionTerminated) else None

    @property
    def datagrams(self) -> list[bytes]:
        """DATAGRAM frames that arrived."""
        return [e.data for e in self.events if isinstance(e, DatagramFrameReceived)]

    def settle(self, turns: int = 60) -> None:
        """Let both ends talk."""
        for _ in range(turns):
            self.now += 0.005
            timer_at = self.quic.get_timer()
            if timer_at is not None and timer_at <= self.now:
                self.quic.handle_timer(self.now)
            there = [packet for packet, _ in self.quic.datagrams_to_send(self.now)]
            if there:
                self.relay.receive(there, self.now)
            back = self.relay.flush(self.now)
            for packet in back:
                self.quic.receive_datagram(packet, SERVER, self.now)
            while (event := self.quic.next_event()) is not None:
                self.events.append(event)
                if self.h3 is not None:
                    self.http_events += self.h3.handle_event(event)

    def send_frames(self, frames: bytes) -> None:
        """Put frames, written by hand, in a packet of their own."""
        builder = QuicPacketBuilder(
            host_cid=self.quic.host_cid,
            is_client=True,
            max_datagram_size=1_200,
            packet_number=self.quic._packet_number,
            peer_cid=self.quic._peer_cid.cid,
            version=self.quic._version or 0,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self.quic._cryptos[tls.Epoch.ONE_RTT])
        builder.start_frame(QuicFrameType.PING).push_bytes(frames)
        packets, _ = builder.flush()
        self.quic._packet_number = builder.packet_number
        self.relay.receive(packets, self.now)
