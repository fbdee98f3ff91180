"""Owns clients of TCP tunnels: every HTTP version and both forms behind one interface."""

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from ipaddress import ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.quic.application import Headers
from masque_relay.wire.connect_tcp import CapsuleFraming, DataCapsuleTypes, RawFraming, TcpFraming
from masque_relay.wire.proxy_status import ProxyStatus, parse_proxy_status
from tests.support.h3_client import WAIT_S, Exchange, H3Client
from tests.support.relay import ECHO_HOST, POLICY, InProcessRelay
from tests.support.tcp_clients import H1Client, H2Client

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER."""
TCP_POLICY = POLICY.replace('methods = ["connect-udp"]', 'methods = ["connect-tcp"]')


class Version(StrEnum):
    H3 = "h3"
    H2 = "h2"
    H1 = "h1"


class Form(StrEnum):
    CLASSIC = "classic"
    TEMPLATED = "templated"


class ByteTunnel(ABC):
    """One TCP tunnel as its client has it; what came back is in ``received``."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.framing: TcpFraming = (
            RawFraming() if form is Form.CLASSIC else CapsuleFraming(DataCapsuleTypes())
        )
        self.received = bytearray()
        self._seen_bytes = 0

    async def send(self, payload: bytes) -> None:
        """Send TCP payload."""
        await self.send_stream(self.framing.encode(payload))

    async def end(self) -> None:
        """Send FIN."""
        if self.form is Form.CLASSIC:
            await self.end_stream()
        else:
            await self.send_stream(self.framing.encode_end())

    async def until(self, condition: Callable[[], object], timeout_s: float = 2 * WAIT_S) -> None:
        """Wait until the condition holds; looked at whenever something arrives."""

        def decoded() -> object:
            self.decode()
            return condition()

        await self._until(decoded, timeout_s)

    def decode(self) -> None:
        """Move what has arrived to ``received``."""
        data = self._stream_data(self._seen_bytes)
        self._seen_bytes += len(data)
        if data:
            for piece in self.framing.feed(data):
                self.received += piece

    async def echo(self, payload: bytes) -> None:
        """Send payload and wait until it is back."""
        start = len(self.received)
        await self.send(payload)
        await self.until(lambda: len(self.received) >= start + len(payload))
        assert self.received[start:] == payload

    @property
    def target_ended(self) -> bool:
        """FIN of the target has arrived."""
        self.decode()
        if self.form is Form.TEMPLATED:
            return self.framing.has_ended
        return self.stream_ended

    @property
    @abstractmethod
    def status(self) -> int: ...

    @property
    @abstractmethod
    def interim_statuses(self) -> list[int]: ...

    @property
    @abstractmethod
    def fields(self) -> dict[str, str]: ...

    @property
    def proxy_status(self) -> ProxyStatus:
        """Our own entry of ``proxy-status``."""
        return parse_proxy_status(self.fields["proxy-status"])[-1]

    @property
    @abstractmethod
    def stream_ended(self) -> bool: ...

    @property
    @abstractmethod
    def reset_code(self) -> int | None:
        """H3 and H2: the code; H1: 0 where the connection broke off."""

    @abstractmethod
    async def send_stream(self, data: bytes) -> None: ...

    @abstractmethod
    async def end_stream(self) -> None: ...

    @abstractmethod
    def reset(self) -> None: ...

    @abstractmethod
    def stop_reading(self) -> None: ...

    @abstractmethod
    async def _until(self, condition: Callable[[], object], timeout_s: float) -> None: ...

    @abstractmethod
    def _stream_data(self, offset: int) -> bytes: ...


class _StreamTunnel(ByteTunnel):
    def __init__(self, form: Form, stream_id: int, exchange: Exchange) -> None:
        super().__init__(form)
        self.stream_id = stream_id
        self.exchange = exchange

    @property
    def status(self) -> int:
        return self.exchange.status or 0

    @property
    def interim_statuses(self) -> list[int]:
        statuses = [int(dict(head).get(b":status", b"0")) for head in self.exchange.heads]
        return [status for status in statuses if status < 200]

    @property
    def fields(self) -> dict[str, str]:
        return self.exchange.fields

    @property
    def stream_ended(self) -> bool:
        return self.exchange.ended

    @property
    def reset_code(self) -> int | None:
        return self.exchange.reset

    def _stream_data(self, offset: int) -> bytes:
        return bytes(self.exchange.data[offset:])


class H3Tunnel(_StreamTunnel):
    def __init__(self, form: Form, client: H3Client, stream_id: int, exchange: Exchange) -> None:
        super().__init__(form, stream_id, exchange)
        self.client = client

    async def send_stream(self, data: bytes) -> None:
        self.client.session.send_data(self.stream_id, data, end_stream=False)

    async def end_stream(self) -> None:
        self.client.session.send_data(self.stream_id, b"", end_stream=True)

    def reset(self) -> None:
        self.client.session.reset(self.stream_id, 0x10C)

    def stop_reading(self) -> None:
        self.client.reads_data = False

    async def _until(self, condition: Callable[[], object], timeout_s: float) -> None:
        await self.client.until(condition, timeout_s)


class H2Tunnel(_StreamTunnel):
    def __init__(self, form: Form, client: H2Client, stream_id: int, exchange: Exchange) -> None:
        super().__init__(form, stream_id, exchange)
        self.client = client

    async def send_stream(self, data: bytes) -> None:
        self.client.send_data(self.stream_id, data)

    async def end_stream(self) -> None:
        await self.client.until(lambda: not self.client.unsent(self.stream_id))
        self.client.send_data(self.stream_id, b"", end=True)

    def reset(self) -> None:
        self.client.reset(self.stream_id)

    def stop_reading(self) -> None:
        self.client.stuck.add(self.stream_id)

    async def _until(self, condition: Callable[[], object], timeout_s: float) -> None:
        await self.client.until(condition, timeout_s)


class H1Tunnel(ByteTunnel):
    def __init__(self, form: Form, client: H1Client) -> None:
        super().__init__(form)
        self.client = client
        self._data = bytearray()
        self._ended = False
        self._broken = False
        self._reads = True
        self._heads: list[tuple[int, dict[str, str]]] = []

    async def read_answer(self) -> None:
        """Read heads up to the final one; 101 is final."""
        while not self._heads or self._heads[-1][0] in {100, 103}:
            head = await self.client.head()
            self._heads.append((head.status, head.fields))

    @property
    def status(self) -> int:
        """As HTTP/2 has it: 101 is 200."""
        status = self._heads[-1][0]
        return 200 if status == 101 else status

    @property
    def interim_statuses(self) -> list[int]:
        return [status for status, _ in self._heads[:-1]]

    @property
    def fields(self) -> dict[str, str]:
        return self._heads[-1][1]

    @property
    def stream_ended(self) -> bool:
        return self._ended

    @property
    def reset_code(self) -> int | None:
        return 0 if self._broken else None

    async def send_stream(self, data: bytes) -> None:
        self.client.send(data)

    async def end_stream(self) -> None:
        raise NotImplementedError("TLS has no half-close here")

    def reset(self) -> None:
        """RST: without it TLS's end would look like a clean one to asyncio."""
        raw = self.client.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.client.writer.transport.abort()

    def stop_reading(self) -> None:
        self._reads = False

    async def _until(self, condition: Callable[[], object], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                try:
                    data = await self.client.reader.read(65_536)
                except OSError:
                    self._broken = self._ended = True
                    assert condition()
                    return
                self._data += data
                if not data:
                    self._ended = True
                    assert condition(), "the connection ended"
                    return

    def _stream_data(self, offset: int) -> bytes:
        return bytes(self._data[offset:])


async def open_tunnel(
    relay: InProcessRelay,
    version: Version,
    form: Form,
    host: str,
    port: int,
    *,
    token: str | None = None,
    extra: Headers | None = None,
    beside: ByteTunnel | None = None,
) -> ByteTunnel:
    """Ask for a tunnel and wait for the answer, whatever it is.

    Args:
        relay: who is asked.
        version: of HTTP.
        form: classic CONNECT or connect-tcp.
        host: an IPv4 address or a name.
        port: of the target.
        token: "" sends no credential.
        extra: further fields.
        beside: use its connection (H3 and H2).
    """
    token = relay.token() if token is None else token
    scheme = b"authorization" if form is Form.TEMPLATED else b"proxy-authorization"
    fields: Headers = [(scheme, b"Bearer " + token.encode())] if token else []
    fields += extra or []
    path = f"/.well-known/masque/tcp/{host}/{port}/"
    if version is Version.H1:
        client = await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")
        tunnel = H1Tunnel(form, client)
        first = (
            f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            if form is Form.CLASSIC
            else f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            "Upgrade: connect-tcp\r\nCapsule-Protocol: ?1\r\n"
        )
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        client.send(first.encode() + lines + b"\r\n")
        await tunnel.read_answer()
        return tunnel
    head: Headers = [(b":method", b"CONNECT")]
    if form is Form.CLASSIC:
        head.append((b":authority", f"{host}:{port}".encode()))
    else:
        head += [
            (b":protocol", b"connect-tcp"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path.encode()),
            (b"capsule-protocol", b"?1"),
        ]
    if version is Version.H2:
        h2 = (
            beside.client
            if isinstance(beside, H2Tunnel)
            else await H2Client.connect(relay.https_address, relay.ca_pem)
        )
        stream_id = h2.send(head + fields)
        h2.decoders.pop(stream_id)
        return H2Tunnel(form, h2, stream_id, await h2.answer(stream_id))
    h3 = beside.client if isinstance(beside, H3Tunnel) else await relay.connect()
    stream_id, exchange = await h3.request(head + fields)
    return H3Tunnel(form, h3, stream_id, exchange)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_target(handler: Handler, host: str = ECHO_HOST) -> AsyncGenerator[Endpoint]:
    """Run a TCP server in this loop while the block runs; yield where it listens."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError):
                await handler(reader, writer)
        finally:
            tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, 0)
    address = server.sockets[0].getsockname()
    try:
        yield Endpoint(address=ip_address(address[0]), port=address[1])
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, then FIN."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
