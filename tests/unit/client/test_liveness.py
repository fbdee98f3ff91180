"""Owns the tests of keep-alive and of noticing that a relay is gone."""

from masque_relay.client.limits import ClientLimits
from masque_relay.client.liveness import Liveness, Pulse

LIMITS = ClientLimits(keepalive_interval_s=10.0, silence_timeout_s=8.0)


def test_a_silent_connection_is_pinged_at_the_interval() -> None:
    liveness = Liveness(LIMITS, 0.0)
    pulses = [liveness.check(float(s), sent_count=0, received_count=0) for s in range(1, 11)]
    assert pulses == [Pulse.FINE] * 9 + [Pulse.PING]


def test_a_relay_that_answers_is_fine_however_long() -> None:
    liveness = Liveness(LIMITS, 0.0)
    for second in range(1, 100):
        pulse = liveness.check(float(second), sent_count=second, received_count=second)
        assert pulse is not Pulse.GONE


def test_a_relay_that_answers_nothing_is_pinged_each_time_and_then_gone() -> None:
    liveness = Liveness(LIMITS, 0.0)
    assert liveness.check(1.0, sent_count=5, received_count=5) is Pulse.FINE
    pulses = [liveness.check(float(s), sent_count=5 + s, received_count=5) for s in range(2, 11)]
    assert pulses == [Pulse.PING] * 8 + [Pulse.GONE]


def test_an_answer_in_time_clears_the_suspicion() -> None:
    liveness = Liveness(LIMITS, 0.0)
    liveness.check(1.0, sent_count=1, received_count=0)
    liveness.check(8.0, sent_count=2, received_count=0)
    assert liveness.check(8.5, sent_count=2, received_count=1) is Pulse.FINE
    assert liveness.check(16.0, sent_count=3, received_count=1) is Pulse.PING
    assert liveness.check(23.0, sent_count=3, received_count=1) is Pulse.PING


def test_nothing_sent_and_nothing_received_is_no_suspicion() -> None:
    liveness = Liveness(LIMITS, 0.0)
    assert liveness.check(9.0, sent_count=0, received_count=0) is Pulse.FINE
