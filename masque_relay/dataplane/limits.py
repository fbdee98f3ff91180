"""Owns the limits of sockets and of the resolver, each with the reason for its default."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """Kernel buffers and offloads of one kind of UDP socket."""

    receive_buffer_bytes: int = 4 << 20
    """One listener takes the bursts of all clients: 25 ms of 1200 B datagrams at 140,000/s."""
    send_buffer_bytes: int = 4 << 20
    """A GSO send of 64 datagrams is charged as one; the kernel's usual 208 KiB holds only two."""
    segment_sends: bool = True
    """GSO: runs of equal sizes leave in one system call (about a fifth of the cost)."""
    coalesce_receives: bool = True
    """GRO: a burst of one sender arrives in one system call (about a tenth of the cost)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """One UDP flow towards a target."""

    receive_buffer_bytes: int = 1 << 20
    """A target's burst waits here while the loop serves others: 8 ms at 1 Gbit/s. Empty it costs
    nothing."""
    send_buffer_bytes: int = 1 << 20
    """Room for a dozen GSO sends."""
    segment_sends: bool = True
    """As in :class:`SocketLimits`."""
    coalesce_receives: bool = True
    """As in :class:`SocketLimits`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverLimits:
    """Name resolution for targets."""

    concurrent_queries: int = 256
    """Queries (A and AAAA count one each) under way at once: a flood of names must not use up
    ports and memory."""
    waiting_lookups: int = 1_024
    """Callers that wait for a free query within their own deadline; more are refused at once."""
    attempt_timeout_s: float = 1.5
    """Per nameserver and try; the caller's deadline caps the whole."""
    attempts: int = 2
    """Tries per nameserver."""
    resolution_delay_s: float = 0.05
    """RFC 8305 section 3: how long an A answer waits for the AAAA answer."""
    cache_entries: int = 4096
    """About 1 MiB when full; the oldest entry goes first."""
    cache_ttl_cap_s: float = 300.0
    """A wrong answer must not outlive a fix by long, whatever its TTL says: at most twice this,
    once in our cache and once in that of c-ares."""
    cache_negative_ttl_s: float = 5.0
    """RFC 2308 allows the SOA minimum; a few seconds blunt floods and keep new names quick."""
    max_addresses: int = 16
    """Answers beyond this are dropped: each one is policed and perhaps tried."""
