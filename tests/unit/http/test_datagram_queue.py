"""Bounded buffers for HTTP Datagrams (RFC 9297 section 2.1)."""

from masque_relay.http.datagram_queue import DatagramQueue, EarlyDatagrams
from masque_relay.http.limits import HttpLimits
from tests.support.http_fakes import FakeClock


class TestDatagramQueue:
    def test_new_ones_are_dropped_beyond_the_count(self) -> None:
        queue = DatagramQueue(max_count=2, max_bytes=100)

        assert queue.push_or_drop_new([b"a", b"b", b"c", b"d"]) == 2
        assert queue.pop_all() == [b"a", b"b"]

    def test_new_ones_are_dropped_beyond_the_bytes(self) -> None:
        queue = DatagramQueue(max_count=10, max_bytes=5)

        assert queue.push_or_drop_new([b"aaa", b"bbb"]) == 1
        assert (len(queue), queue.byte_count) == (1, 3)

    def test_oldest_is_dropped_once_somebody_reads(self) -> None:
        queue = DatagramQueue(max_count=2, max_bytes=100)

        assert queue.push_and_drop_oldest([b"a", b"b", b"c"]) == 1
        assert [queue.pop(), queue.pop()] == [b"b", b"c"]
        assert queue.byte_count == 0

    def test_oldest_make_room_for_bytes(self) -> None:
        queue = DatagramQueue(max_count=10, max_bytes=5)
        queue.push_and_drop_oldest([b"aa", b"bb"])

        assert queue.push_and_drop_oldest([b"ccc"]) == 1
        assert queue.pop_all() == [b"bb", b"ccc"]

    def test_bounds_can_grow(self) -> None:
        queue = DatagramQueue(max_count=1, max_bytes=1)
        queue.push_or_drop_new([b"a"])

        queue.resize(max_count=2, max_bytes=2)

        assert queue.push_or_drop_new([b"b"]) == 0
        assert queue.pop_all() == [b"a", b"b"]


class TestEarlyDatagrams:
    def test_they_wait_for_their_stream(self) -> None:
        early = EarlyDatagrams(HttpLimits(), FakeClock())

        assert early.push(4, [b"a", b"b"]) == 0
        assert early.push(8, [b"c"]) == 0

        assert early.take(4) == [b"a", b"b"]
        assert early.take(4) == []
        assert len(early) == 1

    def test_streams_are_bounded(self) -> None:
        early = EarlyDatagrams(HttpLimits(early_unknown_streams=2), FakeClock())
        early.push(0, [b"a"])
        early.push(4, [b"b"])

        assert early.push(8, [b"c", b"d"]) == 2
        assert early.push(4, [b"e"]) == 0

    def test_each_stream_is_bounded(self) -> None:
        early = EarlyDatagrams(HttpLimits(early_datagrams_per_stream=2), FakeClock())

        assert early.push(0, [b"a", b"b", b"c"]) == 1
        assert early.take(0) == [b"a", b"b"]

    def test_the_connection_is_bounded_in_bytes(self) -> None:
        limits = HttpLimits(early_datagram_bytes_per_connection=10)
        early = EarlyDatagrams(limits, FakeClock())

        assert early.push(0, [bytes(6)]) == 0
        assert early.push(4, [bytes(6), bytes(4)]) == 1
        early.take(0)
        assert early.push(4, [bytes(6)]) == 0

    def test_what_nobody_fetches_expires(self) -> None:
        clock = FakeClock()
        limits = HttpLimits(early_unknown_streams=1, early_datagram_lifetime_s=1.0)
        early = EarlyDatagrams(limits, clock)
        early.push(0, [b"a", b"b"])
        clock.now_s += 1.1

        assert early.push(4, [b"c"]) == 2, "the two that expired"

        assert early.take(0) == []
        assert early.take(4) == [b"c"]
        assert len(early) == 0
