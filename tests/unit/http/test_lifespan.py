"""The ASGI lifespan protocol."""

import asyncio

import pytest
from starlette.types import Receive, Scope, Send

from masque_relay.http.lifespan import Lifespan, LifespanFailedError


async def test_application_without_lifespan_is_served_all_the_same() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("I know http only")

    lifespan = Lifespan(app, timeout_s=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(lifespan.run())
        await lifespan.startup()
        await lifespan.shutdown()


async def test_start_and_stop_in_order() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((await receive())["type"])
        scope["state"]["key"] = "value"
        await send({"type": "lifespan.startup.complete"})
        seen.append((await receive())["type"])
        await send({"type": "lifespan.shutdown.complete"})

    lifespan = Lifespan(app, timeout_s=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(lifespan.run())
        await lifespan.startup()
        assert lifespan.state == {"key": "value"}
        await lifespan.shutdown()

    assert seen == ["lifespan.startup", "lifespan.shutdown"]


@pytest.mark.parametrize("phase", ["startup", "shutdown"])
async def test_reported_failure_is_raised(phase: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if phase == "shutdown":
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": f"lifespan.{phase}.failed", "message": "disk full"})

    lifespan = Lifespan(app, timeout_s=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(lifespan.run())
        if phase == "shutdown":
            await lifespan.startup()
        with pytest.raises(LifespanFailedError, match="disk full"):
            await (lifespan.startup() if phase == "startup" else lifespan.shutdown())


async def test_start_up_has_a_deadline() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    lifespan = Lifespan(app, timeout_s=0.01)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lifespan.run())
        with pytest.raises(TimeoutError):
            await lifespan.startup()
        task.cancel()


async def test_crash_after_start_up_is_reported_at_shut_down() -> None:
    crash = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        crash.set()
        raise ValueError("broken pipe to the database")

    lifespan = Lifespan(app, timeout_s=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(lifespan.run())
        await lifespan.startup()
        with pytest.raises(LifespanFailedError, match="broken pipe"):
            await lifespan.shutdown()
    assert crash.is_set()
