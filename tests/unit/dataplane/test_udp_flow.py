"""Tests a flow below its seam: batches, bounds, asynchronous errors, close in mid-delivery."""

import errno
import socket
import struct
from typing import Any

import pytest

from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowFault
from masque_relay.dataplane.limits import FlowLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow
from tests.unit.dataplane.fakes import FakeLoop, FakeSocket, RecordingSink, gro


class Bench:
    """One flow on a fake socket, a fake loop and a recording sink."""

    def __init__(self, *, coalescing: bool = False) -> None:
        self.socket: Any = FakeSocket()
        self.loop: Any = FakeLoop()
        self.sink = RecordingSink()
        self.counters = FlowCounters()
        self.flow = ConnectedUdpFlow(
            self.socket,
            self.sink,
            loop=self.loop,
            limits=FlowLimits(coalesce_receives=coalescing, segment_sends=coalescing),
            counters=self.counters,
            buffer=bytearray(65_536),
        )


def queued_error(code: int, *, origin: int = 2) -> list[tuple[int, int, bytes]]:
    """Return the control message of an error queue: origin 2 is ICMP, 1 is this host."""
    return [(socket.IPPROTO_IP, 11, struct.pack("=IBBBBII", code, origin, 3, 1, 0, 0, 0) + b"addr")]


@pytest.fixture(params=[True, False], ids=["gro", "plain"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(coalescing=request.param)


class TestReceive:
    """One call of the sink per wake-up, at most 64 datagrams in it."""

    def test_what_waits_reaches_the_sink_in_one_call(self, bench: Bench) -> None:
        bench.socket.incoming = [(b"a", [], 0, None), (b"", [], 0, None), (b"c", [], 0, None)]
        bench.loop.turn()
        assert bench.sink.batches == [[b"a", b"", b"c"]]

    def test_a_wake_up_takes_at_most_64_datagrams(self, bench: Bench) -> None:
        bench.socket.incoming = [(b"a", [], 0, None)] * 100
        bench.loop.turn()
        assert list(map(len, bench.sink.batches)) == [64]
        bench.loop.turn()
        assert list(map(len, bench.sink.batches)) == [64, 36]

    def test_bursts_that_exceed_one_call_are_cut(self) -> None:
        bench = Bench(coalescing=True)
        bench.socket.incoming = [(b"ab" * 40, gro(2), 0, None), (b"cd" * 64, gro(2), 0, None)]
        bench.loop.turn()
        assert bench.sink.batches == [[b"ab"] * 40 + [b"cd"] * 24, [b"cd"] * 40]
        assert bench.counters.gro_receives == 2

    def test_a_truncated_datagram_is_dropped_and_counted(self) -> None:
        bench = Bench(coalescing=True)
        bench.socket.incoming = [(b"half", [], socket.MSG_TRUNC, None), (b"x", [], 0, None)]
        bench.loop.turn()
        assert bench.sink.batches == [[b"x"]]
        assert bench.counters.receive_errors == 1

    def test_single_datagrams_end_gro_until_the_next_trial(self) -> None:
        bench = Bench(coalescing=True)
        for _ in range(64):
            bench.socket.incoming = [(b"x", [], 0, None)]
            bench.loop.turn()
        assert bench.socket.options[-1] == (17, 104, 0)
        for _ in range(16):
            bench.socket.incoming = [(b"x", [], 0, None)] * 64
            bench.loop.turn()
        assert bench.socket.options[-1] == (17, 104, 1)
        assert sum(map(len, bench.sink.batches)) == 64 + 1024

    def test_a_thin_flow_seldom_looks_for_a_second_datagram(self) -> None:
        bench = Bench()
        for _ in range(8):
            bench.socket.incoming = [(b"x", [], 0, None)]
            bench.loop.turn()
        bench.socket.incoming = [(b"x", [], 0, None), OSError(errno.ECONNREFUSED, "never read")]
        bench.loop.turn()
        assert len(bench.socket.incoming) == 1
        assert bench.counters.receive_errors == 0

    def test_a_flow_that_grows_is_drained_whole_again_soon(self) -> None:
        bench = Bench()
        for _ in range(8):
            bench.socket.incoming = [(b"x", [], 0, None)]
            bench.loop.turn()
        bench.socket.incoming = [(b"y", [], 0, None)] * 200
        for _ in range(8):
            bench.loop.turn()
        assert len(bench.sink.batches[-1]) == 64
        for _ in range(3):
            bench.loop.turn()
        assert sum(map(len, bench.sink.batches)) == 208


class TestErrors:
    """ICMP errors reach the sink, one per turn of the loop; the flow lives on."""

    def test_a_refusal_is_reported_and_the_flow_still_receives(self, bench: Bench) -> None:
        bench.socket.incoming = [OSError(errno.ECONNREFUSED, "refused"), (b"x", [], 0, None)]
        bench.loop.turn()
        bench.loop.turn()
        assert [error.fault for error in bench.sink.errors] == [FlowFault.CONNECTION_REFUSED]
        assert bench.sink.batches == [[b"x"]]
        assert bench.counters.receive_errors == 1

    def test_what_came_before_the_error_is_delivered(self, bench: Bench) -> None:
        bench.socket.incoming = [(b"x", [], 0, None), OSError(errno.ECONNREFUSED, "refused")]
        bench.loop.turn()
        assert bench.sink.batches == [[b"x"]]
        assert len(bench.sink.errors) == 1

    def test_the_error_queue_is_emptied_and_reported_once(self, bench: Bench) -> None:
        bench.socket.error_queue = [queued_error(errno.EHOSTUNREACH) for _ in range(3)]
        bench.loop.turn()
        assert bench.socket.error_queue == []
        assert [error.fault for error in bench.sink.errors] == [FlowFault.DESTINATION_UNAVAILABLE]

    def test_an_endless_error_queue_does_not_hold_the_loop(self, bench: Bench) -> None:
        bench.socket.error_queue = [queued_error(errno.EHOSTUNREACH) for _ in range(100)]
        bench.loop.turn()
        assert len(bench.socket.error_queue) == 84

    def test_what_this_host_refused_itself_is_not_an_icmp_error(self, bench: Bench) -> None:
        bench.socket.error_queue = [queued_error(errno.EMSGSIZE, origin=1)]
        bench.loop.turn()
        assert bench.socket.error_queue == []
        assert bench.sink.errors == []

    def test_an_error_met_while_sending_is_reported_after_the_send(self, bench: Bench) -> None:
        bench.socket.send_errors = [OSError(errno.ECONNREFUSED, "refused")]
        assert bench.flow.send_batch([b"ab", b"cd"]) == 2
        assert bench.sink.errors == []
        bench.loop.turn()
        assert [error.fault for error in bench.sink.errors] == [FlowFault.CONNECTION_REFUSED]

    def test_an_error_is_not_reported_after_close(self, bench: Bench) -> None:
        bench.socket.send_errors = [OSError(errno.ECONNREFUSED, "refused")]
        bench.flow.send_batch([b"ab"])
        bench.flow.close()
        bench.loop.turn()
        assert bench.sink.errors == []


class TestSend:
    """Drops are counted per flow."""

    def test_drops_are_counted(self, bench: Bench) -> None:
        bench.socket.send_errors = [OSError(errno.EAGAIN, "full")]
        assert bench.flow.send_batch([b"ab"]) == 0
        assert bench.flow.send_batch([b"ab"]) == 1
        assert bench.flow.dropped_count == 1
        assert bench.counters.send_dropped == 1

    def test_nothing_to_send_calls_nothing(self, bench: Bench) -> None:
        assert bench.flow.send_batch([]) == 0
        assert bench.socket.sent == []


class TestClose:
    """The reader goes before the descriptor; the sink hears nothing afterwards."""

    def test_close_is_idempotent_and_counts_once(self, bench: Bench) -> None:
        assert bench.counters.flows_open == 1
        bench.flow.close()
        bench.flow.close()
        assert bench.loop.readers == {}
        assert bench.socket.closed
        assert (bench.counters.flows_opened, bench.counters.flows_closed) == (1, 1)
        assert bench.counters.flows_open == 0
        assert bench.flow.send_batch([b"x"]) == 0

    def test_a_sink_may_close_its_flow_in_the_middle_of_a_delivery(self, bench: Bench) -> None:
        bench.sink.on_each = bench.flow.close
        bench.socket.incoming = [(b"ab", [], 0, None)] * 64
        bench.loop.turn()
        assert list(map(len, bench.sink.batches)) == [64]
        assert bench.socket.closed

    def test_the_rest_of_a_cut_burst_is_not_delivered_after_close(self) -> None:
        bench = Bench(coalescing=True)
        bench.sink.on_each = bench.flow.close
        bench.socket.incoming = [(b"ab" * 100, gro(2), 0, None)]
        bench.loop.turn()
        assert list(map(len, bench.sink.batches)) == [64]
