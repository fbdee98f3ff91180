"""Limits and hook of http.splice."""

from typing import Any

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.http.splice_limits import FilteredCarrier, SpliceFilter, SpliceLimits
from tests.support.http_fakes import FakeClock, RecordingCarrier


def test_dict_of_the_message_is_read() -> None:
    limits = SpliceLimits.parse({"rate": 1_000, "burst": 5_000, "bytes": 10_000, "idle": 1.5})

    assert limits == SpliceLimits(
        rate_bytes_per_s=1_000, burst_bytes=5_000, max_bytes=10_000, idle_timeout_s=1.5
    )
    assert limits.filters


def test_no_limits_filter_nothing() -> None:
    assert not SpliceLimits.parse({}).filters
    assert not SpliceLimits.parse({"idle": 5}).filters


@pytest.mark.parametrize("limits", [{"rates": 5}, {"rate": 0}, {"rate": -1}, {"idle": "5"}])
def test_limit_that_was_meant_but_not_understood_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unknown or not a positive number"):
        SpliceLimits.parse(limits)


class TestFilter:
    def test_each_direction_has_its_own_rate_and_one_budget_is_shared(self) -> None:
        clock, ends = FakeClock(), list[EndReason]()
        limits = SpliceLimits(rate_bytes_per_s=10, burst_bytes=10, max_bytes=25)
        splice_filter = SpliceFilter(limits, None, clock, ends.append)

        assert splice_filter.passing("rx", [bytes(10), bytes(1)]) == [bytes(10)]
        assert splice_filter.passing("tx", [bytes(10)]) == [bytes(10)]
        clock.now_s += 60
        assert splice_filter.passing("rx", [bytes(5)]) == [bytes(5)]
        assert splice_filter.passing("tx", [bytes(1)]) == []
        assert ends == [EndReason.BYTE_QUOTA]
        assert splice_filter.dropped_datagrams == 2

    def test_burst_defaults_to_one_datagram_at_least(self) -> None:
        limits = SpliceLimits(rate_bytes_per_s=1)
        splice_filter = SpliceFilter(limits, None, FakeClock(), lambda reason: None)

        assert splice_filter.passing("rx", [bytes(65_535)]) == [bytes(65_535)]


def test_filtered_carrier_filters_datagrams_and_passes_the_rest() -> None:
    carrier = RecordingCarrier()
    splice_filter = SpliceFilter(
        SpliceLimits(),
        lambda direction, payload: payload if b"good" in payload else None,
        FakeClock(),
        lambda reason: None,
    )
    filtered = FilteredCarrier(carrier, splice_filter)

    assert filtered.send_datagrams(b"\0", [b"good", b"bad"]) == 1
    assert filtered.send_datagrams(b"\0", [b"bad"]) == 0
    filtered.send_capsule(1, b"x")
    filtered.abort(EndReason.KICKED)
    filtered.finish()

    assert carrier.datagrams == [b"\0good"]
    assert carrier.capsules == [(1, b"x")]
    assert carrier.aborted == [EndReason.KICKED]
    assert carrier.is_finished
    assert filtered.max_payload_bytes == 1_200
