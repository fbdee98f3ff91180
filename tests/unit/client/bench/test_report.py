"""client/bench/report.py: what follows from what was found."""

from masque_relay.client.bench.figures import BulkFigures, RoundTripFigures
from masque_relay.client.bench.report import DEFAULT_SIZES_BYTES, BenchPlan, SizeReport


def test_small_and_large_datagrams_are_measured_unless_told_otherwise() -> None:
    assert BenchPlan().sizes_bytes == DEFAULT_SIZES_BYTES == (64, 1_200)


def test_without_a_direct_way_nothing_is_said_to_be_added() -> None:
    found = SizeReport(size_bytes=64, fits=True, relay=RoundTripFigures.of(1, [0.001]))

    assert found.added is None


def test_added_and_bulk_are_made_of_what_was_measured() -> None:
    load = BulkFigures.of(
        size_bytes=64,
        under_way_count=16,
        is_held=True,
        seconds=1.0,
        counted=10,
        sent_count=10,
        answered_count=10,
    )
    found = SizeReport(
        size_bytes=64,
        fits=True,
        relay=RoundTripFigures.of(1, [0.003]),
        direct=RoundTripFigures.of(1, [0.001]),
        loads=[load],
    )

    assert found.added is not None
    assert round(found.added.p50_ms, 6) == 2
    assert found.bulk is load


def test_size_of_which_nothing_is_measured_has_no_bulk() -> None:
    assert SizeReport(size_bytes=9_000, fits=False).bulk is None
