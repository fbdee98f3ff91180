"""Owns the matrix: what the tests have shown, cell by cell, and its file."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from interop.cannot import CANNOT
from interop.marks import Cell

RESULTS_FILE = Path(__file__).parent / "results" / "matrix.json"


class Outcome(StrEnum):
    """What is known of a cell."""

    PASS = "pass"  # noqa: S105  (a word of the page, no secret)
    FAIL = "fail"
    CANNOT = "can't"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A cell that is filled."""

    cell: Cell
    outcome: Outcome
    reason: str
    """One line; empty for a pass."""
    tests: tuple[str, ...]
    """That showed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All findings of one run, and the versions of all who took part."""

    versions: Mapping[str, str]
    findings: Sequence[Finding]

    def outcomes(self) -> dict[Cell, Outcome]:
        """Return what is known, without reasons."""
        return {finding.cell: finding.outcome for finding in self.findings}

    def write(self, path: Path = RESULTS_FILE) -> None:
        """Write the file."""
        content = {
            "versions": dict(self.versions),
            "cells": [
                {
                    **asdict(one.cell),
                    "outcome": one.outcome.value,
                    "reason": one.reason,
                    "tests": list(one.tests),
                }
                for one in self.findings
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path = RESULTS_FILE) -> "Matrix":
        """Read a file."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        findings = [
            Finding(
                cell=Cell(peer=one["peer"], method=one["method"], over=one["over"]),
                outcome=Outcome(one["outcome"]),
                reason=one["reason"],
                tests=tuple(one["tests"]),
            )
            for one in content["cells"]
        ]
        return cls(versions=content["versions"], findings=findings)


def judge(lines: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Return the findings of a run.

    One failed test fails its cell; a cell all of whose tests were skipped was not run.

    Args:
        lines: as interop.plugin has written them.
    """
    by_cell: defaultdict[Cell, list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        by_cell[Cell(peer=line["peer"], method=line["method"], over=line["over"])].append(line)
    findings = [
        Finding(cell=cell, outcome=Outcome.CANNOT, reason=reason, tests=())
        for cell, reason in CANNOT.items()
        if cell not in by_cell
    ]
    findings += [_judge_cell(cell, of_cell) for cell, of_cell in by_cell.items()]
    return sorted(findings, key=lambda finding: finding.cell)


def _judge_cell(cell: Cell, lines: Sequence[Mapping[str, Any]]) -> Finding:
    failed = [line for line in lines if line["outcome"] == "failed"]
    passed = [line for line in lines if line["outcome"] == "passed"]
    cannot = [line for line in passed if line["cannot"]]
    if failed:
        outcome, reason = Outcome.FAIL, _one_line(failed[0]["detail"])
    elif not passed:
        outcome, reason = Outcome.NOT_RUN, _one_line(lines[0]["detail"])
    elif cannot:
        outcome, reason = Outcome.CANNOT, str(cannot[0]["cannot"])
    else:
        outcome, reason = Outcome.PASS, ""
    tests = tuple(sorted({_without_parameters(line["test"]) for line in lines}))
    return Finding(cell=cell, outcome=outcome, reason=reason, tests=tests)


def _without_parameters(node_id: str) -> str:
    return node_id.partition("[")[0]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:160]
