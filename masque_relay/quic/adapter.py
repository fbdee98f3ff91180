"""Owns QuicAdapter: one aioquic connection made safe, batched, and bound to its application.

An endpoint feeds it batches of packets and takes batches back; the application protocol, chosen by
ALPN once the handshake is complete, sees :class:`masque_relay.quic.application.QuicTransport`.
Nothing here knows a socket, a task or a clock: time comes in as ``now`` (seconds, monotonic).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from aioquic.quic.logger import QuicLogger

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.application import ApplicationFactory
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.tls import CertificateIdentity, CertificateStore, ClientCertificates

Address = tuple[str, int]
"""Host and port as the batch socket gives and takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What all connections of a listening endpoint share."""

    applications: Mapping[str, ApplicationFactory]
    """By ALPN protocol, most preferred first."""
    certificates: CertificateStore
    limits: QuicLimits = field(default_factory=QuicLimits)
    client_certificates: ClientCertificates = ClientCertificates.IGNORED
    client_ca_pem: bytes | None = None
    """Verify presented client certificates against these; None leaves that to the control plane."""
    new_connection_id: Callable[[], bytes] | None = None
    """Makes every connection ID that we issue, all of one length; None: 8 random bytes."""
    reset_token_for: Callable[[bytes], bytes] | None = None
    """The stateless reset token for a connection ID of ours; None: random ones."""
    quic_logger: QuicLogger | None = None
    secrets_log: TextIO | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What a connection that we open is made of."""

    applications: Mapping[str, ApplicationFactory]
    server_name: str
    """A DNS name (sent as SNI) or an address; the certificate must be for it."""
    ca_pem: bytes | None = None
    """Trust these and nothing else; None: certifi's."""
    insecure_skip_verify: bool = False
    """For tests and diagnosis: accept any certificate."""
    identity: CertificateIdentity | None = None
    """Our client certificate, should the server ask."""
    limits: QuicLimits = field(default_factory=QuicLimits)
    quic_logger: QuicLogger | None = None
    secrets_log: TextIO | None = None


class AdapterOwner:
    """What an adapter tells its endpoint; each method does nothing unless overridden.

    All calls come from inside a call into the adapter, except :meth:`adapter_dirty`.
    """

    def adapter_dirty(self, adapter: "QuicAdapter") -> None:
        """The application sent outside of a batch or a timer: call packets_to_send this loop turn.

        Called at most once until the next packets_to_send.
        """

    def connection_id_issued(self, adapter: "QuicAdapter", connection_id: bytes) -> None:
        """Route this ID to the adapter. The first one is in ``connection_ids`` from the start."""

    def connection_id_retired(self, adapter: "QuicAdapter", connection_id: bytes) -> None:
        """Route this ID no more."""

    def handshake_completed(self, adapter: "QuicAdapter") -> None:
        """The handshake is complete and the application exists."""

    def peer_moved(self, adapter: "QuicAdapter") -> None:
        """The connection goes on from another address of the peer."""

    def adapter_terminated(self, adapter: "QuicAdapter") -> None:
        """Nothing will be sent or understood any more: forget it and all its connection IDs."""


class QuicAdapter:
    """One QUIC connection: packets in, packets out, an application above. Implements QuicTransport.

    Make one with :func:`accept_connection` or :func:`open_connection`.
    """

    # -- for the endpoint ------------------------------------------------------------------------

    def receive_packets(self, packets: Sequence[bytes], source: Address, now: float) -> None:
        """Take a batch from one source, deliver what it holds, let the application answer.

        The caller flushes with :meth:`packets_to_send` afterwards; never raises.
        """
        raise NotImplementedError

    def packets_to_send(self, now: float) -> list[tuple[list[bytes], Address]]:
        """Return what is due, grouped per destination in order (fit for one GSO send per run)."""
        raise NotImplementedError

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due; None: never. Ask again after every other call."""
        raise NotImplementedError

    def handle_timer(self, now: float) -> None:
        """Do what time asks for; early calls are harmless. Flush afterwards."""
        raise NotImplementedError

    @property
    def connection_ids(self) -> tuple[bytes, ...]:
        """The connection IDs by which the peer may address us now."""
        raise NotImplementedError

    @property
    def is_handshake_complete(self) -> bool:
        """Whether the application exists."""
        raise NotImplementedError

    @property
    def is_closing(self) -> bool:
        """The connection is over, but its IDs must be routed here until it is terminated."""
        raise NotImplementedError

    @property
    def is_terminated(self) -> bool:
        """Nothing will happen any more."""
        raise NotImplementedError

    @property
    def peer_address(self) -> Address:
        """Where packets go now."""
        raise NotImplementedError

    def close_transport(self, error_code: int, reason: str) -> None:
        """Close with a transport error code (RFC 9000 section 20.1), as for a handshake too slow."""
        raise NotImplementedError

    def abandon(self, reason: str) -> None:
        """Forget the connection without a packet; the application learns that it is lost."""
        raise NotImplementedError

    def send_ping(self) -> None:
        """Queue a PING, as a keep-alive or to probe the path."""
        raise NotImplementedError

    # -- QuicTransport (see application.py) is implemented below ----------------------------------

    @property
    def peer(self) -> Endpoint:
        """The peer's current address; changes with migration."""
        raise NotImplementedError


def accept_connection(  # noqa: PLR0913 - each is a fact of the packet that opened the connection
    settings: ServerSettings,
    *,
    owner: AdapterOwner,
    counters: QuicCounters,
    source: Address,
    original_destination_cid: bytes,
    retry_source_cid: bytes | None,
) -> QuicAdapter:
    """Make the server side for a client's first Initial; feed it that packet next.

    Args:
        settings: what all connections share.
        owner: the endpoint.
        counters: where datagrams and probes are counted.
        source: the client's address.
        original_destination_cid: the Destination Connection ID of the client's very first Initial,
            out of the Retry token where there was one.
        retry_source_cid: the Source Connection ID of our Retry, when it was answered; the source
            address then counts as validated.
    """
    raise NotImplementedError


def open_connection(
    settings: ClientSettings,
    *,
    owner: AdapterOwner,
    counters: QuicCounters,
    destination: Address,
    now: float,
) -> QuicAdapter:
    """Begin a handshake; flush it with packets_to_send."""
    raise NotImplementedError
