"""Owns the metrics of a relay of several workers: what each has counted, added up at scrape."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from masque_relay.control.metric_rows import Kind
from masque_relay.control.metrics import PREFIX, READY, RELOADS, GateRow, Tally, family_of

WORKERS = GateRow(
    name="workers",
    help="Worker processes, by state; none in a relay of one process.",
    labels=("state",),
    kind=Kind.GAUGE,
)
WORKER_ENDS = GateRow(
    name="worker_ends",
    help="Worker processes that ended; all but `drained` was unwanted.",
    labels=("result",),
)
RESTARTS = GateRow(
    name="restarts", help="Replacements of all workers by new ones, by result.", labels=("result",)
)
SUPERVISOR_ROWS: tuple[GateRow, ...] = (WORKERS, WORKER_ENDS, RESTARTS)
"""Of the supervisor, beside what it adds up."""

_OF_ONE: Mapping[str, Callable[[float, float], float]] = {
    # One value for all: the eldest process and the tightest bound count.
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}
_OF_SUPERVISOR = {PREFIX + row.name for row in (READY, RELOADS)}
_LASTING = {"counter", "histogram", "summary"}

Dump = list[object]
"""Families as :func:`dump_families` gives them, JSON-ready."""


def dump_families(registry: CollectorRegistry) -> Dump:
    """Return all samples of a registry."""
    return [
        [
            metric.name,
            metric.type,
            metric.documentation,
            [[sample.name, sample.labels, sample.value] for sample in metric.samples],
        ]
        for metric in registry.collect()
    ]


class MetricSum:
    """Families of several processes, added up."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}

    def add(self, dump: Dump, *, lasting_only: bool = False) -> None:
        """Add the samples of one process.

        Args:
            dump: what it said.
            lasting_only: leave out gauges: the process has ended.
        """
        for family in dump:
            name, kind, text, samples = cast(
                "tuple[str, str, str, Sequence[tuple[str, Mapping[str, str], float]]]", family
            )
            if name in _OF_SUPERVISOR or (lasting_only and kind not in _LASTING):
                continue
            self._families[name] = (kind, text)
            values = self._values.setdefault(name, {})
            join = _OF_ONE.get(name, float.__add__)
            for sample, labels, value in samples:
                if sample.endswith("_created"):
                    continue  # a moment of each process
                key = (sample, tuple(labels.items()))
                values[key] = join(values[key], float(value)) if key in values else float(value)

    def dump(self) -> Dump:
        """Return the sums in the form that :meth:`add` takes."""
        return [
            [
                name,
                kind,
                text,
                [[key[0], dict(key[1]), value] for key, value in self._values[name].items()],
            ]
            for name, (kind, text) in self._families.items()
        ]

    def metrics(self) -> Iterable[Metric]:
        """Return the sums as Prometheus takes them."""
        for name, (kind, text) in self._families.items():
            metric = Metric(name, text, kind)
            for (sample, labels), value in self._values[name].items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


class SupervisorCollector(Collector):
    """The sums, and what only the supervisor knows."""

    def __init__(self, total: MetricSum, tallies: Mapping[str, Callable[[], Tally]]) -> None:
        """Take the sums, and how to read each row of the supervisor by its name."""
        self._total = total
        self._tallies = tallies

    def describe(self) -> Iterable[Metric]:
        """Return no samples; keeps the registry from collecting at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield all."""
        yield from self._total.metrics()
        for row in (*SUPERVISOR_ROWS, READY, RELOADS):
            yield family_of(row, self._tallies[row.name]())


def build_sum(
    dumps: Iterable[Dump], retired: Dump, tallies: Mapping[str, Callable[[], Tally]]
) -> CollectorRegistry:
    """Return a registry with the sums over workers, over those that ended, and over ourselves."""
    total = MetricSum()
    own = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=own)
    PlatformCollector(registry=own)
    for dump in (*dumps, dump_families(own)):
        total.add(dump)
    total.add(retired, lasting_only=True)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SupervisorCollector(total, tallies))
    return registry
