"""QuicEndpoint with stock aioquic clients: QUIC v2, version negotiation, Retry, key update."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aioquic.asyncio import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import QuicErrorCode, QuicProtocolVersion

from masque_relay.quic.limits import RetryMode
from tests.integration.quic.conftest import StartServer
from tests.integration.quic.harness import ALPN, WAIT_S, Server

V1, V2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2


@asynccontextmanager
async def stock_client(
    server: Server, *, original_version: int | None = None, versions: list[int] | None = None
) -> AsyncIterator[QuicConnectionProtocol]:
    configuration = QuicConfiguration(
        alpn_protocols=[ALPN], verify_mode=ssl.CERT_NONE, original_version=original_version
    )
    if versions is not None:
        configuration.supported_versions = versions
    async with asyncio.timeout(WAIT_S):
        async with connect(
            str(server.address.address), server.address.port, configuration=configuration
        ) as client:
            yield client


async def echo(client: QuicConnectionProtocol, text: bytes) -> None:
    reader, writer = await client.create_stream()
    writer.write(text)
    writer.write_eof()
    assert await reader.read() == text


@pytest.mark.parametrize("version", [V1, V2])
@pytest.mark.parametrize("mode", [RetryMode.NEVER, RetryMode.ALWAYS])
async def test_each_version_works_with_and_without_retry(
    version: int, mode: RetryMode, start_server: StartServer
) -> None:
    server = start_server(retry_mode=mode)
    async with stock_client(server, versions=[version]) as client:
        await echo(client, b"hello" * 1_000)
        assert client._quic._version == version
    assert (server.counters.retries_sent > 0) is (mode is RetryMode.ALWAYS)


async def test_client_of_an_unknown_version_is_led_to_one_of_ours(
    start_server: StartServer,
) -> None:
    server = start_server()
    async with stock_client(
        server, original_version=0x1A2A3A4A, versions=[0x1A2A3A4A, V1]
    ) as client:
        await echo(client, b"hello")
    assert server.counters.version_negotiations_sent == 1


async def test_key_update_and_new_connection_ids_do_not_disturb(
    start_server: StartServer,
) -> None:
    server = start_server()
    async with stock_client(server) as client:
        for _ in range(5):
            await echo(client, b"hello")
            client.change_connection_id()
            client.request_key_update()
        await echo(client, b"hello")
    assert server.counters.connections_opened == 1
    assert server.counters.packets_unroutable == 0


@pytest.mark.clause("RFC 9000", "4.6", "MUST", "STREAM_LIMIT_ERROR for streams beyond the limit")
async def test_client_that_ignores_the_stream_limit_loses_its_connection_only(
    start_server: StartServer,
) -> None:
    server = start_server(max_bidirectional_streams=4)
    async with stock_client(server) as neighbour, stock_client(server) as greedy:
        greedy._quic._remote_max_streams_bidi = 1_000
        for _ in range(5):
            stream_id = greedy._quic.get_next_available_stream_id()
            greedy._quic.send_stream_data(stream_id, b"x")
        greedy.transmit()
        await greedy.wait_closed()
        event = greedy._quic._close_event
        assert event is not None
        assert event.error_code == QuicErrorCode.STREAM_LIMIT_ERROR
        await echo(neighbour, b"still here")
