"""Owns one trial of each method by our client, whatever stands between it and the relay.

A trial opens a tunnel at ``WayIn.url`` by the HTTP version that it is told, sends something to a
target on loopback, and sees the answer. It raises where that does not work.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from masque_relay.client import (
    Bearer,
    HttpChoice,
    IpTunnel,
    RelayAddress,
    RelayClient,
    RelayOptions,
    ip_request,
    make_target,
    open_bound_udp,
)
from masque_relay.client.mesh.http_way import open_http_way
from masque_relay.client.mesh.way import WayKind
from masque_relay.contract.ip_scope import IpScope
from masque_relay.quic.limits import QuicLimits
from masque_relay.wire.connect_tcp import DataCapsuleTypes
from tests.support.ip_packets import icmp_kind, ping4, ping6
from tests.support.mesh_peer import MeshPeer
from tests.support.processes import TIMESCALE, wait_until
from tests.support.udp_echo import run_udp_echo

WAIT_S = 20.0 * TIMESCALE
RESEND_S = 0.5 * TIMESCALE
VERSIONS = (HttpChoice.H3, HttpChoice.H2, HttpChoice.H1)
GHOSTWIRE_PATH = "/.well-known/ghostwire/"
GHOSTWIRE_SUBPROTOCOL = "ghostwire.v1"
MAX_PAYLOAD_BYTES = 1_200
"""A QUIC Initial of somebody else must fit (RFC 9000 section 14.1)."""

WIDE_PATH = QuicLimits(initial_datagram_bytes=1_400, max_datagram_bytes=1_472)
"""Envoy never answers in larger packets than the first that it gets, and 1,280 bytes must fit."""

IP_POOLS = ("10.71.0.0/24", "fd71::/64")
TRIAL_CONFIG = f"""
[connect_ip]
enabled = true
egress = "loop"
pools = ["{IP_POOLS[0]}", "{IP_POOLS[1]}"]
templates = ["/.well-known/masque/ip/{{target}}/{{ipproto}}/", "/vpn"]
"""
"""What a dev-mode relay lacks for all trials."""

TRIAL_POLICY = f"""
[[rule]]
name = "tunnels"
action = "allow"
who = ["*"]
methods = ["connect-udp", "connect-tcp", "bind-udp", "connect-ip"]
targets = ["127.0.0.0/8:*", "[::1/128]:*", "localhost:*", "{IP_POOLS[0]}:*", "[{IP_POOLS[1]}]:*"]

[[rule]]
name = "mesh"
action = "allow"
who = ["*"]
methods = ["ghostwire"]
targets = ["*"]
peers = ["*"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayIn:
    """Where a client comes in: the relay, or what stands in front of it."""

    url: str
    """``https://127.0.0.1:PORT``."""
    ca_file: Path
    token: str

    def options(self, http: HttpChoice, *, templated_tcp: bool = False) -> RelayOptions:
        """Return how our client comes in."""
        return RelayOptions(
            ca_file=self.ca_file,
            credential=Bearer(token=self.token),
            http=http,
            connect_tcp=DataCapsuleTypes() if templated_tcp else None,
            quic_limits=WIDE_PATH,
        )

    def client(self, http: HttpChoice, *, templated_tcp: bool = False) -> RelayClient:
        """Return a client that is not connected yet."""
        options = self.options(http, templated_tcp=templated_tcp)
        return RelayClient(RelayAddress.parse(self.url), options)


async def connect_udp(way: WayIn, http: HttpChoice) -> None:
    """Payloads of several sizes go to an echo and come back."""
    with run_udp_echo() as echo:
        async with way.client(http) as client, client.open_udp("127.0.0.1", echo.port) as tunnel:
            for size in (1, 64, MAX_PAYLOAD_BYTES):
                payload = bytes([size % 251]) * size
                await _until_answered(
                    partial(tunnel.send_batch, [payload]), tunnel.receive, payload
                )


async def bound_udp(way: WayIn, http: HttpChoice) -> None:
    """A peer that nobody has called reaches the client's public port, and is answered."""
    loop = asyncio.get_running_loop()
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.setblocking(False)
        async with way.client(http) as client:
            bound = await open_bound_udp(client.start_tunnel, client.address.bind_path)
            (public,) = bound.public
            async with asyncio.timeout(WAIT_S):
                await loop.sock_sendto(peer, b"knock", (str(public.address), public.port))
                payload, source = await bound.receive()
                assert payload == b"knock"
                assert (str(source.address), source.port) == peer.getsockname()
                bound.send(b"come in", source)
                assert await loop.sock_recv(peer, 100) == b"come in"
            bound.close()


async def connect_tcp(way: WayIn, http: HttpChoice, *, templated: bool) -> None:
    """A megabyte goes to a TCP echo and comes back whole."""
    payload = bytes(range(256)) * 4_096
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):  # the client leaves by an abort
                while data := await reader.read(65_536):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.transport.abort()
            ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with way.client(http, templated_tcp=templated) as client:
            tunnel = await client.start_tcp(make_target("127.0.0.1", port))
            received = bytearray()
            async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
                group.create_task(tunnel.write(payload))
                while len(received) < len(payload):
                    received += await tunnel.read()
            assert received == payload
            tunnel.abort()
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


async def connect_ip(way: WayIn, http: HttpChoice) -> None:
    """Pings of both IP versions, the larger one of 1,280 bytes, are answered."""
    packets: asyncio.Queue[bytes] = asyncio.Queue()

    def keep(batch: Sequence[bytes]) -> None:
        for packet in batch:
            packets.put_nowait(packet)

    news = asyncio.Event()
    tunnel = IpTunnel(on_packets=keep, on_changed=news.set)
    async with way.client(http) as client:
        await client.start_tunnel(ip_request(IpScope()), tunnel)
        async with asyncio.timeout(WAIT_S):
            while len(tunnel.networks) < len(IP_POOLS):
                await news.wait()
                news.clear()
        own = {network.version: str(network.network_address) for network in tunnel.networks}
        for packet, reply in (
            (ping4(own[4], "10.71.0.200"), (0, 0)),
            (ping6(own[6], "fd71::200", bytes(1_232)), (129, 0)),
        ):

            async def answer(reply: tuple[int, int] = reply) -> bool:
                return icmp_kind(await packets.get()) == reply

            await _until_answered(partial(tunnel.send_packets, [packet]), answer, True)


async def ghostwire(way: WayIn, http: HttpChoice) -> None:
    """A peer comes in and is welcomed."""
    peer = MeshPeer()
    address = RelayAddress.parse(way.url)
    kind = {HttpChoice.H3: WayKind.H3, HttpChoice.H2: WayKind.H2, HttpChoice.H1: WayKind.H1}[http]
    opened = await open_http_way(
        kind, address, way.options(http), partial(peer.make, name=address.host)
    )
    try:
        async with asyncio.timeout(WAIT_S):
            await peer.opened.wait()
        assert peer.session is not None
        assert peer.session.is_open, peer.closed
    finally:
        if peer.session is not None:
            peer.session.close()
        await opened.close()


async def websocket(way: WayIn, http: HttpChoice) -> None:
    """The foreign library `websockets` opens one with its subprotocol; a ping is answered."""
    assert http is HttpChoice.H1, "the library knows no other"
    context = ssl.create_default_context(cafile=str(way.ca_file))
    context.set_alpn_protocols(["http/1.1"])  # as browsers do, and the library by itself does not
    async with connect(
        way.url.replace("https:", "wss:") + GHOSTWIRE_PATH,
        ssl=context,
        subprotocols=[Subprotocol(GHOSTWIRE_SUBPROTOCOL)],
        additional_headers={"Authorization": f"Bearer {way.token}"},
        open_timeout=WAIT_S,
        proxy=None,
    ) as socket_:
        assert socket_.subprotocol == GHOSTWIRE_SUBPROTOCOL
        async with asyncio.timeout(WAIT_S):
            await (await socket_.ping())


Trial = Callable[[WayIn, HttpChoice], Awaitable[None]]
TRIALS: Mapping[str, Trial] = {
    "CONNECT-UDP": connect_udp,
    "bound UDP": bound_udp,
    "CONNECT": partial(connect_tcp, templated=False),
    "connect-tcp": partial(connect_tcp, templated=True),
    "CONNECT-IP": connect_ip,
    "Ghostwire": ghostwire,
    "WebSocket": websocket,
}


async def _until_answered(
    send: Callable[[], object], receive: Callable[[], Awaitable[object]], expected: object
) -> None:
    """Send again and again, because datagrams may be lost, until the answer comes."""
    async with asyncio.timeout(WAIT_S):
        while True:
            send()
            try:
                async with asyncio.timeout(RESEND_S):
                    while await receive() != expected:
                        pass
            except TimeoutError:
                continue
            return


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port that was free a moment ago, for programs that cannot take port 0."""
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until_accepting(port: int) -> None:
    """Wait until something accepts TCP connections there."""

    def accepts() -> bool | None:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0 or None

    wait_until(accepts, deadline_s=WAIT_S, what=f"port {port}")
