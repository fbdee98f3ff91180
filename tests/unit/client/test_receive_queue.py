"""ReceiveQueue: order, the oldest pushed out and counted, the end."""

import asyncio

import pytest

from masque_relay.client.errors import TunnelClosed
from masque_relay.client.receive_queue import ReceiveQueue
from masque_relay.contract.verdict import EndReason

OVER = TunnelClosed(EndReason.PEER_CLOSED, "over")


async def test_items_leave_in_the_order_they_came() -> None:
    queue: ReceiveQueue[int] = ReceiveQueue(8)
    queue.extend([1, 2])
    queue.extend([3])
    assert [await queue.take() for _ in range(3)] == [1, 2, 3]
    assert queue.dropped_count == 0


async def test_full_queue_pushes_out_the_oldest_and_counts() -> None:
    queue: ReceiveQueue[int] = ReceiveQueue(2)
    queue.extend([1, 2, 3, 4, 5])
    assert queue.take_all() == [4, 5]
    assert queue.take_all() == []
    assert queue.dropped_count == 3


async def test_take_waits_for_what_comes_later() -> None:
    queue: ReceiveQueue[int] = ReceiveQueue(2)
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    assert not taking.done()
    queue.extend([7])
    assert await taking == 7


async def test_what_waits_at_the_end_is_still_handed_out() -> None:
    queue: ReceiveQueue[int] = ReceiveQueue(2)
    queue.extend([1])
    queue.close(OVER)
    assert await queue.take() == 1
    for _ in range(2):
        with pytest.raises(TunnelClosed, match="over"):
            await queue.take()


async def test_end_wakes_whoever_waits() -> None:
    queue: ReceiveQueue[int] = ReceiveQueue(2)
    taking = asyncio.create_task(queue.take())
    await asyncio.sleep(0)
    queue.close(OVER)
    with pytest.raises(TunnelClosed, match="over"):
        await taking
