"""Owns the ports of TURN's core: the way to a client, and what the core is given to work with."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import TunnelCounters, TurnCounters
from masque_relay.contract.ports import Clock, Gate, Recognizer
from masque_relay.contract.relay_socket import RelaySocketFactory, RelayTcpFactory
from masque_relay.contract.turn_limits import TurnLimits

if TYPE_CHECKING:
    from fallbacks.turn.allocation import Allocation


class PathKind(StrEnum):
    """What a client speaks to us over."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class ClientPath(Protocol):
    """One 5-tuple of a client: where messages come from and answers go to.

    Attributes:
        allocation: what lives on it, None for nothing.
    """

    allocation: "Allocation | None"

    @property
    def kind(self) -> PathKind:
        """What it is."""
        ...

    @property
    def client(self) -> Endpoint:
        """The client as the socket saw it."""
        ...

    @property
    def server(self) -> Endpoint:
        """Our end."""
        ...

    @property
    def is_lost(self) -> bool:
        """The connection is gone; never so without one."""
        ...

    def send(self, message: bytes) -> None:
        """Send one STUN message. Never blocks or raises."""
        ...

    def send_batch(self, messages: Sequence[bytes]) -> int:
        """Send STUN or ChannelData messages without padding; return how many were taken.

        Never blocks and never raises; what the socket does not take is lost.
        """
        ...

    @property
    def other_address(self) -> Endpoint | None:
        """An address and port of ours that both differ from ``server`` (RFC 5780); None without."""
        ...

    def sibling(self, *, change_ip: bool, change_port: bool) -> "ClientPath":
        """Return a path to the same client from another socket of ours; itself without one."""
        ...

    def to(self, client: Endpoint) -> "ClientPath":
        """Return a path from the same socket to another address; itself on a connection."""
        ...

    def keep(self) -> None:
        """An allocation begins on this path: deliver what comes by it to this very object."""
        ...

    def forget(self) -> None:
        """The allocation is gone or lives elsewhere. Idempotent."""
        ...

    def close(self) -> None:
        """Close the connection, where it is one."""
        ...


class Splice(Protocol):
    """What takes the bytes of a connection that was bound to a peer."""

    def client_bytes(self, data: bytes) -> None:
        """Take bytes of the client."""
        ...

    def client_end(self) -> None:
        """The client sends no more."""
        ...

    def client_writable(self) -> None:
        """The way to the client has room again."""
        ...

    def client_lost(self) -> None:
        """The client's connection is gone."""
        ...


@runtime_checkable
class SplicedPath(Protocol):
    """A client's connection as RFC 6062 uses it: after a ConnectionBind it carries plain bytes."""

    def begin_splice(self, splice: Splice) -> None:
        """Hand over what has arrived behind the ConnectionBind, and everything that follows."""
        ...

    def write(self, data: bytes) -> bool:
        """Send bytes; False asks for a pause until ``client_writable``."""
        ...

    def pause_reading(self) -> None:
        """Let the client wait. Idempotent."""
        ...

    def resume_reading(self) -> None:
        """Read on. Idempotent."""
        ...

    def close(self) -> None:
        """Close once everything is sent. Idempotent."""
        ...


class TurnGate(Gate, Recognizer, Protocol):
    """The gate as TURN needs it: it signs refusals too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayAddress:
    """An address on which relayed transport addresses are made."""

    local: IPAddress
    """What sockets are bound to."""
    public: IPAddress
    """What clients and peers are told; the same without a NAT in front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnSettings:
    """What an operator chooses. A reload replaces it; what is open goes on as it is."""

    realm: str
    relay_addresses: tuple[RelayAddress, ...]
    """At most one of each family."""
    first_port: int = 49_152
    last_port: int = 65_535
    alternate_servers: tuple[Endpoint, ...] = ()
    """Where clients are sent while this relay drains."""
    server_name: str = ""
    """THIRD-PARTY-AUTHORIZATION (RFC 7635); empty: tokens of third parties are not offered."""
    software: str = ""
    """SOFTWARE attribute; empty sends none, so that replies stay small and say little."""
    limits: TurnLimits = field(default_factory=TurnLimits)


@dataclass(slots=True, kw_only=True)
class TurnServices:
    """What the core is given. Only ``settings`` changes while it runs."""

    settings: TurnSettings
    gate: TurnGate
    clock: Clock
    counters: TurnCounters
    tunnels: TunnelCounters
    bind_relay: RelaySocketFactory
    bind_tcp_relay: RelayTcpFactory
    spawn: Callable[[Coroutine[None, None, None]], bool]
    """Runs a request that has to wait, in a task that somebody awaits; False: too many wait."""
    watch: Callable[[int, Callable[[], None]], None]
    """Calls back whenever a descriptor is readable."""
    unwatch: Callable[[int], None]
    call_later: Callable[[float, Callable[[], None]], object]
    """Calls back once, after so many seconds."""
    is_own_address: Callable[[IPAddress], bool]
    """Whether an address is a public one of this very host, behind its firewall."""
    is_relayed_elsewhere: Callable[[tuple[str, int]], bool]
    """Whether an endpoint of this host is a relayed address of another kind (bound UDP)."""
    is_own_listener: Callable[[Endpoint], bool]
    """Whether this relay itself listens there for QUIC, which anybody may reach anyhow."""
