"""The ASGI surface (docs/reference/asgi.md) over real QUIC, with applications that are not ours."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, HttpCounters, QuicCounters
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.application import Headers
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore
from masque_relay.server.clock import SystemClock
from masque_relay.wire.capsule import encode_capsule
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.relay import ECHO_HOST, udp_echo
from tests.support.site_certificate import write_site_certificate

Connect = Callable[[], Awaitable[H3Client]]
TUNNEL_HEAD: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"localhost"),
    (b":path", b"/tunnel"),
]


def request_head(method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> Headers:
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path),
        *more,
    ]


@asynccontextmanager
async def serving(
    directory: Path, app: ASGIApp, limits: HttpLimits | None = None
) -> AsyncGenerator[Connect]:
    """Serve an application over QUIC on loopback; yield what opens a connection to it."""
    site = write_site_certificate(directory)
    identity = CertificateIdentity.from_pem(
        site.certificate_file.read_bytes(), site.key_file.read_bytes()
    )
    clock, sockets = SystemClock(), socket_factory(SocketLimits(), FlowCounters())
    front_end = HttpFrontEnd(
        app, limits=limits or HttpLimits(), counters=HttpCounters(), clock=clock
    )
    async with AsyncExitStack() as stack:
        server = QuicEndpoint(
            EndpointSettings(
                applications={"h3": front_end.application_factory},
                certificates=CertificateStore(identity),
            ),
            socket_factory=sockets,
            clock=clock,
            counters=QuicCounters(),
        )
        stack.push_async_callback(server.close)
        await stack.enter_async_context(front_end)
        outgoing = QuicEndpoint(
            EndpointSettings(), socket_factory=sockets, clock=clock, counters=QuicCounters()
        )
        stack.push_async_callback(outgoing.close)
        address = server.listen(Endpoint(address=ip_address("127.0.0.1"), port=0))

        async def connect() -> H3Client:
            client = H3Client()
            await outgoing.connect(
                address,
                server_name="localhost",
                alpn="h3",
                application=client.attach,
                tls=ClientTls(ca_pem=site.ca_file.read_bytes()),
            )
            await client.until(lambda: client.settings is not None)
            return client

        yield connect


class TestStarlette:
    async def test_large_bodies_both_ways(self, tmp_path: Path) -> None:
        async def double(request: Request) -> StreamingResponse:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)

            async def body() -> AsyncGenerator[bytes]:
                for _ in range(32):
                    yield bytes(size // 16)

            return StreamingResponse(body())

        app = Starlette(routes=[Route("/double", double, methods=["POST"])])
        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id = client.send(request_head(b"POST", b"/double"))
            for _ in range(32):
                client.session.send_data(stream_id, bytes(65_536), end_stream=False)
            client.session.send_data(stream_id, b"", end_stream=True)
            answer = await client.finished(stream_id)

            assert answer.status == 200
            assert len(answer.data) == 2 * 32 * 65_536

    async def test_client_that_reads_slowly_holds_the_application_back(
        self, tmp_path: Path
    ) -> None:
        produced = 0

        async def endless(request: Request) -> StreamingResponse:
            async def body() -> AsyncGenerator[bytes]:
                nonlocal produced
                while True:
                    produced += 16_384
                    yield bytes(16_384)

            return StreamingResponse(body())

        async def ping(request: Request) -> PlainTextResponse:
            return PlainTextResponse("pong")

        app = Starlette(routes=[Route("/endless", endless), Route("/ping", ping)])
        async with serving(tmp_path, app) as connect:
            client = await connect()
            client.reads_data = False
            slow = client.send(request_head(b"GET", b"/endless"), end=True)
            await client.until(lambda: len(client.exchanges[slow].data) >= 200_000)
            for _ in range(5):
                _, answer = await client.request(request_head(b"GET", b"/ping"), end=True)
                assert answer.status == 200

            assert produced < 2_000_000, "the stream's window, the high-water mark, a little more"
            client.session.reset(slow, 0x10C)

    async def test_application_that_does_not_read_holds_the_client_back(
        self, tmp_path: Path
    ) -> None:
        release = asyncio.Event()

        async def lazy(request: Request) -> PlainTextResponse:
            await release.wait()
            return PlainTextResponse(str(len(await request.body())))

        app = Starlette(routes=[Route("/lazy", lazy, methods=["POST"])])
        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id = client.send(request_head(b"POST", b"/lazy"))
            client.session.send_data(stream_id, bytes(1_000_000), end_stream=True)
            await client.until(lambda: client.session.unsent_bytes(stream_id) <= 750_000)
            await asyncio.sleep(0.2)

            assert client.session.unsent_bytes(stream_id) >= 700_000, "no more than a window"
            release.set()
            answer = await client.finished(stream_id)
            assert bytes(answer.data) == b"1000000"

    async def test_trailers_and_interim_responses(self, tmp_path: Path) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError
            await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
            await send({"type": "http.response.start", "status": 200, "trailers": True})
            await send({"type": "http.response.body", "body": b"body"})
            await send({"type": "http.response.trailers", "headers": [(b"checksum", b"1")]})

        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id = client.send(request_head(b"GET", b"/"), end=True)
            answer = await client.finished(stream_id)

            assert [dict(head).get(b":status") for head in answer.heads] == [b"103", b"200", None]
            assert answer.heads[-1] == [(b"checksum", b"1")]
            assert bytes(answer.data) == b"body"


class TestTunnels:
    async def test_application_can_move_every_datagram_itself_in_batches(
        self, tmp_path: Path
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "http.datagram": {"batch": True},
                    "http.capsule": {"types": [0x11]},
                }
            )
            while True:
                message = await receive()
                match message["type"]:
                    case "http.datagram.receive":
                        await send({"type": "http.datagram.send", "batch": message["batch"]})
                    case "http.capsule.receive":
                        await send({**message, "type": "http.capsule.send"})
                    case "http.request":
                        await send({"type": "http.response.body", "body": b""})
                        return
                    case _:
                        return

        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id, answer = await client.request(TUNNEL_HEAD)
            await client.echo(stream_id, b"through the application")
            capsule = encode_capsule(0x11, b"assign")
            client.session.send_data(stream_id, capsule, end_stream=False)
            await client.until(lambda: bytes(answer.data) == capsule)
            client.session.send_data(stream_id, b"", end_stream=True)

            assert (await client.finished(stream_id)).ended

    async def test_splice_of_the_applications_own_socket(self, tmp_path: Path) -> None:
        reports: list[dict[str, object]] = []
        done = asyncio.Event()
        async with udp_echo() as port:

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["type"] != "http":
                    raise NotImplementedError
                target = socket.socket(type=socket.SOCK_DGRAM)
                target.connect((ECHO_HOST, port))
                await send({"type": "http.response.start", "status": 200})
                await send(
                    {
                        "type": "http.splice",
                        "kind": "udp",
                        "sock": target,
                        "context_id": 0,
                        "limits": {"bytes": 100_000, "rate": 1_000_000, "idle": 60},
                    }
                )
                reports.append(dict(await receive()))
                done.set()

            async with serving(tmp_path, app) as connect:
                client = await connect()
                stream_id, _ = await client.request(TUNNEL_HEAD)
                await client.echo(stream_id, b"spliced")
                client.session.send_data(stream_id, b"", end_stream=True)
                async with asyncio.timeout(WAIT_S):
                    await done.wait()

        (report,) = reports
        assert report["type"] == "http.splice.done"
        assert report["reason"] == "peer_closed"
        assert report["rx_bytes"] == report["tx_bytes"] == 8

    async def test_exporter_is_the_same_at_both_ends(self, tmp_path: Path) -> None:
        label, context = b"EXPORTER-HTTP-Concealed-Authentication", b"context"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError
            exporter = scope["extensions"]["tls"]["exporter"]
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": exporter(label, context, 48)})

        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id = client.send(request_head(b"GET", b"/"), end=True)
            answer = await client.finished(stream_id)

            ours = client.session.quic.export_keying_material(label, context, 48)
            assert bytes(answer.data) == ours

    async def test_abort_reaches_the_client_with_its_code(self, tmp_path: Path) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise NotImplementedError
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.abort", "code": 0x10F})

        async with serving(tmp_path, app) as connect:
            client = await connect()
            stream_id = client.send(TUNNEL_HEAD)

            assert (await client.finished(stream_id)).reset == 0x10F
