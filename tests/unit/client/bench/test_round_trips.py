"""client/bench/round_trips.py: which answers count, and how long they took."""

from masque_relay.client.bench.probe import NONCE_BYTES, Probes, answer_to
from masque_relay.client.bench.round_trips import RoundTripLog
from tests.support.http_fakes import FakeClock
from tests.unit.client.bench.fakes import FakePath

PROBES = Probes(64, b"n" * NONCE_BYTES)


def answers(path: FakePath) -> list[bytes]:
    return [found for question in path.sent if (found := answer_to(question)) is not None]


def test_time_between_question_and_answer_is_the_round_trip() -> None:
    path, clock = FakePath(), FakeClock()
    log = RoundTripLog(path, PROBES, clock)

    log.ask()
    clock.now_s += 0.25
    log.receive(answers(path))

    assert log.is_answered
    figures = log.figures()
    assert (figures.sent_count, figures.answered_count) == (1, 1)
    assert figures.p50_ms == 250


def test_second_answer_to_one_question_is_none() -> None:
    path = FakePath()
    log = RoundTripLog(path, PROBES, FakeClock())

    log.ask()
    log.ask()
    log.receive([answers(path)[0]] * 3)

    assert log.figures().answered_count == 1
    assert not log.is_answered


def test_question_without_an_answer_is_lost() -> None:
    path, clock = FakePath(), FakeClock()
    log = RoundTripLog(path, PROBES, clock)

    for _ in range(4):
        log.ask()
    log.receive(answers(path)[:3])

    assert log.figures().loss_percent == 25


def test_question_that_the_path_does_not_take_is_lost() -> None:
    log = RoundTripLog(FakePath(room_count=0), PROBES, FakeClock())

    log.ask()

    assert log.figures().sent_count == 1
    assert log.figures().loss_percent == 100


def test_what_nobody_asked_for_is_no_answer() -> None:
    path = FakePath()
    log = RoundTripLog(path, PROBES, FakeClock())

    log.ask()
    log.receive([PROBES.question(9), b"", b"x" * 64])

    assert log.figures().answered_count == 0
