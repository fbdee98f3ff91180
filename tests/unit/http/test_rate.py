"""How often something may happen."""

from masque_relay.http.rate import EventRate
from tests.support.http_fakes import FakeClock


def test_burst_then_rate() -> None:
    clock = FakeClock()
    rate = EventRate(rate_per_s=2.0, burst_count=3, clock=clock)

    assert [rate.allow() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [rate.allow(), rate.allow()] == [True, False]


def test_rest_refills_no_more_than_the_burst() -> None:
    clock = FakeClock()
    rate = EventRate(rate_per_s=100.0, burst_count=2, clock=clock)
    clock.now_s += 3_600

    assert [rate.allow() for _ in range(3)] == [True, True, False]
