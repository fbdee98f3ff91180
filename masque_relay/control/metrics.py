"""Owns the metric names: one table from the packet path's plain ints to Prometheus, read at scrape.

No identity is ever a label: labels are closed sets of the contract (transport, method, reason).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PREFIX = "ghostwire_relay_"


class Kind(StrEnum):
    """What a reader may do with the value."""

    COUNTER = "counter"
    """Only grows; exposed with the suffix ``_total``."""
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One plain int of contract/counters.py."""

    group: str
    """Which counters object: quic, http, tcp, tunnel, flow."""
    field: str
    """The attribute of that object."""
    name: str
    """Without prefix and without ``_total``."""
    help: str
    kind: Kind = Kind.COUNTER
    labels: tuple[tuple[str, str], ...] = ()
    """Fixed label values, where several fields make one metric."""


def _row(group: str, field: str, name: str, text: str, /, **labels: str) -> MetricRow:
    return MetricRow(group=group, field=field, name=name, help=text, labels=tuple(labels.items()))


def _gauge(group: str, field: str, name: str, text: str, /) -> MetricRow:
    return MetricRow(group=group, field=field, name=name, help=text, kind=Kind.GAUGE)


_UDP = "UDP datagrams of the QUIC endpoint, whatever they hold."
_UDP_BYTES = "UDP payload bytes of the QUIC endpoint."
_REFUSED = "New QUIC connections refused, by the cap that refused them."
_FRAMES = "DATAGRAM frames (RFC 9221) on QUIC connections."
_FAST_RECEIVED = "UDP datagrams of open connections that the fast path handled."
_SLOW_RECEIVED = "UDP datagrams of open connections that aioquic handled."
_FAST_SENT = "UDP datagrams of connections that the fast path built."
_SLOW_SENT = "UDP datagrams of connections that aioquic built."
_FRAMES_DROPPED = (
    "DATAGRAM frames not sent: too large for path or peer, or pushed out of the queue."
)
_RESPONSES = "HTTP responses by class of status."
_TUNNEL_DATAGRAMS = "Datagrams relayed; up is client to target."
_TUNNEL_BYTES = "Payload bytes of datagrams relayed; up is client to target."
_TUNNEL_STREAM_BYTES = "Payload bytes of TCP relayed; up is client to target."
_TUNNEL_DROPPED = "Datagrams that a tunnel dropped, by cause."
_HANDSHAKES = "QUIC handshakes that ended, by result."
_TLS_HANDSHAKES = "TLS handshakes over TCP that ended, by the HTTP version agreed or as failed."
_TCP_REFUSED = "New TCP connections refused, by the cap that refused them."
_TCP_CLOSED = "TCP connections that we closed, by cause."
_LOOKUPS_FAILED = "DNS look-ups that gave no address, by cause."

COUNTER_ROWS: tuple[MetricRow, ...] = (
    _row("quic", "datagrams_received", "quic_udp_datagrams", _UDP, direction="in"),
    _row("quic", "datagrams_sent", "quic_udp_datagrams", _UDP, direction="out"),
    _row("quic", "bytes_received", "quic_udp_bytes", _UDP_BYTES, direction="in"),
    _row("quic", "bytes_sent", "quic_udp_bytes", _UDP_BYTES, direction="out"),
    _row("quic", "connections_opened", "quic_connections_opened", "QUIC handshakes begun."),
    _row("quic", "handshakes_completed", "quic_handshakes", _HANDSHAKES, result="completed"),
    _row("quic", "handshakes_expired", "quic_handshakes", _HANDSHAKES, result="expired"),
    _row("quic", "connections_closed", "quic_connections_closed", "QUIC connections ended."),
    _gauge("quic", "connections_open", "quic_connections", "QUIC connections open now."),
    _gauge(
        "quic",
        "connections_half_open",
        "quic_connections_half_open",
        "QUIC connections whose handshake is not complete.",
    ),
    _gauge(
        "quic",
        "connections_fast",
        "quic_connections_fast_path",
        "QUIC connections that use the fast path for datagrams.",
    ),
    _row("quic", "refused_total", "quic_refused", _REFUSED, cap="total"),
    _row("quic", "refused_half_open", "quic_refused", _REFUSED, cap="half_open"),
    _row("quic", "refused_per_source", "quic_refused", _REFUSED, cap="per_source"),
    _row("quic", "retries_sent", "quic_retries_sent", "Retry packets sent (RFC 9000 section 8.1)."),
    _row(
        "quic",
        "retry_tokens_invalid",
        "quic_retry_tokens_invalid",
        "Initials with a Retry token that is not ours, too old, or from another address.",
    ),
    _row(
        "quic",
        "version_negotiations_sent",
        "quic_version_negotiations_sent",
        "Version Negotiation packets sent.",
    ),
    _row(
        "quic",
        "stateless_resets_sent",
        "quic_stateless_resets_sent",
        "Stateless resets sent for connections that we do not know.",
    ),
    _row(
        "quic",
        "packets_unroutable",
        "quic_packets_unroutable",
        "Packets that belong to no connection and begin none.",
    ),
    _row(
        "quic",
        "packets_handed_over",
        "quic_packets_handed_over",
        "Packets given to the worker whose connection they may belong to.",
    ),
    _row(
        "quic",
        "sends_dropped",
        "quic_sends_dropped",
        "UDP datagrams that the kernel would not take from the QUIC endpoint.",
    ),
    _row("quic", "quic_datagrams_received", "quic_datagram_frames", _FRAMES, direction="in"),
    _row("quic", "quic_datagrams_sent", "quic_datagram_frames", _FRAMES, direction="out"),
    _row(
        "quic",
        "quic_datagrams_oversize",
        "quic_datagram_frames_dropped",
        _FRAMES_DROPPED,
        cause="oversize",
    ),
    _row(
        "quic",
        "quic_datagrams_overflow",
        "quic_datagram_frames_dropped",
        _FRAMES_DROPPED,
        cause="overflow",
    ),
    _row("quic", "packets_received_fast", "quic_fast_packets_received", _FAST_RECEIVED),
    _row("quic", "packets_received_slow", "quic_slow_packets_received", _SLOW_RECEIVED),
    _row("quic", "packets_sent_fast", "quic_fast_packets_sent", _FAST_SENT),
    _row("quic", "packets_sent_slow", "quic_slow_packets_sent", _SLOW_SENT),
    _row(
        "quic", "path_mtu_probes_sent", "quic_path_mtu_probes_sent", "Path MTU probes (RFC 8899)."
    ),
    _row("quic", "path_mtu_raised", "quic_path_mtu_raised", "Path MTU probes that got through."),
    _row("quic", "migrations", "quic_migrations", "Connections that went on from another address."),
    _row("http", "requests", "http_requests", "HTTP requests begun."),
    _row(
        "http",
        "requests_malformed",
        "http_requests_malformed",
        "Requests answered with a stream error because they were malformed.",
    ),
    _row("http", "responses_1xx", "http_responses", _RESPONSES, status="1xx"),
    _row("http", "responses_2xx", "http_responses", _RESPONSES, status="2xx"),
    _row("http", "responses_3xx", "http_responses", _RESPONSES, status="3xx"),
    _row("http", "responses_4xx", "http_responses", _RESPONSES, status="4xx"),
    _row("http", "responses_5xx", "http_responses", _RESPONSES, status="5xx"),
    _row("http", "streams_reset", "http_streams_reset", "Streams that the peer reset or stopped."),
    _row(
        "http",
        "application_errors",
        "http_application_errors",
        "Requests whose handler failed: a bug of ours; the log has the record.",
    ),
    _row(
        "http",
        "early_datagrams_dropped",
        "http_early_datagrams_dropped",
        "HTTP Datagrams before the request or its answer, beyond the bounded buffer.",
    ),
    _row(
        "http",
        "unread_datagrams_dropped",
        "http_unread_datagrams_dropped",
        "HTTP Datagrams that an ASGI application did not fetch before its queue was full.",
    ),
    _row(
        "http",
        "unknown_stream_datagrams",
        "http_unknown_stream_datagrams",
        "HTTP Datagrams for a stream that is closed or never began.",
    ),
    _row("http", "capsules_received", "http_capsules_received", "Capsules (RFC 9297) received."),
    _row(
        "http", "capsules_skipped", "http_capsules_skipped", "Capsules of an unknown type, skipped."
    ),
    _row(
        "http",
        "capsules_malformed",
        "http_capsules_malformed",
        "Malformed or oversize capsules; each ended its stream.",
    ),
    _row(
        "http",
        "capsule_datagrams_dropped",
        "http_capsule_datagrams_dropped",
        "DATAGRAM capsules not sent because the stream's buffer was full.",
    ),
    _row("http", "websockets_opened", "http_websockets_opened", "WebSockets accepted."),
    _row(
        "http",
        "websockets_failed",
        "http_websockets_failed",
        "WebSockets ended because the client broke the rules.",
    ),
    _row(
        "http",
        "websockets_silent",
        "http_websockets_silent",
        "WebSockets ended because the client did not answer a ping.",
    ),
    _row("tcp", "connections_opened", "tcp_connections_opened", "TCP connections accepted."),
    _row("tcp", "connections_closed", "tcp_connections_closed", "TCP connections ended."),
    _gauge("tcp", "connections_open", "tcp_connections", "TCP connections open now."),
    _gauge(
        "tcp",
        "connections_half_open",
        "tcp_connections_half_open",
        "TCP connections whose TLS handshake is not complete.",
    ),
    _row("tcp", "handshakes_h2", "tcp_handshakes", _TLS_HANDSHAKES, result="h2"),
    _row("tcp", "handshakes_h1", "tcp_handshakes", _TLS_HANDSHAKES, result="h1"),
    _row("tcp", "handshakes_failed", "tcp_handshakes", _TLS_HANDSHAKES, result="failed"),
    _row("tcp", "refused_total", "tcp_refused", _TCP_REFUSED, cap="total"),
    _row("tcp", "refused_half_open", "tcp_refused", _TCP_REFUSED, cap="half_open"),
    _row("tcp", "refused_per_source", "tcp_refused", _TCP_REFUSED, cap="per_source"),
    _row(
        "tcp",
        "accepts_failed",
        "tcp_accepts_failed",
        "Times the kernel could not hand over a TCP connection: out of file descriptors.",
    ),
    _row("tcp", "deadlines_passed", "tcp_closed", _TCP_CLOSED, cause="deadline"),
    _row("tcp", "floods_stopped", "tcp_closed", _TCP_CLOSED, cause="flood"),
    _row("tcp", "protocol_errors", "tcp_closed", _TCP_CLOSED, cause="protocol_error"),
    _row("tunnel", "uplink_datagrams", "tunnel_datagrams", _TUNNEL_DATAGRAMS, direction="up"),
    _row("tunnel", "downlink_datagrams", "tunnel_datagrams", _TUNNEL_DATAGRAMS, direction="down"),
    _row("tunnel", "uplink_bytes", "tunnel_bytes", _TUNNEL_BYTES, direction="up"),
    _row("tunnel", "downlink_bytes", "tunnel_bytes", _TUNNEL_BYTES, direction="down"),
    _row(
        "tunnel",
        "stream_uplink_bytes",
        "tunnel_stream_bytes",
        _TUNNEL_STREAM_BYTES,
        direction="up",
    ),
    _row(
        "tunnel",
        "stream_downlink_bytes",
        "tunnel_stream_bytes",
        _TUNNEL_STREAM_BYTES,
        direction="down",
    ),
    _row(
        "tunnel",
        "unknown_context_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="unknown_context",
    ),
    _row("tunnel", "rate_dropped", "tunnel_datagrams_dropped", _TUNNEL_DROPPED, cause="rate"),
    _row(
        "tunnel",
        "oversize_uplink_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="oversize_up",
    ),
    _row(
        "tunnel",
        "oversize_downlink_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="oversize_down",
    ),
    _row("flow", "flows_opened", "flows_opened", "Sockets opened towards targets."),
    _row("flow", "flows_closed", "flows_closed", "Sockets towards targets closed."),
    _gauge("flow", "flows_open", "flows", "Sockets towards targets open now."),
    _row(
        "flow",
        "connects_failed",
        "flow_connects_failed",
        "TCP targets that refused, could not be reached or did not answer in time.",
    ),
    _row(
        "flow",
        "send_dropped",
        "flow_sends_dropped",
        "Datagrams towards targets that the kernel would not take.",
    ),
    _row(
        "flow",
        "send_oversize",
        "flow_sends_oversize",
        "Datagrams towards targets that were larger than the path takes.",
    ),
    _row(
        "flow",
        "receive_errors",
        "flow_receive_errors",
        "Asynchronous errors of target sockets: ICMP unreachable and the like.",
    ),
    _row("flow", "gso_sends", "flow_gso_sends", "Sends of several datagrams in one call."),
    _row("flow", "gro_receives", "flow_gro_receives", "Receives that brought several datagrams."),
    _row("flow", "lookups", "dns_lookups", "DNS look-ups begun."),
    _row("flow", "lookups_failed", "dns_lookups_failed", _LOOKUPS_FAILED, cause="error"),
    _row("flow", "lookups_timed_out", "dns_lookups_failed", _LOOKUPS_FAILED, cause="timeout"),
)
"""Every field of contract/counters.py, once; tests/unit/control/test_metrics.py checks that."""


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
            family = _family(gate_row.kind, gate_row.name, gate_row.help, list(gate_row.labels))
            for labels, count in self._tallies[gate_row.name]():
                family.add_metric(list(labels), count)
            yield family


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
        "Generated from `masque_relay/control/metrics.py` by",
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
    for gate_row in GATE_ROWS:
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
