"""Meters count, and hold a rate only where one is set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.lease import TunnelLimits
from masque_relay.control.meter import ByteBudget, TokenBucket, TunnelMeter
from tests.support.gates import FakeClock


class NoClock(FakeClock):
    def monotonic_s(self) -> float:
        raise AssertionError("the packet path asked for the time")


def meter(limits: TunnelLimits, clock: FakeClock, budget: ByteBudget | None = None) -> TunnelMeter:
    made = TunnelMeter(clock)
    made.limit(limits, budget)
    return made


def test_without_a_rate_everything_passes_and_no_clock_is_asked() -> None:
    made = TunnelMeter(NoClock())
    assert all(made.take(64, 64 * 1200) for _ in range(1000))
    assert (made.datagram_count, made.byte_count, made.dropped_count) == (64_000, 76_800_000, 0)


def test_a_byte_rate_lets_the_burst_pass_and_then_the_rate() -> None:
    clock = FakeClock()
    made = meter(TunnelLimits(rate_bytes_per_s=100_000, burst_bytes=200_000), clock)
    assert made.take(100, 200_000)
    assert not made.take(1, 1)
    clock.advance(0.5)
    assert made.take(1, 50_000)
    assert not made.take(1, 1)
    clock.advance(1000)
    assert not made.take(1, 200_001)
    assert made.take(1, 200_000)


def test_a_datagram_rate_is_held_too() -> None:
    clock = FakeClock()
    made = meter(TunnelLimits(rate_datagrams_per_s=10), clock)
    assert made.take(10, 0)
    assert not made.take(1, 0)
    clock.advance(0.1)
    assert made.take(1, 0)


def test_what_is_refused_is_not_counted_and_uses_nothing() -> None:
    clock = FakeClock()
    limits = TunnelLimits(rate_bytes_per_s=100_000, rate_datagrams_per_s=10)
    made = meter(limits, clock)
    assert not made.take(11, 1000)
    assert not made.take(1, 100_001)
    assert made.take(10, 100_000)
    assert (made.datagram_count, made.byte_count) == (10, 100_000)
    made.drop(3)
    assert made.dropped_count == 3


def test_the_largest_datagram_fits_into_the_smallest_bucket() -> None:
    made = meter(TunnelLimits(rate_bytes_per_s=1), FakeClock())
    assert made.take(1, 65_535)


def test_both_directions_share_the_byte_budget_and_its_end_is_final() -> None:
    clock, budget = FakeClock(), ByteBudget(1000)
    up, down = (meter(TunnelLimits(max_bytes=1000), clock, budget) for _ in range(2))
    assert up.take(1, 600)
    assert not budget.exhausted
    assert not down.take(1, 600)
    assert budget.exhausted
    assert not down.take(1, 1)
    assert (up.byte_count, down.byte_count) == (600, 0)


def test_the_budget_is_not_charged_for_what_the_rate_refuses() -> None:
    budget = ByteBudget(100_000)
    made = meter(TunnelLimits(rate_datagrams_per_s=1), FakeClock(), budget)
    assert made.take(1, 10)
    assert not made.take(1, 10)
    assert budget.left_bytes == 99_990


def test_limits_change_in_place() -> None:
    clock = FakeClock()
    made = meter(TunnelLimits(rate_datagrams_per_s=1), clock)
    assert made.take(1, 1)
    assert not made.take(1, 1)
    made.limit(TunnelLimits(), None)
    assert made.take(100, 1)


@given(
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 2000)), max_size=60),
    st.integers(1, 5000),
    st.integers(2000, 10_000),
)
def test_never_more_than_burst_plus_rate_passes(
    offers: list[tuple[float, int]], rate: int, burst: int
) -> None:
    clock = FakeClock()
    begin_s = clock.monotonic_s()
    bucket = TokenBucket(rate_per_s=rate, burst=burst, now_s=begin_s)
    passed = 0
    for pause_s, size in offers:
        clock.advance(pause_s)
        if bucket.refill(clock.monotonic_s()) >= size:
            bucket.take(size)
            passed += size
    assert passed <= burst + rate * (clock.monotonic_s() - begin_s) + 1


@pytest.mark.parametrize(("tokens", "wait_s"), [(1, 0.5), (0, 0.0)])
def test_a_bucket_says_how_long_to_wait(tokens: int, wait_s: float) -> None:
    bucket = TokenBucket(rate_per_s=2, burst=1, now_s=0.0)
    assert bucket.is_full
    bucket.take(1)
    assert not bucket.is_full
    assert bucket.wait_s(tokens) == wait_s


def test_time_that_goes_back_adds_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=10, now_s=100.0)
    bucket.take(10)
    assert bucket.refill(50.0) == 0
