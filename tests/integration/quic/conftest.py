"""Owns fixtures of the QUIC endpoint tests: one authority, and endpoints that get closed."""

from collections.abc import AsyncIterator, Callable

import pytest

from masque_relay.contract.address import Endpoint
from tests.integration.quic.harness import LOOPBACK_4, Authority, Client, Server, make_server

StartServer = Callable[..., Server]
StartClient = Callable[..., Client]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def start_server(authority: Authority) -> AsyncIterator[StartServer]:
    servers: list[Server] = []

    def start(listen: Endpoint = LOOPBACK_4, **options: object) -> Server:
        servers.append(make_server(authority, listen, **options))
        return servers[-1]

    yield start
    for server in servers:
        await server.endpoint.close(timeout_s=0.0)


@pytest.fixture
async def start_client(authority: Authority) -> AsyncIterator[StartClient]:
    clients: list[Client] = []

    def start(**options: object) -> Client:
        clients.append(Client(authority, **options))
        return clients[-1]

    yield start
    for client in clients:
        await client.endpoint.close(timeout_s=0.0)
