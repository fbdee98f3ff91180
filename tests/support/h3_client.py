"""Owns a bare HTTP/3 client for tests: it sends whatever it is told, right or wrong."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from masque_relay.quic.application import Headers, QuicApplication, QuicTransport
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.wire.proxy_status import ProxyStatus, parse_proxy_status

WAIT_S = 10.0 * float(os.environ.get("RELAY_TEST_TIMESCALE", "1"))
"""Ordinary deadline; nothing should take a tenth of it."""


@dataclass
class Exchange:
    """What came back on one stream."""

    heads: list[Headers] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    datagrams: list[bytes] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int | None:
        """The final status; None before it."""
        for head in self.heads:
            status = int(dict(head).get(b":status", b"0"))
            if status >= 200:
                return status
        return None

    @property
    def fields(self) -> dict[str, str]:
        """The fields of the final head; of a repeated one the last."""
        head = next(head for head in self.heads if int(dict(head).get(b":status", b"0")) >= 200)
        return {name.decode(): value.decode() for name, value in head}

    @property
    def proxy_status(self) -> ProxyStatus:
        """Our own entry of ``proxy-status``."""
        return parse_proxy_status(self.fields["proxy-status"])[-1]


class H3Client:
    """An H3Application that records; make it with :func:`open_client`."""

    def __init__(self) -> None:
        self.exchanges: dict[int, Exchange] = {}
        self.settings: Mapping[int, int] | None = None
        self.goaway: int | None = None
        self.lost: tuple[int, str] | None = None
        self.reads_data = True
        """False: grant no credit, as a reader that stopped."""
        self._session: H3Session | None = None
        self._changed = asyncio.Event()

    def attach(self, transport: QuicTransport) -> QuicApplication:
        """Be an ApplicationFactory."""
        self._session = H3Session(transport, self)
        return self._session

    @property
    def session(self) -> H3Session:
        """The HTTP/3 transport."""
        assert self._session is not None
        return self._session

    # H3Application.

    def settings_received(self, settings: Mapping[int, int]) -> None:
        self.settings = settings
        self._changed.set()

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        exchange = self._exchange(stream_id)
        exchange.heads.append(headers)
        exchange.ended |= end_stream
        self._changed.set()

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        exchange = self._exchange(stream_id)
        exchange.data += data
        exchange.ended |= end_stream
        if data and self.reads_data:
            self.session.consume(stream_id, len(data))
        self._changed.set()

    def malformed_received(self, stream_id: int, detail: str) -> None:
        raise AssertionError(f"the relay sent a malformed message: {detail}")

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        self._exchange(stream_id).datagrams += payloads
        self._changed.set()

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        self._exchange(stream_id).reset = error_code
        self._changed.set()

    def goaway_received(self, stream_id: int) -> None:
        self.goaway = stream_id
        self._changed.set()

    def streams_writable(self) -> None:
        self._changed.set()

    def connection_lost(self, error_code: int, reason: str) -> None:
        self.lost = (error_code, reason)
        self._changed.set()

    # What tests do.

    async def until(self, condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
        """Wait until the condition holds; looked at whenever something arrives."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def send(self, headers: Headers, *, end: bool = False) -> int:
        """Send a request head; return the stream id."""
        stream_id = self.session.open_request(headers, end_stream=end)
        self._exchange(stream_id)
        return stream_id

    async def answer(self, stream_id: int) -> Exchange:
        """Wait for the final response head, or a reset."""
        exchange = self._exchange(stream_id)
        await self.until(lambda: exchange.status or exchange.reset is not None or self.lost)
        assert self.lost is None, f"connection lost: {self.lost}"
        return exchange

    async def request(self, headers: Headers, *, end: bool = False) -> tuple[int, Exchange]:
        """Send a request and wait for its answer."""
        stream_id = self.send(headers, end=end)
        return stream_id, await self.answer(stream_id)

    async def finished(self, stream_id: int) -> Exchange:
        """Wait until the relay ended or reset the stream."""
        exchange = self._exchange(stream_id)
        await self.until(lambda: exchange.ended or exchange.reset is not None or self.lost)
        assert self.lost is None, f"connection lost: {self.lost}"
        return exchange

    async def echo(self, stream_id: int, payload: bytes, *, tries: int = 20) -> None:
        """Send a UDP payload through a tunnel until it comes back (datagrams may be lost)."""
        exchange = self._exchange(stream_id)
        expected = b"\0" + payload
        for _ in range(tries):
            self.session.send_datagrams(stream_id, b"\0", [payload])
            try:
                await self.until(
                    lambda: expected in exchange.datagrams or self.lost, WAIT_S / tries
                )
            except TimeoutError:
                continue
            break
        assert expected in exchange.datagrams, (exchange, self.lost)

    def _exchange(self, stream_id: int) -> Exchange:
        return self.exchanges.setdefault(stream_id, Exchange())
