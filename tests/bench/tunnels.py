"""Owns the generator's ways to the target: plain UDP, and CONNECT-UDP over our batching QUIC."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.contract.flow import FlowError
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import FlowLimits, SocketLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow
from masque_relay.quic.application import H3Transport, Headers, QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.h3_adapter import H3Session
from masque_relay.quic.settings import ClientTls, EndpointSettings

LOOPBACK = IPv4Address("127.0.0.1")
DEADLINE_S = 20.0
Receiver = Callable[[Sequence[bytes]], None]


class Tunnel(Protocol):
    """A way to the target and back."""

    receiver: Receiver

    def send(self, payloads: Sequence[bytes]) -> None:
        """Send UDP payloads to the target."""
        ...


class PlainTunnel:
    """A UDP socket: straight to the target, or to the plain forwarder."""

    def __init__(self, port: int) -> None:
        self.receiver: Receiver = lambda _: None
        self._flow = ConnectedUdpFlow.open(
            Endpoint(address=LOOPBACK, port=port),
            self,
            loop=asyncio.get_running_loop(),
            limits=FlowLimits(),
            counters=FlowCounters(),
        )

    def send(self, payloads: Sequence[bytes]) -> None:
        """As Tunnel says."""
        self._flow.send_batch(payloads)

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """As DatagramSink says."""
        self.receiver(payloads)

    def on_flow_error(self, error: FlowError) -> None:
        """As DatagramSink says."""


class H3Tunnel:
    """One CONNECT-UDP stream."""

    def __init__(self, h3: H3Transport, stream_id: int) -> None:
        self.receiver: Receiver = lambda _: None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._h3 = h3
        self._stream_id = stream_id

    def send(self, payloads: Sequence[bytes]) -> None:
        """As Tunnel says."""
        self._h3.send_datagrams(self._stream_id, b"\0", payloads)


class BenchClient:
    """The H3Application of one connection: opens tunnels, sorts what comes."""

    def __init__(self, transport: QuicTransport) -> None:
        self.h3 = H3Session(transport, self)
        self.settings: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tunnels: dict[int, H3Tunnel] = {}

    async def open_tunnel(
        self, access: "Access", target_port: int, *, host: str = "127.0.0.1"
    ) -> H3Tunnel:
        """Open a tunnel to a port, of loopback if nothing else is said."""
        await asyncio.wait_for(asyncio.shield(self.settings), DEADLINE_S)
        headers: Headers = [
            (b":method", b"CONNECT"),
            (b":protocol", b"connect-udp"),
            (b":scheme", b"https"),
            (b":authority", f"localhost:{access.port}".encode()),
            (b":path", f"/.well-known/masque/udp/{host}/{target_port}/".encode()),
            (b"capsule-protocol", b"?1"),
        ]
        if access.token:
            headers.append((b"proxy-authorization", b"Bearer " + access.token.encode()))
        stream_id = self.h3.open_request(headers, end_stream=False)
        tunnel = self._tunnels[stream_id] = H3Tunnel(self.h3, stream_id)
        await asyncio.wait_for(tunnel.opened, DEADLINE_S)
        return tunnel

    def settings_received(self, settings: Mapping[int, int]) -> None:
        del settings
        self.settings.set_result(None)

    def headers_received(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        del end_stream
        opened = self._tunnels[stream_id].opened
        if dict(headers)[b":status"] == b"200":
            opened.set_result(None)
        else:
            opened.set_exception(ConnectionRefusedError(f"the relay answered {headers}"))

    def datagrams_received(self, stream_id: int, payloads: list[bytes]) -> None:
        if (tunnel := self._tunnels.get(stream_id)) is not None:
            tunnel.receiver([payload[1:] for payload in payloads])

    def data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        del end_stream
        self.h3.consume(stream_id, len(data))

    def malformed_received(self, stream_id: int, detail: str) -> None:
        raise ConnectionError(f"stream {stream_id}: {detail}")

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        opened = self._tunnels[stream_id].opened
        if not opened.done():
            opened.set_exception(ConnectionResetError(f"reset with {error_code:#x}"))

    def goaway_received(self, stream_id: int) -> None:
        pass

    def streams_writable(self) -> None:
        pass

    def connection_lost(self, error_code: int, reason: str) -> None:
        for future in (self.settings, *(tunnel.opened for tunnel in self._tunnels.values())):
            if not future.done():
                future.set_exception(ConnectionAbortedError(f"{error_code:#x} {reason}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where a relay is and what it asks for. Without a CA file it is a plain UDP port."""

    port: int
    ca_file: Path | None = None
    token: str = ""


class SystemClock:
    """Real time."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()


class Ways:
    """Opens connections and tunnels through one subject."""

    def __init__(self, access: Access, *, offload: bool = True) -> None:
        self._access = access
        limits = SocketLimits(segment_sends=offload, coalesce_receives=offload)
        self._endpoint = QuicEndpoint(
            EndpointSettings(),
            socket_factory=socket_factory(limits, FlowCounters()),
            clock=SystemClock(),
            counters=QuicCounters(),
        )
        self.clients: list[BenchClient] = []

    async def open_connections(self, count: int) -> None:
        """Open QUIC connections; a plain subject has none."""
        if self._access.ca_file is None:
            return
        ca_pem = self._access.ca_file.read_bytes()
        for _ in range(count):
            made: list[BenchClient] = []

            def application(transport: QuicTransport, made: list[BenchClient] = made) -> H3Session:
                made.append(BenchClient(transport))
                return made[0].h3

            await self._endpoint.connect(
                Endpoint(address=LOOPBACK, port=self._access.port),
                server_name="localhost",
                alpn="h3",
                application=application,
                tls=ClientTls(ca_pem=ca_pem),
                timeout_s=DEADLINE_S,
            )
            self.clients += made

    async def open_tunnel(self, index: int, target_port: int) -> Tunnel:
        """Open a tunnel on one of the connections, in turn."""
        if self._access.ca_file is None:
            return PlainTunnel(self._access.port)
        client = self.clients[index % len(self.clients)]
        return await client.open_tunnel(self._access, target_port)

    async def close(self) -> None:
        """Close the connections and their streams."""
        await self._endpoint.close(timeout_s=0.2)
