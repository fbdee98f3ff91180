"""The way to the upstream relay: what goes wrong in it stays in it."""

import asyncio
from typing import Any, cast

import pytest

from masque_relay.server.upstream import keep_up


class Link:
    """Fails once as nobody foresaw, then runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.is_running = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise ValueError("a key file that is none")
        self.is_running.set()
        await asyncio.Event().wait()


async def test_link_that_fails_unforeseen_is_run_again() -> None:
    link = Link()
    task = asyncio.ensure_future(keep_up(cast("Any", link), pause_s=0))

    await link.is_running.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert link.runs == 2
