"""Keepalive: flags for the packet path, deadlines for a tick."""

from masque_relay.tunnels.keepalive import Keepalive


def keepalive(jitter: float = 0.0) -> Keepalive:
    return Keepalive(period_s=10, now_s=100, jitter=lambda: jitter)


def test_silence_of_a_period_wants_a_ping_and_speech_puts_it_off() -> None:
    alive = keepalive()
    alive.tick(109.9)
    assert not alive.wants_ping(109.9)
    assert alive.wants_ping(110)
    alive.sent()
    alive.tick(110)
    assert not alive.wants_ping(119.9)


def test_ping_comes_up_to_a_fifth_earlier() -> None:
    assert keepalive(jitter=1.0).wants_ping(108)
    assert not keepalive(jitter=0.5).wants_ping(108)


def test_three_silent_periods_are_the_end_unless_something_was_heard() -> None:
    alive = keepalive()
    assert not alive.is_lost(129.9)
    assert alive.is_lost(130)
    alive.heard()
    alive.tick(125)
    assert not alive.is_lost(154.9)
    assert alive.is_lost(155)


def test_period_of_the_relay_replaces_the_first() -> None:
    alive = keepalive()
    alive.set_period(1)
    assert alive.wants_ping(101)
