"""The metrics of several workers, added up."""

from collections.abc import Callable

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from masque_relay.control.metrics import Tally, exposition
from masque_relay.control.worker_metrics import Dump, MetricSum, build_sum, dump_families

TALLIES: dict[str, Callable[[], Tally]] = {
    "workers": lambda: [(("serving",), 2)],
    "worker_ends": lambda: [(("crashed",), 1)],
    "restarts": list,
    "ready": lambda: [((), 1)],
    "reloads": lambda: [(("done",), 3)],
}


def dump(count: int, gauge: float) -> Dump:
    registry = CollectorRegistry()
    counter = Counter("ghostwire_relay_things", "Things.", ["kind"], registry=registry)
    counter.labels("a").inc(count)
    counter.labels("b").inc(1)
    Gauge("ghostwire_relay_open", "Open.", registry=registry).set(gauge)
    Gauge("ghostwire_relay_ready", "Ready.", registry=registry).set(0)
    Gauge("python_info", "Python.", ["version"], registry=registry).labels("3").set(1)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(1000 + count)
    Histogram("ghostwire_relay_size", "Sizes.", buckets=(1, 2), registry=registry).observe(count)
    # As it comes over the channel.
    value: Dump = orjson.loads(orjson.dumps(dump_families(registry)))
    return value


def lines(text: bytes) -> dict[str, float]:
    samples = (line.rpartition(" ") for line in text.decode().splitlines() if line[0] != "#")
    return {name: float(value) for name, _, value in samples}


def test_counters_gauges_and_histograms_are_added_up() -> None:
    sums = lines(exposition(build_sum([dump(1, 5), dump(2, 7)], [], TALLIES)))
    assert sums['ghostwire_relay_things_total{kind="a"}'] == 3
    assert sums['ghostwire_relay_things_total{kind="b"}'] == 2
    assert sums["ghostwire_relay_open"] == 12
    assert sums['ghostwire_relay_size_bucket{le="1.0"}'] == 1
    assert sums['ghostwire_relay_size_bucket{le="2.0"}'] == 2
    assert sums["ghostwire_relay_size_count"] == 2


def test_what_is_of_all_is_not_added_up() -> None:
    sums = lines(exposition(build_sum([dump(1, 0), dump(2, 0)], [], TALLIES)))
    assert sums['python_info{version="3"}'] == 1
    assert sums["process_start_time_seconds"] == 1001


def test_the_supervisor_alone_knows_readiness_reloads_and_workers() -> None:
    sums = lines(exposition(build_sum([dump(1, 0)], [], TALLIES)))
    assert sums["ghostwire_relay_ready"] == 1
    assert sums['ghostwire_relay_reloads_total{result="done"}'] == 3
    assert sums['ghostwire_relay_workers{state="serving"}'] == 2
    assert sums['ghostwire_relay_worker_ends_total{result="crashed"}'] == 1


def test_a_worker_that_ended_leaves_its_counters_and_takes_its_gauges() -> None:
    retired = MetricSum()
    for worker in (dump(10, 3), dump(20, 4)):
        retired.add(worker, lasting_only=True)
    kept: Dump = orjson.loads(orjson.dumps(retired.dump()))
    sums = lines(exposition(build_sum([dump(1, 5)], kept, TALLIES)))
    assert sums['ghostwire_relay_things_total{kind="a"}'] == 31
    assert sums["ghostwire_relay_open"] == 5
    assert sums["ghostwire_relay_size_count"] == 3
