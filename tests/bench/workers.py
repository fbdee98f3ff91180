"""Owns the figure for several workers: what a datagram costs in CPU with one worker and with two.

    python -m tests.bench.workers --json build/bench-workers.json

On a machine with few cores two workers carry no more than one, but they must not cost more: the
kernel's choice among their sockets and the supervisor beside them are all that is new. Both relays
run on the same core, in turns, and the generator on the others; the CPU time is that of all
processes of a relay, the datagrams are those that it counted.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from masque_relay.admin.client import AdminClient
from masque_relay.config.dev_state import DevState, prepare_dev_state
from tests.bench.generator import cpu_s
from tests.bench.report import Report
from tests.bench.subjects import Bench, Subject, run_generator, run_module, run_relay

LOADS = {
    "up, 4 connections": ("uplink", "--connections", "4"),
    "up, 50 connections": ("uplink", "--connections", "50", "--window", "8"),
    "down, 4 connections": ("downlink", "--connections", "4"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """A running relay and all its processes."""

    subject: Subject
    pids: tuple[int, ...]
    admin_url: str

    def datagram_count(self) -> int:
        """Return how many datagrams have gone through live tunnels and past ones."""
        answer = httpx.get(f"{self.admin_url}/metrics", trust_env=False)
        text = answer.raise_for_status().text
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in text.splitlines()
            if line.startswith("ghostwire_relay_tunnel_datagrams_total{")
        )

    def cpu_s(self) -> float:
        """Return the CPU time of all its processes."""
        return sum(map(cpu_s, self.pids))


@contextmanager
def relay_of(
    directory: Path, state: DevState, worker_count: int, cpus: frozenset[int]
) -> Generator[Relay]:
    """Run a relay of so many workers while the block runs."""
    directory.mkdir()
    settings = {
        "GHOSTWIRE__WORKERS": str(worker_count),
        "GHOSTWIRE__GHOSTWIRE__ENABLED": "false",
    }
    with run_relay(directory, state, cpus=cpus, settings=settings) as (pid, port):
        admin_url = json.loads((directory / "ready.json").read_text())["admin"]
        token = state.admin_token_file.read_text().strip()
        with AdminClient(admin_url, token) as admin:
            workers = admin.status().get("workers", [])
        assert isinstance(workers, list)
        assert len(workers) == (worker_count if worker_count > 1 else 0)
        name = "1 worker" if worker_count == 1 else f"{worker_count} workers"
        yield Relay(
            subject=Subject(name=name, pid=pid, port=port, state=state),
            pids=(pid, *(int(worker["pid"]) for worker in workers)),
            admin_url=admin_url,
        )


def measure(
    relays: Sequence[Relay], target_port: int, report: Report, *, rounds: int, seconds: float
) -> None:
    """Load the relays in turns; add what a datagram cost each."""
    bench = Bench(subjects=tuple(relay.subject for relay in relays), target_port=target_port)
    for _ in range(rounds):
        for load, (what, *options) in LOADS.items():
            for relay in relays:
                cpu_before, count_before = relay.cpu_s(), relay.datagram_count()
                run_generator(bench, relay.subject, what, *options, "--seconds", str(seconds))
                count = relay.datagram_count() - count_before
                cost_us = (relay.cpu_s() - cpu_before) / count * 1e6
                report.add(f"CPU per datagram, us: {load}", relay.subject.name, cost_us)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    relay_cpus = frozenset(cpus[:1])
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        state = prepare_dev_state(directory / "state")
        os.sched_setaffinity(0, frozenset(cpus[1:]) or relay_cpus)
        with (
            run_module("tests.bench.target") as (_, target_port),
            relay_of(directory / "one", state, 1, relay_cpus) as one,
            relay_of(directory / "several", state, options.workers, relay_cpus) as several,
        ):
            measure(
                (one, several),
                target_port,
                report,
                rounds=options.rounds,
                seconds=options.seconds,
            )
    print(report.table())  # noqa: T201 - its output
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
