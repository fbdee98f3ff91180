"""nginx/alpn-map.conf parts the relay's clients from a web site's, with a real nginx in front."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from masque_relay.client import HttpChoice
from tests.support.managed_relay import ManagedRelay
from tests.support.method_trials import TRIALS, WAIT_S, WayIn, free_port
from tests.support.nginx import run_nginx
from tests.support.site_certificate import SiteCertificate, write_site_certificate

SITE_NAME = "site.example"
TUNNELS = [name for name in TRIALS if name != "WebSocket"]


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A running nginx."""

    port: int
    way: WayIn
    site: SiteCertificate
    site_port: int


@pytest.fixture(scope="module")
def fork(relay: ManagedRelay, tmp_path_factory: pytest.TempPathFactory) -> Generator[Fork]:
    directory = tmp_path_factory.mktemp("alpn-map")
    site = write_site_certificate(directory / "site", names=(SITE_NAME,))
    port, site_port = free_port(), free_port()
    with run_nginx(
        "alpn-map.conf",
        directory,
        listen_address=f"127.0.0.1:{port}",
        relay_address=f"{relay.host}:{relay.port}",
        relay_name="localhost",
        site_address=f"127.0.0.1:{site_port}",
    ):
        way = WayIn(url=f"https://localhost:{port}", ca_file=relay.ca_file, token=relay.token)
        yield Fork(port=port, way=way, site=site, site_port=site_port)


@asynccontextmanager
async def web_site(fork: Fork) -> AsyncGenerator[None]:
    """A TLS site that says its name."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"the site")
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fork.site.certificate_file, fork.site.key_file)
    context.set_alpn_protocols(["imap", "h2", "http/1.1"])
    async with await asyncio.start_server(serve, "127.0.0.1", fork.site_port, ssl=context):
        yield


async def said_by_the_site(fork: Fork, name: str, *alpn: str) -> bytes:
    context = ssl.create_default_context(cafile=str(fork.site.ca_file))
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", fork.port, ssl=context, server_hostname=name
        )
        said = await reader.read()
        writer.close()
        return said


@pytest.mark.interop("nginx, parting by ALPN", "{method}", "{http}")
@pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
@pytest.mark.parametrize("method", TUNNELS)
async def test_tunnels_go_to_the_relay(fork: Fork, method: str, http: HttpChoice) -> None:
    await TRIALS[method](fork.way, http)


@pytest.mark.interop("nginx, parting by ALPN", "WebSocket", "1.1")
async def test_websockets_go_to_the_relay(fork: Fork) -> None:
    await TRIALS["WebSocket"](fork.way, HttpChoice.H1)


@pytest.mark.parametrize(
    ("name", "alpn"),
    [(SITE_NAME, ("h2", "http/1.1")), ("localhost", ("imap",)), ("localhost", ())],
    ids=["another name", "another protocol", "no protocol"],
)
async def test_everybody_else_goes_to_the_site(
    fork: Fork, name: str, alpn: tuple[str, ...]
) -> None:
    async with web_site(fork):
        assert await said_by_the_site(fork, name, *alpn) == b"the site"
