"""client/bench/figures.py: percentiles, loss, rates, and which load is quoted."""

import pytest

from masque_relay.client.bench.figures import (
    AddedFigures,
    BulkFigures,
    OpenFigures,
    RoundTripFigures,
    best_bulk,
    loss_percent,
    percentile,
)


def load(
    *, counted: int = 1_000, sent: int = 1_000, answered: int = 1_000, is_held: bool = False
) -> BulkFigures:
    return BulkFigures.of(
        size_bytes=1_200,
        under_way_count=16,
        is_held=is_held,
        seconds=2.0,
        counted=counted,
        sent_count=sent,
        answered_count=answered,
    )


def test_percentile_is_the_nearest_rank_whatever_the_order() -> None:
    samples = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert percentile(samples, 50) == 3.0
    assert percentile(samples, 99) == 5.0
    assert percentile(samples, 20) == 1.0
    assert percentile(samples, 21) == 2.0
    assert percentile(samples, 0) == 1.0


def test_99th_percentile_of_a_hundred_leaves_one_out() -> None:
    assert percentile([float(number) for number in range(1, 101)], 99) == 99.0


def test_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_loss_is_what_has_no_answer() -> None:
    assert loss_percent(200, 199) == pytest.approx(0.5)
    assert loss_percent(10, 0) == 100
    assert loss_percent(0, 0) == 0


def test_opening_is_told_in_milliseconds() -> None:
    assert OpenFigures.of([0.001, 0.002, 0.003]) == OpenFigures(count=3, p50_ms=2.0, p99_ms=3.0)


def test_round_trips_without_an_answer_have_no_percentiles() -> None:
    figures = RoundTripFigures.of(5, [])

    assert figures.loss_percent == 100
    assert figures.p50_ms is None
    assert figures.p99_ms is None


def test_round_trips_count_what_was_lost() -> None:
    figures = RoundTripFigures.of(4, [0.002, 0.001, 0.003])

    assert figures.answered_count == 3
    assert figures.loss_percent == 25
    assert figures.p50_ms == 2.0


def test_added_is_the_difference_of_percentiles() -> None:
    relay, direct = RoundTripFigures.of(2, [0.005, 0.009]), RoundTripFigures.of(2, [0.001, 0.002])

    added = AddedFigures.of(relay, direct)

    assert added is not None
    assert added.p50_ms == pytest.approx(4.0)
    assert added.p99_ms == pytest.approx(7.0)


def test_nothing_is_added_to_what_was_not_measured() -> None:
    measured, silent = RoundTripFigures.of(1, [0.001]), RoundTripFigures.of(1, [])

    assert AddedFigures.of(measured, silent) is None
    assert AddedFigures.of(silent, measured) is None


def test_rate_is_of_the_counted_seconds_and_loss_of_all() -> None:
    found = load(counted=2_000, sent=4_000, answered=3_990)

    assert found.datagrams_per_s == 1_000
    assert found.mbit_per_s == pytest.approx(9.6)
    assert found.loss_percent == pytest.approx(0.25)


def test_one_per_cent_lost_is_too_much() -> None:
    assert load(sent=1_000, answered=991).is_clean
    assert not load(sent=1_000, answered=990).is_clean


def test_load_without_an_answer_in_its_time_is_not_clean() -> None:
    assert not load(counted=0).is_clean


def test_what_was_held_is_quoted_though_a_short_step_was_quicker() -> None:
    held = load(counted=500, is_held=True)

    assert best_bulk([load(counted=900), held]) is held


def test_quickest_clean_step_is_quoted_where_none_was_held() -> None:
    quick = load(counted=900)

    assert best_bulk([load(counted=100), quick, load(counted=5_000, answered=500)]) is quick
    assert best_bulk([quick, load(counted=950, answered=900, is_held=True)]) is quick


def test_nothing_is_quoted_where_all_lose_too_much() -> None:
    assert best_bulk([load(answered=900)]) is None
    assert best_bulk([]) is None
