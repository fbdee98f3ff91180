"""Slots in connection IDs, and whose a packet is."""

import pytest

from masque_relay.quic.packet import CONNECTION_ID_BYTES
from masque_relay.quic.slots import MAX_WORKERS, SlotRoutes, connection_ids, slot_for_stranger

COUNTS = (2, 3, 7, MAX_WORKERS)


def routes(
    worker_count: int = 2, *, serving_half: int = 0, is_handover: bool = False
) -> SlotRoutes:
    return SlotRoutes(worker_count=worker_count, serving_half=serving_half, is_handover=is_handover)


def short(first_byte: int) -> bytes:
    return bytes((0x43, first_byte)) + bytes(30)


def long(first_byte: int) -> bytes:
    return bytes((0xC3, 0, 0, 0, 1, 8, first_byte)) + bytes(30)


@pytest.mark.parametrize("worker_count", COUNTS)
def test_an_id_leads_to_its_slot_in_its_own_half_and_during_a_handover(worker_count: int) -> None:
    for slot in range(2 * worker_count):
        make = connection_ids(slot, 2 * worker_count)
        for _ in range(20):
            connection_id = make()
            assert len(connection_id) == CONNECTION_ID_BYTES
            half = slot // worker_count
            steady = routes(worker_count, serving_half=half)
            assert steady.owner(connection_id[0]) == slot
            for serving_half in (0, 1):
                handover = routes(worker_count, serving_half=serving_half, is_handover=True)
                assert handover.owner(connection_id[0]) == slot


@pytest.mark.parametrize("worker_count", COUNTS)
def test_every_byte_has_a_host_that_serves(worker_count: int) -> None:
    for serving_half in (0, 1):
        serving = range(serving_half * worker_count, (serving_half + 1) * worker_count)
        for is_handover in (False, True):
            here = routes(worker_count, serving_half=serving_half, is_handover=is_handover)
            assert {here.host(byte) for byte in range(256)} == set(serving)


def test_the_ids_of_a_slot_use_every_first_byte_that_fits() -> None:
    make = connection_ids(1, 128)
    assert {make()[0] for _ in range(200)} == {1, 129}
    assert len({make() for _ in range(200)}) == 200


def test_in_the_steady_state_nothing_is_a_strangers() -> None:
    # The kernel brings worker 1 of 2 the odd bytes only.
    here = routes(2, serving_half=0)
    for byte in range(1, 256, 2):
        assert slot_for_stranger(short(byte), here, 1) is None
        assert slot_for_stranger(long(byte), here, 1) is None


def test_a_packet_that_the_kernel_brought_wrongly_goes_to_its_owner() -> None:
    here = routes(2, serving_half=1)
    assert slot_for_stranger(short(0), here, 3) == 2
    assert slot_for_stranger(long(6), here, 3) == 2


def test_after_a_handover_an_old_id_is_for_the_serving_half_to_reset() -> None:
    here = routes(2, serving_half=1)
    old_id = connection_ids(0, 4)()
    assert slot_for_stranger(short(old_id[0]), here, 2) is None


def test_an_old_worker_gives_newcomers_to_the_serving_half_and_keeps_its_own_short_packets() -> (
    None
):
    here = routes(2, serving_half=1, is_handover=True)
    assert slot_for_stranger(long(1), here, 1) == 3
    assert slot_for_stranger(long(0), here, 0) == 2
    assert slot_for_stranger(short(1), here, 1) is None


def test_a_new_worker_keeps_the_newcomers_that_come_to_it() -> None:
    here = routes(2, serving_half=1, is_handover=True)
    assert slot_for_stranger(long(3), here, 3) is None
    assert slot_for_stranger(long(1), here, 3) == 1


@pytest.mark.parametrize("data", [b"", b"\x43", b"\xc3\0\0\0\1\x08", bytes(40), b"\x90" * 40])
def test_what_has_no_connection_id_is_nobodys(data: bytes) -> None:
    assert slot_for_stranger(data, routes(2), 0) is None
