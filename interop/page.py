"""Owns docs/reference/interop.md: the matrix as tables, one for each method."""

from collections.abc import Iterator, Sequence

from interop.matrix import Finding, Matrix, Outcome

HEAD = """\
# Interoperation

Which foreign program does what through the relay, and by which HTTP version. Written by
`make interop` from one run of the tests; do not edit. `interop/results/matrix.json` names the tests
of every cell.

**pass**: the tests of that cell have passed. **fail**: one has failed, and why. **can't**: the peer
has no such thing; where the reason names a test, that test shows it by passing. Our own client is
there for comparison.
"""
METHODS = (
    "CONNECT-UDP",
    "bound UDP",
    "CONNECT",
    "connect-tcp",
    "CONNECT-IP",
    "WebSocket",
    "Ghostwire",
    "TURN",
    "DERP",
    "DERP mesh",
)
"""Their order; others follow."""
COLUMNS = ("3", "2", "1.1")


def page(matrix: Matrix) -> str:
    """Return the whole page."""
    parts = [HEAD, _versions(matrix), _summary(matrix)]
    for method in _methods(matrix):
        found = [one for one in matrix.findings if one.cell.method == method]
        parts.append(f"## {method}\n\n" + _table(found) + _notes(found))
    return "\n".join(parts)


def text(matrix: Matrix) -> str:
    """Return the same for a terminal."""
    lines: list[str] = []
    for method in _methods(matrix):
        found = [one for one in matrix.findings if one.cell.method == method]
        columns = _columns(found)
        lines.append("")
        lines.append(f"{method:42}" + "".join(f"{name:9}" for name in columns))
        for peer, row in _rows(found):
            cells = (row.get(column) for column in columns)
            words = (one.outcome.value if one else "-" for one in cells)
            lines.append(f"  {peer:40}" + "".join(f"{word:9}" for word in words))
    return "\n".join(lines)


def _methods(matrix: Matrix) -> list[str]:
    found = {finding.cell.method for finding in matrix.findings}
    return [name for name in METHODS if name in found] + sorted(found - set(METHODS))


def _columns(found: Sequence[Finding]) -> list[str]:
    """HTTP versions come first, all of them or none; then transports."""
    names = {finding.cell.over for finding in found}
    versions = list(COLUMNS) if names & set(COLUMNS) else []
    return versions + sorted(names - set(COLUMNS))


def _rows(found: Sequence[Finding]) -> Iterator[tuple[str, dict[str, Finding]]]:
    for peer in sorted({finding.cell.peer for finding in found}, key=str.lower):
        yield peer, {one.cell.over: one for one in found if one.cell.peer == peer}


def _versions(matrix: Matrix) -> str:
    lines = ["| peer | version |", "| --- | --- |"]
    lines += [f"| {name} | {version} |" for name, version in matrix.versions.items()]
    return "\n".join(lines) + "\n"


def _summary(matrix: Matrix) -> str:
    counts = dict.fromkeys(Outcome, 0)
    for finding in matrix.findings:
        counts[finding.outcome] += 1
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    return f"Cells: {told}.\n"


def _table(found: Sequence[Finding]) -> str:
    columns = _columns(found)
    titles = [f"HTTP/{name}" if name in COLUMNS else name for name in columns]
    lines = ["| peer | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(columns)]
    reasons = _reasons(found)
    for peer, row in _rows(found):
        cells = [_cell(row.get(column), reasons) for column in columns]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(finding: Finding | None, reasons: Sequence[str]) -> str:
    if finding is None:
        return "-"
    word = finding.outcome.value
    if finding.outcome is Outcome.FAIL:
        word = f"**{word}**"
    return f"{word} [{reasons.index(finding.reason) + 1}]" if finding.reason else word


def _reasons(found: Sequence[Finding]) -> list[str]:
    """Each once, in the order of the rows."""
    ordered = [one for _, row in _rows(found) for one in row.values()]
    return list(dict.fromkeys(one.reason for one in ordered if one.reason))


def _notes(found: Sequence[Finding]) -> str:
    notes: list[str] = []
    for number, reason in enumerate(_reasons(found), 1):
        tests = sorted({test for one in found if one.reason == reason for test in one.tests})
        shown = "".join(f" (`{test.removeprefix('tests/')}`)" for test in tests)
        notes.append(f"{number}. {reason.replace('|', '/')}{shown}")
    return "\n" + "\n".join(notes) + "\n" if notes else ""
