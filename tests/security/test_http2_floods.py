"""Floods of HTTP/2 frames on real connections: each ends its own connection, and nothing else."""

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)
from starlette.types import Receive, Scope, Send

from masque_relay.http.limits import HttpLimits
from tests.support.h3_client import WAIT_S
from tests.support.http_fakes import GET_HEAD
from tests.support.tcp_clients import client_context
from tests.support.web_rig import WebRig, serving_web

COUNT = 20_000
CALM = {ErrorCodes.ENHANCE_YOUR_CALM, None}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Counting:
    """An application that never answers, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError
        self.asked += 1
        self.running += 1
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self.running -= 1


def head(stream_id: int, *flags: str) -> HeadersFrame:
    frame = HeadersFrame(stream_id, Encoder().encode(GET_HEAD))
    for flag in flags:
        frame.flags.add(flag)
    return frame


async def ends(web: WebRig, frames: bytes) -> ErrorCodes | None:
    """Send a flood, with no library in between; return with which error the connection ended.

    None where TCP's reset overtook the GOAWAY, as it may while the flood still comes.
    """
    reader, writer = await asyncio.open_connection(
        str(web.https_address.address),
        web.https_address.port,
        ssl=client_context(web.ca_pem, "h2"),
        server_hostname="localhost",
    )
    answer = bytearray()

    async def read() -> None:
        while data := await reader.read(65_536):
            answer.extend(data)

    async with asyncio.timeout(6 * WAIT_S):
        reading = asyncio.ensure_future(read())
        with suppress(ConnectionError, ssl.SSLError):
            writer.write(PREFACE + SettingsFrame(0).serialize() + frames)
            await writer.drain()
        with suppress(ConnectionError, ssl.SSLError):
            await reading
    writer.transport.abort()
    goaways = [frame for frame in frames_of(bytes(answer)) if isinstance(frame, GoAwayFrame)]
    return ErrorCodes(goaways[-1].error_code) if goaways else None


def frames_of(data: bytes) -> Iterator[Frame]:
    while len(data) >= 9:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        if len(data) < 9 + length:
            return
        if isinstance(frame, GoAwayFrame):
            frame.parse_body(memoryview(data[9 : 9 + length]))
        yield frame
        data = data[9 + length :]


async def still_serves(web: WebRig, app: Counting) -> None:
    asked = app.asked
    neighbour = await web.h2()
    neighbour.send(GET_HEAD, end=True)
    async with asyncio.timeout(WAIT_S):
        while app.asked == asked:  # noqa: ASYNC110  (the application has no event)
            await asyncio.sleep(0.01)


async def test_rapid_reset_ends_the_connection_after_the_burst(tmp_path: Path) -> None:
    """CVE-2023-44487."""
    app, limits = Counting(), HttpLimits(application_exit_s=0.1)
    async with serving_web(tmp_path, app, limits=limits) as web:
        frames = b"".join(
            head(stream_id, "END_HEADERS", "END_STREAM").serialize()
            + RstStreamFrame(stream_id, error_code=8).serialize()
            for stream_id in range(1, 2 * COUNT, 2)
        )
        assert await ends(web, frames) in CALM
        assert web.tcp.floods_stopped == 1
        assert app.asked <= limits.request_burst_count + limits.request_rate_per_s * WAIT_S
        await still_serves(web, app)
        assert app.running <= 1  # what was reset does not run on


async def test_continuation_flood_ends_the_connection_at_the_head_limit(tmp_path: Path) -> None:
    """CVE-2024-27316 and its siblings: a header block without an end."""
    app = Counting()
    async with serving_web(tmp_path, app, limits=HttpLimits(application_exit_s=0.1)) as web:
        piece = ContinuationFrame(1, b"\x00\x01a\x7f\x80\x7f" + b"x" * 8_000).serialize()
        assert await ends(web, head(1, "END_STREAM").serialize() + piece * 2_000) in CALM
        assert app.asked == 0
        assert web.tcp.floods_stopped == 1  # by the guard, before h2 has kept any of it
        await still_serves(web, app)


@pytest.mark.parametrize(
    "frame",
    [
        PingFrame(0, b"12345678"),
        SettingsFrame(0, settings={4: 65_535}),
        PriorityFrame(1, depends_on=0, stream_weight=1),
        ContinuationFrame(1, b""),
        DataFrame(1, b""),
    ],
    ids=["ping", "settings", "priority", "empty continuation", "empty data"],
)
async def test_cheap_frames_end_the_connection_when_they_come_too_fast(
    tmp_path: Path, frame: Frame
) -> None:
    """CVE-2019-9512, 9515, 9518 and the like."""
    app = Counting()
    async with serving_web(tmp_path, app, limits=HttpLimits(application_exit_s=0.1)) as web:
        start = b""
        if isinstance(frame, ContinuationFrame):
            start = head(1).serialize()
        elif isinstance(frame, DataFrame):
            start = head(1, "END_HEADERS").serialize()
        error = await ends(web, start + frame.serialize() * COUNT)
        assert error in CALM
        assert web.tcp.floods_stopped == 1
        await still_serves(web, app)
