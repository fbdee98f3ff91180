"""Owns a UDP socket that clients speak to, and the paths of those who have an allocation."""

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from fallbacks.turn.allocation import Allocation, Source
from fallbacks.turn.gate_request import source_key
from fallbacks.turn.path import PathKind
from fallbacks.turn.session import TurnSession
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import DatagramSocket


class UdpPath:
    """A client's address on one of our sockets; a ClientPath."""

    __slots__ = ("_client", "_listener", "_source", "allocation")

    def __init__(self, listener: "UdpListener", source: Source) -> None:
        self.allocation: Allocation | None = None
        self._listener = listener
        self._source = source
        self._client = Endpoint(address=ip_address(source[0].partition("%")[0]), port=source[1])

    @property
    def kind(self) -> PathKind:
        """UDP."""
        return PathKind.UDP

    @property
    def client(self) -> Endpoint:
        """The client as the socket saw it."""
        return self._client

    @property
    def server(self) -> Endpoint:
        """What the socket is bound to."""
        return self._listener.local

    @property
    def is_lost(self) -> bool:
        """Never: there is no connection."""
        return False

    def send(self, message: bytes) -> None:
        """Send one message now; a full buffer loses it, the client asks again."""
        self._listener.socket.send_batch((message,), self._source)

    def send_batch(self, messages: Sequence[bytes]) -> int:
        """Send now; return how many the kernel took."""
        return self._listener.socket.send_batch(messages, self._source)

    @property
    def other_address(self) -> Endpoint | None:
        """Where RFC 5780 finds the other address and port."""
        sibling = self._listener.siblings.get((True, True))
        return None if sibling is None else sibling.local

    def sibling(self, *, change_ip: bool, change_port: bool) -> "UdpPath":
        """Return the same client on another of our sockets."""
        listener = self._listener.siblings.get((change_ip, change_port))
        return self if listener is None else UdpPath(listener, self._source)

    def to(self, client: Endpoint) -> "UdpPath":
        """Return another client on this socket."""
        return UdpPath(self._listener, (str(client.address), client.port))

    def keep(self) -> None:
        """Deliver what comes from this address to this object."""
        self._listener.paths[self._source] = self

    def forget(self) -> None:
        """Deliver to it no more."""
        if self._listener.paths.get(self._source) is self:
            del self._listener.paths[self._source]

    def close(self) -> None:
        """Nothing to close."""


class UdpListener:
    """Reads batches and hands them to the session; closed by :meth:`close`.

    Attributes:
        socket: where clients send to.
        paths: clients with an allocation, by source.
        siblings: our sockets with another address, port or both, by what changes (RFC 5780).
    """

    def __init__(
        self, session: TurnSession, socket: DatagramSocket, *, is_shared: bool = False
    ) -> None:
        """Take over a bound socket and start to read it, in the running loop.

        Args:
            session: gets what is read.
            socket: bound.
            is_shared: somebody else reads and closes it, and calls :meth:`take`.
        """
        self.socket = socket
        self.paths: dict[Source, UdpPath] = {}
        self.siblings: dict[tuple[bool, bool], UdpListener] = {}
        self._session = session
        self._local = socket.local
        self._is_shared = is_shared
        if not is_shared:
            asyncio.get_running_loop().add_reader(socket.fileno(), self._on_readable)

    def knows(self, source: Source) -> bool:
        """Return whether a client with an allocation sends from there."""
        return source in self.paths

    def take(self, source: Source, datagrams: Sequence[bytes]) -> None:
        """Take datagrams of one client."""
        path = self.paths.get(source)
        if path is not None:
            self._session.on_batch(path, datagrams)
        else:
            self._on_strangers(source, datagrams)

    @property
    def local(self) -> Endpoint:
        """What the socket is bound to."""
        return self._local

    def close(self) -> None:
        """Read no more. Idempotent."""
        descriptor = self.socket.fileno()
        if descriptor >= 0 and not self._is_shared:
            asyncio.get_running_loop().remove_reader(descriptor)
            self.socket.close()

    def _on_readable(self) -> None:
        limit = self._session.services.settings.limits.receive_batch_count
        for batch in self.socket.receive_batches(limit):
            self.take(batch.source, batch.payloads)

    def _on_strangers(self, source: Source, payloads: Sequence[bytes]) -> None:
        path = UdpPath(self, source)
        key = source_key(path.client)
        session = self._session
        for payload in payloads:
            if not session.wants(key, payload):
                session.services.counters.over_budget += 1
            else:
                # An allocation may begin on this path while the batch is read.
                session.on_message(path, payload)
