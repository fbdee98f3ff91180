"""Owns the test of the demo's frame; tests/integration/client runs it."""

import asyncio
from typing import Any

import pytest

from masque_relay.client.demo import DemoFailed, _running


class Runner:
    def __init__(self) -> None:
        self.cancelled = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True


async def test_what_fails_comes_out_as_it_is_and_what_runs_is_ended() -> None:
    link: Any = Runner()
    forward: Any = Runner()

    async def fail() -> None:
        async with _running(link, forward):
            await asyncio.sleep(0)
            raise DemoFailed("wrong answer")

    with pytest.raises(DemoFailed, match="wrong answer"):
        await fail()
    assert link.cancelled
    assert forward.cancelled
