"""Owns what a benchmark tells: medians with their range, the table, the JSON, the plot."""

import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

Key = tuple[str, str]
"""Figure and subject."""


@dataclass(slots=True)
class Report:
    """Every sample of every figure of every subject."""

    samples: dict[Key, list[float]] = field(default_factory=dict)

    def add(self, figure: str, subject: str, value: float) -> None:
        """Keep one sample."""
        self.samples.setdefault((figure, subject), []).append(value)

    def median(self, figure: str, subject: str) -> float:
        """Return the median of a figure's samples."""
        return statistics.median(self.samples[figure, subject])

    def as_json(self) -> dict[str, object]:
        """Return everything, samples included."""
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "figures": [
                {
                    "figure": figure,
                    "subject": subject,
                    "median": statistics.median(samples),
                    "min": min(samples),
                    "max": max(samples),
                    "samples": samples,
                }
                for (figure, subject), samples in self.samples.items()
            ],
        }

    def table(self) -> str:
        """Return a Markdown table: a line per figure, a column per subject."""
        subjects = list(dict.fromkeys(subject for _, subject in self.samples))
        figures = list(dict.fromkeys(figure for figure, _ in self.samples))
        rows = [["figure, median (min..max)", *subjects]]
        rows += [[figure, *(self._cell(figure, each) for each in subjects)] for figure in figures]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [_line(row, widths) for row in rows]
        lines.insert(1, _line(["-" * width for width in widths], widths))
        return "\n".join(lines)

    def ratios(self, ours: str, theirs: str) -> str:
        """Return one line per throughput figure: how many times theirs ours is."""
        return "\n".join(
            f"{figure}: {self.median(figure, ours) / self.median(figure, theirs):.1f} x {theirs}"
            for figure in dict.fromkeys(figure for figure, _ in self.samples)
            if "CPU second" in figure and self.median(figure, theirs)
        )

    def _cell(self, figure: str, subject: str) -> str:
        samples = self.samples.get((figure, subject))
        if not samples:
            return ""
        median, low, high = statistics.median(samples), min(samples), max(samples)
        digits = _digits(median)
        return f"{median:,.{digits}f} ({low:,.{digits}f}..{high:,.{digits}f})"


def machine() -> str:
    """Return what the figures were measured on, in one line."""
    model = "unknown CPU"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    count = subprocess.run(["nproc", "--all"], capture_output=True, text=True, check=True).stdout
    return (
        f"{count.strip()} x {model}, Linux {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def plot(report: Mapping[str, object], figures: Iterable[str]) -> str:
    """Return an SVG with a bar per subject for each of some figures, out of as_json's result."""
    wanted = list(figures)
    rows = [row for row in _rows(report) if row["figure"] in wanted]
    top = max(float(str(row["max"])) for row in rows)
    parts: list[str] = []
    y = 24
    for figure in wanted:
        parts.append(f'<text x="8" y="{y}" font-weight="bold">{figure}</text>')
        y += 10
        for row in rows:
            if row["figure"] != figure:
                continue
            median = float(str(row["median"]))
            low, high = (210 + 450 * float(str(row[edge])) / top for edge in ("min", "max"))
            colour = "#2f6f4f" if "ghostwire" in str(row["subject"]) else "#9aa5ad"
            parts.append(
                f'<text x="202" y="{y + 13}" text-anchor="end">{row["subject"]}</text>'
                f'<rect x="210" y="{y}" width="{450 * median / top:.0f}" height="18" '
                f'fill="{colour}"/>'
                f'<path d="M{low:.0f} {y + 9}H{high:.0f}" stroke="#222" stroke-width="1.5"/>'
                f'<text x="{high + 8:.0f}" y="{y + 13}">{median:,.{_digits(median)}f}</text>'
            )
            y += 24
        y += 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {y}" '
        f'font-family="sans-serif" font-size="13" fill="#222">'
        f'<rect width="760" height="{y}" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1


def _rows(report: Mapping[str, object]) -> list[dict[str, object]]:
    rows = report["figures"]
    assert isinstance(rows, list)
    return rows


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(map(str.ljust, cells, widths)) + " |"
