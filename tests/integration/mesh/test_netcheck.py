"""`ghostctl netcheck` at real relays: all ways, some ways, none, and strangers."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client import Bearer, ClientLimits, RelayAddress, RelayOptions
from masque_relay.client.mesh.netcheck import check_network
from masque_relay.client.mesh.way import WayKind
from masque_relay.client.mesh.ways import ways_to
from tests.integration.client.commands import WAIT_S, ghostctl, way_to
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.tcp_serving import serving_tcp

ALL = ["h3", "quic", "h2", "websocket", "h1", "https"]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with managed_relay(
        tmp_path_factory.mktemp("relay"),
        environ={
            "GHOSTWIRE__GHOSTWIRE__RELAYS": '["https://one.example", "https://two.example"]',
            "GHOSTWIRE__TURN__ON_H3_PORT": "true",
            "GHOSTWIRE__TURN__RELAY_ADDRESSES": '["127.0.0.1"]',
        },
    ) as running:
        yield running


def check(*options: str) -> tuple[int, dict[str, Any]]:
    done = ghostctl("netcheck", *options, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_every_way_is_opened_and_measured(relay: ManagedRelay) -> None:
    code, found = check(*way_to(relay))

    assert code == 0
    assert [way["way"] for way in found["ways"]] == ALL
    assert {way["state"] for way in found["ways"]} == {"works"}, found
    for way in found["ways"]:
        assert way["connect_ms"] > 0
        assert way["welcome_ms"] >= 0
        assert way["rtt_ms"] > 0
        assert way["remote"] == f"127.0.0.1:{relay.port}"
    sizes = {way["way"]: way["datagram_bytes"] for way in found["ways"]}
    assert sizes["h3"] > 1_100
    assert sizes["quic"] > 1_100
    assert sizes["h2"] is None
    assert found["best"] == "h3"
    assert found["udp_blocked"] is False
    assert found["nat"] == "none"
    assert found["seen_as"]["address"] == "127.0.0.1"
    assert abs(found["clock_skew_s"]) <= 1
    assert found["relays"] == ["https://one.example", "https://two.example"]


def test_table_says_the_same_to_people(relay: ManagedRelay) -> None:
    done = ghostctl("netcheck", *way_to(relay))

    assert done.returncode == 0, done.stderr
    assert "a peer would use: h3" in done.stdout
    assert "UDP: works" in done.stdout
    for way in ALL:
        assert any(line.startswith(f"{way} ") for line in done.stdout.splitlines())


def test_stranger_hears_that_the_ways_lead_there_but_it_is_not_let_in(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("nonsense")
    code, found = check(
        "--relay", relay.url, "--ca", str(relay.ca_file), "--token-file", str(token)
    )

    assert code == 3
    assert {way["state"] for way in found["ways"]} == {"refused"}
    assert found["best"] is None
    assert "nonsense" not in json.dumps(found)


def test_nobody_there_is_unreachable_by_every_way(relay: ManagedRelay) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        url = f"https://127.0.0.1:{taken.getsockname()[1]}"
        options = ["--token-file", str(relay.token_file), "--ca", str(relay.ca_file)]
        code, found = check("--relay", url, *options, "--connect-timeout", "1")

    assert code == 4
    assert {way["state"] for way in found["ways"]} == {"blocked"}
    assert found["udp_blocked"] is None
    assert found["nat"] == "unknown"


@asynccontextmanager
async def tcp_only(relay: ManagedRelay) -> AsyncGenerator[int]:
    """A port that leads to the relay by TCP; by UDP nobody answers there."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(relay.host, relay.port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(copy(reader, back))
            tasks.create_task(copy(there, writer))

    async with serving_tcp(serve) as port:
        yield port


async def test_blocked_udp_is_seen_where_tcp_works(relay: ManagedRelay) -> None:
    options = RelayOptions(
        ca_file=relay.ca_file,
        credential=Bearer(file=relay.token_file),
        limits=ClientLimits(connect_timeout_s=2.0),
    )
    async with tcp_only(relay) as port, asyncio.timeout(WAIT_S):
        address = RelayAddress.parse(f"https://127.0.0.1:{port}")
        kinds = [WayKind.H3, WayKind.QUIC, WayKind.WEBSOCKET, WayKind.HTTPS]
        report = await check_network(
            ways_to(address, options, kinds=kinds), token=relay.token, relay_name=address.host
        )

    assert [way.state for way in report.ways] == ["blocked", "blocked", "works", "works"]
    assert report.udp_blocked is True
    assert report.best is WayKind.WEBSOCKET
