"""control/metrics.py: the one table from plain ints to Prometheus names."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from masque_relay.contract.counters import (
    BindCounters,
    DerpCounters,
    DerpMeshCounters,
    FlowCounters,
    HttpCounters,
    IpCounters,
    MeshCounters,
    QuicCounters,
    TcpCounters,
    TunnelCounters,
    TurnCounters,
    UpstreamCounters,
)
from masque_relay.contract.request import Method, Transport
from masque_relay.contract.verdict import DenyReason
from masque_relay.control.metrics import (
    COUNTER_ROWS,
    GATE_ROWS,
    PREFIX,
    CounterSource,
    Kind,
    MetricRow,
    RelayCollector,
    Tally,
    build_registry,
    exposition,
    metrics_reference,
)

GROUPS: dict[str, type] = {
    "quic": QuicCounters,
    "http": HttpCounters,
    "tcp": TcpCounters,
    "tunnel": TunnelCounters,
    "bind": BindCounters,
    "ip": IpCounters,
    "flow": FlowCounters,
    "turn": TurnCounters,
    "mesh": MeshCounters,
    "derp": DerpCounters,
    "derp_mesh": DerpMeshCounters,
    "upstream": UpstreamCounters,
}


def make_collector() -> tuple[RelayCollector, dict[str, CounterSource], dict[str, Tally]]:
    counters: dict[str, CounterSource] = {name: kind() for name, kind in GROUPS.items()}
    tallies: dict[str, Tally] = {row.name: () for row in GATE_ROWS}

    def reader(name: str) -> Callable[[], Tally]:
        return lambda: tallies[name]

    return (
        RelayCollector(counters, {name: reader(name) for name in tallies}),
        counters,
        tallies,
    )


def samples(collector: RelayCollector) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = exposition(build_registry(collector)).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_counter_field_is_in_the_table_exactly_once() -> None:
    expected = sorted(
        (group, field.name) for group, kind in GROUPS.items() for field in fields(kind)
    )
    assert sorted((row.group, row.field) for row in COUNTER_ROWS) == expected


@pytest.mark.parametrize("row", COUNTER_ROWS, ids=lambda row: f"{row.group}.{row.field}")
def test_a_field_that_moves_moves_its_own_sample_and_no_other(row: MetricRow) -> None:
    collector, counters, _ = make_collector()
    before = samples(collector)
    setattr(counters[row.group], row.field, 7)
    after = samples(collector)
    moved = {
        key: value
        for key, value in after.items()
        if key[0].startswith(PREFIX) and before[key] != value
    }
    suffix = "_total" if row.kind is Kind.COUNTER else ""
    assert moved == {(f"{PREFIX}{row.name}{suffix}", tuple(sorted(row.labels))): 7.0}


def test_rows_of_one_metric_agree_on_help_type_and_label_names() -> None:
    shapes: dict[str, tuple[object, ...]] = {}
    for row in COUNTER_ROWS:
        shape = (row.help, row.kind, tuple(key for key, _ in row.labels))
        assert shapes.setdefault(row.name, shape) == shape


def test_gate_tallies_appear_with_their_labels() -> None:
    collector, _, tallies = make_collector()
    tallies["decisions"] = [
        ((Transport.HTTP3, Method.CONNECT_UDP, "allowed"), 3),
        ((Transport.HTTP3, Method.CONNECT_UDP, DenyReason.POLICY), 2),
    ]
    tallies["audit_records_dropped"] = [((), 5)]
    got = samples(collector)
    labels = (("method", "connect-udp"), ("reason", "policy"), ("transport", "h3"))
    assert got[f"{PREFIX}decisions_total", labels] == 2
    assert got[f"{PREFIX}audit_records_dropped_total", ()] == 5


def test_no_metric_has_an_identity_in_a_label() -> None:
    permitted = {
        "direction", "result", "cap", "cause", "status", "transport", "method", "reason",
    }  # fmt: skip
    used = {key for row in COUNTER_ROWS for key, _ in row.labels}
    used |= {label for row in GATE_ROWS for label in row.labels}
    assert used == permitted


def test_a_missing_group_or_tally_is_refused_when_wired() -> None:
    with pytest.raises(ValueError, match="quic"):
        RelayCollector({"http": HttpCounters()}, {})
    with pytest.raises(ValueError, match="decisions"):
        RelayCollector({name: kind() for name, kind in GROUPS.items()}, {})


def test_the_committed_reference_is_current() -> None:
    committed = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
    assert committed.read_text() == metrics_reference(), (
        "run: python -m masque_relay.control.metrics > docs/reference/metrics.md"
    )
