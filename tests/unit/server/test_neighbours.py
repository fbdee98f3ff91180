"""Packets that workers hand each other."""

import asyncio
from collections.abc import Generator

import pytest

from masque_relay.contract.ports import ReceivedBatch
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.neighbours import (
    Mailboxes,
    MailboxNeighbours,
    decode_handed_over,
    encode_handed_over,
)

STEADY = SlotRoutes(worker_count=2, serving_half=0, is_handover=False)
HANDOVER = SlotRoutes(worker_count=2, serving_half=1, is_handover=True)
SOURCE = ("2001:db8::7", 4433)


@pytest.fixture
def mailboxes() -> Generator[Mailboxes]:
    boxes = Mailboxes.make(STEADY.slot_count)
    yield boxes
    boxes.close()


def neighbour(boxes: Mailboxes, slot: int, routes: SlotRoutes = STEADY) -> MailboxNeighbours:
    return MailboxNeighbours(
        slot,
        routes,
        reader=boxes.pairs[slot][0],
        writers=[writer for _, writer in boxes.pairs],
    )


def short(first_byte: int, size: int = 40) -> bytes:
    return bytes((0x41, first_byte)) + bytes(size - 2)


@pytest.mark.parametrize("source", [("192.0.2.1", 1), ("fe80::1%2", 65_535), SOURCE])
def test_a_packet_keeps_its_source(source: tuple[str, int]) -> None:
    assert decode_handed_over(encode_handed_over(b"packet", source)) == (b"packet", source)
    assert decode_handed_over(encode_handed_over(b"", source)) == (b"", source)


async def test_a_packet_reaches_its_owner(mailboxes: Mailboxes) -> None:
    arrived: list[ReceivedBatch] = []
    came = asyncio.Event()

    def take(batches: list[ReceivedBatch]) -> None:
        arrived.extend(batches)
        came.set()

    zero, one = neighbour(mailboxes, 0), neighbour(mailboxes, 1)
    one.open(take)
    assert not zero.hand_over(short(2), SOURCE)
    assert zero.hand_over(short(3), SOURCE)
    async with asyncio.timeout(10):
        await came.wait()
    assert [(batch.payloads, batch.source) for batch in arrived] == [([short(3)], SOURCE)]
    one.close()


async def test_what_lay_there_before_is_not_ours(mailboxes: Mailboxes) -> None:
    zero, one = neighbour(mailboxes, 0), neighbour(mailboxes, 1)
    for _ in range(100):
        assert zero.hand_over(short(3), SOURCE)
    arrived: list[ReceivedBatch] = []
    one.open(arrived.extend)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not arrived
    one.close()


def test_a_full_mailbox_loses_packets_and_counts_them(mailboxes: Mailboxes) -> None:
    zero = neighbour(mailboxes, 0)
    for _ in range(5_000):
        assert zero.hand_over(short(3, 1200), SOURCE)
    assert 0 < zero.dropped_count < 5_000


def test_other_routes_lead_elsewhere_at_once(mailboxes: Mailboxes) -> None:
    newcomer = bytes((0xC1, 0, 0, 0, 1, 8, 5)) + bytes(1200)
    one = neighbour(mailboxes, 1)
    assert not one.hand_over(newcomer, SOURCE)
    one.routes = HANDOVER
    assert one.hand_over(newcomer, SOURCE)
    assert mailboxes.pairs[3][0].recv(4096).endswith(newcomer)
