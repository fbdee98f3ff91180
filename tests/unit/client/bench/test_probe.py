"""client/bench/probe.py: what an echo may answer, and what counts as an answer."""

from hypothesis import given
from hypothesis import strategies as st

from masque_relay.client.bench.probe import (
    ANSWER,
    MIN_PROBE_BYTES,
    NONCE_BYTES,
    QUESTION,
    Probes,
    answer_to,
)

NONCE = b"n" * NONCE_BYTES
PROBES = Probes(64, NONCE)


def answer(sequence: int, probes: Probes = PROBES) -> bytes:
    found = answer_to(probes.question(sequence))
    assert found is not None
    return found


def test_question_has_the_size_that_was_asked_for() -> None:
    for size_bytes in (MIN_PROBE_BYTES, 64, 1_200):
        assert len(Probes(size_bytes, NONCE).question(7)) == size_bytes


def test_answer_is_as_long_as_its_question_and_differs_in_its_kind_alone() -> None:
    question = PROBES.question(7)

    assert answer(7) == ANSWER + question[len(QUESTION) :]
    assert len(answer(7)) == len(question)


def test_answer_has_no_answer() -> None:
    assert answer_to(answer(7)) is None


def test_question_that_is_cut_short_has_no_answer() -> None:
    question = Probes(MIN_PROBE_BYTES, NONCE).question(7)

    assert answer_to(question) is not None
    assert answer_to(question[:-1]) is None
    assert answer_to(b"") is None


@given(st.binary(max_size=200))
def test_what_does_not_begin_with_the_magic_has_no_answer(datagram: bytes) -> None:
    if not datagram.startswith(QUESTION):
        assert answer_to(datagram) is None


@given(st.binary(max_size=200))
def test_no_answer_is_longer_than_what_asked_for_it(rest: bytes) -> None:
    found = answer_to(QUESTION + rest)

    assert found is None or len(found) == len(QUESTION + rest)


def test_answers_tell_their_sequence_numbers() -> None:
    assert PROBES.answered([answer(3), answer(2**40)]) == [3, 2**40]


def test_plain_echo_will_do() -> None:
    assert PROBES.answered([PROBES.question(5)]) == [5]


def test_answers_to_others_are_none_of_ours() -> None:
    other = Probes(64, b"m" * NONCE_BYTES)

    assert PROBES.answered([answer(3, other), b"", b"x" * 64]) == []


def test_answer_of_another_length_is_not_whole() -> None:
    assert PROBES.answered([answer(3)[:-1], answer(3) + b"\0"]) == []
