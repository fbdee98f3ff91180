"""Owns the tests of the delays between attempts."""

import pytest

from masque_relay.client.backoff import Backoff
from masque_relay.client.limits import ReconnectLimits

LIMITS = ReconnectLimits(first_delay_s=1.0, longest_delay_s=8.0, factor=2.0, jitter=0.5)


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(LIMITS, lambda: 0.0)
    assert [backoff.failed() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_jitter_shortens_a_delay_by_its_share_at_most() -> None:
    backoff = Backoff(LIMITS, lambda: 0.999_999)
    assert backoff.failed() == pytest.approx(0.5, abs=0.001)


def test_success_starts_again_from_the_first_delay() -> None:
    backoff = Backoff(LIMITS, lambda: 0.0)
    backoff.failed()
    backoff.failed()
    backoff.succeeded()
    assert backoff.failure_count == 0
    assert backoff.failed() == 1.0


def test_a_relay_that_is_away_for_ever_does_not_overflow() -> None:
    backoff = Backoff(LIMITS, lambda: 0.0)
    delays = [backoff.failed() for _ in range(5_000)]
    assert delays[-1] == 8.0
