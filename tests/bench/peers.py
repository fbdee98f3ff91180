"""Owns the comparison with other relays: ``make bench-peers``, ``python -m tests.bench.peers``.

Every subject runs alone on the first CPU while it is measured, generator and target on the others;
within a round the subjects take turns load by load, so that whatever else the machine does meets
all of them. The figures are medians over rounds, with their range. How to read them is in
``docs/howto/compare-relays.md``.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.quic.accelerator import is_compiled
from tests.bench.peer_subjects import (
    MASQUE_GO,
    NAIVE,
    OURS,
    OURS_ACCELERATED,
    OURS_WITHOUT_OFFLOAD,
    Peer,
    build_masque_go,
    parse_peer,
    run_subjects,
    thin_load,
)
from tests.bench.report import Report, machine, plot
from tests.bench.subjects import Bench, Subject, run_generator, run_json, run_module

MOST_LOSS = 0.01
"""A relay that drops more has not carried the load."""
WINDOWS = (512, 128, 32, 16)
"""Datagrams under way on the one bulk connection; the largest with hardly any loss is taken."""
PLOTTED = (
    "bulk up, 1200 B: datagrams per CPU second",
    "bulk down, 1200 B: datagrams per CPU second",
    "50 thin, up, 1200 B: datagrams per CPU second",
    "50 thin, down, 1200 B: datagrams per CPU second",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkLoad:
    """One connection that is kept full."""

    name: str
    way: str
    size_bytes: int
    options: tuple[str, ...] = ()


BULK_LOADS = (
    BulkLoad(name="bulk up, 1200 B", way="uplink", size_bytes=1200),
    BulkLoad(name="bulk down, 1200 B", way="downlink", size_bytes=1200),
    BulkLoad(name="bulk up, 64 B", way="uplink", size_bytes=64),
    BulkLoad(name="bulk down, 64 B", way="downlink", size_bytes=64),
    BulkLoad(
        name="bulk up, 1200 B, client without GSO",
        way="uplink",
        size_bytes=1200,
        options=("--no-offload",),
    ),
    BulkLoad(
        name="bulk down, 1200 B, client without GRO",
        way="downlink",
        size_bytes=1200,
        options=("--no-offload",),
    ),
)
MANY = (
    ("50 tunnels, up, 1200 B", ("--connections", "50", "--window", "10")),
    (
        "1,000 tunnels, 50 busy, up, 1200 B",
        ("--connections", "50", "--window", "10", "--idle-tunnels", "950"),
    ),
    (
        "1,000 tunnels, all busy, up, 1200 B",
        ("--connections", "50", "--tunnels-per-connection", "20", "--window", "1"),
    ),
)
"""All on fifty connections, so that only the tunnels differ."""
MOST_BACKGROUND_PER_S = 25_000
"""Beyond that the latency that we measure would be our generator's own queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a run is."""

    rounds: int = 5
    seconds: float = 1.5
    memory_steps: tuple[int, ...] = (1, 100, 1000)
    memory_connections: int = 20
    windows: tuple[int, ...] = WINDOWS


SMOKE = Plan(rounds=1, seconds=0.3, memory_steps=(1, 20), memory_connections=2, windows=(32,))


class Comparison:
    """One run: what is measured of whom, and what came out."""

    def __init__(self, bench: Bench, plan: Plan, masque_go: Path | None) -> None:
        self._bench = bench
        self._plan = plan
        self._masque_go = masque_go
        self._windows: dict[tuple[str, str], int] = {}
        self.report = Report()
        self.failures: list[str] = []

    def run(self) -> None:
        """Measure everything."""
        subjects = self._bench.subjects
        # Memory first: what an allocator has once had it keeps.
        for subject in subjects:
            self._try(partial(self._measure_memory, subject))
        for index in range(self._plan.rounds):
            print(f"round {index + 1} of {self._plan.rounds}", file=sys.stderr)  # noqa: T201
            for load in BULK_LOADS:
                for subject in subjects:
                    self._try(partial(self._measure_bulk, subject, load))
            for way, word in (("uplink", "up"), ("downlink", "down")):
                for subject in subjects:
                    name = f"50 thin, {word}, 1200 B"
                    self._try(partial(self._measure_thin, subject, way, name))
            for name, options in MANY:
                for subject in subjects:
                    self._try(partial(self._measure_many, subject, name, options))
            for subject in subjects:
                self._try(partial(self._measure_latency, subject))

    @property
    def windows(self) -> dict[str, int]:
        """The window that each subject could carry, by subject and load."""
        return {f"{name}, {load}": window for (name, load), window in self._windows.items()}

    def _try(self, measure: Callable[[], None]) -> None:
        """Measure; what fails on a busy machine is told at the end, and stops nothing else."""
        try:
            measure()
        except RuntimeError as error:
            self.failures.append(f"not measured: {str(error).strip().splitlines()[-1]}")

    def _generate(self, subject: Subject, what: str, *options: str) -> dict[str, float]:
        seconds = ("--seconds", str(self._plan.seconds))
        return run_generator(self._bench, subject, what, *seconds, *options)

    def _measure_bulk(self, subject: Subject, load: BulkLoad) -> None:
        key = (subject.name, load.name)
        size = ("--size-bytes", str(load.size_bytes), "--connections", "1")
        windows = (self._windows[key],) if key in self._windows else self._plan.windows
        for window in windows:
            found = self._generate(subject, load.way, *size, "--window", str(window), *load.options)
            self._windows[key] = window
            if found["lost_part"] < MOST_LOSS:
                break
        self._add(load.name, subject, found, size_bytes=load.size_bytes)

    def _measure_thin(self, subject: Subject, way: str, name: str) -> None:
        command = thin_load(
            self._masque_go,
            subject,
            self._bench.target_port,
            way=way,
            seconds=self._plan.seconds,
        )
        self._add(name, subject, run_json(f"{subject.name}, {name}", command))

    def _measure_many(self, subject: Subject, name: str, options: tuple[str, ...]) -> None:
        self._add(name, subject, self._generate(subject, "uplink", *options))

    def _measure_latency(self, subject: Subject) -> None:
        carried = self.report.samples.get(("bulk up, 1200 B: datagrams/s", subject.name), [0.0])
        half = min(statistics.median(carried) / 2, MOST_BACKGROUND_PER_S)
        loads: tuple[tuple[str, tuple[str, ...]], ...] = (
            ("200/s", ("--connections", "1")),
            ("half load", ("--connections", "5", "--background-per-s", f"{half:.0f}")),
        )
        for name, options in loads:
            found = self._generate(subject, "latency", *options)
            for share in ("p50", "p99"):
                self.report.add(
                    f"added round trip at {name}, {share}: us",
                    subject.name,
                    found[f"added_{share}_us"],
                )

    def _measure_memory(self, subject: Subject) -> None:
        found = self._generate(
            subject,
            "memory-steps",
            *("--steps", ",".join(map(str, self._plan.memory_steps))),
            *("--connections", str(self._plan.memory_connections)),
        )
        for step in self._plan.memory_steps:
            figure = f"memory, {step:,} tunnels: bytes per tunnel"
            self.report.add(figure, subject.name, found[str(step)])

    def _add(
        self, load: str, subject: Subject, found: dict[str, float], *, size_bytes: int = 1200
    ) -> None:
        report, name = self.report, subject.name
        report.add(f"{load}: datagrams/s", name, found["datagrams_per_s"])
        report.add(f"{load}: Mbit/s", name, found["datagrams_per_s"] * size_bytes * 8 / 1e6)
        report.add(f"{load}: loss, %", name, 100 * found["lost_part"])
        if found["datagrams_per_cpu_s"]:
            report.add(f"{load}: datagrams per CPU second", name, found["datagrams_per_cpu_s"])
            report.add(f"{load}: CPU us per datagram", name, 1e6 / found["datagrams_per_cpu_s"])


def ratios(report: Report, ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """Return a line per load: how many datagrams ours relays in the CPU time of one of theirs.

    The ratio is taken within each round, where both met the same machine; then the median.
    """
    lines: list[str] = []
    for figure in dict.fromkeys(figure for figure, _ in report.samples):
        load, _, unit = figure.rpartition(": ")
        if unit != "CPU us per datagram":
            continue
        for mine in ours:
            for other in theirs:
                pairs = zip(
                    report.samples.get((figure, mine), ()),
                    report.samples.get((figure, other), ()),
                    strict=False,
                )
                found = [theirs_us / ours_us for ours_us, theirs_us in pairs]
                if found:
                    spread = f"{min(found):.2f}..{max(found):.2f}"
                    median = statistics.median(found)
                    lines.append(f"{load}: {mine} {median:.2f} x {other} ({spread})")
    return lines


def main() -> None:
    """Compare, then print the table and the ratios."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="some seconds, nothing to quote")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    parser.add_argument("--only", action="append", default=[], help="leave out every other subject")
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--plot", type=Path, help="draw datagrams per CPU second, as SVG")
    options = parser.parse_args()
    peers = [parse_peer(text) for text in options.peer]
    plan = SMOKE if options.smoke else Plan(rounds=options.rounds)
    comparison, left_out = _compare(plan, peers, options.only)
    compared = ratios(
        comparison.report,
        (OURS, OURS_ACCELERATED, OURS_WITHOUT_OFFLOAD),
        (MASQUE_GO, NAIVE, *(peer.name for peer in peers)),
    )
    told: dict[str, object] = {
        **comparison.report.as_json(),
        "ratios": compared,
        "windows": comparison.windows,
        "left_out": left_out,
    }
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if options.plot:
        options.plot.write_text(plot(told, PLOTTED), encoding="utf-8")
    lines = (machine(), "", comparison.report.table(), "", *compared, *left_out)
    print(*lines, sep="\n")  # noqa: T201 - its output


def _compare(
    plan: Plan, peers: Sequence[Peer], only: Sequence[str]
) -> tuple[Comparison, list[str]]:
    """Build, start and measure; return what was left out too."""
    built = build_masque_go()
    left_out = [built] if isinstance(built, str) else []
    if not is_compiled():
        left_out.append("our accelerator is left out: it is not compiled (make accelerator)")
    masque_go = None if isinstance(built, str) else built
    cpus = sorted(os.sched_getaffinity(0))
    subject_cpus = frozenset(cpus[:1])
    with tempfile.TemporaryDirectory(prefix="ghostwire-peers-") as name:
        directory = Path(name)
        state = prepare_dev_state(directory / "state")
        # Inherited by every process that is not moved elsewhere.
        os.sched_setaffinity(0, frozenset(cpus[1:]) or subject_cpus)
        try:
            with (
                run_module("tests.bench.target") as (_, target_port),
                run_subjects(
                    directory,
                    state,
                    cpus=subject_cpus,
                    masque_go=masque_go,
                    peers=peers,
                    only=only,
                ) as subjects,
            ):
                bench = Bench(subjects=subjects, target_port=target_port)
                comparison = Comparison(bench, plan, masque_go)
                comparison.run()
        finally:
            os.sched_setaffinity(0, frozenset(cpus))
    return comparison, [*left_out, *comparison.failures]


if __name__ == "__main__":
    main()
