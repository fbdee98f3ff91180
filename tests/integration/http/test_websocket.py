"""WebSocket over HTTP/1.1, HTTP/2 and HTTP/3, with clients that are not ours."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from masque_relay.http.limits import HttpLimits
from masque_relay.http.websocket_settings import WebSocketSettings
from tests.support.chromium import browsing, needs_chromium
from tests.support.h3_client import WAIT_S, Exchange, H3Client
from tests.support.tcp_clients import H2Client
from tests.support.web_rig import WebRig, serving_web
from tests.support.websocket_frames import (
    BINARY,
    CLOSE,
    EXTENDED_HEAD,
    PING,
    TEXT,
    FrameReader,
    close_frame,
    frame,
)


async def echo(websocket: WebSocket) -> None:
    """Send back what comes, after saying over which version it came."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[-1] if offered else None)
    await websocket.send_text(websocket.scope["http_version"])
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await websocket.send({**message, "type": "websocket.send"})
    except WebSocketDisconnect:
        return


async def deaf(websocket: WebSocket) -> None:
    """Accept and never read."""
    await websocket.accept()
    await asyncio.Event().wait()


async def closing(websocket: WebSocket) -> None:
    """Close at the first message, with the code that it names."""
    await websocket.accept()
    await websocket.close(code=int(await websocket.receive_text()), reason="as you wish")


ROUTES = [
    WebSocketRoute("/echo", echo),
    WebSocketRoute("/deaf", deaf),
    WebSocketRoute("/closing", closing),
]


@asynccontextmanager
async def serving(
    directory: Path, settings: WebSocketSettings | None = None
) -> AsyncGenerator[WebRig]:
    limits = HttpLimits(websocket=settings or WebSocketSettings(), application_exit_s=0.1)
    async with serving_web(directory, Starlette(routes=ROUTES), limits=limits) as web:
        yield web


def connect(web: WebRig, path: str = "/echo", **more: object) -> websockets.connect:
    """Return the foreign client's connection, which is HTTP/1.1."""
    context = ssl.create_default_context(cadata=web.ca_pem.decode())
    url = f"wss://localhost:{web.https_address.port}{path}"
    options = {"compression": None, "max_size": 2**22, **more}
    return websockets.connect(url, ssl=context, **options)  # type: ignore[arg-type]  # by name


class TestForeignClient:
    """The package ``websockets``."""

    async def test_messages_pings_subprotocol_and_close(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as web:
            async with connect(web, subprotocols=["a", "b"]) as client:
                assert client.subprotocol == "b"
                assert await client.recv() == "1.1"
                for message in ("text", "κόσμε", b"", b"x" * 65_536, b"x" * 1_000_000):
                    await client.send(message)
                    assert await client.recv() == message
                await client.send(iter(["frag", "ment", "ed"]))
                assert await client.recv() == "fragmented"
                await (await client.ping(b"payload"))
            assert client.close_code == 1000

    async def test_the_servers_close_code_and_reason(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as web, connect(web, "/closing") as client:
            await client.send("4321")
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert (client.close_code, client.close_reason) == (4321, "as you wish")

    async def test_too_large_a_message_is_1009(self, tmp_path: Path) -> None:
        async with serving(tmp_path, WebSocketSettings(max_message_bytes=1_000)) as web:
            async with connect(web) as client:
                await client.recv()
                await client.send(b"x" * 1_001)
                with pytest.raises(ConnectionClosedError):
                    await client.recv()
                assert client.close_code == 1009
            assert web.http.websockets_failed == 1

    async def test_compression_where_it_is_configured(self, tmp_path: Path) -> None:
        async with (
            serving(tmp_path, WebSocketSettings(compression=True)) as web,
            connect(web, compression="deflate") as client,
        ):
            assert client.response is not None
            assert "permessage-deflate" in client.response.headers["Sec-WebSocket-Extensions"]
            await client.recv()
            for message in ("tell me " * 1_000, b"\0" * 100_000, "tell me " * 1_000):
                await client.send(message)
                assert await client.recv() == message

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [
            ("/nowhere", {}, 403),  # Starlette's own answer; the relay's application says 404
            ("/echo", {"Origin": "https://evil.example"}, 403),
        ],
    )
    async def test_refusals_are_http_responses(
        self, tmp_path: Path, path: str, headers: dict[str, str], status: int
    ) -> None:
        async with serving(tmp_path) as web:
            with pytest.raises(InvalidStatus) as refusal:
                await connect(web, path, additional_headers=headers)
            assert refusal.value.response.status_code == status

    async def test_a_client_that_vanishes_is_found_out(self, tmp_path: Path) -> None:
        settings = WebSocketSettings(ping_interval_s=0.1, idle_timeout_s=0.3)
        async with serving(tmp_path, settings) as web:
            client = await web.h2()
            await client.request(EXTENDED_HEAD)  # it never answers a ping
            async with asyncio.timeout(WAIT_S):
                while not web.http.websockets_silent:  # noqa: ASYNC110  (counters have no event)
                    await asyncio.sleep(0.02)
            async with connect(web) as alive:  # this one does
                assert await alive.recv() == "1.1"
                await asyncio.sleep(0.5)
                await alive.send("still here")
                assert await alive.recv() == "still here"


@pytest.mark.parametrize("version", ["2", "3"])
class TestExtendedConnect:
    """RFC 8441 and RFC 9220, with bare clients."""

    @staticmethod
    async def open(web: WebRig, version: str) -> H2Client | H3Client:
        return await (web.h2() if version == "2" else web.h3())

    @staticmethod
    def push(
        client: H2Client | H3Client, stream_id: int, data: bytes, *, end: bool = False
    ) -> None:
        if isinstance(client, H2Client):
            client.send_data(stream_id, data, end=end)
        else:
            client.session.send_data(stream_id, data, end_stream=end)

    @staticmethod
    def unsent(client: H2Client | H3Client, stream_id: int) -> int:
        if isinstance(client, H2Client):
            return client.unsent(stream_id)
        return client.session.unsent_bytes(stream_id)

    @staticmethod
    async def read(
        client: H2Client | H3Client,
        exchange: Exchange,
        reader: FrameReader,
        condition: Callable[[], object],
    ) -> None:
        """Read frames until the condition holds."""

        def look() -> object:
            reader.feed(bytes(exchange.data))
            exchange.data.clear()
            return condition()

        await client.until(look)

    async def test_messages_ping_and_close(self, tmp_path: Path, version: str) -> None:
        async with serving(tmp_path) as web:
            client = await self.open(web, version)
            head = [*EXTENDED_HEAD, (b"sec-websocket-protocol", b"a, b")]
            stream_id, exchange = await client.request(head)
            assert exchange.status == 200
            assert exchange.fields["sec-websocket-protocol"] == "b"
            assert "sec-websocket-accept" not in exchange.fields
            big = b"x" * 300_000
            self.push(
                client, stream_id, frame(TEXT, b"hi") + frame(BINARY, big) + frame(PING, b"p")
            )
            reader = FrameReader()
            await self.read(client, exchange, reader, lambda: len(reader.messages) == 3)
            assert reader.messages == [version, "hi", big]
            assert reader.pongs == [b"p"]
            self.push(client, stream_id, close_frame(1000))
            await self.read(client, exchange, reader, lambda: reader.closed)
            assert reader.closed == (1000, "")
            # RFC 8441 section 5: what is an orderly end of TCP is END_STREAM here.
            await client.until(lambda: exchange.ended)
            assert exchange.reset is None

    async def test_faults_end_one_websocket_alone(self, tmp_path: Path, version: str) -> None:
        async with serving(tmp_path) as web:
            client = await self.open(web, version)
            stream_id, exchange = await client.request(EXTENDED_HEAD)
            neighbour_id, neighbour = await client.request(EXTENDED_HEAD)
            self.push(client, stream_id, frame(CLOSE, b"\x03"))
            reader = FrameReader()
            await self.read(client, exchange, reader, lambda: reader.closed)
            assert reader.closed is not None
            assert reader.closed[0] == 1002
            self.push(client, neighbour_id, frame(TEXT, b"unharmed"))
            reader = FrameReader()
            await self.read(client, neighbour, reader, lambda: len(reader.messages) == 2)
            assert reader.messages == [version, "unharmed"]

    async def test_a_stuck_application_stalls_no_neighbour(
        self, tmp_path: Path, version: str
    ) -> None:
        async with serving(tmp_path) as web:
            client = await self.open(web, version)
            stuck = [(n, b"/deaf" if n == b":path" else v) for n, v in EXTENDED_HEAD]
            stuck_ids = [(await client.request(stuck))[0] for _ in range(3)]
            for stuck_id in stuck_ids:
                self.push(client, stuck_id, frame(BINARY, b"x" * 65_536) * 40)
            stream_id, exchange = await client.request(EXTENDED_HEAD)
            self.push(client, stream_id, frame(TEXT, b"through"))
            reader = FrameReader()
            await self.read(client, exchange, reader, lambda: len(reader.messages) == 2)
            assert reader.messages == [version, "through"]
            # The stuck ones could not send it all: their windows are closed.
            for stuck_id in stuck_ids:
                assert self.unsent(client, stuck_id) > 1_000_000

    async def test_a_bad_handshake_is_refused_and_the_connection_goes_on(
        self, tmp_path: Path, version: str
    ) -> None:
        async with serving(tmp_path) as web:
            client = await self.open(web, version)
            bad = [line for line in EXTENDED_HEAD if line[0] != b"sec-websocket-version"]
            _, exchange = await client.request(bad)
            assert exchange.status == 400
            _, exchange = await client.request(EXTENDED_HEAD)
            assert exchange.status == 200


PAGE = """<!doctype html><title>t</title><script>
const report = {events: []};
const done = () => fetch("/report", {method: "POST", body: JSON.stringify(report)});
const ws = new WebSocket(`wss://${location.host}/echo`, ["one", "two"]);
ws.binaryType = "arraybuffer";
ws.onopen = () => {
  report.protocol = ws.protocol;
  ws.send("grüße");
  ws.send(new Uint8Array(65536));
};
ws.onmessage = (event) => {
  report.events.push(typeof event.data === "string" ? event.data : event.data.byteLength);
  if (report.events.length === 3) ws.close(4002, "enough");
};
ws.onerror = () => { report.error = true; };
ws.onclose = (event) => { report.close = [event.code, event.reason, event.wasClean]; done(); };
</script>"""


@pytest.mark.interop("Chromium", "WebSocket", "2")
@needs_chromium
async def test_a_real_browser(tmp_path: Path) -> None:
    reports: asyncio.Queue[dict[str, object]] = asyncio.Queue()

    async def page(_request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def take_report(request: Request) -> Response:
        reports.put_nowait(json.loads(await request.body()))
        return Response(status_code=204)

    app = Starlette(
        routes=[*ROUTES, Route("/", page), Route("/report", take_report, methods=["POST"])]
    )
    async with serving_web(tmp_path, app) as web:
        url = f"https://localhost:{web.https_address.port}/"
        async with browsing(url, tmp_path / "profile"), asyncio.timeout(6 * WAIT_S):
            report = await reports.get()

    # The page came over HTTP/2, whose SETTINGS offer extended CONNECT: so does the WebSocket.
    assert report == {
        "protocol": "two",
        "events": ["2", "grüße", 65_536],
        "close": [4002, "enough", True],
    }
