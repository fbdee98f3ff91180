"""Owns the collection of ``@pytest.mark.clause(...)`` marks: which test shows which RFC clause.

    @pytest.mark.clause("RFC 9297", "3.2", "MUST", "skip capsules of unknown types")

RFC, section, level and the requirement in our own words. A test that shows a deviation has the
level ``DEVIATION`` and the section that is deviated from.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DEVIATION = "DEVIATION"
LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", DEVIATION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One mark on one test."""

    rfc: str
    """``RFC 9297``."""
    section: str
    level: str
    requirement: str
    test: str
    """``tests/….py::Class::name``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """One comment in the sources that says that they break a clause."""

    place: str
    """The file."""
    rfc: str
    section: str


def collect_clauses(root: Path = ROOT) -> list[Clause]:
    """Return every mark under ``tests``, by RFC and section."""
    found = [
        clause
        for path in sorted((root / "tests").rglob("test_*.py"))
        for clause in _clauses_of(path, path.relative_to(root).as_posix())
    ]
    return sorted(found, key=lambda c: (c.rfc, section_key(c.section), c.requirement, c.test))


def collect_deviations(root: Path = ROOT) -> list[Deviation]:
    """Return every ``Deviation`` from an RFC that the sources declare."""
    found: list[Deviation] = []
    sources = [*(root / "masque_relay").rglob("*.py"), *(root / "fallbacks").rglob("*.py")]
    for path in sorted(sources):
        text = re.sub(r"\s+(#\s*)?", " ", path.read_text(encoding="utf-8"))
        for declared in re.finditer(r"Deviation\b[^.]*?(RFC \d+) section ([\d.]*\d)", text):
            place = path.relative_to(root).as_posix()
            found.append(Deviation(place=place, rfc=declared[1], section=declared[2]))
    return found


def section_key(section: str) -> tuple[int, ...]:
    """Return what sorts 3.10 behind 3.9."""
    return tuple(int(number) for number in section.split("."))


def _clauses_of(path: Path, name: str) -> Iterator[Clause]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        yield from _clauses_on(node, name)


def _clauses_on(node: ast.stmt, prefix: str) -> Iterator[Clause]:
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    test = f"{prefix}::{node.name}"
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.clause":
            rfc, section, level, requirement = (
                str(ast.literal_eval(argument)) for argument in decorator.args
            )
            yield Clause(rfc=rfc, section=section, level=level, requirement=requirement, test=test)
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            yield from _clauses_on(inner, test)
