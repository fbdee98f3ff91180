"""Tests the listener below its socket: grouping, address forms, errors that must not hurt."""

import errno
import socket
from typing import Any

import pytest

from masque_relay.contract.counters import FlowCounters
from masque_relay.dataplane.batch_io import BatchUdpSocket, set_buffers
from masque_relay.dataplane.limits import SocketLimits
from tests.unit.dataplane.fakes import FakeSocket, gro

A = ("192.0.2.1", 1000)
B = ("192.0.2.2", 2000)
PLAIN = SocketLimits(segment_sends=False, coalesce_receives=False)


def listener(fake: FakeSocket, limits: SocketLimits = PLAIN) -> tuple[BatchUdpSocket, FlowCounters]:
    counters = FlowCounters()
    any_fake: Any = fake
    return BatchUdpSocket(any_fake, limits=limits, counters=counters), counters


def received(batches: list[Any]) -> list[tuple[tuple[str, int], list[bytes]]]:
    return [(batch.source, batch.payloads) for batch in batches]


class TestReceive:
    """Grouped by source, in order within a source, bounded, never raising."""

    @pytest.mark.parametrize("coalescing", [True, False])
    def test_datagrams_are_grouped_by_source_in_order(self, coalescing: bool) -> None:
        fake = FakeSocket()
        fake.incoming = [(bytes([n]), [], 0, (A, B)[n % 2]) for n in range(6)]
        sut, _ = listener(fake, SocketLimits(coalesce_receives=coalescing))
        assert sut.coalescing == coalescing
        assert received(sut.receive_batches(64)) == [
            (A, [b"\0", b"\2", b"\4"]),
            (B, [b"\1", b"\3", b"\5"]),
        ]

    def test_a_burst_is_split_and_joined_to_its_source(self) -> None:
        fake = FakeSocket()
        fake.incoming = [(b"aabb", gro(2), 0, A), (b"c", [], 0, A)]
        sut, counters = listener(fake, SocketLimits())
        assert received(sut.receive_batches(64)) == [(A, [b"aa", b"bb", b"c"])]
        assert counters.gro_receives == 1

    @pytest.mark.parametrize("coalescing", [True, False])
    def test_no_more_is_taken_than_was_asked_for(self, coalescing: bool) -> None:
        fake = FakeSocket()
        fake.incoming = [(b"x", [], 0, A)] * 10
        sut, _ = listener(fake, SocketLimits(coalesce_receives=coalescing))
        assert [len(batch.payloads) for batch in sut.receive_batches(4)] == [4]
        assert len(fake.incoming) == 6

    @pytest.mark.parametrize("coalescing", [True, False])
    @pytest.mark.parametrize("code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOMEM])
    def test_an_icmp_error_is_counted_and_what_follows_is_received(
        self, coalescing: bool, code: int
    ) -> None:
        fake = FakeSocket()
        fake.incoming = [OSError(code, "somebody's"), (b"x", [], 0, A)]
        sut, counters = listener(fake, SocketLimits(coalesce_receives=coalescing))
        assert received(sut.receive_batches(64)) == [(A, [b"x"])]
        assert counters.receive_errors == 1

    @pytest.mark.parametrize("coalescing", [True, False])
    def test_errors_without_end_do_not_hold_the_loop(self, coalescing: bool) -> None:
        fake = FakeSocket()
        fake.incoming = [OSError(errno.EIO, "broken")] * 100
        sut, counters = listener(fake, SocketLimits(coalesce_receives=coalescing))
        assert sut.receive_batches(64) == []
        assert counters.receive_errors == 64

    def test_a_truncated_datagram_is_dropped_and_counted(self) -> None:
        fake = FakeSocket()
        fake.incoming = [(b"half", [], socket.MSG_TRUNC, A), (b"x", [], 0, A)]
        sut, counters = listener(fake, SocketLimits())
        assert received(sut.receive_batches(64)) == [(A, [b"x"])]
        assert counters.receive_errors == 1

    def test_single_datagrams_end_gro_and_a_trial_brings_it_back(self) -> None:
        fake = FakeSocket()
        sut, _ = listener(fake, SocketLimits())
        for _ in range(64):
            fake.incoming = [(b"x", [], 0, A)]
            assert sut.coalescing
            sut.receive_batches(64)
        assert not sut.coalescing
        for _ in range(16):
            assert not sut.coalescing
            fake.incoming = [(b"x", [], 0, A)] * 64
            sut.receive_batches(64)
        assert sut.coalescing

    def test_a_closed_socket_gives_and_takes_nothing(self) -> None:
        fake = FakeSocket()
        fake.incoming = [(b"x", [], 0, A)]
        sut, _ = listener(fake)
        sut.close()
        sut.close()
        assert sut.fileno() == -1
        assert sut.receive_batches(64) == []
        assert sut.send_batch([b"x"], A) == 0


class TestAddressForms:
    """IPv4 peers of an IPv6 socket look and are named like IPv4 peers."""

    @pytest.mark.parametrize(
        ("raw", "source"),
        [
            (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
            (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
            (("fe80::1", 5, 0, 2), ("fe80::1%2", 5)),
            (("::ffff:0:1", 5, 0, 0), ("::ffff:0:1", 5)),
        ],
    )
    def test_sources_are_unwrapped(self, raw: Any, source: tuple[str, int]) -> None:
        fake = FakeSocket(socket.AF_INET6)
        fake.incoming = [(b"x", [], 0, raw)]
        sut, _ = listener(fake)
        assert received(sut.receive_batches(1)) == [(source, [b"x"])]

    @pytest.mark.parametrize(
        ("destination", "raw"),
        [
            (("192.0.2.1", 5), ("::ffff:192.0.2.1", 5)),
            (("2001:db8::1", 5), ("2001:db8::1", 5)),
            (("fe80::1%2", 5), ("fe80::1%2", 5)),
        ],
    )
    def test_destinations_are_wrapped(self, destination: tuple[str, int], raw: Any) -> None:
        fake = FakeSocket(socket.AF_INET6)
        sut, _ = listener(fake)
        assert sut.send_batch([b"x"], destination) == 1
        assert fake.sent == [("sendto", [b"x"], raw)]

    def test_an_ipv4_socket_names_addresses_as_they_are(self) -> None:
        fake = FakeSocket()
        sut, _ = listener(fake)
        sut.send_batch([b"x"], A)
        assert fake.sent == [("sendto", [b"x"], A)]


def test_buffers_are_forced_where_allowed_and_asked_for_elsewhere() -> None:
    fake: Any = FakeSocket()
    set_buffers(fake, 1000, 2000)
    assert fake.options == [(socket.SOL_SOCKET, 33, 1000), (socket.SOL_SOCKET, 32, 2000)]
    fake = FakeSocket()
    fake.refused_options = {(socket.SOL_SOCKET, 33), (socket.SOL_SOCKET, 32)}
    set_buffers(fake, 1000, 2000)
    assert fake.options == [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 1000),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, 2000),
    ]
