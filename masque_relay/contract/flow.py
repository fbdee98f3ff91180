"""Owns the flow vocabulary: a socket towards a target, what it reports, and how it fails."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from masque_relay.contract.address import Endpoint


class FlowFault(StrEnum):
    """How reaching a target failed. The values are RFC 9209 error types where one exists."""

    DNS_ERROR = "dns_error"
    DNS_TIMEOUT = "dns_timeout"
    DESTINATION_UNAVAILABLE = "destination_unavailable"
    """Host or network unreachable, as ICMP or the routing table said."""
    DESTINATION_IP_UNROUTABLE = "destination_ip_unroutable"
    DESTINATION_IP_PROHIBITED = "destination_ip_prohibited"
    """The relay's own host under a public address."""
    CONNECTION_REFUSED = "connection_refused"
    """ICMP port unreachable for UDP."""
    CONNECTION_TIMEOUT = "connection_timeout"
    CONNECTION_TERMINATED = "connection_terminated"
    DATAGRAM_TOO_LARGE = "datagram_too_large"
    """EMSGSIZE; concerns one datagram, never the flow."""
    RESOURCES = "resources"
    """Out of file descriptors, ports or memory."""


class FlowError(Exception):
    """Reaching or using a target failed; made from OSError and resolver errors in dataplane/ only.

    Attributes:
        fault: what failed, in the vocabulary above.
        rcode: the DNS response code name (``NXDOMAIN``) where the resolver gave one.
        detail: for the log.
    """

    def __init__(self, fault: FlowFault, detail: str, *, rcode: str | None = None) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail
        self.rcode = rcode


class DatagramSink(Protocol):
    """What a UDP flow feeds."""

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Take up to 64 UDP payloads from the target, in arrival order. Must not block or raise."""
        ...

    def on_flow_error(self, error: FlowError) -> None:
        """Learn of an asynchronous error (ICMP unreachable). The flow stays open."""
        ...


class UdpFlow(Protocol):
    """A connected UDP socket to one admitted endpoint."""

    @property
    def peer(self) -> Endpoint:
        """The target that the socket is connected to."""
        ...

    @property
    def local(self) -> Endpoint:
        """Our end, as the target sees it from this host."""
        ...

    @property
    def dropped_count(self) -> int:
        """Datagrams that the kernel would not take (full buffer, too large)."""
        ...

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send the payloads now and return how many the kernel took; the others are counted drops.

        Never blocks and never raises. Runs of equal sizes leave in one GSO send where the kernel
        has it.
        """
        ...

    def close(self) -> None:
        """Close the socket; idempotent. The sink hears nothing afterwards."""
        ...


class ByteSink(Protocol):
    """What a TCP flow feeds. Its methods must not block or raise; they may close the flow."""

    def on_bytes(self, data: bytes) -> None:
        """Take bytes from the target; a sink that has enough pauses the flow."""
        ...

    def on_bytes_end(self) -> None:
        """The target ended its side (FIN); ours may go on."""
        ...

    def on_flow_writable(self) -> None:
        """Bytes that waited have left; ask ``unsent_bytes`` how many still wait."""
        ...

    def on_flow_lost(self, error: FlowError) -> None:
        """The connection is gone (reset, timed out); the flow is closed already."""
        ...


class TcpFlow(Protocol):
    """A TCP connection to one admitted endpoint. It begins paused."""

    @property
    def peer(self) -> Endpoint:
        """The target that the socket is connected to."""
        ...

    @property
    def local(self) -> Endpoint:
        """Our end, as the target sees it from this host."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel did not take yet. Whoever sends keeps this bounded."""
        ...

    def send(self, data: bytes) -> None:
        """Send, or queue what the kernel does not take now. Never blocks or raises."""
        ...

    def end(self) -> None:
        """Send FIN after what is queued; the target may go on sending. Idempotent."""
        ...

    def pause(self) -> None:
        """Read no more: TCP's own flow control stops the target. Idempotent."""
        ...

    def resume(self) -> None:
        """Read (on). Idempotent."""
        ...

    def close(self) -> None:
        """Close; what was queued before :meth:`end` still leaves, within a deadline. Idempotent.

        The sink hears nothing afterwards.
        """
        ...

    def abort(self) -> None:
        """Reset the connection (RST); what is queued is lost. Idempotent."""
        ...
