"""Owns bare HTTP/2 and HTTP/1.1 clients over TLS: they send whatever they are told."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
from hyperframe.frame import Frame, GoAwayFrame

from masque_relay.contract.address import Endpoint
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from tests.support.h3_client import WAIT_S, Exchange

GOODBYE_S = 1.0
"""A front that goes on after our TLS goodbye may take half a minute for its own."""


def client_context(ca_pem: bytes, *alpn: str) -> ssl.SSLContext:
    """Return TLS for a client that trusts one CA."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class _ClientH2(h2.connection.H2Connection):
    """Goes on after GOAWAY, as RFC 9113 section 6.8 says; h2 itself does not."""

    def _receive_goaway_frame(
        self, frame: GoAwayFrame
    ) -> tuple[list[Frame], list[h2.events.Event]]:
        event = h2.events.ConnectionTerminated()
        event.error_code = h2.errors.ErrorCodes(frame.error_code)
        event.last_stream_id = frame.last_stream_id
        return [], [event]


class H2Client(asyncio.Protocol):
    """Records what comes back, by stream; its own header checks are off."""

    def __init__(self) -> None:
        self.h2 = _ClientH2(
            h2.config.H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.exchanges: dict[int, Exchange] = {}
        self.trailers: dict[int, Headers] = {}
        self.decoders: dict[int, CapsuleDecoder] = {}
        self.stuck: set[int] = set()
        """Streams to which no credit is given."""
        self.settings: dict[int, int] | None = None
        self.goaway: tuple[int, int] | None = None
        """Error code and last stream id."""
        self.is_lost = False
        self.pings = 0
        self._changed = asyncio.Event()
        self._queues: dict[int, bytearray] = {}

    @classmethod
    async def connect(
        cls, address: Endpoint, ca_pem: bytes, *, context: ssl.SSLContext | None = None
    ) -> "H2Client":
        """Connect and wait for the server's SETTINGS."""
        _, client = await asyncio.get_running_loop().create_connection(
            cls,
            str(address.address),
            address.port,
            ssl=context or client_context(ca_pem, "h2"),
            server_hostname="localhost",
        )
        await client.until(lambda: client.settings is not None or client.is_lost)
        return client

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        self.h2.initiate_connection()
        # Windows that are never what holds a test up, unless it wants them to.
        self.h2.increment_flow_control_window(2**24)
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._handle(event)
        self._pump()
        self.flush()
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._changed.set()

    def _handle(self, event: h2.events.Event) -> None:  # noqa: C901  (one case per event)
        match event:
            case h2.events.RemoteSettingsChanged():
                self.settings = {
                    int(code): changed.new_value for code, changed in event.changed_settings.items()
                }
            case h2.events.ResponseReceived() | h2.events.InformationalResponseReceived():
                self.exchange(event.stream_id).heads.append(list(event.headers))
            case h2.events.TrailersReceived():
                self.trailers[event.stream_id] = list(event.headers)
            case h2.events.DataReceived():
                exchange = self.exchange(event.stream_id)
                exchange.data += event.data
                if event.stream_id in self.decoders:
                    capsules = self.decoders[event.stream_id].feed(event.data)
                    exchange.datagrams += [capsule.value for capsule in capsules]
                if event.stream_id not in self.stuck and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.exchange(event.stream_id).ended = True
            case h2.events.StreamReset():
                self.exchange(event.stream_id).reset = int(event.error_code)
                self._queues.pop(event.stream_id, None)
            case h2.events.ConnectionTerminated():
                self.goaway = (int(event.error_code), event.last_stream_id or 0)
            case h2.events.PingAckReceived():
                self.pings += 1
            case _:
                pass

    # What tests do.

    def exchange(self, stream_id: int) -> Exchange:
        return self.exchanges.setdefault(stream_id, Exchange())

    def flush(self) -> None:
        """Send what h2 has made."""
        data = self.h2.data_to_send()
        if data and not self.is_lost:
            self.transport.write(data)

    def send_raw(self, data: bytes) -> None:
        """Send bytes that h2 knows nothing of."""
        self.flush()
        self.transport.write(data)

    def send(self, headers: Headers, *, end: bool = False) -> int:
        """Send a request head; return the stream id."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, headers, end_stream=end)
        self.exchange(stream_id)
        self.decoders[stream_id] = CapsuleDecoder(max_capsule_bytes=70_000, known_types={0})
        self.flush()
        return stream_id

    def send_data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send body bytes as the windows allow, the rest later."""
        self._queues.setdefault(stream_id, bytearray()).extend(data)
        self._pump()
        if end:
            assert not self._queues[stream_id]
            self.h2.end_stream(stream_id)
        self.flush()

    def unsent(self, stream_id: int) -> int:
        """Bytes for which the server has given no credit."""
        return len(self._queues.get(stream_id, b""))

    def _pump(self) -> None:
        for stream_id, queue in self._queues.items():
            while queue:
                size = min(
                    self.h2.local_flow_control_window(stream_id),
                    self.h2.max_outbound_frame_size,
                    len(queue),
                )
                if size <= 0:
                    break
                self.h2.send_data(stream_id, bytes(queue[:size]))
                del queue[:size]

    def reset(self, stream_id: int, code: int = 8) -> None:
        """RST_STREAM; CANCEL unless told otherwise."""
        self.h2.reset_stream(stream_id, code)
        self.flush()

    async def until(self, condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        """Wait until the condition holds; looked at whenever something arrives."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, stream_id: int) -> Exchange:
        """Wait for the final response head, or a reset."""
        exchange = self.exchange(stream_id)
        await self.until(lambda: exchange.status or exchange.reset is not None or self.is_lost)
        return exchange

    async def request(self, headers: Headers, *, end: bool = False) -> tuple[int, Exchange]:
        """Send a request and wait for its answer."""
        stream_id = self.send(headers, end=end)
        return stream_id, await self.answer(stream_id)

    async def finished(self, stream_id: int) -> Exchange:
        """Wait until the relay ended or reset the stream."""
        exchange = self.exchange(stream_id)
        await self.until(lambda: exchange.ended or exchange.reset is not None or self.is_lost)
        return exchange

    async def echo(self, stream_id: int, payload: bytes) -> None:
        """Send a UDP payload through a tunnel, in a capsule, until it comes back."""
        exchange = self.exchange(stream_id)
        self.send_data(stream_id, encode_capsule(0, b"\0" + payload))
        await self.until(lambda: b"\0" + payload in exchange.datagrams or self.is_lost)
        assert b"\0" + payload in exchange.datagrams

    async def close(self) -> None:
        """Close the connection; a peer slow to say goodbye in TLS is not waited for long."""
        self.transport.close()
        try:
            await self.until(lambda: self.is_lost, GOODBYE_S)
        except TimeoutError:
            self.transport.abort()
            await self.until(lambda: self.is_lost)


@dataclass
class H1Response:
    """A response head."""

    status: int
    fields: dict[str, str]


class H1Client:
    """Raw bytes over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = CapsuleDecoder(max_capsule_bytes=70_000, known_types={0})
        self.datagrams: list[bytes] = []

    def __del__(self) -> None:
        # A dropped client closes its connection; a dropped StreamWriter only complains.
        with suppress(RuntimeError):
            self.writer.transport.abort()

    @classmethod
    async def connect(
        cls, address: Endpoint, ca_pem: bytes, *alpn: str, context: ssl.SSLContext | None = None
    ) -> "H1Client":
        """Connect; without ALPN unless told otherwise."""
        reader, writer = await asyncio.open_connection(
            str(address.address),
            address.port,
            ssl=context or client_context(ca_pem, *alpn),
            server_hostname="localhost",
        )
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> H1Response:
        """Read a response head."""
        async with asyncio.timeout(WAIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        version, status = first.split(" ")[:2]
        assert version == "HTTP/1.1"
        pairs = (line.partition(": ") for line in lines)
        return H1Response(int(status), {name.lower(): value for name, _, value in pairs})

    async def body(self, head: H1Response) -> bytes:
        """Read a body with Content-Length, or in chunks."""
        async with asyncio.timeout(WAIT_S):
            if "content-length" in head.fields:
                return await self.reader.readexactly(int(head.fields["content-length"]))
            assert head.fields["transfer-encoding"] == "chunked"
            body = b""
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
            return body

    async def request(self, data: bytes) -> H1Response:
        self.send(data)
        return await self.head()

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; False if anything else comes."""
        async with asyncio.timeout(WAIT_S):
            try:
                return await self.reader.read(1) == b""
            except ConnectionResetError:
                return True

    async def echo(self, payload: bytes) -> None:
        """Send a UDP payload through the tunnel until it comes back."""
        self.send(encode_capsule(0, b"\0" + payload))
        await self.until_datagram(b"\0" + payload)

    async def until_datagram(self, datagram: bytes) -> None:
        """Read capsules until this one came."""
        async with asyncio.timeout(WAIT_S):
            while datagram not in self.datagrams:
                data = await self.reader.read(65_536)
                assert data, "the connection ended"
                self.datagrams += [capsule.value for capsule in self._decoder.feed(data)]

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


def upgrade_request(target: str, *fields: str, host: str = "localhost") -> bytes:
    """Return an RFC 9298 Upgrade."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: connect-udp",
        "Capsule-Protocol: ?1",
        *fields,
    ]
    return "\r\n".join([*lines, "", ""]).encode()
