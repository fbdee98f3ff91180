"""Owns the seams of the mesh: a session as its carrier drives it, and the switchboard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from masque_relay.contract.address import Endpoint
from masque_relay.contract.lease import Lease
from masque_relay.contract.request import Credential, Transport
from masque_relay.contract.tunnel import TunnelSession
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.ghostwire import ChannelKind

Exporter = Callable[[bytes, bytes, int], bytes]
"""TLS keying material for (label, context, length), RFC 8446 section 7.5; equal at both ends."""


class FrameSession(TunnelSession, Protocol):
    """A Ghostwire session as its carrier drives it; frames are the carrier's capsules.

    A datagram that is larger than ``max_payload_bytes`` goes by ``send_capsule`` with type 0x00.
    """

    @property
    def capsule_types(self) -> frozenset[int]:
        """Frame types but DATAGRAM; the carrier's decoder skips all others."""
        ...

    @property
    def end_reason(self) -> EndReason | None:
        """Why the session is over; None while it lives."""
        ...

    def on_writable(self) -> None:
        """What waited in the carrier has left, or some of it."""
        ...

    def close(self, reason: EndReason) -> None:
        """End the session from our side; idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A connection that wants to become a session."""

    transport: Transport
    source: Endpoint
    credentials: tuple[Credential, ...]
    """What the carrier was given; empty where AUTH has to bring the token."""
    lease: Lease | None
    """Where the carrier has passed the gate already. The carrier releases it."""
    exporter: Exporter | None
    """None where TLS ends elsewhere, or the library has none."""
    relay_name: str
    """The host that the client named, without a port."""
    request_id: str


SessionFactory = Callable[[Arrival], FrameSession]
"""Makes the session of one arrival; server/ implements it, every carrier is given it."""


class ChannelEnd(Protocol):
    """One end of a relayed channel, as the other speaks to it. Nothing blocks or raises."""

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Take datagrams; what does not fit is dropped and counted here."""
        ...

    def deliver_data(self, data: bytes) -> bool:
        """Take stream bytes, within the credit that this end gave; False = not now, ask again."""
        ...

    def deliver_end(self) -> None:
        """No more stream bytes come."""
        ...

    def opened(self, credit_bytes: int) -> None:
        """The callee took the call."""
        ...

    def grant(self, limit_bytes: int) -> None:
        """The other end takes stream bytes up to this count."""
        ...

    def closed(self, code: int, reason: str) -> None:
        """The other end is gone; nothing follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A channel that one member wants to another."""

    caller_id: bytes
    """The caller's peer id, proved."""
    kind: ChannelKind
    priority: int
    credit_bytes: int
    service: bytes


class Member(Protocol):
    """Somebody at the switchboard, whatever way it came in."""

    @property
    def peer_id(self) -> bytes:
        """32 bytes, proved by the member."""
        ...

    @property
    def lease(self) -> Lease:
        """Its permission to be here; says who it is."""
        ...

    def call(self, caller: ChannelEnd, call: Call) -> ChannelEnd | int:
        """Take a call that policy allows: our end, or the code of the refusal."""
        ...

    def replaced(self) -> None:
        """A newer session of the same peer id is here: end."""
        ...

    def presence_changed(self, member: "Member", *, is_here: bool) -> None:
        """A member that we watch came or went."""
        ...

    def candidates_changed(self, member: "Member") -> None:
        """A member that we watch published where it can be reached."""
        ...

    @property
    def signed_candidates(self) -> tuple[bytes, bytes] | None:
        """Its candidate record and signature, checked; None where it has none."""
        ...


class Switchboard(Protocol):
    """Peer id -> member. Decides nothing: whoever asks, asks the gate too."""

    def join(self, member: Member) -> None:
        """Add a member; an older one of the same id is replaced after this."""
        ...

    def leave(self, member: Member) -> None:
        """Remove it, unless a newer one has its place. Idempotent."""
        ...

    def find(self, peer_id: bytes) -> Member | None:
        """Return who has this id now."""
        ...

    def watch(self, watcher: Member, peer_ids: Sequence[bytes]) -> None:
        """Replace what a member watches."""
        ...

    def published(self, member: Member) -> None:
        """Tell the member's watchers of its new candidates."""
        ...
