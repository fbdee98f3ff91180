"""Owns TCP relaying: peers' connections and the client's data connections (RFC 6062).

    Connect --> connected to the peer ---------------> waits for ConnectionBind --> spliced
    peer connects --> ConnectionAttempt to client ---> waits for ConnectionBind --> spliced

A connection that no ConnectionBind asks for in 30 s is closed. Back-pressure holds both ways: a
reader that does not read stops the writer, never fills our memory.
"""

import secrets
from collections.abc import Callable

from fallbacks.turn import replies
from fallbacks.turn.allocation import Allocation
from fallbacks.turn.authentication import Presented
from fallbacks.turn.path import ClientPath, SplicedPath, TurnServices
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import ByteSink, FlowError, FlowFault, TcpFlow
from masque_relay.contract.relay_socket import RelayTcp
from masque_relay.stun.codepoints import Attribute, MessageClass, Method
from masque_relay.stun.message import encode_message
from masque_relay.stun.values import encode_xor_address

UNSENT_BYTES = 65_536
"""What may wait for a peer's socket before the client has to."""
RATE_RETRY_S = 0.05
"""How long bytes wait that the lease's rate refused."""


class PeerConnection:
    """One peer's connection, and the client's data connection once it is bound to it.

    A contract ByteSink for the peer's flow and a Splice for the client's stream.
    """

    def __init__(
        self,
        services: TurnServices,
        allocation: Allocation,
        peer: Endpoint,
        on_closed: Callable[["PeerConnection"], None],
    ) -> None:
        self.allocation = allocation
        self.peer = peer
        self.connection_id = b""
        self.flow: TcpFlow | None = None
        self.expires_s: float | None = None
        """Until when a ConnectionBind must have come; None once it has."""
        self._services = services
        self._client: SplicedPath | None = None
        self._on_closed = on_closed
        self._to_client: bytes = b""
        """Bytes of the peer that the rate refused for now."""
        self._to_peer: bytes = b""
        self.is_closed = False
        """Neither side is joined to anything any more."""

    def bind(self, client: SplicedPath) -> None:
        """The client's data connection is there."""
        self.expires_s = None
        self._client = client
        client.begin_splice(self)
        if self.flow is not None and not self.is_closed:
            self.flow.resume()

    def close(self) -> None:
        """Close both connections (RFC 6062 section 4.5). Idempotent."""
        if self.is_closed:
            return
        self.is_closed = True
        if self.flow is not None:
            self.flow.end()
            self.flow.close()
        if self._client is not None:
            self._client.close()
        self._on_closed(self)

    # -- the peer's side (ByteSink) -------------------------------------------------------------

    def on_bytes(self, data: bytes) -> None:
        """Pass bytes on to the client."""
        client, flow = self._client, self.flow
        if client is None or flow is None:
            return
        if not self.allocation.lease.downlink.take(0, len(data)):
            self._to_client = data
            flow.pause()
            self._services.call_later(RATE_RETRY_S, self._retry_to_client)
            return
        self._services.tunnels.stream_downlink_bytes += len(data)
        if not client.write(data):
            flow.pause()

    def on_bytes_end(self) -> None:
        """The peer closed."""
        self.close()

    def on_flow_writable(self) -> None:
        """Bytes have left towards the peer."""
        if self.flow is None or self._client is None or self._to_peer:
            return
        if self.flow.unsent_bytes < UNSENT_BYTES:
            self._client.resume_reading()

    def on_flow_lost(self, error: FlowError) -> None:
        """The peer's connection is gone."""
        del error
        self.close()

    def _retry_to_client(self) -> None:
        data, self._to_client = self._to_client, b""
        if self.is_closed or self.flow is None or not data:
            return
        self.flow.resume()
        self.on_bytes(data)

    # -- the client's side (Splice) -------------------------------------------------------------

    def client_bytes(self, data: bytes) -> None:
        """Pass bytes on to the peer."""
        flow, client = self.flow, self._client
        if self.is_closed or flow is None or client is None:
            return
        if self._to_peer or not self.allocation.lease.uplink.take(0, len(data)):
            # What had arrived already may still come; reading has stopped behind it.
            if not self._to_peer:
                self._services.call_later(RATE_RETRY_S, self._retry_to_peer)
            self._to_peer += data
            client.pause_reading()
            return
        self._services.tunnels.stream_uplink_bytes += len(data)
        flow.send(data)
        if flow.unsent_bytes >= UNSENT_BYTES:
            client.pause_reading()

    def client_end(self) -> None:
        """The client closed."""
        self.close()

    def client_writable(self) -> None:
        """The way to the client has room again."""
        if self.flow is not None and not self._to_client and not self.is_closed:
            self.flow.resume()

    def client_lost(self) -> None:
        """The client's data connection is gone."""
        self.close()

    def _retry_to_peer(self) -> None:
        data, self._to_peer = self._to_peer, b""
        if self.is_closed or self._client is None or not data:
            return
        self._client.resume_reading()
        self.client_bytes(data)


class TcpRelays:
    """The peers' connections of all allocations."""

    def __init__(self, services: TurnServices) -> None:
        self._services = services
        self._by_id: dict[bytes, PeerConnection] = {}
        self._by_allocation: dict[Allocation, set[PeerConnection]] = {}
        self._listeners: dict[Allocation, RelayTcp] = {}

    def listen(self, allocation: Allocation, local: Endpoint, public: Endpoint) -> None:
        """Let peers connect to an allocation.

        Raises:
            FlowError: the address is taken, or no resources.
        """
        listener = self._services.bind_tcp_relay(
            local, lambda peer, take: self._accepted(allocation, peer, take)
        )
        self._listeners[allocation] = listener
        self._by_allocation[allocation] = set()
        allocation.tcp_relayed = Endpoint(address=public.address, port=listener.local.port)

    def close(self, allocation: Allocation) -> None:
        """End everything of an allocation."""
        listener = self._listeners.pop(allocation, None)
        if listener is not None:
            listener.close()
        for connection in self._by_allocation.pop(allocation, set()):
            connection.close()

    def close_forbidden(self, allocation: Allocation) -> None:
        """Close the connections with peers that the policy in force refuses."""
        gate = self._services.gate
        for connection in tuple(self._by_allocation.get(allocation, ())):
            peer = connection.peer
            # Of a peer that connected only the host counts, as its permission does.
            if str(peer.address) in allocation.permissions:
                continue
            if gate.admit_address(allocation.lease, peer.address, peer.port) is not None:
                connection.close()

    def expire(self, now_s: float) -> None:
        """Close the connections that no ConnectionBind came for."""
        for connection in tuple(self._by_id.values()):
            if connection.expires_s is not None and connection.expires_s <= now_s:
                connection.close()

    def find(self, connection_id: bytes) -> PeerConnection | None:
        """Return the connection that waits for a ConnectionBind with this number."""
        connection = self._by_id.get(connection_id)
        return None if connection is None or connection.expires_s is None else connection

    def has_peer(self, allocation: Allocation, peer: Endpoint) -> bool:
        """Return whether the allocation has a connection with a peer already."""
        return any(one.peer == peer for one in self._by_allocation.get(allocation, ()))

    def has_room(self, allocation: Allocation) -> bool:
        """Return whether the allocation may have one more."""
        limit = self._services.settings.limits.tcp_connections_per_allocation
        return len(self._by_allocation.get(allocation, ())) < limit

    async def connect(self, allocation: Allocation, peer: Endpoint) -> PeerConnection:
        """Connect to a peer.

        Raises:
            FlowError: it refused, or did not answer in time, or the allocation has ended.
        """
        listener = self._listeners.get(allocation)
        if listener is None:
            raise FlowError(FlowFault.CONNECTION_TERMINATED, "the allocation has ended")
        connection = self._new(allocation, peer)
        timeout_s = self._services.settings.limits.tcp_connect_timeout_s
        try:
            flow = await listener.connect(peer, connection, timeout_s=timeout_s)
        except BaseException:
            connection.close()
            raise
        if connection.is_closed:  # with its allocation: nobody would ever take its number back
            flow.abort()
            raise FlowError(FlowFault.CONNECTION_TERMINATED, "the allocation has ended")
        connection.flow = flow
        self._wait_for_bind(connection)
        return connection

    def _accepted(
        self, allocation: Allocation, peer: Endpoint, take: Callable[[ByteSink], TcpFlow]
    ) -> None:
        """A peer connected (RFC 6062 section 5.3)."""
        if str(peer.address) not in allocation.permissions or not self.has_room(allocation):
            self._services.counters.no_permission += 1
            return
        connection = self._new(allocation, peer)
        connection.flow = take(connection)
        self._wait_for_bind(connection)
        transaction_id = secrets.token_bytes(12)
        attributes = (
            (int(Attribute.CONNECTION_ID), connection.connection_id),
            (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(peer, transaction_id)),
        )
        allocation.path.send(
            encode_message(
                Method.CONNECTION_ATTEMPT, MessageClass.INDICATION, transaction_id, attributes
            )
        )

    def _new(self, allocation: Allocation, peer: Endpoint) -> PeerConnection:
        connection = PeerConnection(self._services, allocation, peer, self._forget)
        self._by_allocation[allocation].add(connection)
        return connection

    def _wait_for_bind(self, connection: PeerConnection) -> None:
        limits = self._services.settings.limits
        connection.connection_id = self._free_id()
        connection.expires_s = self._services.clock.monotonic_s() + limits.tcp_bind_timeout_s
        self._by_id[connection.connection_id] = connection
        self._services.counters.peer_connections += 1

    def _free_id(self) -> bytes:
        while True:
            connection_id = secrets.token_bytes(4)
            if connection_id not in self._by_id:
                return connection_id

    def _forget(self, connection: PeerConnection) -> None:
        self._by_id.pop(connection.connection_id, None)
        self._by_allocation.get(connection.allocation, set()).discard(connection)


def bind_connection(
    path: ClientPath, spliced: SplicedPath, connection: PeerConnection, presented: Presented
) -> None:
    """Answer a ConnectionBind and join the two connections (RFC 6062 section 5.4)."""
    attributes = [(int(Attribute.CONNECTION_ID), connection.connection_id)]
    path.send(replies.success(presented.message, attributes, key=connection.allocation.key))
    connection.bind(spliced)
