"""Owns the naive CONNECT-UDP proxy: aioquic's stock asyncio server and nothing clever.

What somebody writes in an afternoon from aioquic's examples: one receive and one send call per
packet, an asyncio protocol per target, no batching, no bounds, no authentication. Prints its port
and serves until its standard input closes.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent


class Upstream(asyncio.DatagramProtocol):
    """The socket of one tunnel."""

    def __init__(self, proxy: "NaiveProxy", stream_id: int) -> None:
        self._proxy = proxy
        self._stream_id = stream_id

    def datagram_received(self, data: bytes, addr: Any) -> None:
        del addr
        self._proxy.send_down(self._stream_id, data)


class NaiveProxy(QuicConnectionProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._h3: H3Connection | None = None
        self._upstreams: dict[int, asyncio.DatagramTransport] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            # The only way to make stock aioquic announce H3_DATAGRAM.
            self._h3 = H3Connection(self._quic, enable_webtransport=True)
        if self._h3 is not None:
            for h3_event in self._h3.handle_event(event):
                self.h3_event_received(h3_event)

    def h3_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            task = asyncio.ensure_future(self.open_tunnel(event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(event, DatagramReceived):
            upstream = self._upstreams.get(event.stream_id)
            if upstream is not None and event.data[:1] == b"\0":
                upstream.sendto(event.data[1:])

    async def open_tunnel(self, event: HeadersReceived) -> None:
        path = dict(event.headers)[b":path"].decode()
        *_, host, port, _ = path.split("/")
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Upstream(self, event.stream_id), remote_addr=(unquote(host), int(port))
        )
        self._upstreams[event.stream_id] = transport
        assert self._h3 is not None
        self._h3.send_headers(event.stream_id, [(b":status", b"200"), (b"capsule-protocol", b"?1")])
        self.transmit()

    def send_down(self, stream_id: int, data: bytes) -> None:
        assert self._h3 is not None
        self._h3.send_datagram(stream_id, b"\0" + data)
        self.transmit()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for upstream in self._upstreams.values():
            upstream.close()


async def run(certificate_file: Path, key_file: Path) -> None:
    """Serve until standard input closes."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=["h3"],
        max_datagram_frame_size=65_536,
        max_datagram_size=1400,  # 1200 bytes of payload do not fit into the default
    )
    configuration.load_cert_chain(certificate_file, key_file)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=NaiveProxy)
    transport = cast("asyncio.DatagramTransport", server._transport)
    print(transport.get_extra_info("sockname")[1], flush=True)  # noqa: T201 - its output
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))
