"""Owns the counters that the packet path increments: plain ints, read when metrics are scraped.

A field here becomes a metric in ``control/metrics.py``; a test checks that none is forgotten there
and that each one moves.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class QuicCounters:
    """One QUIC endpoint."""

    datagrams_received: int = 0
    """UDP datagrams, whatever they hold."""
    datagrams_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    connections_opened: int = 0
    """Handshakes begun."""
    handshakes_completed: int = 0
    handshakes_expired: int = 0
    connections_closed: int = 0
    connections_open: int = 0
    """A gauge."""
    connections_half_open: int = 0
    """A gauge: handshake not complete."""
    refused_total: int = 0
    """New connections refused: the cap on all."""
    refused_half_open: int = 0
    refused_per_source: int = 0
    retries_sent: int = 0
    retry_tokens_invalid: int = 0
    version_negotiations_sent: int = 0
    stateless_resets_sent: int = 0
    packets_unroutable: int = 0
    """Neither of a known connection nor a fit beginning of one; dropped."""
    packets_handed_over: int = 0
    """Given to the worker whose they may be."""
    packets_forged: int = 0
    """Of a known connection, but its keys did not seal them: forged or damaged; dropped."""
    packets_duplicate: int = 0
    """Received before, or too long ago to know; dropped."""
    sends_dropped: int = 0
    """UDP datagrams that the kernel would not take."""
    quic_datagrams_received: int = 0
    """DATAGRAM frames (RFC 9221)."""
    quic_datagrams_sent: int = 0
    quic_datagrams_oversize: int = 0
    """Refused: larger than the path or the peer takes."""
    quic_datagrams_overflow: int = 0
    """Pushed out of the bounded send queue, oldest first."""
    connections_fast: int = 0
    """A gauge: handshake complete, and the fast path takes their packets of datagrams."""
    connections_accelerated: int = 0
    """A gauge: those of them whose packets the compiled accelerator opens and seals."""
    packets_received_fast: int = 0
    """UDP datagrams of connections that the fast path handled; the others went through aioquic."""
    packets_received_slow: int = 0
    packets_sent_fast: int = 0
    packets_sent_slow: int = 0
    path_mtu_probes_sent: int = 0
    path_mtu_raised: int = 0
    migrations: int = 0
    """A connection went on from another address (NAT rebinding)."""


@dataclass(slots=True)
class HttpCounters:
    """HTTP front ends."""

    requests: int = 0
    requests_malformed: int = 0
    """Stream errors for a malformed request."""
    responses_1xx: int = 0
    responses_2xx: int = 0
    responses_3xx: int = 0
    responses_4xx: int = 0
    responses_5xx: int = 0
    streams_reset: int = 0
    """Streams that the peer reset or stopped."""
    application_errors: int = 0
    """The ASGI application raised."""
    early_datagrams_dropped: int = 0
    """Datagrams before the request or the 2xx, beyond the bounded buffer."""
    unread_datagrams_dropped: int = 0
    """Pushed out of a full queue, oldest first, because the ASGI application did not fetch them."""
    unknown_stream_datagrams: int = 0
    capsules_received: int = 0
    capsules_skipped: int = 0
    """Of an unknown type."""
    capsules_malformed: int = 0
    capsule_datagrams_dropped: int = 0
    """DATAGRAM capsules not sent because the stream's buffer was full."""
    websockets_opened: int = 0
    """Handshakes answered with success."""
    websockets_failed: int = 0
    """Ended because the client broke the rules or sent too large a message."""
    websockets_silent: int = 0
    """Ended because the client did not answer a ping."""


@dataclass(slots=True)
class TcpCounters:
    """The listener for HTTP/2 and HTTP/1.1 over TLS."""

    connections_opened: int = 0
    """Accepted, whatever becomes of the handshake."""
    connections_closed: int = 0
    connections_open: int = 0
    """A gauge; half-open ones included."""
    connections_half_open: int = 0
    """A gauge: TLS handshake not complete."""
    handshakes_h2: int = 0
    """Complete, HTTP/2 agreed."""
    handshakes_h1: int = 0
    """Complete, HTTP/1.1 agreed or no ALPN at all."""
    handshakes_other: int = 0
    """Complete, and for somebody else: a foreign ALPN."""
    handshakes_failed: int = 0
    """Ended before it was complete: refused, given up or too slow."""
    refused_total: int = 0
    """New connections refused: the cap on all."""
    refused_half_open: int = 0
    refused_per_source: int = 0
    accepts_failed: int = 0
    """The kernel could not give us a connection (out of file descriptors)."""
    deadlines_passed: int = 0
    """Connections closed: idle, a head that trickles in, a reader that takes nothing."""
    floods_stopped: int = 0
    """HTTP/2 connections closed for too many or too large frames."""
    protocol_errors: int = 0
    """HTTP/2 connections closed for a connection error of the client; HTTP/1.1 heads refused."""


@dataclass(slots=True)
class TunnelCounters:
    """All tunnels together."""

    uplink_datagrams: int = 0
    uplink_bytes: int = 0
    downlink_datagrams: int = 0
    downlink_bytes: int = 0
    stream_uplink_bytes: int = 0
    """TCP payload."""
    stream_downlink_bytes: int = 0
    unknown_context_dropped: int = 0
    rate_dropped: int = 0
    oversize_uplink_dropped: int = 0
    oversize_downlink_dropped: int = 0


@dataclass(slots=True)
class BindCounters:
    """Bound UDP tunnels, beside what TunnelCounters has of them."""

    contexts_opened: int = 0
    """Registered by clients and accepted."""
    contexts_rejected: int = 0
    denied_dropped: int = 0
    """Datagrams to or from peers that the policy refuses."""
    unasked_dropped: int = 0
    """Datagrams of new peers that came faster than the policy is asked."""
    uncontacted_dropped: int = 0
    """From peers that the client has not sent to, where that is the rule."""
    unregistered_dropped: int = 0
    """From peers for which the client has no context."""
    unreachable_dropped: int = 0
    """Peers of an address family without a public address, or of this host itself."""
    malformed_dropped: int = 0
    """Uncompressed datagrams without an address that can be read."""


@dataclass(slots=True)
class IpCounters:
    """CONNECT-IP; packets and bytes that passed are in TunnelCounters."""

    addresses_assigned: int = 0
    """A gauge: addresses of the pools that tunnels hold."""
    addresses_refused: int = 0
    """Address Requests answered with nothing: pool exhausted, or more than a tunnel may have."""
    uplink_malformed: int = 0
    """No whole IP packet, or one that no router forwards (source routes, chains of headers)."""
    uplink_bad_source: int = 0
    """From an address that the client was not given (BCP 38)."""
    uplink_no_route: int = 0
    """To an address that was not advertised."""
    uplink_prohibited: int = 0
    """Refused by the policy."""
    uplink_wrong_protocol: int = 0
    """Outside the IP protocol that the request is limited to."""
    uplink_hop_limit: int = 0
    uplink_too_big: int = 0
    """Larger than the egress takes."""
    uplink_egress_full: int = 0
    """The egress would not take them."""
    downlink_malformed: int = 0
    downlink_out_of_scope: int = 0
    """From an address, or of a protocol, that is not this tunnel's to hear."""
    downlink_hop_limit: int = 0
    downlink_too_big: int = 0
    """Larger than the client's path takes."""
    icmp_errors_sent: int = 0
    """To clients, and to hosts whose packets did not reach a client."""
    icmp_errors_suppressed: int = 0
    """Beyond the rate."""


@dataclass(slots=True)
class FlowCounters:
    """Sockets towards targets, and the resolver."""

    flows_opened: int = 0
    flows_closed: int = 0
    flows_open: int = 0
    """A gauge."""
    connects_failed: int = 0
    """TCP targets that did not answer, or refused."""
    send_dropped: int = 0
    """Datagrams that the kernel would not take (EAGAIN, ENOBUFS)."""
    send_oversize: int = 0
    receive_errors: int = 0
    """Asynchronous errors: ICMP unreachable and the like."""
    gso_sends: int = 0
    gro_receives: int = 0
    lookups: int = 0
    lookups_failed: int = 0
    lookups_timed_out: int = 0


@dataclass(slots=True)
class TurnCounters:
    """STUN and TURN."""

    binding_requests: int = 0
    allocate_requests: int = 0
    other_requests: int = 0
    challenges: int = 0
    """Answers 401 and 438."""
    errors: int = 0
    """Other error answers."""
    malformed: int = 0
    """Messages that are no STUN, or of no use where they came; dropped."""
    over_budget: int = 0
    """Clients that have not shown who they are, beyond the budget of replies; dropped."""
    over_pending: int = 0
    """Requests beyond those that may wait for the gate or a peer; dropped."""
    allocations_opened: int = 0
    allocations_open: int = 0
    """A gauge."""
    moves: int = 0
    """RFC 8016."""
    redirects: int = 0
    """Answers 300."""
    icmp_reported: int = 0
    no_permission: int = 0
    """Datagrams without a permission for their peer, either way."""
    denied: int = 0
    """Datagrams to peers that the gate refuses, or that are this very host."""
    no_channel: int = 0
    """ChannelData on a number that is not bound, or cut short."""
    client_dropped: int = 0
    """Datagrams that the way to the client would not take."""
    peer_connections: int = 0
    """RFC 6062."""
    connections_opened: int = 0
    connections_open: int = 0
    """A gauge."""
    connections_failed: int = 0
    """TLS handshakes."""
    refused_total: int = 0
    refused_per_source: int = 0
    deadlines_passed: int = 0
    """Connections that held nothing for too long."""


@dataclass(slots=True)
class MeshCounters:
    """Ghostwire sessions and what passes between them."""

    sessions_opened: int = 0
    """Welcomed."""
    sessions_open: int = 0
    """A gauge."""
    handshakes_refused: int = 0
    """Proof, token or policy; and those that took too long."""
    sessions_replaced: int = 0
    """By a newer one of the same peer."""
    sessions_silent: int = 0
    """Ended because nothing was heard."""
    protocol_errors: int = 0
    """Sessions ended for frames that the protocol forbids."""
    channels_opened: int = 0
    channels_refused: int = 0
    """Peer unavailable or not allowed, host refused, too many."""
    relayed_datagrams: int = 0
    relayed_bytes: int = 0
    """Datagrams and stream bytes, as the receiver got them."""
    queue_dropped: int = 0
    """Datagrams that a slow receiver's full queue pushed out."""
    rate_dropped: int = 0
    oversize_dropped: int = 0
    """Datagrams that no frame of the receiver's carrier holds."""
    stray_dropped: int = 0
    """Datagrams for a channel that is not open."""


@dataclass(slots=True)
class DerpCounters:
    """DERP clients and what passes to them."""

    clients_opened: int = 0
    """Admitted."""
    clients_open: int = 0
    """A gauge."""
    homes: int = 0
    """A gauge: clients that say that this relay is their home."""
    handshakes_refused: int = 0
    """Box, mesh key, gate; and those that took too long, or came when too many were unproved."""
    clients_replaced: int = 0
    """By a newer connection of the same key."""
    clients_stalled: int = 0
    """Ended because they took nothing."""
    protocol_errors: int = 0
    """Ended for what DERP forbids."""
    packets: int = 0
    packet_bytes: int = 0
    """As the receivers got them."""
    forwarded_packets: int = 0
    """From other servers of the mesh."""
    unknown_dropped: int = 0
    """For a key that is not here, or that policy does not let the sender reach."""
    queue_dropped: int = 0
    """Pushed out of a slow receiver's queue."""
    rate_dropped: int = 0
    oversize_dropped: int = 0
    """From Ghostwire peers, larger than DERP takes."""
    early_dropped: int = 0
    """Sent before the gate had answered, beyond what is kept."""
    held_dropped: int = 0
    """For a Ghostwire peer that had not taken the call."""


@dataclass(slots=True)
class DerpMeshCounters:
    """The DERP servers that we dial, and what goes to their clients."""

    servers_dialled: int = 0
    """Attempts."""
    servers_failed: int = 0
    """Attempts and connections that ended but by our own wish."""
    servers_connected: int = 0
    """A gauge."""
    clients: int = 0
    """A gauge: clients of theirs, each counted at every server where it is."""
    clients_refused: int = 0
    """Clients of theirs beyond what we remember of one server."""
    packets: int = 0
    packet_bytes: int = 0
    """Handed to their connections."""
    absent: int = 0
    """Times that a server said it has no way to a client for which we brought a packet."""
    queue_dropped: int = 0
    """Pushed out of the queue to a slow server."""
    oversize_dropped: int = 0


@dataclass(slots=True)
class UpstreamCounters:
    """The way through an upstream relay."""

    connected: int = 0
    """Connections to it that were opened."""
    away: int = 0
    """Times that there was none, or that one could not be opened."""
    tunnels_opened: int = 0
    tunnels_refused: int = 0
    """By the upstream relay, or because it was away."""
    loops_refused: int = 0
    """Requests that had been here before, or had come through too many proxies."""
