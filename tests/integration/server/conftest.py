"""Owns what the tests of a relay process share: HTTP/3 clients and UDP echo targets."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import Protocol

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.quic.application import Headers
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.server.clock import SystemClock
from tests.support.h3_client import H3Client
from tests.support.managed_relay import ManagedRelay
from tests.support.relay import udp_echo


class Connect(Protocol):
    """Opens a connection to a relay."""

    def __call__(
        self, relay: ManagedRelay, *, server_name: str = "localhost"
    ) -> Awaitable[H3Client]: ...


@pytest.fixture
async def connect() -> AsyncGenerator[Connect]:
    """Open HTTP/3 connections that end with the test."""
    async with AsyncExitStack() as stack:

        async def open_connection(
            relay: ManagedRelay, *, server_name: str = "localhost"
        ) -> H3Client:
            endpoint = QuicEndpoint(
                EndpointSettings(),
                socket_factory=socket_factory(SocketLimits(), FlowCounters()),
                clock=SystemClock(),
                counters=QuicCounters(),
            )
            stack.push_async_callback(endpoint.close)
            client = H3Client()
            await endpoint.connect(
                Endpoint(address=ip_address(relay.host), port=relay.port),
                server_name=server_name,
                alpn="h3",
                application=client.attach,
                tls=ClientTls(ca_pem=relay.ca_file.read_bytes()),
            )
            await client.until(lambda: client.settings is not None)
            return client

        yield open_connection


@pytest.fixture
async def echo_port() -> AsyncGenerator[int]:
    """A UDP echo on 127.0.0.1."""
    async with udp_echo("127.0.0.1") as port:
        yield port


@pytest.fixture
async def other_echo_port() -> AsyncGenerator[int]:
    """A second UDP echo on 127.0.0.1."""
    async with udp_echo("127.0.0.1") as port:
        yield port


def connect_udp(relay: ManagedRelay, port: int, *, token: str | None = None) -> Headers:
    """Return a CONNECT-UDP head for a port of 127.0.0.1."""
    return [
        (b":method", b"CONNECT"),
        (b":protocol", b"connect-udp"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", f"/.well-known/masque/udp/127.0.0.1/{port}/".encode()),
        (b"capsule-protocol", b"?1"),
        (b"authorization", b"Bearer " + (token or relay.token).encode()),
    ]


async def open_tunnel(client: H3Client, relay: ManagedRelay, port: int) -> int:
    """Open a tunnel, prove that it works, return its stream id."""
    stream_id, answer = await client.request(connect_udp(relay, port))
    assert answer.status == 200, answer
    await client.echo(stream_id, b"hello")
    return stream_id
