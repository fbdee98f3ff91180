"""Owns the peers of one bound UDP tunnel: from wire form or socket address to one record."""

from ipaddress import IPv6Address, ip_address
from typing import TypeVar

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import BoundUdpFlow
from masque_relay.wire.connect_udp_bind import decode_peer, encode_peer

Source = tuple[str, int]
Key = TypeVar("Key", bytes, Source)


class BindPeer:
    """One peer: what identifies it on either side.

    Attributes:
        endpoint: address and port.
        wire: as capsules and uncompressed datagrams have it.
        source: as sockets have it.
        received_count: datagrams that came from it while it had no context.
    """

    __slots__ = ("endpoint", "received_count", "source", "wire")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.wire = encode_peer(endpoint.address, endpoint.port)
        self.source = (str(endpoint.address), endpoint.port)
        self.received_count = 0


class PeerTable:
    """Peers that can be reached, remembered up to a limit; the oldest is forgotten and met anew."""

    __slots__ = ("_by_source", "_by_wire", "_max_peers", "flow")

    def __init__(self, max_peers: int) -> None:
        self.flow: BoundUdpFlow | None = None
        """Says which peers can be reached; without it none can."""
        self._max_peers = max_peers
        self._by_wire: dict[bytes, BindPeer] = {}
        self._by_source: dict[Source, BindPeer] = {}

    def __len__(self) -> int:
        return max(len(self._by_wire), len(self._by_source))

    def knows(self, source: Source) -> bool:
        """Whether a socket's address leads to a peer without further ado."""
        return source in self._by_source

    def of_wire(self, wire: bytes) -> BindPeer | None:
        """Return the peer of a wire form; None when it can't be reached."""
        return self._by_wire.get(wire) or self._meet(wire)

    def of_source(self, source: Source) -> BindPeer | None:
        """Return the peer that a socket names; None for one that no datagram can name."""
        peer = self._by_source.get(source)
        if peer is not None:
            return peer
        endpoint = endpoint_of(source)
        if endpoint is None:
            return None
        # The kernel and we may spell an address differently: the wire form is what counts.
        peer = self.of_wire(encode_peer(endpoint.address, endpoint.port))
        if peer is not None:
            self._keep(self._by_source, source, peer)
        return peer

    def _meet(self, wire: bytes) -> BindPeer | None:
        address, port = decode_peer(wire)
        if port == 0 or (isinstance(address, IPv6Address) and address.ipv4_mapped):
            return None  # a second name of an IPv4 peer would be a way around every table
        endpoint = Endpoint(address=address, port=port)
        if self.flow is None or not self.flow.reaches(endpoint):
            return None
        peer = BindPeer(endpoint)
        self._keep(self._by_wire, wire, peer)
        return peer

    def _keep(self, table: dict[Key, BindPeer], key: Key, peer: BindPeer) -> None:
        if len(table) >= self._max_peers:
            del table[next(iter(table))]
        table[key] = peer


def endpoint_of(source: Source) -> Endpoint | None:
    """Return the endpoint that a socket names; None for one that no datagram can name."""
    host, port = source
    if "%" in host:
        return None  # a link-local address means something on this host only
    return Endpoint(address=ip_address(host), port=port)
