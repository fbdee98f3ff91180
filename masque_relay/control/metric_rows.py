"""Owns the metric names of plain ints: which field of which counters is which metric."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a reader may do with the value."""

    COUNTER = "counter"
    """Only grows; exposed with the suffix ``_total``."""
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One plain int of contract/counters.py."""

    group: str
    """Which object: quic, http, tcp, tunnel, bind, ip, flow, turn, mesh, derp, derp_mesh,
    upstream."""
    field: str
    """The attribute of that object."""
    name: str
    """Without prefix and without ``_total``."""
    help: str
    kind: Kind = Kind.COUNTER
    labels: tuple[tuple[str, str], ...] = ()
    """Fixed label values, where several fields make one metric."""


def _row(group: str, field: str, name: str, text: str, /, **labels: str) -> MetricRow:
    return MetricRow(group=group, field=field, name=name, help=text, labels=tuple(labels.items()))


def _gauge(group: str, field: str, name: str, text: str, /) -> MetricRow:
    return MetricRow(group=group, field=field, name=name, help=text, kind=Kind.GAUGE)


def _ip_dropped(field: str, /, **labels: str) -> MetricRow:
    return _row("ip", field, "ip_packets_dropped", _IP_DROPPED, **labels)


_MESH_ENDED = "Sessions of mesh peers that the relay ended, by cause."
_MESH_DROPPED = "Datagrams between mesh peers that were not relayed, by cause."
_DERP_ENDED = "DERP connections that the relay ended, by cause."
_DERP_DROPPED = "Packets of DERP clients that were not relayed, by cause."
_DERP_MESH_FAILED = "Attempts and connections to DERP servers that ended but by our own wish."
_DERP_MESH_REFUSED = "Clients of one DERP server beyond what is remembered."
_DERP_MESH_ABSENT = "Times that a DERP server had no way to a client for which a packet came."
_UDP = "UDP datagrams of the QUIC endpoint, whatever they hold."
_IP_DROPPED = "IP packets of CONNECT-IP tunnels that were not forwarded, by cause."
_IP_REFUSED = "Address requests of CONNECT-IP clients that got nothing."
_IP_ICMP = "ICMP errors about packets of CONNECT-IP tunnels; suppressed: beyond the rate."
_UDP_BYTES = "UDP payload bytes of the QUIC endpoint."
_REFUSED = "New QUIC connections refused, by the cap that refused them."
_FRAMES = "DATAGRAM frames (RFC 9221) on QUIC connections."
_FAST_RECEIVED = "UDP datagrams of open connections that the fast path handled."
_SLOW_RECEIVED = "UDP datagrams of open connections that aioquic handled."
_FAST_SENT = "UDP datagrams of connections that the fast path built."
_SLOW_SENT = "UDP datagrams of connections that aioquic built."
_FRAMES_DROPPED = (
    "DATAGRAM frames not sent: too large for path or peer, or pushed out of the queue."
)
_RESPONSES = "HTTP responses by class of status."
_TUNNEL_DATAGRAMS = "Datagrams relayed; up is client to target."
_TUNNEL_BYTES = "Payload bytes of datagrams relayed; up is client to target."
_TUNNEL_STREAM_BYTES = "Payload bytes of TCP relayed; up is client to target."
_TUNNEL_DROPPED = "Datagrams that a tunnel dropped, by cause."
_BIND_DROPPED = "Datagrams of bound UDP tunnels that were dropped, by cause."
_BIND_CONTEXTS = "Contexts that clients of bound UDP asked for, by answer."
_HANDSHAKES = "QUIC handshakes that ended, by result."
_TLS_HANDSHAKES = "TLS handshakes over TCP that ended, by the HTTP version agreed or as failed."
_TCP_REFUSED = "New TCP connections refused, by the cap that refused them."
_TCP_CLOSED = "TCP connections that we closed, by cause."
_LOOKUPS_FAILED = "DNS look-ups that gave no address, by cause."

_RELAY_ROWS: tuple[MetricRow, ...] = (
    _row("quic", "datagrams_received", "quic_udp_datagrams", _UDP, direction="in"),
    _row("quic", "datagrams_sent", "quic_udp_datagrams", _UDP, direction="out"),
    _row("quic", "bytes_received", "quic_udp_bytes", _UDP_BYTES, direction="in"),
    _row("quic", "bytes_sent", "quic_udp_bytes", _UDP_BYTES, direction="out"),
    _row("quic", "connections_opened", "quic_connections_opened", "QUIC handshakes begun."),
    _row("quic", "handshakes_completed", "quic_handshakes", _HANDSHAKES, result="completed"),
    _row("quic", "handshakes_expired", "quic_handshakes", _HANDSHAKES, result="expired"),
    _row("quic", "connections_closed", "quic_connections_closed", "QUIC connections ended."),
    _gauge("quic", "connections_open", "quic_connections", "QUIC connections open now."),
    _gauge(
        "quic",
        "connections_half_open",
        "quic_connections_half_open",
        "QUIC connections whose handshake is not complete.",
    ),
    _gauge(
        "quic",
        "connections_fast",
        "quic_connections_fast_path",
        "QUIC connections that use the fast path for datagrams.",
    ),
    _gauge(
        "quic",
        "connections_accelerated",
        "quic_connections_accelerated",
        "QUIC connections whose datagrams go through the compiled accelerator.",
    ),
    _row("quic", "refused_total", "quic_refused", _REFUSED, cap="total"),
    _row("quic", "refused_half_open", "quic_refused", _REFUSED, cap="half_open"),
    _row("quic", "refused_per_source", "quic_refused", _REFUSED, cap="per_source"),
    _row("quic", "retries_sent", "quic_retries_sent", "Retry packets sent (RFC 9000 section 8.1)."),
    _row(
        "quic",
        "retry_tokens_invalid",
        "quic_retry_tokens_invalid",
        "Initials with a Retry token that is not ours, too old, or from another address.",
    ),
    _row(
        "quic",
        "version_negotiations_sent",
        "quic_version_negotiations_sent",
        "Version Negotiation packets sent.",
    ),
    _row(
        "quic",
        "stateless_resets_sent",
        "quic_stateless_resets_sent",
        "Stateless resets sent for connections that we do not know.",
    ),
    _row(
        "quic",
        "packets_unroutable",
        "quic_packets_unroutable",
        "Packets that belong to no connection and begin none.",
    ),
    _row(
        "quic",
        "packets_handed_over",
        "quic_packets_handed_over",
        "Packets given to the worker whose connection they may belong to.",
    ),
    _row(
        "quic",
        "packets_forged",
        "quic_packets_forged",
        "Packets with the ID of a connection that were not sealed with its keys.",
    ),
    _row(
        "quic",
        "packets_duplicate",
        "quic_packets_duplicate",
        "Packets that had been received before, or are too old to know.",
    ),
    _row(
        "quic",
        "sends_dropped",
        "quic_sends_dropped",
        "UDP datagrams that the kernel would not take from the QUIC endpoint.",
    ),
    _row("quic", "quic_datagrams_received", "quic_datagram_frames", _FRAMES, direction="in"),
    _row("quic", "quic_datagrams_sent", "quic_datagram_frames", _FRAMES, direction="out"),
    _row(
        "quic",
        "quic_datagrams_oversize",
        "quic_datagram_frames_dropped",
        _FRAMES_DROPPED,
        cause="oversize",
    ),
    _row(
        "quic",
        "quic_datagrams_overflow",
        "quic_datagram_frames_dropped",
        _FRAMES_DROPPED,
        cause="overflow",
    ),
    _row("quic", "packets_received_fast", "quic_fast_packets_received", _FAST_RECEIVED),
    _row("quic", "packets_received_slow", "quic_slow_packets_received", _SLOW_RECEIVED),
    _row("quic", "packets_sent_fast", "quic_fast_packets_sent", _FAST_SENT),
    _row("quic", "packets_sent_slow", "quic_slow_packets_sent", _SLOW_SENT),
    _row(
        "quic", "path_mtu_probes_sent", "quic_path_mtu_probes_sent", "Path MTU probes (RFC 8899)."
    ),
    _row("quic", "path_mtu_raised", "quic_path_mtu_raised", "Path MTU probes that got through."),
    _row("quic", "migrations", "quic_migrations", "Connections that went on from another address."),
    _row("http", "requests", "http_requests", "HTTP requests begun."),
    _row(
        "http",
        "requests_malformed",
        "http_requests_malformed",
        "Requests answered with a stream error because they were malformed.",
    ),
    _row("http", "responses_1xx", "http_responses", _RESPONSES, status="1xx"),
    _row("http", "responses_2xx", "http_responses", _RESPONSES, status="2xx"),
    _row("http", "responses_3xx", "http_responses", _RESPONSES, status="3xx"),
    _row("http", "responses_4xx", "http_responses", _RESPONSES, status="4xx"),
    _row("http", "responses_5xx", "http_responses", _RESPONSES, status="5xx"),
    _row("http", "streams_reset", "http_streams_reset", "Streams that the peer reset or stopped."),
    _row(
        "http",
        "application_errors",
        "http_application_errors",
        "Requests whose handler failed: a bug of ours; the log has the record.",
    ),
    _row(
        "http",
        "early_datagrams_dropped",
        "http_early_datagrams_dropped",
        "HTTP Datagrams before the request or its answer, beyond the bounded buffer.",
    ),
    _row(
        "http",
        "unread_datagrams_dropped",
        "http_unread_datagrams_dropped",
        "HTTP Datagrams that an ASGI application did not fetch before its queue was full.",
    ),
    _row(
        "http",
        "unknown_stream_datagrams",
        "http_unknown_stream_datagrams",
        "HTTP Datagrams for a stream that is closed or never began.",
    ),
    _row("http", "capsules_received", "http_capsules_received", "Capsules (RFC 9297) received."),
    _row(
        "http", "capsules_skipped", "http_capsules_skipped", "Capsules of an unknown type, skipped."
    ),
    _row(
        "http",
        "capsules_malformed",
        "http_capsules_malformed",
        "Malformed or oversize capsules; each ended its stream.",
    ),
    _row(
        "http",
        "capsule_datagrams_dropped",
        "http_capsule_datagrams_dropped",
        "DATAGRAM capsules not sent because the stream's buffer was full.",
    ),
    _row("http", "websockets_opened", "http_websockets_opened", "WebSockets accepted."),
    _row(
        "http",
        "websockets_failed",
        "http_websockets_failed",
        "WebSockets ended because the client broke the rules.",
    ),
    _row(
        "http",
        "websockets_silent",
        "http_websockets_silent",
        "WebSockets ended because the client did not answer a ping.",
    ),
    _row("tcp", "connections_opened", "tcp_connections_opened", "TCP connections accepted."),
    _row("tcp", "connections_closed", "tcp_connections_closed", "TCP connections ended."),
    _gauge("tcp", "connections_open", "tcp_connections", "TCP connections open now."),
    _gauge(
        "tcp",
        "connections_half_open",
        "tcp_connections_half_open",
        "TCP connections whose TLS handshake is not complete.",
    ),
    _row("tcp", "handshakes_h2", "tcp_handshakes", _TLS_HANDSHAKES, result="h2"),
    _row("tcp", "handshakes_h1", "tcp_handshakes", _TLS_HANDSHAKES, result="h1"),
    _row("tcp", "handshakes_other", "tcp_handshakes", _TLS_HANDSHAKES, result="other"),
    _row("tcp", "handshakes_failed", "tcp_handshakes", _TLS_HANDSHAKES, result="failed"),
    _row("tcp", "refused_total", "tcp_refused", _TCP_REFUSED, cap="total"),
    _row("tcp", "refused_half_open", "tcp_refused", _TCP_REFUSED, cap="half_open"),
    _row("tcp", "refused_per_source", "tcp_refused", _TCP_REFUSED, cap="per_source"),
    _row(
        "tcp",
        "accepts_failed",
        "tcp_accepts_failed",
        "Times the kernel could not hand over a TCP connection: out of file descriptors.",
    ),
    _row("tcp", "deadlines_passed", "tcp_closed", _TCP_CLOSED, cause="deadline"),
    _row("tcp", "floods_stopped", "tcp_closed", _TCP_CLOSED, cause="flood"),
    _row("tcp", "protocol_errors", "tcp_closed", _TCP_CLOSED, cause="protocol_error"),
    _row("tunnel", "uplink_datagrams", "tunnel_datagrams", _TUNNEL_DATAGRAMS, direction="up"),
    _row("tunnel", "downlink_datagrams", "tunnel_datagrams", _TUNNEL_DATAGRAMS, direction="down"),
    _row("tunnel", "uplink_bytes", "tunnel_bytes", _TUNNEL_BYTES, direction="up"),
    _row("tunnel", "downlink_bytes", "tunnel_bytes", _TUNNEL_BYTES, direction="down"),
    _row(
        "tunnel",
        "stream_uplink_bytes",
        "tunnel_stream_bytes",
        _TUNNEL_STREAM_BYTES,
        direction="up",
    ),
    _row(
        "tunnel",
        "stream_downlink_bytes",
        "tunnel_stream_bytes",
        _TUNNEL_STREAM_BYTES,
        direction="down",
    ),
    _row(
        "tunnel",
        "unknown_context_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="unknown_context",
    ),
    _row("tunnel", "rate_dropped", "tunnel_datagrams_dropped", _TUNNEL_DROPPED, cause="rate"),
    _row(
        "tunnel",
        "oversize_uplink_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="oversize_up",
    ),
    _row(
        "tunnel",
        "oversize_downlink_dropped",
        "tunnel_datagrams_dropped",
        _TUNNEL_DROPPED,
        cause="oversize_down",
    ),
    _gauge("ip", "addresses_assigned", "ip_addresses", "Addresses of the pools that tunnels hold."),
    _row("ip", "addresses_refused", "ip_addresses_refused", _IP_REFUSED),
    _ip_dropped("uplink_malformed", direction="up", cause="malformed"),
    _ip_dropped("uplink_bad_source", direction="up", cause="bad_source"),
    _ip_dropped("uplink_no_route", direction="up", cause="no_route"),
    _ip_dropped("uplink_prohibited", direction="up", cause="prohibited"),
    _ip_dropped("uplink_wrong_protocol", direction="up", cause="wrong_protocol"),
    _ip_dropped("uplink_hop_limit", direction="up", cause="hop_limit"),
    _ip_dropped("uplink_too_big", direction="up", cause="too_big"),
    _ip_dropped("uplink_egress_full", direction="up", cause="egress_full"),
    _ip_dropped("downlink_malformed", direction="down", cause="malformed"),
    _ip_dropped("downlink_out_of_scope", direction="down", cause="out_of_scope"),
    _ip_dropped("downlink_hop_limit", direction="down", cause="hop_limit"),
    _ip_dropped("downlink_too_big", direction="down", cause="too_big"),
    _row("ip", "icmp_errors_sent", "ip_icmp_errors", _IP_ICMP, result="sent"),
    _row("ip", "icmp_errors_suppressed", "ip_icmp_errors", _IP_ICMP, result="suppressed"),
    _row("bind", "contexts_opened", "bind_contexts", _BIND_CONTEXTS, result="accepted"),
    _row("bind", "contexts_rejected", "bind_contexts", _BIND_CONTEXTS, result="rejected"),
    _row("bind", "denied_dropped", "bind_datagrams_dropped", _BIND_DROPPED, cause="denied"),
    _row("bind", "unasked_dropped", "bind_datagrams_dropped", _BIND_DROPPED, cause="unasked"),
    _row(
        "bind", "uncontacted_dropped", "bind_datagrams_dropped", _BIND_DROPPED, cause="uncontacted"
    ),
    _row(
        "bind",
        "unregistered_dropped",
        "bind_datagrams_dropped",
        _BIND_DROPPED,
        cause="unregistered",
    ),
    _row(
        "bind", "unreachable_dropped", "bind_datagrams_dropped", _BIND_DROPPED, cause="unreachable"
    ),
    _row("bind", "malformed_dropped", "bind_datagrams_dropped", _BIND_DROPPED, cause="malformed"),
    _row("flow", "flows_opened", "flows_opened", "Sockets opened towards targets."),
    _row("flow", "flows_closed", "flows_closed", "Sockets towards targets closed."),
    _gauge("flow", "flows_open", "flows", "Sockets towards targets open now."),
    _row(
        "flow",
        "connects_failed",
        "flow_connects_failed",
        "TCP targets that refused, could not be reached or did not answer in time.",
    ),
    _row(
        "flow",
        "send_dropped",
        "flow_sends_dropped",
        "Datagrams towards targets that the kernel would not take.",
    ),
    _row(
        "flow",
        "send_oversize",
        "flow_sends_oversize",
        "Datagrams towards targets that were larger than the path takes.",
    ),
    _row(
        "flow",
        "receive_errors",
        "flow_receive_errors",
        "Asynchronous errors of target sockets: ICMP unreachable and the like.",
    ),
    _row("flow", "gso_sends", "flow_gso_sends", "Sends of several datagrams in one call."),
    _row("flow", "gro_receives", "flow_gro_receives", "Receives that brought several datagrams."),
    _row("flow", "lookups", "dns_lookups", "DNS look-ups begun."),
    _row("flow", "lookups_failed", "dns_lookups_failed", _LOOKUPS_FAILED, cause="error"),
    _row("flow", "lookups_timed_out", "dns_lookups_failed", _LOOKUPS_FAILED, cause="timeout"),
)

_TURN_REQUESTS = "STUN and TURN requests in good form, by method."
_TURN_DROPPED = "Messages of STUN and TURN clients that went unanswered, by cause."
_TURN_DATAGRAMS_DROPPED = "Datagrams of TURN allocations that were not passed on, by cause."
_TURN_REFUSED = "Connections of TURN clients refused, by the cap that refused them."

_TURN_ROWS: tuple[MetricRow, ...] = (
    _row("turn", "binding_requests", "turn_requests", _TURN_REQUESTS, method="binding"),
    _row("turn", "allocate_requests", "turn_requests", _TURN_REQUESTS, method="allocate"),
    _row("turn", "other_requests", "turn_requests", _TURN_REQUESTS, method="other"),
    _row("turn", "challenges", "turn_challenges", "Answers 401 and 438 to TURN clients."),
    _row("turn", "errors", "turn_errors", "Other error answers to STUN and TURN clients."),
    _row("turn", "malformed", "turn_messages_dropped", _TURN_DROPPED, cause="malformed"),
    _row("turn", "over_budget", "turn_messages_dropped", _TURN_DROPPED, cause="budget"),
    _row("turn", "over_pending", "turn_messages_dropped", _TURN_DROPPED, cause="pending"),
    _row("turn", "allocations_opened", "turn_allocations_opened", "TURN allocations made."),
    _gauge("turn", "allocations_open", "turn_allocations", "TURN allocations open now."),
    _row("turn", "moves", "turn_moves", "TURN allocations that went on from another address."),
    _row("turn", "redirects", "turn_redirects", "TURN clients sent to another relay."),
    _row("turn", "icmp_reported", "turn_icmp_reported", "ICMP errors told to TURN clients."),
    _row(
        "turn",
        "no_permission",
        "turn_datagrams_dropped",
        _TURN_DATAGRAMS_DROPPED,
        cause="no_permission",
    ),
    _row("turn", "denied", "turn_datagrams_dropped", _TURN_DATAGRAMS_DROPPED, cause="denied"),
    _row("turn", "no_channel", "turn_datagrams_dropped", _TURN_DATAGRAMS_DROPPED, cause="channel"),
    _row(
        "turn", "client_dropped", "turn_datagrams_dropped", _TURN_DATAGRAMS_DROPPED, cause="client"
    ),
    _row("turn", "peer_connections", "turn_peer_connections", "TCP connections with peers made."),
    _row("turn", "connections_opened", "turn_connections_opened", "TCP and TLS clients taken."),
    _gauge("turn", "connections_open", "turn_connections", "TCP and TLS clients connected."),
    _row("turn", "connections_failed", "turn_handshakes_failed", "TLS handshakes not completed."),
    _row("turn", "refused_total", "turn_connections_refused", _TURN_REFUSED, cap="total"),
    _row("turn", "refused_per_source", "turn_connections_refused", _TURN_REFUSED, cap="source"),
    _row("turn", "deadlines_passed", "turn_connections_idle", "Unused connections closed."),
)

_MESH_ROWS: tuple[MetricRow, ...] = (
    _row("upstream", "connected", "upstream_connections_opened", "To the upstream relay."),
    _row("upstream", "away", "upstream_failures", "Times that the upstream relay was away."),
    _row("upstream", "tunnels_opened", "upstream_tunnels_opened", "Tunnels with a second hop."),
    _row(
        "upstream",
        "tunnels_refused",
        "upstream_tunnels_refused",
        "Tunnels that the upstream relay did not open.",
    ),
    _row("upstream", "loops_refused", "upstream_loops_refused", "Requests that went in circles."),
    _row("mesh", "sessions_opened", "mesh_sessions_opened", "Mesh peers welcomed."),
    _gauge("mesh", "sessions_open", "mesh_sessions", "Mesh peers here now."),
    _row("mesh", "handshakes_refused", "mesh_handshakes_refused", "Mesh peers not let in."),
    _row("mesh", "sessions_replaced", "mesh_sessions_ended", _MESH_ENDED, cause="replaced"),
    _row("mesh", "sessions_silent", "mesh_sessions_ended", _MESH_ENDED, cause="silent"),
    _row("mesh", "protocol_errors", "mesh_sessions_ended", _MESH_ENDED, cause="protocol"),
    _row("mesh", "channels_opened", "mesh_channels_opened", "Channels between mesh peers."),
    _row("mesh", "channels_refused", "mesh_channels_refused", "Channels of mesh peers refused."),
    _row("mesh", "relayed_datagrams", "mesh_datagrams", "Datagrams relayed to mesh peers."),
    _row("mesh", "relayed_bytes", "mesh_bytes", "Payload bytes relayed to mesh peers."),
    _row("mesh", "queue_dropped", "mesh_datagrams_dropped", _MESH_DROPPED, cause="queue"),
    _row("mesh", "rate_dropped", "mesh_datagrams_dropped", _MESH_DROPPED, cause="rate"),
    _row("mesh", "oversize_dropped", "mesh_datagrams_dropped", _MESH_DROPPED, cause="oversize"),
    _row("mesh", "stray_dropped", "mesh_datagrams_dropped", _MESH_DROPPED, cause="no_channel"),
)

_DERP_ROWS: tuple[MetricRow, ...] = (
    _row("derp", "clients_opened", "derp_clients_opened", "DERP clients admitted."),
    _gauge("derp", "clients_open", "derp_clients", "DERP clients here now."),
    _gauge("derp", "homes", "derp_home_clients", "DERP clients whose home this relay is."),
    _row("derp", "handshakes_refused", "derp_handshakes_refused", "DERP clients not let in."),
    _row("derp", "clients_replaced", "derp_clients_ended", _DERP_ENDED, cause="replaced"),
    _row("derp", "clients_stalled", "derp_clients_ended", _DERP_ENDED, cause="stalled"),
    _row("derp", "protocol_errors", "derp_clients_ended", _DERP_ENDED, cause="protocol"),
    _row("derp", "packets", "derp_packets", "Packets relayed to DERP clients."),
    _row("derp", "packet_bytes", "derp_bytes", "Bytes of packets relayed to DERP clients."),
    _row(
        "derp",
        "forwarded_packets",
        "derp_packets_forwarded",
        "Packets that other servers of the mesh brought.",
    ),
    _row("derp", "unknown_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="unknown_dest"),
    _row("derp", "queue_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="queue"),
    _row("derp", "rate_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="rate"),
    _row("derp", "oversize_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="oversize"),
    _row("derp", "early_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="early"),
    _row("derp", "held_dropped", "derp_packets_dropped", _DERP_DROPPED, cause="not_taken"),
    _row("derp_mesh", "servers_dialled", "derp_mesh_dials", "Attempts to reach a DERP server."),
    _row("derp_mesh", "servers_failed", "derp_mesh_failures", _DERP_MESH_FAILED),
    _gauge("derp_mesh", "servers_connected", "derp_mesh_servers", "DERP servers connected to."),
    _gauge("derp_mesh", "clients", "derp_mesh_clients", "DERP clients at those servers."),
    _row("derp_mesh", "clients_refused", "derp_mesh_clients_refused", _DERP_MESH_REFUSED),
    _row("derp_mesh", "packets", "derp_mesh_packets", "Packets passed on to those servers."),
    _row("derp_mesh", "packet_bytes", "derp_mesh_bytes", "Bytes of such packets."),
    _row("derp_mesh", "absent", "derp_mesh_absent", _DERP_MESH_ABSENT),
    _row("derp_mesh", "queue_dropped", "derp_mesh_packets_dropped", _DERP_DROPPED, cause="queue"),
    _row(
        "derp_mesh",
        "oversize_dropped",
        "derp_mesh_packets_dropped",
        _DERP_DROPPED,
        cause="oversize",
    ),
)

COUNTER_ROWS: tuple[MetricRow, ...] = (
    *_RELAY_ROWS,
    *_TURN_ROWS,
    *_MESH_ROWS,
    *_DERP_ROWS,
)
"""Every field of contract/counters.py, once; tests/unit/control/test_metrics.py checks that."""
