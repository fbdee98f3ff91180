"""The matrix says what tests have shown: its page is its file's, its cells the marks'."""

from collections.abc import Iterator

import pytest

from interop.cannot import CANNOT
from interop.marks import Cell, Claim, claims_of
from interop.matrix import Matrix, Outcome, judge
from interop.page import page
from interop.runner import PAGE_FILE, differences

CELL = Cell(peer="somebody", method="CONNECT-UDP", over="3")


def line(
    outcome: str, *, cannot: str = "", detail: str = "", test: str = "t.py::a"
) -> dict[str, str]:
    cell = {"peer": CELL.peer, "method": CELL.method, "over": CELL.over}
    return {**cell, "outcome": outcome, "cannot": cannot, "detail": detail, "test": test}


def verdict(*lines: dict[str, str]) -> tuple[Outcome, str]:
    (finding,) = [found for found in judge(lines) if found.cell == CELL]
    return finding.outcome, finding.reason


def claims(request: pytest.FixtureRequest) -> Iterator[tuple[str, Claim]]:
    """What the marks of this very run say."""
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        parameters = callspec.params if callspec is not None else {}
        for claim in claims_of(item.iter_markers("interop"), parameters):
            yield item.nodeid.partition("[")[0], claim


class TestWritten:
    def test_the_page_is_that_of_the_file(self) -> None:
        assert PAGE_FILE.read_text(encoding="utf-8") == page(Matrix.read()), "make interop"

    def test_every_mark_has_its_cell_in_the_file(self, request: pytest.FixtureRequest) -> None:
        written = {(test, found.cell) for found in Matrix.read().findings for test in found.tests}
        marked = {(test, claim.cell) for test, claim in claims(request)}
        assert marked <= written, "make interop"

    def test_the_file_has_nothing_else(self, request: pytest.FixtureRequest) -> None:
        """As far as this run has the files."""
        files = {item.nodeid.partition("::")[0] for item in request.session.items}
        marked = {(test, claim.cell) for test, claim in claims(request)}
        for found in Matrix.read().findings:
            for test in found.tests:
                assert test.partition("::")[0] not in files or (test, found.cell) in marked, test

    def test_what_no_test_shows_has_a_reason_and_is_no_pass(self) -> None:
        for found in Matrix.read().findings:
            assert found.outcome is not Outcome.NOT_RUN, found
            assert found.tests or (found.outcome is Outcome.CANNOT and found.cell in CANNOT), found
            assert (found.outcome is Outcome.PASS) is (found.reason == ""), found


class TestJudge:
    def test_passed_tests_are_a_pass(self) -> None:
        assert verdict(line("passed"), line("passed", test="t.py::b")) == (Outcome.PASS, "")

    def test_one_failed_test_fails_the_cell(self) -> None:
        failed = line("failed", detail="no\nanswer")
        assert verdict(line("passed"), failed) == (Outcome.FAIL, "no answer")

    def test_a_cell_whose_tests_were_skipped_was_not_run(self) -> None:
        skipped = line("skipped", detail="no Go here")
        assert verdict(skipped) == (Outcome.NOT_RUN, "no Go here")
        assert verdict(skipped, line("passed")) == (Outcome.PASS, "")

    def test_a_limit_must_be_shown_by_a_test_that_passes(self) -> None:
        assert verdict(line("passed", cannot="no H3")) == (Outcome.CANNOT, "no H3")
        assert verdict(line("failed", cannot="no H3", detail="it can"))[0] is Outcome.FAIL

    def test_a_run_that_differs_is_told(self) -> None:
        before = Matrix(versions={}, findings=judge([line("passed")]))
        after = Matrix(versions={}, findings=judge([line("failed")]))
        assert differences(before, before) == []
        assert differences(before, after) == ["somebody, CONNECT-UDP, 3: written pass, found fail"]


class TestMarks:
    def test_parameters_are_filled_in_and_the_first_word_counts(self) -> None:
        mark = pytest.mark.interop("{who}", "TURN", "{how}").mark
        (claim,) = claims_of(iter([mark]), {"who": "coturn", "how": "udp, channels"})
        assert claim == Claim(cell=Cell(peer="coturn", method="TURN", over="udp"), cannot="")
