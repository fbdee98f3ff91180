"""Owns an allocation: relayed addresses, permissions, channels and deadlines (RFC 8656 section 3).

Life: an Allocate that the gate admits makes it, a Refresh with a lifetime of zero, silence, the
loss of its TCP connection or the gate (revocation, quota, lifetime, kick) ends it. Deadlines are
looked at once per second, which is exact enough for lifetimes of minutes.
"""

from dataclasses import dataclass, field

from fallbacks.turn.path import ClientPath
from masque_relay.contract.address import Endpoint
from masque_relay.contract.lease import Lease
from masque_relay.contract.relay_socket import RelaySocket
from masque_relay.stun.codepoints import AddressFamily

Source = tuple[str, int]
"""Host and port as sockets give them."""


@dataclass(slots=True, kw_only=True)
class Relayed:
    """One relayed transport address for UDP."""

    socket: RelaySocket
    public: Endpoint
    """What clients and peers are told."""
    family: AddressFamily


@dataclass(slots=True, kw_only=True)
class Channel:
    """A channel bound to a peer."""

    number: int
    peer: Source
    """As the client named it."""
    destination: Source
    """Where the socket sends to: the same, but for another relayed address of ours behind a NAT."""
    relayed: Relayed
    expires_s: float
    prefix: bytes
    """The number as ChannelData begins with it."""


@dataclass(slots=True, kw_only=True, eq=False)
class Allocation:
    """What one client holds. Mutable state; only the core changes it."""

    lease: Lease
    path: ClientPath
    """Where datagrams of peers go to."""
    next_path: ClientPath | None = None
    """RFC 8016: the path of a Refresh with a ticket, until something else comes by it."""
    key: bytes = field(repr=False)
    """Signs its messages both ways."""
    uses_sha256: bool
    """How the key was made of the password."""
    identity: bytes
    """USERHASH of the user name: later requests must have the same."""
    access_token: bytes | None = field(default=None, repr=False)
    transaction_id: bytes
    """Of the Allocate, so that a repeated one gets the same answer."""
    is_tcp: bool = False
    """RFC 6062: the relayed transport is TCP."""
    expires_s: float
    lifetime_s: int
    relayed: list[Relayed] = field(default_factory=list[Relayed])
    """One, or one of each family; empty for TCP."""
    tcp_relayed: Endpoint | None = None
    """What peers connect to (RFC 6062)."""
    permissions: dict[str, float] = field(default_factory=dict[str, float])
    """When each peer's host expires."""
    permitted_ports: dict[str, int] = field(default_factory=dict[str, int])
    """The port that came with each of them: the gate is asked about it again after a reload."""
    channels: dict[bytes, Channel] = field(default_factory=dict[bytes, Channel])
    """By the two bytes that ChannelData begins with."""
    channel_by_peer: dict[Source, Channel] = field(default_factory=dict[Source, Channel])
    """By the source as the socket gives it."""
    admitted: dict[Source, bool] = field(default_factory=dict[Source, bool])
    """What the gate said of each peer's endpoint."""
    gate_generation: int = 0
    """The state of the gate that said so."""
    ticket: bytes | None = None
    """RFC 8016; None: the client asked for no mobility."""
    previous_ticket: bytes | None = None
    """The one before: a Refresh that is repeated still has it."""
    reservation_token: bytes | None = None
    ended: bool = False

    def relayed_for(self, family: AddressFamily) -> Relayed | None:
        """Return the relayed address of a family."""
        for relayed in self.relayed:
            if relayed.family is family:
                return relayed
        return None

    def permit(self, host: str, port: int, expires_s: float) -> None:
        """Let a peer's host send until a monotonic moment."""
        self.permissions[host] = expires_s
        self.permitted_ports[host] = port

    def forbid(self, host: str) -> None:
        """Take a permission back; idempotent."""
        self.permissions.pop(host, None)
        self.permitted_ports.pop(host, None)

    def expire_parts(self, now_s: float) -> None:
        """Forget the permissions and channels whose time is up."""
        gone = [host for host, expires_s in self.permissions.items() if expires_s <= now_s]
        for host in gone:
            self.forbid(host)
        for channel in [one for one in self.channels.values() if one.expires_s <= now_s]:
            del self.channels[channel.prefix]
            self.channel_by_peer.pop(channel.destination, None)
