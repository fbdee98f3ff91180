"""WebSocket by RFC 6455, over HTTP/2 (RFC 8441) and HTTP/3 (RFC 9220), on the wire."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from tests.integration.http.test_websocket import closing, echo
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.tcp_clients import H1Client, H2Client
from tests.support.web_rig import WebRig, serving_web
from tests.support.websocket_frames import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    EXTENDED_HEAD,
    PING,
    TEXT,
    FrameReader,
    close_frame,
    frame,
    upgrade_head,
)

ROUTES = [WebSocketRoute("/echo", echo), WebSocketRoute("/closing", closing)]


@asynccontextmanager
async def upgraded(directory: Path) -> AsyncGenerator[tuple[H1Client, FrameReader]]:
    """A WebSocket over HTTP/1.1 whose client sends whatever the test wants."""
    async with serving_web(directory, Starlette(routes=ROUTES)) as web:
        client = await web.h1()
        answer = await client.request(upgrade_head())
        assert answer.status == 101
        reader = FrameReader()
        await read(client, reader, messages=1)
        yield client, reader


async def read_some(client: H1Client) -> bytes:
    """Read what there is; nothing at the end of the connection."""
    async with asyncio.timeout(WAIT_S):
        return await client.reader.read(65_536)


async def read(client: H1Client, reader: FrameReader, *, messages: int | None = None) -> None:
    """Read until there are so many messages, or else until the server closes."""
    while len(reader.messages) < messages if messages is not None else reader.closed is None:
        data = await read_some(client)
        assert data, "the connection ended"
        reader.feed(data)


class TestHandshake:
    @pytest.mark.clause("RFC 6455", "4.2.2", "MUST", "answer the key with its SHA-1")
    @pytest.mark.clause("RFC 6455", "4.2.2", "MUST", "answer 101 with Upgrade and Connection")
    async def test_an_upgrade_is_answered_with_the_key(self, tmp_path: Path) -> None:
        async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
            client = await web.h1()
            answer = await client.request(upgrade_head())
            assert answer.status == 101
            assert answer.fields["sec-websocket-accept"] == ACCEPT
            assert answer.fields["upgrade"] == "websocket"
            assert answer.fields["connection"].lower() == "upgrade"
            assert "sec-websocket-extensions" not in answer.fields
            assert "sec-websocket-protocol" not in answer.fields

    @pytest.mark.clause("RFC 6455", "4.4", "MUST", "name the versions where the asked one is not")
    async def test_another_version_is_426(self, tmp_path: Path) -> None:
        async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
            client = await web.h1()
            head = upgrade_head().replace(b"Version: 13", b"Version: 12")
            answer = await client.request(head)
            assert answer.status == 426
            assert answer.fields["sec-websocket-version"] == "13"

    @pytest.mark.clause("RFC 8441", "4", "MUST", "take extended CONNECT only with scheme and path")
    async def test_extended_connect_without_a_path_is_a_stream_error(self, tmp_path: Path) -> None:
        async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
            client = await web.h2()
            head = [line for line in EXTENDED_HEAD if line[0] != b":path"]
            _, exchange = await client.request(head)
            assert exchange.reset == 1  # PROTOCOL_ERROR
            _, exchange = await client.request(EXTENDED_HEAD)
            assert exchange.status == 200

    @pytest.mark.clause("RFC 8441", "3", "MUST", "announce SETTINGS_ENABLE_CONNECT_PROTOCOL = 1")
    @pytest.mark.clause("RFC 8441", "5", "MUST NOT", "use key and accept of RFC 6455")
    async def test_http2_needs_no_key(self, tmp_path: Path) -> None:
        async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
            client = await web.h2()
            assert client.settings is not None
            assert client.settings[8] == 1
            _, exchange = await client.request(EXTENDED_HEAD)
            assert exchange.status == 200
            assert "sec-websocket-accept" not in exchange.fields

    @pytest.mark.clause("RFC 9220", "3", "MUST", "treat HTTP/3 as RFC 8441 treats HTTP/2")
    async def test_http3_is_the_same(self, tmp_path: Path) -> None:
        async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
            client = await web.h3()
            _, exchange = await client.request(EXTENDED_HEAD)
            assert exchange.status == 200
            assert "sec-websocket-accept" not in exchange.fields


@pytest.mark.clause("RFC 8441", "5", "MUST", "take a reset for a lost TCP connection")
@pytest.mark.parametrize("version", ["2", "3"])
async def test_a_reset_ends_one_websocket_alone(tmp_path: Path, version: str) -> None:
    async with serving_web(tmp_path, Starlette(routes=ROUTES)) as web:
        assert await neighbour_survives_reset(web, version)


async def neighbour_survives_reset(web: WebRig, version: str) -> bool:
    client: H2Client | H3Client = await (web.h2() if version == "2" else web.h3())
    first_id, _ = await client.request(EXTENDED_HEAD)
    if isinstance(client, H2Client):
        client.reset(first_id)
    else:
        client.session.reset(first_id, 0x10C)
    _, exchange = await client.request(EXTENDED_HEAD)
    return exchange.status == 200


class TestFrames:
    @pytest.mark.clause("RFC 6455", "5.1", "MUST", "close where a client's frame is not masked")
    @pytest.mark.clause("RFC 6455", "5.2", "MUST", "fail on reserved bits without an extension")
    @pytest.mark.clause("RFC 6455", "5.2", "MUST", "fail on an unknown opcode")
    @pytest.mark.clause(
        "RFC 6455", "5.5", "MUST NOT", "fragment control frames, or beyond 125 bytes"
    )
    @pytest.mark.parametrize(
        "sent",
        [
            frame(TEXT, b"a", masked=False),
            frame(TEXT, b"a", rsv=4),
            frame(0x3, b"a"),
            frame(PING, b"a", fin=False),
            frame(PING, b"a" * 126),
            frame(CONTINUATION, b"a"),
            frame(CLOSE, b"\x03"),
            close_frame(1005),
        ],
        ids=["unmasked", "rsv", "opcode", "fragment", "long", "continuation", "short", "1005"],
    )
    async def test_what_breaks_the_rules_is_1002(self, tmp_path: Path, sent: bytes) -> None:
        async with upgraded(tmp_path) as (client, reader):
            client.send(sent)
            await read(client, reader)
            assert reader.closed is not None
            assert reader.closed[0] == 1002
            assert await read_some(client) == b""

    @pytest.mark.clause("RFC 6455", "5.1", "MUST NOT", "mask frames to the client")
    async def test_our_frames_are_not_masked(self, tmp_path: Path) -> None:
        async with upgraded(tmp_path) as (client, _):
            client.send(frame(BINARY, b"abc"))
            assert await read_some(client) == b"\x82\x03abc"

    @pytest.mark.clause("RFC 6455", "5.4", "MUST", "take control frames between fragments")
    @pytest.mark.clause("RFC 6455", "5.5.2", "MUST", "answer a ping with a pong of its payload")
    async def test_a_ping_between_fragments(self, tmp_path: Path) -> None:
        async with upgraded(tmp_path) as (client, reader):
            client.send(
                frame(TEXT, b"a", fin=False) + frame(PING, b"?") + frame(CONTINUATION, b"b")
            )
            await read(client, reader, messages=2)
            assert reader.messages[1] == "ab"
            assert reader.pongs == [b"?"]

    @pytest.mark.clause("RFC 6455", "8.1", "MUST", "fail on text that is no UTF-8")
    async def test_bad_text_is_1007(self, tmp_path: Path) -> None:
        async with upgraded(tmp_path) as (client, reader):
            client.send(frame(TEXT, b"\xc0\xaf"))
            await read(client, reader)
            assert reader.closed is not None
            assert reader.closed[0] == 1007


class TestClosing:
    @pytest.mark.clause("RFC 6455", "5.5.1", "MUST", "answer a close frame with one")
    @pytest.mark.clause("RFC 6455", "7.1.1", "SHOULD", "be the one who closes TCP")
    async def test_close_is_answered_and_the_connection_ends(self, tmp_path: Path) -> None:
        async with upgraded(tmp_path) as (client, reader):
            client.send(close_frame(4000, b"bye"))
            await read(client, reader)
            assert reader.closed == (4000, "bye")
            assert await read_some(client) == b""

    @pytest.mark.clause("RFC 6455", "5.5.1", "MUST NOT", "send data after a close frame")
    async def test_nothing_follows_our_close(self, tmp_path: Path) -> None:
        async with upgraded(tmp_path) as (client, reader):
            client.send(frame(TEXT, b"a" * 10_000) * 20 + close_frame())
            await read(client, reader)
            rest = b""
            while data := await read_some(client):
                rest += data
            assert rest == b""
