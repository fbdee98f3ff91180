"""Owns what a relay process finds around it: as the only one of its relay, or as one of several."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.ports import DatagramSocket
from masque_relay.control.audit import AuditSink
from masque_relay.control.quota_book import QuotaBook
from masque_relay.control.revocation import RevocationList
from masque_relay.dataplane.batch_io import bind_udp
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.http.tcp_front import open_listener
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.slots import Neighbours
from masque_relay.server.twin_port import with_twin_port

QUIC_LISTENER = "listen.h3"
"""The name of HTTP/3's address, whose port number HTTPS wants too, over TCP."""


class Listeners(Protocol):
    """Gives the sockets on which a relay listens.

    ``name`` is the key path of the configuration that names the address: sockets of one name and
    address are one and the same for all workers of a relay and for those that follow them.
    """

    def datagram(
        self, name: str, endpoint: Endpoint, limits: SocketLimits, counters: FlowCounters
    ) -> DatagramSocket:
        """Return a bound UDP socket; port 0 picks a free port.

        Raises:
            FlowError: the address is taken, not ours or of a family that this host lacks.
        """
        ...

    def stream(self, name: str, endpoint: Endpoint) -> socket.socket:
        """Return a listening TCP socket, non-blocking; port 0 picks a free port.

        Raises:
            OSError: the address can't be used.
        """
        ...


class OwnListeners:
    """Binds sockets of our own: for a relay of one process."""

    def datagram(
        self, name: str, endpoint: Endpoint, limits: SocketLimits, counters: FlowCounters
    ) -> DatagramSocket:
        """Bind a UDP socket."""
        if name == QUIC_LISTENER:
            endpoint = with_twin_port(endpoint)
        return bind_udp(endpoint, limits=limits, counters=counters)

    def stream(self, name: str, endpoint: Endpoint) -> socket.socket:
        """Bind a TCP socket and listen."""
        del name
        return open_listener(endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShare:
    """What a worker shares with the other workers of its relay."""

    slot: int
    """Its place behind the port; see masque_relay.quic.slots."""
    new_connection_id: Callable[[], bytes]
    neighbours: Neighbours
    secrets: EndpointSecrets = field(repr=False)
    audit: AuditSink
    book: QuotaBook
    revocations: RevocationList


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a relay process is given from outside."""

    listeners: Listeners = field(default_factory=OwnListeners)
    share: WorkerShare | None = None
    """None: a relay of one process, which has an admin listener of its own."""
