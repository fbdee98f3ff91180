"""Sessions over requests end when they should, whatever requests are still open."""

import asyncio
from types import SimpleNamespace
from typing import Any

from fallbacks.websocket.https import HttpsLimits, HttpsSessions
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.ghostwire import FrameType
from tests.support.processes import TIMESCALE


class Session:
    """A FrameSession that says one thing when it is ended from outside."""

    capsule_types: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.carrier: Any = None
        self.end_reason: EndReason | None = None

    def attach(self, carrier: Any) -> None:
        self.carrier = carrier

    def close(self, reason: EndReason) -> None:
        self.carrier.send_capsule(FrameType.ERROR, b"farewell")
        self.ended(reason)
        self.carrier.finish()

    def ended(self, reason: EndReason) -> None:
        self.end_reason = self.end_reason or reason


class Admission:
    """What the gate's middleware leaves."""

    def __init__(self) -> None:
        request = SimpleNamespace(transport=None, source=None, request_id="request")
        self.lease: Any = SimpleNamespace(request=request)
        self.end: Any = None
        self.closed: EndReason | None = None

    def on_end(self, callback: Any) -> None:
        self.end = callback

    def close(self, reason: EndReason, detail: str = "") -> None:
        del detail
        self.closed = reason


async def never() -> Any:
    await asyncio.Event().wait()


async def test_bodies_that_never_end_are_bounded_in_number() -> None:
    sessions = HttpsSessions(
        lambda _: Session(),  # type: ignore[arg-type, return-value]
        start=lambda _: None,
        limits=HttpsLimits(uploads=2),
    )
    answered: asyncio.Queue[Any] = asyncio.Queue()
    scope: Any = {"state": {"admission": Admission()}, "headers": [], "server": None}
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(sessions.hold(scope, never, answered.put))]
        headers = upload_headers(await answered.get())
        await answered.get()
        for _ in range(2):
            up = sessions.up({"headers": headers}, never, answered.put)
            running.append(tasks.create_task(up))
        await asyncio.sleep(0)
        await sessions.up({"headers": headers}, never, answered.put)
        refusal = answered.get_nowait()
        for task in running:
            task.cancel()

    assert refusal["status"] == 409
    assert (b"ghostwire-offset", b"0") in refusal["headers"]


def upload_headers(created: Any) -> list[tuple[bytes, bytes]]:
    (secret,) = [value for name, value in created["headers"] if name == b"ghostwire-session"]
    return [(b"ghostwire-session", secret), (b"ghostwire-offset", b"0")]


async def test_kicked_session_gives_its_lease_back_though_a_request_never_ends() -> None:
    sessions = HttpsSessions(
        lambda _: Session(),  # type: ignore[arg-type, return-value]
        start=lambda _: None,
        limits=HttpsLimits(idle_timeout_s=0.05),
    )
    admission = Admission()
    answered: asyncio.Queue[Any] = asyncio.Queue()

    scope: Any = {"state": {"admission": admission}, "headers": [], "server": None}
    async with asyncio.TaskGroup() as tasks:
        held = tasks.create_task(sessions.hold(scope, never, answered.put))
        headers = upload_headers(await answered.get())
        upload = tasks.create_task(sessions.up({"headers": headers}, never, answered.put))
        await asyncio.sleep(0)
        admission.end(EndReason.KICKED)
        async with asyncio.timeout(5 * TIMESCALE):
            await held
        upload.cancel()

    assert admission.closed is EndReason.KICKED
