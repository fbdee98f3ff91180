"""Owns the test of the client's clock."""

from masque_relay.client.clock import SystemClock


def test_monotonic_time_never_goes_back_and_wall_time_is_since_the_epoch() -> None:
    clock = SystemClock()
    first = clock.monotonic_s()
    assert clock.monotonic_s() >= first
    assert clock.wall_s() > 1_700_000_000
