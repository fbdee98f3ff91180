"""Metrics of a relay process: a scripted session moves them, and nobody's name is in them."""

from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from masque_relay.control.metrics import COUNTER_ROWS, GATE_ROWS, PREFIX, Kind
from masque_relay.wire.capsule import encode_capsule
from tests.integration.server.conftest import Connect, connect_udp, open_tunnel
from tests.support.h3_client import H3Client
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import wait_until

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
    "quic.handshakes_expired",  # takes the handshake deadline
    "quic.refused_total",  # caps: tests/unit/quic, tests/integration/quic
    "quic.refused_half_open",
    "quic.refused_per_source",
    "quic.retries_sent",
    "quic.retry_tokens_invalid",
    "quic.version_negotiations_sent",
    "quic.stateless_resets_sent",
    "quic.packets_unroutable",
    "quic.sends_dropped",  # needs a full kernel buffer
    "quic.quic_datagrams_oversize",  # needs a small path
    "quic.quic_datagrams_overflow",  # needs a slow reader
    "quic.packets_received_fast",  # depends on the cipher
    "quic.packets_sent_fast",
    "quic.path_mtu_probes_sent",
    "quic.path_mtu_raised",
    "quic.migrations",
    "http.responses_1xx",  # the relay sends none of its own
    "http.responses_3xx",
    "http.responses_5xx",
    "http.application_errors",  # needs a bug
    "http.early_datagrams_dropped",
    "http.capsule_datagrams_dropped",
    "tunnel.oversize_uplink_dropped",
    "tunnel.oversize_downlink_dropped",
    "flow.send_dropped",
    "flow.send_oversize",
    "flow.gso_sends",  # depends on the kernel
    "flow.gro_receives",
    "flow.lookups",  # needs a DNS server
    "flow.lookups_failed",
    "flow.lookups_timed_out",
    "audit_records_dropped",  # needs a full disk
    "http.requests_malformed",
}
"""Each is moved by a test of the part that counts it; what is not here must move in this file."""


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
    assert unmoved - MOVED_ELSEWHERE == set()
    text = "\n".join(str(key) for key in after)
    assert "dev" not in text.replace("device", "")
    assert str(echo_port) not in text
