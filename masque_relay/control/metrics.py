"""Owns the metric names: one table from the packet path's plain ints to Prometheus, read at scrape.

No identity is ever a label: labels are closed sets of the contract (transport, method, reason).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from masque_relay.control.metric_rows import COUNTER_ROWS, Kind, MetricRow

PREFIX = "ghostwire_relay_"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """One metric that the gate and its leases keep in labelled tallies."""

    name: str
    help: str
    labels: tuple[str, ...]
    kind: Kind = Kind.COUNTER


DECISIONS = GateRow(
    name="decisions",
    help="Decisions of the gate; reason is `allowed` or why it refused.",
    labels=("transport", "method", "reason"),
)
TUNNELS_OPEN = GateRow(
    name="tunnels",
    help="Tunnels open now.",
    labels=("transport", "method"),
    kind=Kind.GAUGE,
)
TUNNEL_ENDS = GateRow(
    name="tunnel_ends", help="Tunnels that ended, by reason.", labels=("transport", "reason")
)
AUDIT_DROPPED = GateRow(
    name="audit_records_dropped",
    help="Audit records lost because they could not be written fast enough.",
    labels=(),
)
RELOADS = GateRow(name="reloads", help="Reloads asked for, by result.", labels=("result",))
READY = GateRow(
    name="ready",
    help="1 while new tunnels are welcome, 0 while starting and draining.",
    labels=(),
    kind=Kind.GAUGE,
)
GATE_ROWS: tuple[GateRow, ...] = (
    DECISIONS,
    TUNNELS_OPEN,
    TUNNEL_ENDS,
    AUDIT_DROPPED,
    RELOADS,
    READY,
)

Tally = Iterable[tuple[tuple[str, ...], int]]
"""Label values in the order of GateRow.labels, and the count."""


class CounterSource(Protocol):
    """Any of the dataclasses of contract/counters.py."""

    def __getattribute__(self, name: str, /) -> object:
        """Read a field by its name."""
        ...


class RelayCollector(Collector):
    """Reads the plain ints when Prometheus asks; between scrapes it costs nothing."""

    def __init__(
        self,
        counters: Mapping[str, CounterSource],
        tallies: Mapping[str, Callable[[], Tally]],
    ) -> None:
        """Take the counters object of every group, and how to read every gate row by its name.

        Raises:
            ValueError: a group or a tally of the table is missing or unknown.
        """
        _require({row.group for row in COUNTER_ROWS}, set(counters), "counters")
        _require({row.name for row in GATE_ROWS}, set(tallies), "tallies")
        self._counters = counters
        self._tallies = tallies

    def describe(self) -> Iterable[Metric]:
        """Return no samples; keeps the registry from collecting at registration."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yield every metric of the two tables."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for row in COUNTER_ROWS:
            family = families.get(row.name)
            if family is None:
                family = _family(row.kind, row.name, row.help, [key for key, _ in row.labels])
                families[row.name] = family
            value = getattr(self._counters[row.group], row.field)
            family.add_metric([value for _, value in row.labels], value)
        yield from families.values()
        for gate_row in GATE_ROWS:
            yield family_of(gate_row, self._tallies[gate_row.name]())


def family_of(row: GateRow, tally: Tally) -> Metric:
    """Return a row's metric with its samples."""
    family = _family(row.kind, row.name, row.help, list(row.labels))
    for labels, count in tally:
        family.add_metric(list(labels), count)
    return family


def build_registry(collector: RelayCollector) -> CollectorRegistry:
    """Return a registry with the relay's metrics and those of the process; no global state."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """Return the Prometheus text exposition."""
    return generate_latest(registry)


def metrics_reference() -> str:
    """Return docs/reference/metrics.md; a test keeps the committed file equal to it."""
    lines = [
        "# Metrics",
        "",
        "Generated from `masque_relay/control/metric_rows.py` by",
        "`python -m masque_relay.control.metrics`; do not edit by hand.",
        "",
        "The admin listener serves them at `/metrics`. All names begin with",
        f"`{PREFIX}`. No metric has an identity in a label. The process, platform and garbage",
        "collector metrics of `prometheus_client` are there too.",
        "",
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    seen: dict[str, tuple[MetricRow, dict[str, list[str]]]] = {}
    for row in COUNTER_ROWS:
        _, labels = seen.setdefault(row.name, (row, {}))
        for key, value in row.labels:
            labels.setdefault(key, []).append(value)
    for row, labels in seen.values():
        words = "; ".join(f"`{key}`: {', '.join(values)}" for key, values in labels.items())
        lines.append(_reference_line(row.name, row.kind, words, row.help))
    # Below us, because it builds on this module.
    from masque_relay.control.worker_metrics import SUPERVISOR_ROWS  # noqa: PLC0415

    for gate_row in (*GATE_ROWS, *SUPERVISOR_ROWS):
        words = ", ".join(f"`{label}`" for label in gate_row.labels)
        lines.append(_reference_line(gate_row.name, gate_row.kind, words, gate_row.help))
    return "\n".join(lines) + "\n"


def _reference_line(name: str, kind: Kind, labels: str, text: str) -> str:
    suffix = "_total" if kind is Kind.COUNTER else ""
    return f"| `{PREFIX}{name}{suffix}` | {kind.value} | {labels} | {text} |"


def _family(
    kind: Kind, name: str, text: str, labels: list[str]
) -> CounterMetricFamily | GaugeMetricFamily:
    if kind is Kind.COUNTER:
        return CounterMetricFamily(PREFIX + name, text, labels=labels)
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _require(expected: set[str], given: set[str], what: str) -> None:
    if expected != given:
        raise ValueError(f"{what}: {sorted(expected ^ given)} missing or unknown")


if __name__ == "__main__":
    import sys

    sys.stdout.write(metrics_reference())
