"""Owns `ghostctl bench RELAY`: the progress bar, and the figures as a table or as JSON."""

import asyncio
import sys
from collections.abc import Callable

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from masque_relay.cli.client_errors import fail_with
from masque_relay.cli.output import print_json, print_table
from masque_relay.cli.relay_options import RelayChoice
from masque_relay.cli.until_signal import until_signal
from masque_relay.client import ClientError
from masque_relay.client.bench.figures import ALLOWED_LOSS_PERCENT, BulkFigures, RoundTripFigures
from masque_relay.client.bench.report import BenchPlan, BenchReport, SizeReport
from masque_relay.client.bench.round_trips import RATE_PER_S
from masque_relay.client.bench.run import Benchmark

_INTERRUPTED = "interrupted"
_BOUND = (
    "Measured by one client process here: it bounds every figure, datagrams a second most of all."
)
_SHARED = "Relay, echo and client shared this machine."


def bench_relay(chosen: RelayChoice, plan: BenchPlan, *, as_json: bool) -> None:
    """Measure a relay and print what was found; leave with the error's code where there is one.

    What was measured before an error or Ctrl-C is printed all the same.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        refresh_per_second=4,  # drawing takes time that round trips would show
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task("", total=1.0)
    benchmark = Benchmark(
        chosen.address,
        chosen.options,
        plan,
        on_progress=lambda what, part: bar.update(task, description=what, completed=part),
    )
    failure: ClientError | None = None
    try:
        with bar:
            asyncio.run(_run(benchmark))
    except ClientError as error:
        failure = error
    report = benchmark.report
    ended_by = failure.message if failure else None if report.is_complete else _INTERRUPTED
    if as_json:
        print_json(_as_json(report, ended_by))
    elif report.opening is not None:
        _print(report, ended_by)
    elif failure is None:
        click.echo("Interrupted before anything was measured.")
    if failure is not None:
        fail_with(failure)


async def _run(benchmark: Benchmark) -> None:
    async with until_signal(lambda: None):
        await benchmark.run()


def _print(report: BenchReport, ended_by: str | None) -> None:
    tunnels = "1 tunnel" if report.tunnels == 1 else f"{report.tunnels} tunnels"
    echo = f"{report.target}, an echo of our own" if report.has_own_echo else report.target
    click.echo(f"{report.relay} by HTTP/{report.http_version}, to {echo}; {tunnels} for bulk")
    if report.connect_ms is not None and (opening := report.opening) is not None:
        click.echo(
            f"connected in {report.connect_ms:.1f} ms; a tunnel opens in {opening.p50_ms:.2f} ms "
            f"(p50), {opening.p99_ms:.2f} ms (p99 of {opening.count})"
        )
    sizes = [size for size in report.sizes if size.fits]
    if sizes:
        columns = ("there and back", *(f"{size.size_bytes} B" for size in sizes))
        print_table(None, columns, [[name, *map(cell, sizes)] for name, cell in _ROWS])
    for size in report.sizes:
        if not size.fits:
            click.echo(
                f"{size.size_bytes} B do not fit: {report.max_payload_bytes} B is the most there"
            )
    if sizes and sizes[0].relay is not None and sizes[0].direct is None:
        click.echo(
            "The echo does not answer on the direct way, so that what the relay adds is open."
        )
    click.echo(_BOUND + (f" {_SHARED}" if report.has_own_echo else ""))
    if ended_by == _INTERRUPTED:
        click.echo("Interrupted: this is what was measured until then.")


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} ms"


def _of_trip(trip: RoundTripFigures | None, percent: int) -> str:
    if trip is None:
        return ""
    return _ms(trip.p50_ms if percent == 50 else trip.p99_ms)


def _lost(trip: RoundTripFigures | None) -> str:
    return "" if trip is None else f"{trip.loss_percent:.2f} %"


def _added(size: SizeReport, percent: int) -> str:
    if (added := size.added) is None:
        return ""
    return _ms(added.p50_ms if percent == 50 else added.p99_ms)


def _of_bulk(shown: Callable[[BulkFigures], str]) -> Callable[[SizeReport], str]:
    def cell(size: SizeReport) -> str:
        return "" if size.bulk is None else shown(size.bulk)

    return cell


def _rate(size: SizeReport) -> str:
    if size.bulk is not None:
        return f"{size.bulk.datagrams_per_s:,.0f}/s"
    return f"none below {ALLOWED_LOSS_PERCENT:g} % loss" if size.loads else ""


_ROWS: tuple[tuple[str, Callable[[SizeReport], str]], ...] = (
    (f"round trip at {RATE_PER_S}/s, p50", lambda size: _of_trip(size.relay, 50)),
    ("  directly", lambda size: _of_trip(size.direct, 50)),
    ("  added by the relay", lambda size: _added(size, 50)),
    (f"round trip at {RATE_PER_S}/s, p99", lambda size: _of_trip(size.relay, 99)),
    ("  directly", lambda size: _of_trip(size.direct, 99)),
    ("  added by the relay", lambda size: _added(size, 99)),
    (f"lost at {RATE_PER_S}/s", lambda size: _lost(size.relay)),
    ("  directly", lambda size: _lost(size.direct)),
    ("bulk, datagrams", _rate),
    ("  payload each way", _of_bulk(lambda bulk: f"{bulk.mbit_per_s:,.1f} Mbit/s")),
    ("  lost", _of_bulk(lambda bulk: f"{bulk.loss_percent:.2f} %")),
    ("  under way", _of_bulk(lambda bulk: f"{bulk.under_way_count}")),
)
"""What a person reads, top to bottom."""


def _as_json(report: BenchReport, ended_by: str | None) -> dict[str, object]:
    opening = report.opening
    return {
        "relay": report.relay,
        "http": report.http_version,
        "target": report.target,
        "own_echo": report.has_own_echo,
        "next_hop": report.next_hop,
        "complete": report.is_complete,
        "ended_by": ended_by,
        "measured_by": _BOUND,
        "measurement_s": report.seconds,
        "tunnel_count": report.tunnels,
        "max_payload_bytes": report.max_payload_bytes,
        "reliable": report.is_reliable,
        "connect_ms": _round(report.connect_ms),
        "open_tunnel": None
        if opening is None
        else {
            "sample_count": opening.count,
            "p50_ms": _round(opening.p50_ms),
            "p99_ms": _round(opening.p99_ms),
        },
        "sizes": [_size_as_json(size) for size in report.sizes],
    }


def _size_as_json(size: SizeReport) -> dict[str, object]:
    added = size.added
    return {
        "size_bytes": size.size_bytes,
        "fits": size.fits,
        "round_trip": {
            "rate_per_s": RATE_PER_S,
            "relay": _trip_as_json(size.relay),
            "direct": _trip_as_json(size.direct),
            "added": None
            if added is None
            else {"p50_ms": _round(added.p50_ms), "p99_ms": _round(added.p99_ms)},
        },
        "bulk": None if size.bulk is None else _load_as_json(size.bulk),
        "bulk_loads": [_load_as_json(load) for load in size.loads],
    }


def _trip_as_json(trip: RoundTripFigures | None) -> dict[str, object] | None:
    if trip is None:
        return None
    return {
        "sent_count": trip.sent_count,
        "answered_count": trip.answered_count,
        "loss_percent": _round(trip.loss_percent),
        "p50_ms": _round(trip.p50_ms),
        "p99_ms": _round(trip.p99_ms),
    }


def _load_as_json(load: BulkFigures) -> dict[str, object]:
    return {
        "datagrams_per_s": _round(load.datagrams_per_s),
        "mbit_per_s": _round(load.mbit_per_s),
        "loss_percent": _round(load.loss_percent),
        "under_way_count": load.under_way_count,
        "held": load.is_held,
        "counted_s": _round(load.seconds),
        "sent_count": load.sent_count,
        "answered_count": load.answered_count,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
