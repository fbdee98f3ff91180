"""``masque_relay.http.asgi:app`` under stock hypercorn, HTTP/1.1 and HTTP/2, on loopback."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config

from masque_relay.http.asgi import app
from tests.support.h3_client import WAIT_S

TUNNEL_PATH = "/.well-known/masque/udp/192.0.2.7/53/"


@asynccontextmanager
async def hypercorn() -> AsyncGenerator[int]:
    """Serve the application on a free port while the block runs."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.errorlog = None
        stop = asyncio.Event()

        async def stopped() -> None:
            await stop.wait()

        async with asyncio.TaskGroup() as group:
            group.create_task(serve(app, config, shutdown_trigger=stopped))  # type: ignore[arg-type]  # hypercorn types scopes its own way
            yield port
            stop.set()


def client(port: int, *, http2: bool) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        http1=not http2,
        http2=http2,
        timeout=WAIT_S,
        trust_env=False,
    )


@pytest.mark.parametrize("http2", [False, True])
async def test_plain_site_works(*, http2: bool) -> None:
    async with hypercorn() as port, client(port, http2=http2) as web:
        home = await web.get("/")
        missing = await web.get("/nothing")

    assert home.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert home.status_code == 200
    assert "Welcome" in home.text
    assert missing.status_code == 404


@pytest.mark.parametrize(("http2", "status"), [(False, 426), (True, 501)])
async def test_get_on_a_tunnels_path_says_how(*, http2: bool, status: int) -> None:
    async with hypercorn() as port, client(port, http2=http2) as web:
        answer = await web.get(TUNNEL_PATH)

    assert answer.status_code == status
    assert "extended CONNECT" in answer.text
    if not http2:
        assert answer.headers["upgrade"] == "connect-udp"


async def test_upgrade_to_connect_udp_is_501_and_closes() -> None:
    """RFC 9931: what follows a refused upgrade must not be read as a request."""
    async with hypercorn() as port:
        answer = await raw(
            port,
            f"GET {TUNNEL_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            "Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n",
        )

    assert answer.startswith("HTTP/1.1 501")
    assert "connection: close" in answer.lower()


@pytest.mark.parametrize("target", ["example.org:443", TUNNEL_PATH])
async def test_connect_opens_nothing(target: str) -> None:
    async with hypercorn() as port:
        answer = await raw(port, f"CONNECT {target} HTTP/1.1\r\nHost: example.org:443\r\n\r\n")

    assert answer.split(" ")[1][0] in {"4", "5"}, answer


async def raw(port: int, request: str) -> str:
    """Send bytes over TCP and return everything until the server closes."""
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
    return head.decode("latin-1")
