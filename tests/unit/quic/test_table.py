"""Which connection a packet belongs to."""

from collections.abc import Sequence
from typing import cast

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.quic.adapter import QuicAdapter
from masque_relay.quic.table import BACKLOG_READS, Connection, ConnectionTable, Port


class NoSocket:
    local: Endpoint

    def fileno(self) -> int:
        return -1

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        return []

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        return 0

    def close(self) -> None:
        pass


class OnlyIds:
    """An adapter as far as the table looks."""

    def __init__(self, *connection_ids: bytes) -> None:
        self.connection_ids = connection_ids
        self.uses_fast_path = True
        self.uses_accelerator = True


def make(*connection_ids: bytes, initial_cid: bytes | None = None) -> Connection:
    adapter = cast("QuicAdapter", OnlyIds(*connection_ids))
    connection = Connection(adapter, Port(NoSocket()), handshake_due_s=1.0)
    connection.initial_cid = initial_cid
    return connection


def test_long_header_packets_are_found_by_our_id_and_by_the_clients() -> None:
    table = ConnectionTable()
    connection = make(b"ours", initial_cid=b"theirs")
    table.add(connection)
    assert table.find_long(b"ours") is connection
    assert table.find_long(b"theirs") is connection
    assert table.find_long(b"nobody") is None


def test_issued_ids_are_routed_until_they_are_retired() -> None:
    table = ConnectionTable()
    connection = make(b"first")
    table.add(connection)
    table.issue(connection.adapter, b"second")
    assert table.by_cid == {b"first": connection, b"second": connection}
    table.retire(connection.adapter, b"first")
    assert table.by_cid == {b"second": connection}


def test_removed_connection_leaves_no_route_behind() -> None:
    table = ConnectionTable()
    connection, neighbour = make(b"a", initial_cid=b"x"), make(b"b", initial_cid=b"y")
    table.add(connection)
    table.add(neighbour)
    table.issue(connection.adapter, b"c")
    assert table.remove(connection)
    assert not table.remove(connection)
    assert table.by_cid == {b"b": neighbour}
    assert table.find_long(b"x") is None
    assert table.find_long(b"y") is neighbour
    assert len(table) == 1


def test_ids_of_a_connection_that_is_not_here_are_not_routed() -> None:
    table = ConnectionTable()
    stranger, neighbour = make(b"s"), make(b"b")
    table.add(neighbour)
    table.issue(stranger.adapter, b"new")
    table.retire(stranger.adapter, b"b")
    assert table.by_cid == {b"b": neighbour}


def test_a_connection_is_counted_by_the_way_of_its_packets_until_it_ends() -> None:
    counters = QuicCounters()
    connection = make(b"1")
    connection.uncount_way(counters)  # one whose handshake never ended
    assert (counters.connections_fast, counters.connections_accelerated) == (0, 0)
    connection.count_way(counters)
    assert counters.connections_fast == 1
    assert counters.connections_accelerated == 1
    connection.uncount_way(counters)
    assert (counters.connections_fast, counters.connections_accelerated) == (0, 0)


class FullSocket(NoSocket):
    """Has so many datagrams waiting."""

    def __init__(self, count: int) -> None:
        self.count = count

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        taken = min(self.count, max_datagrams)
        self.count -= taken
        return [ReceivedBatch([b"x"] * taken, ("192.0.2.1", 1))] if taken else []


class TestBacklog:
    """What is read before timers run."""

    def test_all_that_waits_behind_a_full_read_is_read(self) -> None:
        socket = FullSocket(25)
        port = Port(socket)
        port.receive(10)
        assert [sum(len(one.payloads) for one in read) for read in port.backlog(10)] == [10, 5]
        assert not port.is_behind

    def test_nothing_is_read_where_the_last_read_was_not_full(self) -> None:
        socket = FullSocket(5)
        port = Port(socket)
        port.receive(10)
        socket.count = 50
        assert list(port.backlog(10)) == []
        assert socket.count == 50

    def test_a_flood_does_not_keep_timers_waiting_for_ever(self) -> None:
        socket = FullSocket(1_000_000)
        port = Port(socket)
        port.receive(10)
        assert len(list(port.backlog(10))) == BACKLOG_READS
