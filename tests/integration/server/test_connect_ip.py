"""CONNECT-IP of a whole relay process: configuration, status, sessions, kick, reload."""

import json
import subprocess
import sys
from pathlib import Path

from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import CapsuleDecoder
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ROUTE_ADVERTISEMENT,
    decode_address_assign,
    decode_routes,
)
from masque_relay.wire.connect_ip_dns import DNS_ASSIGN
from tests.integration.server.conftest import Connect
from tests.support.h3_client import Exchange
from tests.support.ip_packets import icmp_kind, ping4, ping6
from tests.support.managed_relay import ManagedRelay, managed_relay

CONFIG = """
[connect_ip]
enabled = true
egress = "loop"
pools = ["10.71.0.0/24", "fd71::/64"]
templates = ["/vpn"]
dns_servers = ["10.71.0.53"]
"""
POLICY = """
[[rule]]
name = "vpn"
action = "allow"
who = ["*"]
methods = ["connect-ip"]
targets = ["10.71.0.0/24:*", "[fd71::/64]:*"]
"""


def head(relay: ManagedRelay) -> Headers:
    return [
        (b":method", b"CONNECT"),
        (b":protocol", b"connect-ip"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", b"/vpn"),
        (b"capsule-protocol", b"?1"),
        (b"authorization", f"Bearer {relay.token}".encode()),
    ]


def capsules(exchange: Exchange) -> dict[int, bytes]:
    """The latest value of each type."""
    decoder = CapsuleDecoder(
        max_capsule_bytes=70_000, known_types={ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT, DNS_ASSIGN}
    )
    return {capsule.type: capsule.value for capsule in decoder.feed(bytes(exchange.data))}


def relay_command(relay: ManagedRelay, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "masque_relay.cli.main", "relay", *arguments,
         "--state-dir", str(relay.state.directory)],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip


async def test_a_tunnel_of_a_configured_relay_from_its_opening_to_a_kick(
    tmp_path: Path, connect: Connect
) -> None:
    with managed_relay(tmp_path, policy=POLICY, config=CONFIG) as relay:
        client = await connect(relay)
        stream_id, answer = await client.request(head(relay))
        assert answer.status == 200
        await client.until(lambda: DNS_ASSIGN in capsules(answer))
        ipv4, ipv6 = (
            str(entry.address) for entry in decode_address_assign(capsules(answer)[ADDRESS_ASSIGN])
        )

        for packet, kind in (
            (ping4(ipv4, "10.71.0.200"), (0, 0)),
            # 1,280 bytes fit once path MTU discovery has done its work.
            (ping6(ipv6, "fd71::200", bytes(1_232)), (129, 0)),
        ):
            answer.datagrams.clear()
            for _ in range(50):
                client.session.send_datagrams(stream_id, b"\0", [packet])
                try:
                    await client.until(lambda: answer.datagrams, 0.2)
                except TimeoutError:
                    continue
                break
            assert icmp_kind(answer.datagrams[0][1:]) == kind

        with relay.admin() as admin:
            assert admin.status()["ip_addresses"] == 2
            (session,) = admin.tunnels()
            assert (session["method"], session["target"]) == ("connect-ip", "*")
            relay.state.policy_file.write_text(POLICY.replace(', "[fd71::/64]:*"', ""))
            admin.reload()
            await client.until(
                lambda: len(decode_routes(capsules(answer)[ROUTE_ADVERTISEMENT])) == 1
            )
            admin.kick(str(session["lease_id"]))
        await client.finished(stream_id)
        assert json.loads(relay_command(relay, "status", "--json"))["ip_addresses"] == 0


async def test_it_is_off_unless_it_is_switched_on(tmp_path: Path, connect: Connect) -> None:
    with managed_relay(tmp_path, policy=POLICY) as relay:
        client = await connect(relay)
        _, answer = await client.request(head(relay))
        assert answer.status == 501
