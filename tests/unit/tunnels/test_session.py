"""Metering of batches."""

from masque_relay.tunnels.session import Unmetered, admit_batch
from tests.support.http_fakes import FakeMeter


def test_a_batch_within_the_budget_is_asked_for_once() -> None:
    meter = FakeMeter(budget_bytes=10)

    assert admit_batch(meter, [b"aaa", b"bbb"]) == [b"aaa", b"bbb"]

    assert meter.take_calls == 1
    assert (meter.datagram_count, meter.byte_count, meter.dropped_count) == (2, 6, 0)


def test_a_refused_batch_goes_through_one_datagram_at_a_time() -> None:
    meter = FakeMeter(budget_bytes=7)

    assert admit_batch(meter, [b"aaa", b"bbbbb", b"ccc"]) == [b"aaa", b"ccc"]

    assert (meter.datagram_count, meter.byte_count, meter.dropped_count) == (2, 6, 1)


def test_unmetered_admits_and_counts() -> None:
    meter = Unmetered()

    assert meter.take(3, 3_000)
    meter.drop(2)

    assert (meter.datagram_count, meter.byte_count, meter.dropped_count) == (3, 3_000, 2)
