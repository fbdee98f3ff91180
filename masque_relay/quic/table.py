"""Owns which connection a packet belongs to: by connection ID, never by the peer's address.

So a NAT may give a peer another address at any time (RFC 9000 section 9), and one address may hold
many connections.
"""

import asyncio
from collections.abc import Iterator

from masque_relay.contract.counters import QuicCounters
from masque_relay.contract.ports import DatagramSocket, ReceivedBatch
from masque_relay.quic.adapter import QuicAdapter
from masque_relay.quic.timers import Deadline

BACKLOG_READS = 16
"""Before timers run: 4,096 datagrams, which is more than a socket's buffer usually holds. So timers
wait a few tenths of a second at most, whoever floods."""


class Port:
    """A UDP socket and whose it is.

    Attributes:
        socket: the socket.
        is_behind: the last read took as much as it might, so that more may wait.
    """

    __slots__ = ("client", "is_behind", "socket")

    def __init__(self, socket: DatagramSocket) -> None:
        self.socket = socket
        self.is_behind = False
        self.client: Connection | None = None
        """The one connection of a socket that we opened to connect; None for a listener."""

    def receive(self, max_datagrams: int) -> list[ReceivedBatch]:
        """Return what has arrived, up to about so many datagrams."""
        batches = self.socket.receive_batches(max_datagrams)
        self.is_behind = sum(len(batch.payloads) for batch in batches) >= max_datagrams
        return batches

    def backlog(self, max_datagrams: int) -> Iterator[list[ReceivedBatch]]:
        """Yield what waits behind a read that was full; nothing where none was.

        To be taken before timers run. An acknowledgement that waits here makes a probe (RFC 9002
        section 6.2) needless, and where all connections are late, needless probes of all of them
        keep everybody late.
        """
        for _ in range(BACKLOG_READS):
            if not self.is_behind:
                return
            yield self.receive(max_datagrams)


class Connection(Deadline):
    """What the endpoint keeps of one connection."""

    __slots__ = (
        "_is_accelerated",
        "_is_fast",
        "adapter",
        "answered",
        "arrival",
        "connection_ids",
        "handshake_due_s",
        "inbox",
        "initial_cid",
        "key",
        "port",
        "source",
        "waiter",
    )

    def __init__(self, adapter: QuicAdapter, port: Port, *, handshake_due_s: float) -> None:
        super().__init__()
        self.adapter = adapter
        self.connection_ids = list(adapter.connection_ids)
        """What is routed to it; the table keeps it."""
        self.port = port
        """The socket that we send by: where the peer's current address was last proved."""
        self.arrival = port
        """The socket that the packets of this turn came by; anybody can have sent them."""
        self.handshake_due_s: float | None = handshake_due_s
        """None once the handshake is complete."""
        self.inbox: list[bytes] = []
        """Packets of this turn, all from ``source``."""
        self.source: tuple[str, int] = ("", 0)
        self.key: bytes | None = None
        """What admission counts it by; None for a connection that we opened."""
        self.initial_cid: bytes | None = None
        """The Destination Connection ID of the Initial that began it (RFC 9000 section 7.2)."""
        self._is_fast = self._is_accelerated = False
        """Counted as one that uses the fast path, and the accelerator."""
        self.answered = False
        """Something was sent: the first packet was more than noise."""
        self.waiter: asyncio.Future[None] | None = None
        """Whoever waits for a handshake that we began."""

    def count_way(self, counters: QuicCounters) -> None:
        """Count what its packets go through, which is known once the handshake is complete."""
        self._is_fast = self.adapter.uses_fast_path
        self._is_accelerated = self.adapter.uses_accelerator
        counters.connections_fast += self._is_fast
        counters.connections_accelerated += self._is_accelerated

    def uncount_way(self, counters: QuicCounters) -> None:
        """Count it no more."""
        counters.connections_fast -= self._is_fast
        counters.connections_accelerated -= self._is_accelerated


class ConnectionTable:
    """All connections of an endpoint. Adding and removing one costs O(its own connection IDs)."""

    def __init__(self) -> None:
        self.by_adapter: dict[QuicAdapter, Connection] = {}
        self.by_cid: dict[bytes, Connection] = {}
        """Every connection ID that we issued and that is not retired."""
        self._by_initial_cid: dict[bytes, Connection] = {}

    def __len__(self) -> int:
        return len(self.by_adapter)

    def add(self, connection: Connection) -> None:
        """Route a connection's IDs to it."""
        self.by_adapter[connection.adapter] = connection
        for connection_id in connection.connection_ids:
            self.by_cid[connection_id] = connection
        if connection.initial_cid is not None:
            self._by_initial_cid[connection.initial_cid] = connection

    def remove(self, connection: Connection) -> bool:
        """Forget a connection; False if it is not here (any more)."""
        if self.by_adapter.pop(connection.adapter, None) is None:
            return False
        for connection_id in connection.connection_ids:
            self.by_cid.pop(connection_id, None)
        if connection.initial_cid is not None:
            self._by_initial_cid.pop(connection.initial_cid, None)
        return True

    def issue(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        """Route one more ID; nothing for a connection that is not here (yet)."""
        connection = self.by_adapter.get(adapter)
        if connection is not None:
            connection.connection_ids.append(connection_id)
            self.by_cid[connection_id] = connection

    def retire(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        """Route an ID no more, if it is this connection's."""
        connection = self.by_adapter.get(adapter)
        if connection is not None and connection_id in connection.connection_ids:
            connection.connection_ids.remove(connection_id)
            del self.by_cid[connection_id]

    def find_long(self, connection_id: bytes) -> Connection | None:
        """Return whose a long header packet is: by our ID or by the one that its client chose."""
        return self.by_cid.get(connection_id) or self._by_initial_cid.get(connection_id)
