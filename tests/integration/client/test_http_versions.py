"""Owns the tests of a client that reaches its relay by HTTP/3, HTTP/2 or HTTP/1.1."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from masque_relay.client import (
    Bearer,
    HttpChoice,
    RelayAddress,
    RelayClient,
    RelayLink,
    RelayOptions,
    RelayUnreachable,
    RelayUntrusted,
    TunnelClosed,
    TunnelRefused,
    make_target,
)
from masque_relay.client.limits import ClientLimits, TcpWayLimits
from masque_relay.wire.connect_tcp import DataCapsuleTypes
from tests.support.client_certificates import Authority
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import TIMESCALE
from tests.support.relay import udp_echo
from tests.support.tcp_serving import echo_then_bye, serving_tcp

WAIT_S = 20.0 * TIMESCALE
VERSIONS = [HttpChoice.H3, HttpChoice.H2, HttpChoice.H1]


def options(relay: ManagedRelay, http: HttpChoice, **more: object) -> RelayOptions:
    base = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file), http=http)
    return replace(base, **more)  # type: ignore[arg-type]  # fields of RelayOptions by name


@asynccontextmanager
async def client_of(
    relay: ManagedRelay, http: HttpChoice, **more: object
) -> AsyncGenerator[RelayClient]:
    async with RelayClient(RelayAddress.parse(relay.url), options(relay, http, **more)) as client:
        yield client


@asynccontextmanager
async def blocked_udp(relay: ManagedRelay) -> AsyncGenerator[str]:
    """Yield a URL at which TCP reaches the relay and UDP vanishes, as behind many firewalls."""

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(relay.host, relay.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(pipe(reader, there[1]))
            group.create_task(pipe(there[0], writer))

    with _hole() as hole:
        port: int = hole.getsockname()[1]
        async with serving_tcp(serve, port=port):
            yield f"https://127.0.0.1:{port}"


def _hole() -> socket.socket:
    """Return a UDP socket that nobody reads, at a port that TCP has free too."""
    while True:
        hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hole.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(hole.getsockname())
            except OSError:
                hole.close()
            else:
                return hole


@pytest.mark.parametrize("http", VERSIONS)
async def test_udp_payloads_go_through_on_every_version(
    relay: ManagedRelay, http: HttpChoice
) -> None:
    async with (
        udp_echo("127.0.0.1") as port,
        client_of(relay, http) as client,
        client.open_udp("127.0.0.1", port) as tunnel,
    ):
        assert client.connection.http_version == http.value
        assert tunnel.reliable is (http is not HttpChoice.H3)
        payloads = [b"one", bytes(1_000), b""]
        assert tunnel.send_batch(payloads) == 3
        async with asyncio.timeout(WAIT_S):
            assert [await tunnel.receive() for _ in payloads] == payloads


@pytest.mark.parametrize("http", VERSIONS)
@pytest.mark.parametrize("templated", [False, True])
async def test_tcp_arrives_whole_on_every_version(
    relay: ManagedRelay, http: HttpChoice, templated: bool
) -> None:
    payload = bytes(range(256)) * 4_096
    capsules = DataCapsuleTypes() if templated else None
    async with (
        serving_tcp(echo_then_bye) as port,
        client_of(relay, http, connect_tcp=capsules) as client,
    ):
        tunnel = await client.start_tcp(make_target("127.0.0.1", port))
        assert tunnel.next_hop == f"127.0.0.1:{port}"

        async def send() -> None:
            await tunnel.write(payload)
            tunnel.write_eof()

        received = bytearray()
        # classic CONNECT over HTTP/1.1 cannot say that only one direction ended
        expected = payload if http is HttpChoice.H1 and not templated else payload + b"bye"
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            group.create_task(send())
            while len(received) < len(expected):
                received += await tunnel.read()
            if expected.endswith(b"bye"):
                assert await tunnel.read() == b""
        assert received == expected
        tunnel.abort()


@pytest.mark.parametrize("http", VERSIONS)
async def test_a_refusal_says_the_same_on_every_version(
    relay: ManagedRelay, http: HttpChoice
) -> None:
    async with client_of(relay, http) as client:
        with pytest.raises(TunnelRefused) as refused:
            await client.start_udp(make_target("169.254.169.254", 80))
        assert (refused.value.status, refused.value.error) == (403, "destination_ip_prohibited")
        with pytest.raises(TunnelRefused) as refused:
            await client.start_tcp(make_target("127.0.0.1", 1))
        assert (refused.value.status, refused.value.error) == (502, "connection_refused")
        async with udp_echo("127.0.0.1") as port:
            assert (await client.start_udp(make_target("127.0.0.1", port))).is_open


@pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
async def test_a_credential_that_is_wrong_is_told_on_every_version(
    relay: ManagedRelay, http: HttpChoice
) -> None:
    async with client_of(relay, http, credential=Bearer(token="wrong")) as client:
        with pytest.raises(TunnelRefused) as refused:
            await client.start_udp(make_target("127.0.0.1", 9))
        assert refused.value.status == 401


@pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
async def test_many_tunnels_do_not_disturb_each_other(
    relay: ManagedRelay, http: HttpChoice
) -> None:
    async with udp_echo("127.0.0.1") as port, client_of(relay, http) as client:
        target = make_target("127.0.0.1", port)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            opening = [group.create_task(client.start_udp(target)) for _ in range(20)]
        tunnels = [task.result() for task in opening]
        tunnels[0].close()
        for index, tunnel in enumerate(tunnels[1:]):
            tunnel.send(b"%d" % index)
        async with asyncio.timeout(WAIT_S):
            for index, tunnel in enumerate(tunnels[1:]):
                assert await tunnel.receive() == b"%d" % index


class TestAuto:
    async def test_http3_wins_where_udp_works(self, relay: ManagedRelay) -> None:
        limits = TcpWayLimits(head_start_s=10.0 * TIMESCALE)
        async with client_of(relay, HttpChoice.AUTO, tcp_limits=limits) as client:
            assert client.connection.http_version == "3"

    async def test_http2_is_used_where_udp_vanishes(self, relay: ManagedRelay) -> None:
        async with blocked_udp(relay) as url, udp_echo("127.0.0.1") as port:
            address = RelayAddress.parse(url)
            async with RelayClient(address, options(relay, HttpChoice.AUTO)) as client:
                assert client.connection.http_version == "2"
                async with client.open_udp("127.0.0.1", port) as tunnel:
                    tunnel.send(b"through")
                    async with asyncio.timeout(WAIT_S):
                        assert await tunnel.receive() == b"through"

    async def test_with_http3_alone_a_blocked_port_is_unreachable(
        self, relay: ManagedRelay
    ) -> None:
        limits = ClientLimits(connect_timeout_s=1.0)
        async with blocked_udp(relay) as url:
            client = RelayClient(
                RelayAddress.parse(url), options(relay, HttpChoice.H3, limits=limits)
            )
            with pytest.raises(RelayUnreachable):
                await client.connect()

    async def test_where_nothing_listens_both_ways_are_told(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            client = RelayClient(
                RelayAddress.parse(f"https://127.0.0.1:{port}"),
                RelayOptions(limits=ClientLimits(connect_timeout_s=2.0)),
            )
            with pytest.raises(RelayUnreachable, match=r"UDP.*; .*TCP") as refused:
                await client.connect()
        assert refused.value.hint

    async def test_a_link_falls_back_too(self, relay: ManagedRelay) -> None:
        async with blocked_udp(relay) as url, udp_echo("127.0.0.1") as port:
            link = RelayLink.to(RelayAddress.parse(url), options(relay, HttpChoice.AUTO))
            await link.start()
            try:
                tunnel = await link.open_udp(make_target("127.0.0.1", port))
                assert link.reliable
                tunnel.send(b"x")
                async with asyncio.timeout(WAIT_S):
                    assert await tunnel.receive() == b"x"
            finally:
                await link.close()


class TestTrust:
    @pytest.mark.parametrize("http", VERSIONS)
    async def test_another_ca_is_not_trusted(
        self, relay: ManagedRelay, http: HttpChoice, tmp_path: Path
    ) -> None:
        ca_file = tmp_path / "other.pem"
        ca_file.write_bytes(Authority.make("Other").pem)
        client = RelayClient(RelayAddress.parse(relay.url), options(relay, http, ca_file=ca_file))
        with pytest.raises(RelayUntrusted) as refused:
            await client.connect()
        assert "--ca" in (refused.value.hint or "")

    @pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
    async def test_a_server_without_tls_is_no_relay(self, http: HttpChoice) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with serving_tcp(serve) as port:
            client = RelayClient(
                RelayAddress.parse(f"https://127.0.0.1:{port}"), RelayOptions(http=http)
            )
            with pytest.raises((RelayUntrusted, RelayUnreachable)):
                await client.connect()


@pytest.mark.parametrize("http", [HttpChoice.H2, HttpChoice.H1])
async def test_a_relay_that_ends_ends_the_tunnels(tmp_path: Path, http: HttpChoice) -> None:
    with managed_relay(tmp_path, expect_exit=None) as relay:
        async with udp_echo("127.0.0.1") as port, client_of(relay, http) as client:
            tunnel = await client.start_udp(make_target("127.0.0.1", port))
            relay.terminate()
            async with asyncio.timeout(WAIT_S):
                with pytest.raises(TunnelClosed):
                    await tunnel.receive()
