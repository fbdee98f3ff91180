"""Metrics of a relay process: a scripted session moves them, and nobody's name is in them."""

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from masque_relay.control.metrics import COUNTER_ROWS, GATE_ROWS, PREFIX, Kind
from masque_relay.wire.capsule import encode_capsule
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.h3_client import H3Client
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[3]

POLICY = """
[limits]
rate_datagrams_per_s = 20
burst_datagrams = 20

[[rule]]
name = "echo"
action = "allow"
who = ["dev"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""

MOVED_ELSEWHERE = {
    "quic.packets_forged": "tests/unit/quic/test_dropped_packets.py",
    "quic.packets_duplicate": "tests/unit/quic/test_dropped_packets.py",
    "quic.connections_accelerated": "tests/unit/quic/test_table.py",
    "upstream.connected": "tests/integration/server/test_chain.py",
    "upstream.away": "tests/integration/server/test_chain.py",
    "upstream.tunnels_opened": "tests/integration/server/test_chain.py",
    "upstream.tunnels_refused": "tests/integration/server/test_chain.py",
    "upstream.loops_refused": "tests/integration/server/test_chain.py",
    "mesh.sessions_opened": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.sessions_open": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.handshakes_refused": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.sessions_replaced": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.sessions_silent": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.protocol_errors": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.channels_opened": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.channels_refused": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.relayed_datagrams": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.relayed_bytes": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.queue_dropped": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.rate_dropped": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.oversize_dropped": "tests/unit/tunnels/test_ghostwire.py",
    "mesh.stray_dropped": "tests/unit/tunnels/test_ghostwire.py",
    "derp.clients_opened": "tests/unit/fallbacks/derp/test_session.py",
    "derp.clients_open": "tests/unit/fallbacks/derp/test_session.py",
    "derp.homes": "tests/unit/fallbacks/derp/test_session.py",
    "derp.handshakes_refused": "tests/unit/fallbacks/derp/test_session.py",
    "derp.clients_replaced": "tests/unit/fallbacks/derp/test_session.py",
    "derp.clients_stalled": "tests/unit/fallbacks/derp/test_session.py",
    "derp.protocol_errors": "tests/unit/fallbacks/derp/test_session.py",
    "derp.packets": "tests/unit/fallbacks/derp/test_session.py",
    "derp.packet_bytes": "tests/unit/fallbacks/derp/test_session.py",
    "derp.forwarded_packets": "tests/unit/fallbacks/derp/test_session.py",
    "derp.unknown_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp.queue_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp.rate_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp.oversize_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp.early_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp.held_dropped": "tests/unit/fallbacks/derp/test_session.py",
    "derp_mesh.servers_dialled": "tests/integration/derp/test_region.py",
    "derp_mesh.servers_failed": "tests/integration/derp/test_region.py",
    "derp_mesh.servers_connected": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.clients": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.clients_refused": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.packets": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.packet_bytes": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.absent": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.queue_dropped": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "derp_mesh.oversize_dropped": "tests/unit/fallbacks/derp/test_mesh_client.py",
    "quic.handshakes_expired": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.refused_total": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.refused_half_open": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.refused_per_source": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.retries_sent": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.retry_tokens_invalid": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.version_negotiations_sent": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.stateless_resets_sent": "tests/integration/quic/test_endpoint.py",
    "quic.packets_unroutable": "tests/integration/quic/test_endpoint_abuse.py",
    "quic.packets_handed_over": "tests/unit/quic/test_lobby.py",
    "quic.sends_dropped": "tests/integration/quic/test_endpoint.py",
    "quic.quic_datagrams_oversize": "tests/unit/quic/test_datagrams.py",
    "quic.quic_datagrams_overflow": "tests/unit/quic/test_datagrams.py",
    "quic.packets_received_fast": "tests/unit/quic/test_fastpath_equivalence.py",
    "quic.packets_sent_fast": "tests/unit/quic/test_fastpath_equivalence.py",
    "quic.path_mtu_probes_sent": "tests/unit/quic/test_hardened.py",
    "quic.path_mtu_raised": "tests/unit/quic/test_hardened.py",
    "quic.migrations": "tests/integration/quic/test_endpoint.py",
    "http.responses_1xx": "tests/unit/http/test_stream.py",
    "http.responses_3xx": "tests/unit/http/test_stream.py",
    "http.responses_5xx": "tests/unit/http/test_stream.py",
    "http.application_errors": "tests/unit/http/test_splice.py",
    "http.early_datagrams_dropped": "tests/unit/http/test_connection.py",
    "http.unread_datagrams_dropped": "tests/unit/http/test_inbox.py",
    "http.capsule_datagrams_dropped": "tests/unit/http/test_carrier.py",
    "http.websockets_opened": "tests/unit/http/test_websocket_stream.py",
    "http.websockets_failed": "tests/unit/http/test_websocket_stream.py",
    "http.websockets_silent": "tests/unit/http/test_websocket_stream.py",
    "tunnel.oversize_uplink_dropped": "tests/unit/tunnels/test_connect_udp.py",
    "tunnel.oversize_downlink_dropped": "tests/unit/tunnels/test_connect_udp.py",
    "bind.contexts_opened": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.contexts_rejected": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.denied_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.unasked_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.uncontacted_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.unregistered_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.unreachable_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "bind.malformed_dropped": "tests/unit/tunnels/test_connect_udp_bind.py",
    "ip.addresses_assigned": "tests/unit/tunnels/test_connect_ip.py",
    "ip.addresses_refused": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_malformed": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_bad_source": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_no_route": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_prohibited": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_wrong_protocol": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_hop_limit": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_too_big": "tests/unit/tunnels/test_connect_ip.py",
    "ip.uplink_egress_full": "tests/unit/tunnels/test_connect_ip.py",
    "ip.downlink_malformed": "tests/unit/tunnels/test_connect_ip.py",
    "ip.downlink_out_of_scope": "tests/unit/tunnels/test_connect_ip.py",
    "ip.downlink_hop_limit": "tests/unit/tunnels/test_connect_ip.py",
    "ip.downlink_too_big": "tests/unit/tunnels/test_connect_ip.py",
    "ip.icmp_errors_sent": "tests/unit/tunnels/test_ip_own.py",
    "ip.icmp_errors_suppressed": "tests/unit/tunnels/test_ip_own.py",
    "turn.binding_requests": "tests/unit/fallbacks/turn/test_session.py",
    "turn.allocate_requests": "tests/unit/fallbacks/turn/test_session.py",
    "turn.other_requests": "tests/unit/fallbacks/turn/test_session.py",
    "turn.challenges": "tests/unit/fallbacks/turn/test_authentication.py",
    "turn.errors": "tests/unit/fallbacks/turn/test_session.py",
    "turn.malformed": "tests/unit/fallbacks/turn/test_session.py",
    "turn.over_budget": "tests/unit/fallbacks/turn/test_session.py",
    "turn.over_pending": "tests/unit/fallbacks/turn/test_session.py",
    "turn.allocations_opened": "tests/unit/fallbacks/turn/test_allocate.py",
    "turn.allocations_open": "tests/unit/fallbacks/turn/test_allocate.py",
    "turn.moves": "tests/unit/fallbacks/turn/test_mobility.py",
    "turn.redirects": "tests/unit/fallbacks/turn/test_allocate.py",
    "turn.icmp_reported": "tests/unit/fallbacks/turn/test_data_path.py",
    "turn.no_permission": "tests/unit/fallbacks/turn/test_data_path.py",
    "turn.denied": "tests/unit/fallbacks/turn/test_data_path.py",
    "turn.no_channel": "tests/unit/fallbacks/turn/test_data_path.py",
    "turn.client_dropped": "tests/unit/fallbacks/turn/test_data_path.py",
    "turn.peer_connections": "tests/unit/fallbacks/turn/test_tcp_relay.py",
    "turn.connections_opened": "tests/security/test_turn.py",
    "turn.connections_open": "tests/security/test_turn.py",
    "turn.connections_failed": "tests/security/test_turn.py",
    "turn.refused_total": "tests/security/test_turn.py",
    "turn.refused_per_source": "tests/security/test_turn.py",
    "turn.deadlines_passed": "tests/security/test_turn.py",
    "tcp.handshakes_other": "tests/integration/turn/test_turn_server.py",
    "flow.send_dropped": "tests/unit/dataplane/test_udp_flow.py",
    "flow.connects_failed": "tests/integration/dataplane/test_tcp_flows.py",
    "tunnel.stream_uplink_bytes": "tests/unit/tunnels/test_connect_tcp.py",
    "tunnel.stream_downlink_bytes": "tests/unit/tunnels/test_connect_tcp.py",
    "flow.send_oversize": "tests/unit/dataplane/test_offload.py",
    "flow.gso_sends": "tests/integration/dataplane/test_sockets.py",
    "flow.gro_receives": "tests/integration/dataplane/test_sockets.py",
    "flow.lookups": "tests/unit/dataplane/test_resolver.py",
    "flow.lookups_failed": "tests/unit/dataplane/test_resolver.py",
    "flow.lookups_timed_out": "tests/unit/dataplane/test_resolver.py",
    "http.requests_malformed": "tests/security/test_bad_input.py",
    "tcp.connections_opened": "tests/integration/http/test_tcp_front.py",
    "tcp.connections_closed": "tests/integration/http/test_tcp_front.py",
    "tcp.handshakes_h2": "tests/integration/http/test_tcp_front.py",
    "tcp.handshakes_h1": "tests/integration/http/test_tcp_front.py",
    "tcp.handshakes_failed": "tests/integration/http/test_tcp_front.py",
    "tcp.refused_total": "tests/integration/http/test_tcp_front.py",
    "tcp.refused_half_open": "tests/integration/http/test_tcp_front.py",
    "tcp.refused_per_source": "tests/integration/http/test_tcp_front.py",
    "tcp.accepts_failed": "tests/integration/http/test_tcp_front.py",
    "tcp.deadlines_passed": "tests/integration/http/test_tcp_front.py",
    "tcp.floods_stopped": "tests/integration/http/test_tcp_front.py",
    "tcp.protocol_errors": "tests/integration/http/test_tcp_front.py",
    "audit_records_dropped": "tests/unit/control/test_audit.py",
}
"""Moved by a test of the part that counts it: a test below holds each file to its word. What is not
here must move in this file."""

COUNTED_AS = {
    "audit_records_dropped": "dropped_count",
    "upstream.connected": "upstream_connections_opened",
    "upstream.away": "upstream_failures",
    "upstream.tunnels_opened": "upstream_tunnels_opened",
    "upstream.tunnels_refused": "upstream_tunnels_refused",
    "upstream.loops_refused": "upstream_loops_refused",
}
"""Where a metric's own name is not the name that its test asserts on."""


def scrape(relay: ManagedRelay) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = httpx.get(f"{relay.ready['admin']}/metrics", trust_env=False, timeout=10)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def opened(client: H3Client, relay: ManagedRelay, port: int) -> int:
    stream_id, answer = await client.request(connect_udp(relay, port))
    assert answer.status == 200, answer
    return stream_id


@pytest.mark.parametrize(("metric", "test_file"), MOVED_ELSEWHERE.items())
def test_a_metric_that_is_moved_elsewhere_is_asserted_there(metric: str, test_file: str) -> None:
    name = COUNTED_AS.get(metric, metric.partition(".")[2])
    asserted = re.compile(rf"(assert|eventually).*\b{name}\"?\)? (==|>|>=) [^0]")
    assert asserted.search((ROOT / test_file).read_text()), f"{test_file} asserts no {name}"


async def test_a_session_moves_every_metric_that_a_session_can_move(
    tmp_path: Path, connect: Connect, echo_port: int
) -> None:
    with managed_relay(tmp_path, policy=POLICY) as relay:
        before = scrape(relay)
        client = await connect(relay)
        await client.request(
            [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", b"/"),
            ],
            end=True,
        )
        stream_id = await open_tunnel(client, relay, echo_port)
        session = client.session
        session.send_datagrams(stream_id, b"\x40\x63", [b"unknown context"])
        session.send_datagrams(stream_id, b"\0", [b"beyond the rate"] * 64)
        session.quic.send_datagrams(b"\0", [b"\0for the request that is over"])
        session.send_data(stream_id, encode_capsule(0, b"\0in a capsule"), end_stream=False)
        session.send_data(stream_id, encode_capsule(0x1F * 7 + 0x17, b"skip me"), end_stream=False)
        closed_id = await opened(client, relay, echo_port)
        session.reset(closed_id, 0x10C)
        broken_id = await opened(client, relay, echo_port)
        session.send_data(broken_id, b"\x00\xbf\xff\xff\xff", end_stream=False)
        await client.finished(broken_id)
        refused_port_id = await opened(client, relay, 9)  # discard: nobody is there
        session.send_datagrams(refused_port_id, b"\0", [b"x"])
        _, denied = await client.request(connect_udp(relay, echo_port, token="nonsense"))
        assert denied.status in {401, 407}
        with relay.admin() as admin:
            admin.reload()
        session.close(0x100, "done")
        await client.until(lambda: client.lost)
        wait_until(
            lambda: scrape(relay)[f"{PREFIX}quic_connections_closed_total", ()] or None,
            deadline_s=30,
            what="the connection is closed",
        )
        after = scrape(relay)

    unmoved = set()
    for row in COUNTER_ROWS:
        suffix = "_total" if row.kind is Kind.COUNTER else ""
        key = (f"{PREFIX}{row.name}{suffix}", tuple(sorted(row.labels)))
        if row.kind is Kind.COUNTER and after[key] == before[key]:
            unmoved.add(f"{row.group}.{row.field}")
    for gate_row in GATE_ROWS:
        suffix = "_total" if gate_row.kind is Kind.COUNTER else ""
        name = f"{PREFIX}{gate_row.name}{suffix}"
        total = {
            moment: sum(value for key, value in samples.items() if key[0] == name)
            for moment, samples in (("before", before), ("after", after))
        }
        if gate_row.kind is Kind.COUNTER and total["after"] == total["before"]:
            unmoved.add(gate_row.name)
    assert unmoved - MOVED_ELSEWHERE.keys() == set()
    text = "\n".join(str(key) for key in after)
    assert "dev" not in text.replace("device", "")
    assert str(echo_port) not in text
