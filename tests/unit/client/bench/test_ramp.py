"""client/bench/ramp.py: which loads are tried, and which are held."""

from collections.abc import Callable

from masque_relay.client.bench.figures import BulkFigures
from masque_relay.client.bench.ramp import FIRST_COUNT, LARGEST_COUNT, Ramp


def climb(per_s: Callable[[int], float], lost: Callable[[int], float]) -> tuple[list[int], Ramp]:
    """Let a ramp try loads on a path of which both are known; return what it tried, and itself."""
    ramp, tried = Ramp(), list[int]()
    while (count := ramp.next_count) is not None:
        tried.append(count)
        ramp.record(
            BulkFigures.of(
                size_bytes=64,
                under_way_count=count,
                is_held=False,
                seconds=1.0,
                counted=int(per_s(count)),
                sent_count=10_000,
                answered_count=10_000 - int(100 * lost(count)),
            )
        )
    return tried, ramp


def test_rate_that_grows_is_followed_to_the_largest_load() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda _: 0)

    assert tried == [16, 64, 256, 1_024, 4_096]
    assert tried[0] == FIRST_COUNT
    assert tried[-1] == LARGEST_COUNT
    assert list(ramp.clean_counts()) == [4_096, 1_024, 256, 64, 16]


def test_rate_that_stops_to_grow_ends_the_search() -> None:
    tried, ramp = climb(per_s=lambda count: min(5_000, 50 * count), lost=lambda _: 0)

    assert tried == [16, 64, 256, 1_024]
    assert next(ramp.clean_counts()) == 1_024  # as quick as 256 was; then that is tried
    assert list(ramp.clean_counts()) == [1_024, 256, 64, 16]


def test_middle_below_what_loses_too_much_is_tried() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda count: 0 if count < 200 else 5)

    assert tried == [16, 64, 256, 128]
    assert list(ramp.clean_counts()) == [128, 64, 16]


def test_middle_that_loses_too_much_as_well_ends_the_search() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda count: 0 if count < 100 else 5)

    assert tried == [16, 64, 256, 128]
    assert list(ramp.clean_counts()) == [64, 16]


def test_less_is_tried_where_the_first_load_loses_too_much() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda count: 0 if count < 5 else 5)

    assert tried == [16, 4, 8]
    assert list(ramp.clean_counts()) == [4]


def test_middle_is_tried_on_the_way_down_too() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda count: 0 if count < 3 else 5)

    assert tried == [16, 4, 1, 2]
    assert list(ramp.clean_counts()) == [2, 1]


def test_path_that_always_loses_leaves_nothing_to_hold() -> None:
    tried, ramp = climb(per_s=lambda count: 10 * count, lost=lambda _: 3)

    assert tried == [16, 4, 1]
    assert list(ramp.clean_counts()) == []


def test_slower_loads_that_are_larger_are_not_held() -> None:
    rates = {16: 100.0, 64: 900.0, 256: 500.0}
    _, ramp = climb(per_s=lambda count: rates[count], lost=lambda _: 0)

    assert list(ramp.clean_counts()) == [64, 16]


def test_what_is_recorded_after_the_end_changes_nothing() -> None:
    tried, ramp = climb(per_s=lambda _: 10, lost=lambda _: 5)
    ramp.record(
        BulkFigures.of(
            size_bytes=64,
            under_way_count=1,
            is_held=False,
            seconds=1.0,
            counted=10,
            sent_count=10,
            answered_count=10,
        )
    )

    assert tried == [16, 4, 1]
    assert ramp.next_count is None
    assert list(ramp.clean_counts()) == []
