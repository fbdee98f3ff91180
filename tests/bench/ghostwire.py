"""Measures the mesh peer to peer, for each carrier: `make bench-ghostwire`.

The peers are in this process, the relay in its own; idle ones are in processes of their own.
Channels are used as they are, without the end-to-end encryption above them, so that what is
measured is the relay and the carrier. Recovery needs root, for its networks.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from masque_relay.client.mesh.way import WayKind
from tests.bench.mesh_carriers import CarrierFigures, Straight, measure_carrier, measure_straight
from tests.bench.mesh_fairness import GREEDY, MODEST, SENDERS, Fairness, measure_fairness
from tests.bench.mesh_idle import IdleFigures, measure_idle
from tests.bench.mesh_recovery import Recovery, measure_recovery
from tests.bench.report import machine
from tests.support.managed_relay import managed_relay
from tests.support.mesh_arrival import CARRIERS

MEASURED = (*CARRIERS, WayKind.HTTPS)
_CONFIG = """
[quic.limits]
max_connections = 20000
max_connections_per_source = 20000
idle_timeout_s = 600.0

[gate.limits]
tunnels_per_subject = 20000
opens_per_s = 10000.0
"""
"""All peers come from one address and are one subject here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long a run takes."""

    carrier_s: float
    """For datagrams, and as long for the stream."""
    fairness_s: float
    peers: int
    hold_s: float
    """How long the idle peers are watched."""
    recovers: bool


SMOKE = Effort(carrier_s=0.2, fairness_s=1.0, peers=20, hold_s=1.0, recovers=False)
WHOLE = Effort(carrier_s=2.0, fairness_s=10.0, peers=10_000, hold_s=30.0, recovers=True)


@dataclass(kw_only=True)
class Figures:
    """What a run found."""

    machine: str = field(default_factory=machine)
    load: list[float] = field(default_factory=list[float])
    """The load average of one minute before each part, the run itself included."""
    took_s: float = 0
    straight: Straight | None = None
    carriers: list[CarrierFigures] = field(default_factory=list[CarrierFigures])
    fairness: list[Fairness] = field(default_factory=list[Fairness])
    idle: IdleFigures | None = None
    recovery: list[Recovery] = field(default_factory=list[Recovery])
    not_measured: str = ""
    """Why there is no recovery."""

    def begin(self, part: str) -> None:
        """Tell what comes now, and remember how busy the machine is."""
        self.load.append(os.getloadavg()[0])
        sys.stderr.write(f"{part} (load {self.load[-1]:.1f})\n")


def table(figures: Figures) -> str:
    """Return the figures for people, as Markdown."""
    return "\n".join(
        [
            *_carrier_lines(figures),
            "",
            *_fairness_lines(figures.fairness),
            "",
            *_idle_lines(figures.idle),
            "",
            *_recovery_lines(figures),
            "",
            f"{figures.machine}; load average before each part "
            f"{', '.join(f'{load:.1f}' for load in figures.load)}; took {figures.took_s:.0f} s",
        ]
    )


def _carrier_lines(figures: Figures) -> list[str]:
    head = "| carrier | datagrams/s | relay CPU, us | stream, Mbit/s | rtt p50, ms | rtt p99, ms |"
    lines = [head, "|---|---|---|---|---|---|"]
    if figures.straight is not None:
        straight = figures.straight
        lines.append(f"| no relay | | | | {straight.rtt_p50_ms:.2f} | {straight.rtt_p99_ms:.2f} |")
    return lines + [
        f"| {one.carrier} | {one.datagrams_per_s:,.0f} | {one.relay_us_per_datagram:.1f} "
        f"| {one.stream_mbit_per_s:.0f} | {one.rtt_p50_ms:.2f} | {one.rtt_p99_ms:.2f} |"
        for one in figures.carriers
    ]


def _fairness_lines(fairness: Sequence[Fairness]) -> list[str]:
    lines = [
        f"| 1 sender of {SENDERS} floods, the others send | Jain's index, all | without the flood "
        "| least arrived of one | flood: sent, arrived | others: sent, arrived "
        "| dropped by the queue | lost on the link |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {one.asked_shares:g} of a fair share | {one.index:.3f} | {one.index_of_others:.3f} "
        f"| {one.least_arrived:.0%} | {one.flooder_sent:,}, {one.flooder_arrived:,} "
        f"| {one.others_sent:,}, {one.others_arrived:,} | {one.queue_dropped:,} "
        f"| {one.link_dropped:,} |"
        for one in fairness
    ]


def _idle_lines(idle: IdleFigures | None) -> list[str]:
    if idle is None:
        return []
    return [
        f"memory per idle peer: {idle.bytes_per_peer:,.0f} bytes, {idle.peers:,} peers of "
        f"{idle.asked:,} that came in, "
        f"{idle.bytes_per_peer * idle.peers / 1e6:,.0f} MB",
        f"within {idle.arrival_s:.0f} s, with {idle.arrival_cpu_ms:.1f} ms of the relay's "
        f"CPU each; to keep them takes {idle.cpu_share:.1%} of a core; {idle.lost} were lost",
    ]


def _recovery_lines(figures: Figures) -> list[str]:
    if figures.not_measured:
        return [f"recovery: not measured: {figures.not_measured}"]
    return [
        f"after {one.event}: {one.longest_wait_s:.2f} s, from {one.way_before} to {one.way_after}, "
        f"keepalive {one.keepalive_s:g} s"
        for one in figures.recovery
    ]


async def _measure_traffic(directory: Path, effort: Effort, figures: Figures) -> None:
    figures.straight = await measure_straight(effort.carrier_s)
    with managed_relay(directory, config=_CONFIG, expect_exit=None) as relay:
        for kind in MEASURED:
            figures.begin(kind)
            figures.carriers.append(await measure_carrier(relay, kind, effort.carrier_s))
        for shares in (MODEST, GREEDY):
            figures.begin(f"fairness, {shares:g}")
            figures.fairness.append(await measure_fairness(relay, shares, effort.fairness_s))


def measure(directory: Path, effort: Effort) -> Figures:
    """Measure everything."""
    figures = Figures()
    began_s = time.monotonic()
    traffic, memory, labs = (directory / name for name in ("traffic", "memory", "labs"))
    for place in (traffic, memory, labs):
        place.mkdir()
    asyncio.run(_measure_traffic(traffic, effort, figures))
    figures.begin(f"{effort.peers} idle peers")
    with managed_relay(memory, config=_CONFIG, expect_exit=None) as relay:
        figures.idle = measure_idle(relay, effort.peers, effort.hold_s)
        relay.process.kill()  # nothing is learnt from telling each of them goodbye
    figures.begin("recovery")
    if effort.recovers:
        try:
            figures.recovery = measure_recovery(labs)
        except pytest.skip.Exception as skipped:
            figures.not_measured = str(skipped)
    else:
        figures.not_measured = "left out"
    figures.took_s = time.monotonic() - began_s
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="shows that it works")
    parser.add_argument("--peers", type=int, help=f"idle peers, by default {WHOLE.peers:,}")
    parser.add_argument("--json", type=Path, help="write the figures there")
    chosen: Any = parser.parse_args(arguments)
    effort = SMOKE if chosen.smoke else WHOLE
    if chosen.peers is not None:
        effort = replace(effort, peers=chosen.peers)
    with tempfile.TemporaryDirectory(prefix="bench-ghostwire-") as name:
        figures = measure(Path(name), effort)
    sys.stdout.write(table(figures) + "\n")
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_bytes(orjson.dumps(asdict(figures), option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
