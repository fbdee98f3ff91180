"""Sessions over requests: offsets up and down, repeats, gaps, bounds, ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx

from fallbacks.websocket.https import HttpsLimits, HttpsSessions
from masque_relay.contract.ghostwire import Arrival
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.resumable import pad
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import FrameType

DATA = FrameType.DATA
PADDING = FrameType.PADDING


class FakeSession:
    """Keeps the frames that it gets; its carrier is for the test to write on."""

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.frames: list[bytes] = []
        self.end_reason: EndReason | None = None
        self.carrier: Any = None

    capsule_types = frozenset({int(DATA), int(PADDING)})

    def attach(self, carrier: Any) -> None:
        self.carrier = carrier

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        self.frames += payloads

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        if capsule_type == FrameType.HELLO:
            raise WireError("not now", section="test")
        if capsule_type == DATA:
            self.frames.append(value)

    def on_writable(self) -> None:
        pass

    def on_tick(self) -> None:
        pass

    def close(self, reason: EndReason) -> None:
        self.end_reason = reason
        self.carrier.finish()

    def ended(self, reason: EndReason) -> None:
        self.end_reason = self.end_reason or reason


class FakeAdmission:
    """What the gate's middleware would leave."""

    def __init__(self) -> None:
        request = SimpleNamespace(transport="h1", source=None, request_id="r")
        self.lease: Any = SimpleNamespace(request=request)
        self.closed: EndReason | None = None

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        self.end = callback

    def close(self, reason: EndReason, detail: str = "") -> None:
        self.closed = reason


class World:
    """One relay side and one client of it."""

    def __init__(self, tasks: asyncio.TaskGroup, limits: HttpsLimits) -> None:
        self.made: list[FakeSession] = []
        self.admission = FakeAdmission()
        self.running: list[asyncio.Task[None]] = []
        self.sessions = HttpsSessions(self._make, start=self._start, limits=limits)
        self._tasks = tasks
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self._app), base_url="https://relay"
        )

    def _make(self, arrival: Arrival) -> Any:
        self.made.append(FakeSession(arrival))
        return self.made[-1]

    def _start(self, work: Any) -> None:
        self.running.append(self._tasks.create_task(work))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["admission"] = self.admission
        apps = {
            "/open": self.sessions.opening(self.sessions.hold),
            "/up": self.sessions.up,
            "/down": self.sessions.down,
            "/close": self.sessions.close,
        }
        await apps[scope["path"]](scope, receive, send)

    async def open(self) -> FakeSession:
        answer = await self.client.post("/open")
        assert answer.status_code == 201
        assert answer.headers["cache-control"].startswith("no-store")
        self.client.headers["ghostwire-session"] = answer.headers["ghostwire-session"]
        return self.made[-1]

    async def up(self, offset: int, body: bytes) -> tuple[int, str]:
        answer = await self.client.post(
            "/up", content=body, headers={"ghostwire-offset": str(offset)}
        )
        return answer.status_code, answer.headers.get("ghostwire-offset", "")

    async def poll(self, offset: int) -> httpx.Response:
        headers = {"ghostwire-offset": str(offset), "ghostwire-mode": "poll"}
        return await self.client.get("/down", headers=headers)


@asynccontextmanager
async def world(limits: HttpsLimits | None = None) -> AsyncGenerator[World]:
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        made = World(tasks, limits or HttpsLimits(poll_s=0.01))
        yield made
        for task in made.running:
            task.cancel()
        await made.client.aclose()


async def test_repeated_and_reordered_uplink_requests_give_each_frame_once() -> None:
    first, second, third = (encode_capsule(DATA, bytes([n]) * 10) for n in (1, 2, 3))
    at = [0, len(first), len(first + second), len(first + second + third)]
    async with world() as relay:
        session = await relay.open()
        assert await relay.up(at[2], third) == (200, "0"), "kept behind the gap"
        assert await relay.up(at[0], first) == (200, str(at[1]))
        assert await relay.up(at[0], first) == (200, str(at[1])), "again"
        assert await relay.up(at[0], first + second) == (200, str(at[3])), "and the gap is filled"

        assert session.frames == [bytes([n]) * 10 for n in (1, 2, 3)]


async def test_gap_that_is_too_large_is_a_conflict_that_names_what_is_wanted() -> None:
    async with world(HttpsLimits(gap_bytes=10)) as relay:
        await relay.open()
        assert await relay.up(5, bytes(11)) == (409, "0")


async def test_body_beyond_the_limit_is_refused() -> None:
    async with world(HttpsLimits(max_body_bytes=100)) as relay:
        session = await relay.open()
        assert (await relay.up(0, bytes(101)))[0] == 413
        assert session.end_reason is None


async def test_bytes_that_break_the_protocol_end_the_session() -> None:
    async with world() as relay:
        session = await relay.open()
        assert (await relay.up(0, encode_capsule(FrameType.HELLO, b"x")))[0] == 400
        assert session.end_reason is EndReason.PROTOCOL_ERROR
        await relay.running[0]
        assert relay.admission.closed is EndReason.PROTOCOL_ERROR


async def test_downlink_is_given_again_until_a_later_offset_is_asked_for() -> None:
    async with world() as relay:
        session = await relay.open()
        session.carrier.send_capsule(DATA, b"hello")
        sent = pad(encode_capsule(DATA, b"hello"))
        assert (await relay.poll(0)).content == sent
        assert (await relay.poll(0)).content == sent, "the first answer was lost"
        assert (await relay.poll(100)).content == sent[100:], "half of it was"
        assert (await relay.poll(len(sent))).content == b""
        gone = await relay.poll(0)
        assert gone.status_code == 409
        assert gone.headers["ghostwire-offset"] == str(len(sent))
        assert (await relay.poll(len(sent) + 1)).status_code == 409


async def test_replay_is_bounded_and_the_rest_stays_in_the_session() -> None:
    async with world(HttpsLimits(replay_bytes=1_000, poll_s=0.01)) as relay:
        session = await relay.open()
        for _ in range(8):
            session.carrier.send_capsule(DATA, bytes(60_000))
        got = await relay.poll(0)
        assert len(got.content) == 1_000
        assert session.carrier.unsent_bytes > 400_000
        assert session.carrier.is_busy


async def test_streamed_answer_begins_at_once_with_padding() -> None:
    async with world(HttpsLimits(stream_s=0.01)) as relay:
        await relay.open()
        answer = await relay.client.get("/down", headers={"ghostwire-offset": "0"})
        assert answer.content == pad(b"")
        assert answer.headers["x-accel-buffering"] == "no"


async def test_close_ends_the_session_and_forgets_it() -> None:
    async with world() as relay:
        session = await relay.open()
        assert (await relay.client.post("/close")).status_code == 204
        await relay.running[0]
        assert session.end_reason is EndReason.PEER_CLOSED
        assert (await relay.client.post("/close")).status_code == 404
        assert (await relay.poll(0)).status_code == 404


async def test_session_without_requests_is_over() -> None:
    async with world(HttpsLimits(idle_timeout_s=0.02)) as relay:
        session = await relay.open()
        await relay.running[0]
        assert session.end_reason is EndReason.CONNECTION_LOST
        assert (await relay.up(0, b""))[0] == 404


async def test_end_by_the_gate_lets_the_last_frame_out() -> None:
    async with world() as relay:
        session = await relay.open()
        session.carrier.send_capsule(DATA, b"last")
        relay.admission.end(EndReason.KICKED)
        assert (await relay.poll(0)).content == pad(encode_capsule(DATA, b"last"))
        await relay.running[0]
        assert relay.admission.closed is EndReason.KICKED


async def test_guessed_session_and_bad_offset_are_refused() -> None:
    async with world() as relay:
        await relay.open()
        headers = {"ghostwire-session": "A" * 43, "ghostwire-offset": "0"}
        assert (await relay.client.post("/up", headers=headers)).status_code == 404
        for offset in ("", "-1", "x", "1" * 30):
            answer = await relay.client.post("/up", headers={"ghostwire-offset": offset})
            assert answer.status_code == 400
