"""Owns the benchmark's plan: what is measured, how often, in which order. ``make bench`` runs it.

Subjects take turns within each measurement, and measurements within each repetition, so that
whatever else the machine does meets all of them. Figures are medians with their range.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bench.report import Report, machine, plot
from tests.bench.subjects import Bench, Subject, run_bench, run_generator

SIZES_BYTES = (1200, 64)
THROUGHPUT = "datagrams per CPU second, {way}, {size_bytes} B"
PLOTTED = tuple(THROUGHPUT.format(way=way, size_bytes=1200) for way in ("uplink", "downlink"))
OURS = "ghostwire relay"
NAIVE = "naive aioquic proxy"
WINDOW_ALL = 1024
"""Datagrams under way in all tunnels together: work for everybody, without overflowing buffers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a run is."""

    repetitions: int = 5
    seconds: float = 3.0
    connections: int = 4
    memory_connections: int = 200
    memory_tunnels: int = 400


SMOKE = Plan(repetitions=1, seconds=0.25, connections=2, memory_connections=10, memory_tunnels=20)


def measure(bench: Bench, plan: Plan, report: Report) -> None:
    """Do one repetition."""
    for way in ("uplink", "downlink"):
        for size_bytes in SIZES_BYTES:
            for subject in bench.subjects:
                _measure_throughput(bench, plan, report, subject, way, size_bytes)
    for subject in bench.subjects:
        found = run_generator(
            bench, subject, "latency", "--connections", "1", "--seconds", str(plan.seconds)
        )
        for share in ("p50", "p99"):
            report.add(
                f"added round trip, {share}, 1200 B, us", subject.name, found[f"added_{share}_us"]
            )
        report.add("plain loopback round trip, p50, us", subject.name, found["beside_p50_us"])


def _measure_throughput(
    bench: Bench, plan: Plan, report: Report, subject: Subject, way: str, size_bytes: int
) -> None:
    found = run_generator(
        bench,
        subject,
        way,
        *("--size-bytes", str(size_bytes), "--seconds", str(plan.seconds)),
        *("--connections", str(plan.connections)),
        *("--window", str(WINDOW_ALL // plan.connections)),
    )
    figure = THROUGHPUT.format(way=way, size_bytes=size_bytes)
    report.add(figure, subject.name, found["datagrams_per_cpu_s"])
    report.add(
        f"datagrams per second, {way}, {size_bytes} B", subject.name, found["datagrams_per_s"]
    )


def measure_memory(bench: Bench, plan: Plan, report: Report) -> None:
    """Measure once: memory that an allocator keeps makes a second time meaningless."""
    for subject in bench.subjects:
        if subject.state is None:
            continue
        found = run_generator(
            bench,
            subject,
            "memory",
            *("--connections", str(plan.memory_connections)),
            *("--tunnels", str(plan.memory_tunnels)),
        )
        report.add("bytes per idle connection", subject.name, found["connection_bytes"])
        report.add("bytes per idle tunnel", subject.name, found["tunnel_bytes"])


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(prog="ghostctl bench")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--repetitions", type=int, default=Plan().repetitions)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    plan = SMOKE if options.smoke else Plan(repetitions=options.repetitions)
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="ghostwire-bench-") as directory,
        run_bench(Path(directory)) as bench,
    ):
        # Memory first: fresh processes.
        measure_memory(bench, plan, report)
        for repetition in range(plan.repetitions):
            print(f"repetition {repetition + 1} of {plan.repetitions}", file=sys.stderr)
            measure(bench, plan, report)
    if options.plot:
        options.plot.write_text(plot(report.as_json(), PLOTTED), encoding="utf-8")
    if options.json:
        ratios = report.ratios(OURS, NAIVE).splitlines()
        print(json.dumps({**report.as_json(), "ratios": ratios}))
    else:
        print(machine(), report.table(), report.ratios(OURS, NAIVE), sep="\n\n")


if __name__ == "__main__":
    main()
