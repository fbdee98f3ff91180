"""Floods of HTTP/2 frames on real connections: each ends its own connection, and nothing else."""

import asyncio
import resource
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
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
from tests.support.tcp_clients import H2Client
from tests.support.web_rig import WebRig, serving_web

COUNT = 20_000


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


async def ends(client: H2Client, frames: bytes) -> ErrorCodes:
    """Send a flood; return with which error the connection ended."""
    for start in range(0, len(frames), 65_536):
        if client.is_lost:
            break
        client.send_raw(frames[start : start + 65_536])
        await asyncio.sleep(0)
    await client.until(lambda: client.is_lost, 3 * WAIT_S)
    assert client.goaway is not None
    return ErrorCodes(client.goaway[0])


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
        client = await web.h2()
        frames = b"".join(
            head(stream_id, "END_HEADERS", "END_STREAM").serialize()
            + RstStreamFrame(stream_id, error_code=8).serialize()
            for stream_id in range(1, 2 * COUNT, 2)
        )
        assert await ends(client, frames) is ErrorCodes.ENHANCE_YOUR_CALM
        assert app.asked <= limits.request_burst_count + limits.request_rate_per_s * WAIT_S
        await still_serves(web, app)
        assert app.running <= 1  # what was reset does not run on


async def test_continuation_flood_ends_the_connection_at_the_head_limit(tmp_path: Path) -> None:
    """CVE-2024-27316 and its siblings: a header block without an end."""
    app = Counting()
    async with serving_web(tmp_path, app, limits=HttpLimits(application_exit_s=0.1)) as web:
        client = await web.h2()
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece = ContinuationFrame(1, b"\x00\x01a\x7f\x80\x7f" + b"x" * 8_000).serialize()
        assert (
            await ends(client, head(1, "END_STREAM").serialize() + piece * 2_000)
            is ErrorCodes.ENHANCE_YOUR_CALM
        )
        assert app.asked == 0
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 40_000  # the flood itself is 16 MB, in this process
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
        client = await web.h2()
        start = b""
        if isinstance(frame, ContinuationFrame):
            start = head(1).serialize()
        elif isinstance(frame, DataFrame):
            start = head(1, "END_HEADERS").serialize()
        error = await ends(client, start + frame.serialize() * COUNT)
        assert error is ErrorCodes.ENHANCE_YOUR_CALM
        assert web.tcp.floods_stopped == 1
        await still_serves(web, app)
