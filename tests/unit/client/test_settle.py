"""Owns the tests of the wait for path MTU discovery."""

import pytest

from masque_relay.client import settle


@pytest.fixture(autouse=True)
def steps_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "STEP_S", 0.0)


async def test_a_size_that_grows_is_waited_for() -> None:
    sizes = iter([1_200, 1_200, 1_300, 1_400, *[1_439] * 20])
    assert await settle.settled_payload_bytes(lambda: next(sizes)) == 1_439


async def test_a_size_that_never_settles_is_not_waited_for_long() -> None:
    sizes = iter(range(1_000))
    assert await settle.settled_payload_bytes(lambda: next(sizes)) == settle.LONGEST_STEPS
