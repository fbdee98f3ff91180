"""Owns the limits of STUN and TURN, each with the reason for its default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnLimits:
    """What clients may use before and after they have shown who they are."""

    max_allocations: int = 10_000
    """In the process. Each is a socket or two and some kilobytes; `gate.limits` says more."""
    allocation_lifetime_s: int = 600
    """What a client gets that asks for nothing (RFC 8656 section 3.2)."""
    max_allocation_lifetime_s: int = 3_600
    """RFC 8656 section 7.2 recommends one hour."""
    permission_lifetime_s: int = 300
    """RFC 8656 section 9 fixes it."""
    channel_lifetime_s: int = 600
    """RFC 8656 section 12 fixes it."""
    nonce_lifetime_s: int = 600
    """How long an observed nonce is of use; a stale one costs a client one round trip. RFC 8489
    section 9.2 wants a change at least once an hour."""
    reservation_lifetime_s: int = 30
    """For the odd port beside an even one; RFC 8656 section 7.2 recommends 30 s."""
    permissions_per_allocation: int = 256
    """Peers' addresses; a conference of many has dozens."""
    channels_per_allocation: int = 256
    """A channel is a peer's address and port."""
    peers_per_allocation: int = 1_024
    """Peers' endpoints on which the policy has been asked; the next ones are dropped."""
    replies_per_s_per_source: float = 32.0
    """Answers to clients that have not shown who they are, to one IPv4 address or IPv6 /64. They
    are up to five times as large as what they answer: this bounds what a forged source gets."""
    replies_burst_per_source: int = 512
    """An office behind one address joins a call at once."""
    replies_per_s: float = 20_000.0
    """The same for all sources together: bounds the work of a flood."""
    pending_requests: int = 256
    """Requests that wait for the gate or for a TCP peer; more are dropped, clients repeat them."""
    receive_batch_count: int = 256
    """Datagrams taken from a listener per turn of the loop."""
    peer_batch_count: int = 64
    """The same for one allocation: a busy one must not starve the others."""
    tcp_connections_per_allocation: int = 32
    """RFC 6062: two sockets each."""
    tcp_connect_timeout_s: float = 30.0
    """RFC 6062 section 5.2 wants at least 30 s."""
    tcp_bind_timeout_s: float = 30.0
    """RFC 6062 section 5.2: how long a connection to a peer waits for its ConnectionBind."""
    max_connections: int = 4_096
    """TCP and TLS connections of clients; bounds file descriptors and handshakes."""
    max_connections_per_source: int = 128
    """From one IPv4 address or IPv6 /64."""
    handshake_timeout_s: float = 10.0
    """For TLS."""
    unused_connection_timeout_s: float = 30.0
    """A connection without an allocation or a bound peer is closed after so long in silence: the
    half-open flood."""
    write_buffer_bytes: int = 262_144
    """Unsent bytes to a client on TCP; datagrams beyond it are dropped and counted."""
