"""server/clock.py: real time."""

import time

from masque_relay.server.clock import SystemClock


def test_it_is_the_time() -> None:
    clock = SystemClock()
    assert abs(clock.wall_s() - time.time()) < 60
    assert clock.monotonic_s() <= clock.monotonic_s()
