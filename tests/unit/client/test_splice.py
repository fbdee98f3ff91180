"""Owns the tests of the copying between a program and its target."""

import asyncio

import pytest

from masque_relay.client.splice import Meter, splice
from tests.support.byte_streams import FakeStream, broken
from tests.support.client_fakes import FakeClock
from tests.support.http_fakes import settle

Parts = tuple[FakeStream, FakeStream, Meter]


@pytest.fixture
async def parts() -> Parts:
    """Program, target and meter."""
    clock = FakeClock()
    return FakeStream(), FakeStream(), Meter(clock=clock, last_active_s=clock.now_s)


async def test_bytes_and_ends_go_both_ways(parts: Parts) -> None:
    program, target, meter = parts
    program.arrive(b"ask", b"")
    target.arrive(b"ans", b"wer", b"")
    assert await splice(program, target, meter)
    assert (target.written, program.written) == (b"ask", b"answer")
    assert target.has_sent_end
    assert program.has_sent_end
    assert (meter.sent_bytes, meter.received_bytes) == (3, 6)


async def test_one_direction_goes_on_after_the_other_has_ended(parts: Parts) -> None:
    program, target, meter = parts
    program.arrive(b"")
    async with asyncio.TaskGroup() as group:
        copying = group.create_task(splice(program, target, meter))
        await settle()
        assert target.has_sent_end
        assert not copying.done()
        target.arrive(b"late", b"")
    assert program.written == b"late"
    assert copying.result()


@pytest.mark.parametrize("breaks_target", [False, True])
async def test_a_break_on_one_side_ends_the_other(parts: Parts, breaks_target: bool) -> None:
    program, target, meter = parts
    (target if breaks_target else program).arrive(broken())
    assert not await splice(program, target, meter)
    assert target.is_aborted
    assert program.is_aborted
    assert not target.has_sent_end
    assert not program.has_sent_end


async def test_nothing_is_read_while_the_other_side_takes_nothing(parts: Parts) -> None:
    program, target, meter = parts
    program.takes.clear()
    target.arrive(b"1", b"2", b"3", b"")
    async with asyncio.TaskGroup() as group:
        group.create_task(splice(program, target, meter))
        await settle()
        assert target.unread_count == 3
        program.takes.set()
        program.arrive(b"")
    assert program.written == b"123"


async def test_cancelling_aborts_both(parts: Parts) -> None:
    program, target, meter = parts
    task = asyncio.get_running_loop().create_task(splice(program, target, meter))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert program.is_aborted
    assert target.is_aborted


async def test_the_meter_knows_when_something_last_moved() -> None:
    clock = FakeClock()
    meter = Meter(clock=clock, last_active_s=clock.now_s)
    clock.now_s += 5
    meter.sent(1)
    assert meter.last_active_s == clock.now_s
