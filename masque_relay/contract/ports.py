"""Owns the ports: what front ends and composition roots are given, as typing.Protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.flow import ByteSink, DatagramSink, TcpFlow, UdpFlow
from masque_relay.contract.ip import PacketFilter
from masque_relay.contract.lease import Lease
from masque_relay.contract.policy_view import PolicyView
from masque_relay.contract.request import NodeKey, RelayRequest
from masque_relay.contract.verdict import Denial


class Clock(Protocol):
    """Time as an argument."""

    def monotonic_s(self) -> float:
        """Seconds that never go back; for deadlines and meters."""
        ...

    def wall_s(self) -> float:
        """Seconds since the epoch; for tokens, policy times and records."""
        ...


class Gate(Protocol):
    """Authenticate -> decide -> lease; the one way to a tunnel for every transport."""

    async def admit(self, request: RelayRequest) -> Lease | Denial:
        """Decide on credential, method, target name and port, and quota. Writes the audit record.

        Never raises for what a peer sent. A target that is a literal address is decided here too,
        but :meth:`admit_address` must still be asked before a socket is opened.
        """
        ...

    @property
    def generation(self) -> int:
        """Changes with every reload: answers of :meth:`admit_address` hold as long as it stays."""
        ...

    def admit_address(self, lease: Lease, address: IPAddress, port: int) -> Denial | None:
        """Decide on one resolved address (SSRF and DNS rebinding); None means admitted.

        The caller connects to exactly the address that was admitted.
        """
        ...

    def admit_under(self, lease: Lease, request: RelayRequest) -> Lease | Denial:
        """Decide on a request inside an admitted session, for the session's own principal.

        The credential is not asked for again; policy, quota, revocation and audit are.
        """
        ...

    def admit_peer(self, lease: Lease, callee: Lease) -> Denial | None:
        """Decide whether one mesh peer may call another; None means admitted.

        What a refusal means for the wire is the session's to say: it must not tell a peer that may
        not be called from one that is away.
        """
        ...

    def admit_distant_peer(self, lease: Lease, callee: NodeKey) -> Denial | None:
        """Decide whether a mesh peer may send to one that another relay has admitted.

        Nobody proves the callee's key here: it says whom the policy has to judge, and gives that
        peer nothing.
        """
        ...

    def packet_filter(self, lease: Lease) -> PacketFilter:
        """Return the policy for a CONNECT-IP lease's packets; a reload changes it in place."""
        ...


class NameGate(Protocol):
    """Decides where there is no address to decide on: another relay will resolve the name."""

    def admit_name(self, lease: Lease) -> Denial | None:
        """Decide on the lease's target by its name and port alone; None means admitted.

        Where the policy would have to see the address, the answer is a denial: fail closed.
        """
        ...


class Recognizer(Protocol):
    """Authenticates without a tunnel: for protocols that sign answers to requests they refuse."""

    async def recognize(self, request: RelayRequest) -> str | Denial:
        """Return the subject that the credential proves, or why it does not. Takes no lease."""
        ...


class Dataplane(Protocol):
    """Moves bytes towards targets. Needs a lease: an unauthorised tunnel is a type error."""

    async def resolve(self, host: str, *, timeout_s: float) -> tuple[IPAddress, ...]:
        """Return a name's addresses in Happy Eyeballs order (RFC 8305 section 4), at least one.

        Raises:
            FlowError: DNS_ERROR (with rcode) or DNS_TIMEOUT.
        """
        ...

    def open_udp(self, lease: Lease, endpoint: Endpoint, sink: DatagramSink) -> UdpFlow:
        """Open a connected UDP socket to an admitted endpoint and start to feed the sink.

        Raises:
            FlowError: the kernel refused (unroutable, no resources).
        """
        ...

    def open_bound_udp(self, lease: Lease, sink: "BoundUdpSink") -> "BoundUdpFlow":
        """Bind public UDP ports for this lease alone and start to feed the sink.

        Raises:
            FlowError: no address, no free port or no resources.
        """
        ...

    async def open_tcp(
        self, lease: Lease, endpoints: Sequence[Endpoint], sink: ByteSink, *, timeout_s: float
    ) -> TcpFlow:
        """Connect to the first of the admitted endpoints that answers (Happy Eyeballs, RFC 8305).

        The flow begins paused: the sink hears nothing before ``resume``.

        Raises:
            FlowError: none answered; CONNECTION_TIMEOUT when the time is up.
        """
        ...


class PolicyDescriber(Protocol):
    """Tells an identity what it may reach, without a tunnel."""

    async def describe(self, request: RelayRequest) -> PolicyView | Denial:
        """Return what the credential's identity may reach; method and target are not looked at."""
        ...


@dataclass(slots=True)
class ReceivedBatch:
    """Datagrams that one receive call brought from one source. Mutable for speed; do not keep."""

    payloads: list[bytes]
    source: tuple[str, int]
    """As the socket gave it, unwrapped from IPv4-mapped form: host string, port."""


class BoundUdpSink(Protocol):
    """What a bound UDP flow feeds."""

    def on_batches(self, batches: Sequence[ReceivedBatch]) -> None:
        """Take what one wake-up brought, one batch per source. Must not block or raise."""
        ...


class BoundUdpFlow(Protocol):
    """Unconnected UDP sockets, at most one per address family, for one tunnel."""

    @property
    def public(self) -> Sequence[Endpoint]:
        """Where peers reach the tunnel: the bound addresses, or what a NAT shows in their place."""
        ...

    @property
    def dropped_count(self) -> int:
        """Datagrams that the kernel would not take (full buffer, too large)."""
        ...

    def reaches(self, peer: Endpoint) -> bool:
        """Whether there is a socket of the peer's family, and the peer is not this host's own."""
        ...

    def send_batch(self, payloads: Sequence[bytes], peer: tuple[str, int]) -> int:
        """Send to one peer now; return how many the kernel took. Never blocks and never raises."""
        ...

    def close(self) -> None:
        """Close the sockets; idempotent. The sink hears nothing afterwards."""
        ...


class DatagramSocket(Protocol):
    """A bound, non-blocking UDP socket that moves batches (GSO/GRO where the kernel has them)."""

    @property
    def local(self) -> Endpoint:
        """What the socket is bound to."""
        ...

    def fileno(self) -> int:
        """For loop.add_reader; -1 once closed."""
        ...

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        """Return what is there now, at most about ``max_datagrams``; an empty list when nothing is.

        Never blocks and never raises: an asynchronous ICMP error is counted and skipped.
        """
        ...

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        """Send to one destination now; return how many the kernel took. Never blocks or raises.

        A payload that is larger than the path takes (EMSGSIZE) counts as lost, not as an error.
        """
        ...

    def close(self) -> None:
        """Close; idempotent."""
        ...


DatagramSocketFactory = Callable[[Endpoint], DatagramSocket]
"""Binds a socket. Raises FlowError when the address is taken or not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSnapshot:
    """One live tunnel, for the admin API. Has an identity in it: never for metrics or logs."""

    lease_id: str
    subject: str
    rule: str
    method: str
    transport: str
    target: str
    source: str
    age_s: float
    uplink_datagrams: int
    uplink_bytes: int
    downlink_datagrams: int
    downlink_bytes: int
    dropped_datagrams: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadReport:
    """What a reload did. If ``problems`` is not empty nothing was changed."""

    problems: tuple[str, ...]
    """One line each: file, line, key path, what is wrong."""
    changed: tuple[str, ...]
    """What is now in force: "policy", "keys", "certificate", "limits"."""


class Operator(Protocol):
    """What the admin plane may do to the running relay; server.py implements it."""

    def alive(self) -> bool:
        """The event loop turns and the listeners are open."""
        ...

    def ready(self) -> bool:
        """New tunnels are welcome; False while draining."""
        ...

    async def status(self) -> Mapping[str, object]:
        """Versions, listeners, uptime, counts; JSON-ready."""
        ...

    async def tunnels(self) -> Sequence[TunnelSnapshot]:
        """The live tunnels, oldest first."""
        ...

    async def kick(self, lease_id: str) -> bool:
        """End one tunnel; False if there is none of that id."""
        ...

    async def revoke(self, *, subject: str | None, token_id: str | None) -> int:
        """Refuse a subject or a token id from now on; return how many tunnels that ended."""
        ...

    async def reload(self) -> ReloadReport:
        """Read config, policy, keys and certificates again; all or nothing."""
        ...

    def drain(self, *, deadline_s: float | None) -> None:
        """Begin the graceful end; returns at once."""
        ...

    async def restart(self) -> None:
        """Replace the relay's processes by new ones; the old ones keep their tunnels for a while.

        Returns when it is certain to happen.

        Raises:
            OperationRefused: it can't be, and nothing was changed.
        """
        ...

    async def metrics(self) -> bytes:
        """The Prometheus text exposition."""
        ...
