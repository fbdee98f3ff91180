"""Tests GSO sends and their fallbacks, GRO splitting, and the choice between GRO and plain."""

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masque_relay.contract.counters import FlowCounters
from masque_relay.dataplane import offload
from masque_relay.dataplane.offload import (
    MAX_RUN_BYTES,
    CoalescingGauge,
    RunSender,
    split_burst,
    stop_coalescing,
)
from tests.unit.dataplane.fakes import FakeSocket, gro

HERE = ("192.0.2.1", 53)


def sender_on(fake: FakeSocket, *, segmenting: bool = True) -> tuple[RunSender, FlowCounters]:
    counters = FlowCounters()
    return RunSender(fake, counters, segmenting=segmenting), counters


def shapes(fake: FakeSocket) -> list[tuple[str, list[int]]]:
    return [(kind, [len(payload) for payload in payloads]) for kind, payloads, _ in fake.sent]


class TestRuns:
    """One system call per run of equal sizes; only its last segment may be shorter."""

    @pytest.mark.parametrize(
        ("sizes", "calls"),
        [
            ([100], [("sendto", [100])]),
            ([100, 100, 100], [("run", [100, 100, 100])]),
            ([100, 100, 30], [("run", [100, 100, 30])]),
            ([100, 30, 30], [("run", [100, 30]), ("sendto", [30])]),
            ([30, 100], [("sendto", [30]), ("sendto", [100])]),
            ([30, 100, 100], [("sendto", [30]), ("run", [100, 100])]),
            ([100, 0, 100], [("sendto", [100]), ("sendto", [0]), ("sendto", [100])]),
            ([0, 0], [("sendto", [0]), ("sendto", [0])]),
            ([1] * 65, [("run", [1] * 64), ("sendto", [1])]),
        ],
    )
    def test_sizes_decide_the_runs(
        self, sizes: list[int], calls: list[tuple[str, list[int]]]
    ) -> None:
        fake = FakeSocket()
        sender, _ = sender_on(fake)
        assert sender.send([b"x" * size for size in sizes], HERE) == len(sizes)
        assert shapes(fake) == calls

    @given(st.lists(st.integers(0, 70_000), min_size=1, max_size=200))
    def test_every_run_is_one_that_the_kernel_takes_and_nothing_is_lost_or_reordered(
        self, sizes: list[int]
    ) -> None:
        fake = FakeSocket()
        sender, _ = sender_on(fake)
        payloads = [bytes([index % 256]) * size for index, size in enumerate(sizes)]
        assert sender.send(payloads, HERE) == len(payloads)
        assert [payload for _, run, _ in fake.sent for payload in run] == payloads
        for kind, run, address in fake.sent:
            assert address == HERE
            if kind == "run":
                first, *others, last = map(len, run)
                assert 2 <= len(run) <= 64
                assert sum(map(len, run)) <= MAX_RUN_BYTES
                assert all(size == first for size in others)
                assert 0 < last <= first

    def test_without_segments_each_datagram_takes_its_own_call(self) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake, segmenting=False)
        assert sender.send([b"ab", b"cd"], None) == 2
        assert shapes(fake) == [("send", [2]), ("send", [2])]
        assert counters.gso_sends == 0


class TestRefusals:
    """What the kernel refuses is dropped and counted; never raised, never queued."""

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO, errno.ENOPROTOOPT])
    def test_refused_segments_are_never_tried_again(self, code: int) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake)
        fake.send_errors = [OSError(code, "no segments")]
        assert sender.send([b"ab", b"cd"], HERE) == 2
        assert sender.send([b"ab", b"cd"], HERE) == 2
        assert [kind for kind, *_ in fake.sent] == ["sendto"] * 4
        assert not sender.segmenting
        assert counters.send_dropped == counters.send_oversize == 0

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.EMSGSIZE])
    def test_a_run_larger_than_the_path_is_counted_and_segments_stay(self, code: int) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake)
        # The run, then each of both datagrams twice: it might have been an earlier one's error.
        fake.send_errors = [OSError(code, "run")] + [OSError(errno.EMSGSIZE, "one")] * 4
        assert sender.send([b"ab", b"cd"], HERE) == 0
        assert counters.send_oversize == 2
        assert sender.segmenting
        assert sender.last_error is None

    def test_one_oversize_datagram_does_not_stop_its_neighbours(self) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake, segmenting=False)
        too_large = OSError(errno.EMSGSIZE, "too large")
        fake.send_errors = [None, too_large, too_large, None]
        assert sender.send([b"a", b"bb", b"c"], HERE) == 2
        assert [payloads for _, payloads, _ in fake.sent] == [[b"a"], [b"c"]]
        assert counters.send_oversize == 1

    @pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM])
    def test_full_buffers_drop_the_run_and_count_it(self, code: int) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake)
        fake.send_errors = [OSError(code, "full")]
        assert sender.send([b"ab"] * 10, HERE) == 0
        assert counters.send_dropped == 10
        assert sender.segmenting
        assert sender.last_error is None

    @pytest.mark.parametrize("segmenting", [True, False])
    def test_an_earlier_datagrams_icmp_error_costs_nothing_now(self, segmenting: bool) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake, segmenting=segmenting)
        refused = OSError(errno.ECONNREFUSED, "refused")
        fake.send_errors = [refused]
        assert sender.send([b"ab", b"cd"], None) == 2
        assert sender.last_error is refused
        assert counters.send_dropped == 0
        sender.send([b"ab"], None)
        assert sender.last_error is None

    @pytest.mark.parametrize("segmenting", [True, False])
    def test_an_error_that_stays_drops_and_is_remembered(self, segmenting: bool) -> None:
        fake = FakeSocket()
        sender, counters = sender_on(fake, segmenting=segmenting)
        fake.send_errors = [OSError(errno.ENETUNREACH, "no route") for _ in range(4)]
        assert sender.send([b"ab", b"cd"], None) == 0
        assert counters.send_dropped == 2
        assert sender.last_error is not None


class TestSplitBurst:
    """A GRO receive is many datagrams of one size, the last one shorter or not."""

    def test_no_control_message_means_one_datagram(self) -> None:
        assert split_burst(b"abc", []) == [b"abc"]

    def test_a_segment_size_splits(self) -> None:
        assert split_burst(b"aabbc", gro(2)) == [b"aa", b"bb", b"c"]

    def test_a_size_as_large_as_the_whole_does_not_split(self) -> None:
        assert split_burst(b"aabb", gro(4)) == [b"aabb"]

    @pytest.mark.parametrize(
        "ancillary", [[(0, 8, b"\0\0\0\0")], [(17, 104, b"")], [(17, 104, b"\0\0\0\0")]]
    )
    def test_other_control_messages_are_ignored(self, ancillary: Any) -> None:
        assert split_burst(b"aabb", ancillary) == [b"aabb"]

    def test_an_empty_datagram_stays_one(self) -> None:
        assert split_burst(b"", []) == [b""]


class TestCoalescingGauge:
    """GRO where it pays, plain receives where nothing coalesces, a trial now and then."""

    def test_what_was_not_wanted_is_never_tried(self) -> None:
        gauge = CoalescingGauge(coalescing=False)
        assert not any(gauge.wants_trial(100_000) for _ in range(3))

    def test_bursts_keep_gro(self) -> None:
        gauge = CoalescingGauge(coalescing=True)
        assert not any(gauge.wants_plain(2, 60) for _ in range(1000))

    def test_single_datagrams_end_gro_after_the_trial(self) -> None:
        gauge = CoalescingGauge(coalescing=True)
        assert [gauge.wants_plain(1, 1) for _ in range(64)] == [False] * 63 + [True]

    def test_each_failed_trial_doubles_the_pause(self) -> None:
        gauge = CoalescingGauge(coalescing=True)
        pauses = []
        for _ in range(9):
            gauge.switched_to_plain()
            assert not gauge.coalescing
            pause = 1
            while not gauge.wants_trial(1):
                pause += 1
            pauses.append(pause)
            gauge.switched_to_coalescing()
            assert gauge.coalescing
            assert gauge.wants_plain(64, 64)
        assert pauses == [1024, 2048, 4096, 8192, 16384, 32768, 65536, 65536, 65536]

    def test_a_trial_that_pays_makes_the_next_pause_short_again(self) -> None:
        gauge = CoalescingGauge(coalescing=True)
        for _ in range(5):
            gauge.switched_to_plain()
        assert not gauge.wants_plain(64, 640)
        gauge.switched_to_plain()
        assert gauge.wants_trial(1024)


class TestStopCoalescing:
    """A burst read after GRO went off would look like one datagram."""

    def test_an_empty_queue_lets_it_go_off(self) -> None:
        fake: Any = FakeSocket()
        assert stop_coalescing(fake)
        assert fake.options == [(17, 104, 0)]

    def test_a_waiting_datagram_turns_it_on_again(self) -> None:
        fake: Any = FakeSocket()
        fake.incoming = [(b"abab", gro(2), 0, HERE)]
        assert not stop_coalescing(fake)
        assert fake.options == [(17, 104, 0), (17, 104, 1)]


def test_other_systems_have_no_offload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload.sys, "platform", "darwin")
    fake: Any = FakeSocket()
    assert not offload.enable_gro(fake, enabled=True)
    assert fake.options == []
