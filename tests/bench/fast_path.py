"""Owns the measurement of the fast path against aioquic alone: ``python -m tests.bench.fast_path``.

Both relays and the naive proxy take turns, each with the first CPU to itself; figures are CPU
microseconds of the relay per relayed datagram, medians with their range.
"""

import os
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.report import machine
from tests.bench.subjects import run_bench, run_generator

REPETITIONS = 3
SECONDS = "1.5"
LOADS = (
    ("up, 1 connection", "uplink", "1200", "1", "256"),
    ("down, 1 connection", "downlink", "1200", "1", "256"),
    ("up, 20 connections, four in turn", "uplink", "1200", "20", "4"),
    ("down, 20 connections, four in turn", "downlink", "1200", "20", "4"),
    ("up, 20 connections, one in turn", "uplink", "1200", "20", "1"),
    ("up, 4 connections, 64 B", "uplink", "64", "4", "256"),
)
"""Name, way, size in bytes, connections, window in datagrams of each connection."""
NAIVE = "naive aioquic proxy"
OURS = "ghostwire relay"


def main() -> None:
    """Measure and print a table."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(REPETITIONS):
        for mode in ("off", "auto"):
            os.environ["GHOSTWIRE__QUIC__LIMITS__FAST_PATH"] = mode
            with (
                tempfile.TemporaryDirectory(prefix="ghostwire-bench-") as directory,
                run_bench(Path(directory)) as bench,
            ):
                for load, way, size, connections, window in LOADS:
                    for subject in bench.subjects:
                        if subject.name == OURS:
                            column = f"fast path {mode}"
                        elif subject.name == NAIVE and mode == "off":
                            column = NAIVE
                        else:
                            continue
                        result = run_generator(
                            bench,
                            subject,
                            way,
                            *("--size-bytes", size, "--seconds", SECONDS),
                            *("--connections", connections, "--window", window),
                        )
                        found[load, column].append(1e6 / result["datagrams_per_cpu_s"])
            print(".", end="", file=sys.stderr, flush=True)  # noqa: T201 - its output
    columns = (NAIVE, "fast path off", "fast path auto")
    print(machine(), "", sep="\n")  # noqa: T201 - its output
    print("| us CPU per datagram |", " | ".join(columns), "|")  # noqa: T201 - its output
    print("|---|---|---|---|")  # noqa: T201 - its output
    for load, *_ in LOADS:
        cells = [
            f"{statistics.median(v):.1f} ({min(v):.1f}..{max(v):.1f})"
            for v in (found[load, column] for column in columns)
        ]
        print(f"| {load} |", " | ".join(cells), "|")  # noqa: T201 - its output


if __name__ == "__main__":
    main()
