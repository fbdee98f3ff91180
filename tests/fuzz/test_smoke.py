"""Tests that the fuzz targets hold their contract for a few seconds, and that the loop can fail."""

import random

import pytest

from masque_relay.wire.errors import WireError
from tests.fuzz.__main__ import main
from tests.fuzz.engine import CORPUS, mutate, read_corpus, run_target
from tests.fuzz.targets import TARGETS


def test_every_target_accepts_or_refuses_what_it_is_fed(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--seconds", "5", "--engine", "builtin"])
    output = capsys.readouterr().out
    assert code == 0, output
    assert output.count(", ok") == len(TARGETS)


def test_another_exception_is_a_finding_with_its_input() -> None:
    def breaks_on_zero(data: bytes) -> None:
        if b"\x00" in data:
            raise IndexError("found")
        raise WireError("refused", section="none")

    count, finding = run_target("varint", breaks_on_zero, seconds=5, seed=0)
    assert finding is not None
    assert b"\x00" in finding.data
    assert "IndexError: found" in finding.trace
    assert count >= 1


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(any((CORPUS / name).iterdir()) for name in TARGETS)


def test_the_same_seed_makes_the_same_inputs() -> None:
    corpus = read_corpus("capsule")
    first, second = random.Random(7), random.Random(7)
    assert [mutate(corpus[0], first, corpus) for _ in range(50)] == [
        mutate(corpus[0], second, corpus) for _ in range(50)
    ]
