"""draft-ietf-httpbis-wrap-up through a whole relay: the capsule WRAP_UP on drain."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from masque_relay.client import Bearer, HttpChoice, RelayAddress, RelayClient, RelayOptions
from masque_relay.client.address import parse_target
from masque_relay.client.errors import RelayLeaving
from masque_relay.contract.verdict import EndReason
from masque_relay.http.wrap_up import WrapUpRule
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_tcp import DataCapsuleTypes
from masque_relay.wire.wrap_up import WRAP_UP, WRAP_UP_CAPSULE
from tests.support.h3_client import WAIT_S, Exchange, H3Client
from tests.support.relay import ECHO_HOST, InProcessRelay, running_relay, udp_echo
from tests.support.tcp_clients import H1Client, H2Client, upgrade_request

ALICE = WrapUpRule(["alice"])
VERSIONS = pytest.mark.parametrize("version", ["1.1", "2", "3"])


class Tunnel:
    """An open CONNECT-UDP tunnel over any HTTP version, as bytes of its stream."""

    def __init__(self) -> None:
        self.decoder = CapsuleDecoder(max_capsule_bytes=70_000, known_types={0, WRAP_UP})
        self.capsules: list[Capsule] = []

    async def open(self, relay: InProcessRelay, version: str, port: int) -> None:
        self.h1: H1Client | None = None
        self.client: H2Client | H3Client | None = None
        self.exchange = Exchange()
        if version == "1.1":
            self.h1 = await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")
            path = f"/.well-known/masque/udp/{ECHO_HOST}/{port}/"
            token = f"Authorization: Bearer {relay.token()}"
            assert (await self.h1.request(upgrade_request(path, token))).status == 101
            return
        self.client = (
            await H2Client.connect(relay.https_address, relay.ca_pem)
            if version == "2"
            else await relay.connect()
        )
        self.stream_id, self.exchange = await self.client.request(
            relay.connect_udp(ECHO_HOST, port)
        )
        assert self.exchange.status == 200

    def send(self, data: bytes) -> None:
        if self.h1 is not None:
            self.h1.send(data)
        elif isinstance(self.client, H2Client):
            self.client.send_data(self.stream_id, data)
        elif self.client is not None:
            self.client.session.send_data(self.stream_id, data, end_stream=False)

    async def read(self, count: int) -> list[Capsule]:
        """Read until there are so many capsules."""
        while len(self.capsules) < count:
            if self.h1 is not None:
                async with asyncio.timeout(WAIT_S):
                    data = await self.h1.reader.read(65_536)
                assert data, "the connection ended"
            else:
                assert self.client is not None
                await self.client.until(lambda: self.exchange.data)
                data = bytes(self.exchange.data)
                self.exchange.data.clear()
            self.capsules += self.decoder.feed(data)
        return self.capsules

    async def is_broken(self) -> bool:
        if self.h1 is not None:
            return await self.h1.is_closed()
        assert self.client is not None
        await self.client.until(lambda: self.exchange.reset is not None)
        return True


@pytest.mark.clause("wrap-up", "2.1", "MAY", "tell a client that its stream will be closed")
@pytest.mark.clause("wrap-up", "2.3", "MUST NOT", "send more than one on a stream")
@pytest.mark.clause("wrap-up", "2.3", "MUST NOT", "send one with a value")
@VERSIONS
async def test_a_drain_sends_one_empty_capsule_and_the_tunnel_goes_on(
    tmp_path: Path, version: str
) -> None:
    async with running_relay(tmp_path, wrap_up=ALICE) as relay, udp_echo() as port:
        tunnel = Tunnel()
        await tunnel.open(relay, version, port)
        relay.front_end.begin_drain()
        relay.front_end.begin_drain()
        assert await tunnel.read(1) == [Capsule(WRAP_UP, b"")]
        tunnel.send(encode_capsule(0, b"\0still here"))
        assert (await tunnel.read(2))[1] == Capsule(0, b"\0still here")
        assert len(tunnel.capsules) == 2


@VERSIONS
async def test_nobody_is_told_by_default(tmp_path: Path, version: str) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        tunnel = Tunnel()
        await tunnel.open(relay, version, port)
        relay.front_end.begin_drain()
        tunnel.send(encode_capsule(0, b"\0echo"))
        assert await tunnel.read(1) == [Capsule(0, b"\0echo")]


@pytest.mark.clause("wrap-up", "2.3", "MUST", "abort the stream on which a client sends one")
@VERSIONS
async def test_a_client_that_sends_one_loses_that_stream_alone(
    tmp_path: Path, version: str
) -> None:
    async with running_relay(tmp_path, wrap_up=ALICE) as relay, udp_echo() as port:
        tunnel, neighbour = Tunnel(), Tunnel()
        await tunnel.open(relay, version, port)
        await neighbour.open(relay, version, port)
        tunnel.send(WRAP_UP_CAPSULE)
        assert await tunnel.is_broken()
        await relay.audit.until(relay.audit.ends)
        assert relay.audit.ends()[0]["reason"] == str(EndReason.PROTOCOL_ERROR)
        neighbour.send(encode_capsule(0, b"\0unharmed"))
        assert await neighbour.read(1) == [Capsule(0, b"\0unharmed")]


TCP_POLICY = f"""
[[rule]]
name = "echo"
action = "allow"
who = ["alice"]
methods = ["connect-tcp"]
targets = ["{ECHO_HOST}/32:*"]
"""


@pytest.mark.parametrize("http", ["3", "2", "1.1"])
async def test_our_client_takes_it_between_the_bytes_of_a_tcp_tunnel(
    tmp_path: Path, http: str
) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1_000):
            writer.write(data)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(echo, ECHO_HOST, 0)
    port = server.sockets[0].getsockname()[1]
    async with server, running_relay(tmp_path, policy=TCP_POLICY, wrap_up=ALICE) as relay:
        (tmp_path / "token").write_text(relay.token())
        address = relay.address if http == "3" else relay.https_address
        options = RelayOptions(
            ca_file=relay.site.ca_file,
            credential=Bearer(file=tmp_path / "token"),
            http=HttpChoice(http),
            connect_tcp=DataCapsuleTypes(),
        )
        async with RelayClient(
            RelayAddress.parse(f"https://localhost:{address.port}"), options
        ) as client:
            tunnel = await client.start_tcp(parse_target(f"{ECHO_HOST}:{port}"))
            await tunnel.write(b"before")
            assert await tunnel.read() == b"before"
            for connection in tuple(relay.front_end._connections):
                for stream in connection.streams:
                    stream.wrap_up()  # without the GOAWAY, which says the same
            await tunnel.write(b"after")
            assert await tunnel.read() == b"after"
            assert client.connection.is_leaving
            with pytest.raises(RelayLeaving):
                await client.start_tcp(parse_target(f"{ECHO_HOST}:{port}"))
            tunnel.write_eof()
            async with asyncio.timeout(WAIT_S):
                await ended.wait()
