"""RFC 9484 through a whole relay; clauses of one component are marked on that component's tests."""

from pathlib import Path

import pytest

from masque_relay.contract.lease import TunnelLimits
from masque_relay.wire.connect_ip import ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT
from tests.support.ip_packets import icmp_kind, ipv6, ping4, udp
from tests.support.ip_rig import (
    ANY_SCOPE,
    IP_POLICY,
    NOBODY4,
    NOBODY6,
    VERSIONS,
    open_ip,
    running_ip_relay,
)
from tests.support.relay import audit_end
from tests.support.tcp_clients import H1Client


class TestRequest:
    """Sections 4.2 to 4.5."""

    @pytest.mark.clause("RFC 9484", "4.5", "MUST", "answer 2xx with the capsule protocol")
    @pytest.mark.parametrize("version", ["h3", "h2"])
    async def test_extended_connect_is_answered_2xx_with_capsules(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await open_ip(world.relay, version)
            assert (client.status, client.fields["capsule-protocol"]) == (200, "?1")
            assert client.fields.keys().isdisjoint(
                {"content-length", "content-type", "transfer-encoding"}
            )

    @pytest.mark.clause("RFC 9484", "4.3", "MUST", "answer 101 with one Upgrade and capsules")
    async def test_upgrade_is_answered_101(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await H1Client.connect(
                world.relay.https_address, world.relay.ca_pem, "http/1.1"
            )
            head = await client.request(
                f"GET https://localhost{ANY_SCOPE} HTTP/1.1\r\nHost: localhost\r\n"
                "Connection: upgrade\r\nUpgrade: connect-ip\r\nCapsule-Protocol: ?1\r\n"
                f"Authorization: Bearer {world.relay.token()}\r\n\r\n".encode()
            )
            assert head.status == 101
            assert head.fields["connection"].lower() == "upgrade"
            assert head.fields["upgrade"] == "connect-ip"
            assert head.fields["capsule-protocol"] == "?1"
            await client.close()

    @pytest.mark.clause("RFC 9484", "4.2", "MUST", "an error for a malformed Upgrade request")
    @pytest.mark.parametrize(
        "head",
        [
            f"POST {ANY_SCOPE} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n",
            f"GET {ANY_SCOPE} HTTP/1.1\r\nConnection: Upgrade\r\n",
            f"GET {ANY_SCOPE} HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: Upgrade\r\n",
            f"GET {ANY_SCOPE} HTTP/1.1\r\nHost: localhost\r\n",
        ],
        ids=["method", "no host", "two hosts", "no connection"],
    )
    async def test_malformed_upgrade_is_an_error(self, tmp_path: Path, head: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await H1Client.connect(
                world.relay.https_address, world.relay.ca_pem, "http/1.1"
            )
            authorization = f"Authorization: Bearer {world.relay.token()}\r\n"
            answer = await client.request(
                f"{head}Upgrade: connect-ip\r\n{authorization}\r\n".encode()
            )
            assert 400 <= answer.status < 600
            assert world.pool.assigned_count == 0
            await client.close()

    @pytest.mark.clause("RFC 9484", "11", "SHOULD", "serve authenticated users only")
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_nobody_is_served_without_a_credential(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            assert (await open_ip(world.relay, version, token="")).status == 401

    @pytest.mark.clause("RFC 9484", "3", "SHOULD", "serve the default template")
    async def test_the_default_template_is_served(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            path = "/.well-known/masque/ip/%2A/%2A/"
            assert (await open_ip(world.relay, path=path)).status == 200


class TestTunnel:
    @pytest.mark.clause("RFC 9484", "4.6", "SHOULD", "tell the client the routes of its scope")
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_addresses_and_routes_come_with_the_answer(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, version)).ready()
            assert [capsule.type for capsule in client.capsules] == [
                ADDRESS_ASSIGN,
                ROUTE_ADVERTISEMENT,
            ]
            assert all(
                entry.prefix_length == entry.address.max_prefixlen for entry in client.assigned
            )

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "close the stream when inactivity ends a tunnel")
    async def test_an_idle_tunnel_ends_with_its_stream(self, tmp_path: Path) -> None:
        limited = IP_POLICY.replace('"*:443"]', '"*:443"]\n[rule.limits]\nidle_timeout_s = 0.3')
        async with running_ip_relay(tmp_path, policy=limited) as world:
            client = await (await open_ip(world.relay)).ready()
            await client.until(client.has_ended)
            record = await audit_end(world.relay)
            assert record["reason"] == "idle"
            assert world.pool.assigned_count == 0

    @pytest.mark.clause("RFC 9484", "7.1", "MAY", "packets before the answer may be dropped")
    async def test_optimistic_packets_do_no_harm(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            connection = await world.relay.connect()
            head = [
                (b":method", b"CONNECT"),
                (b":protocol", b"connect-ip"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", ANY_SCOPE.encode()),
                (b"capsule-protocol", b"?1"),
                (b"authorization", b"Bearer " + world.relay.token().encode()),
            ]
            stream_id = connection.send(head)
            packet = ping4("10.71.0.2", NOBODY4)  # what the client will be given
            connection.session.send_datagrams(stream_id, b"\0", [packet])
            answer = await connection.answer(stream_id)
            assert answer.status == 200
            await connection.until(lambda: answer.datagrams)
            assert icmp_kind(answer.datagrams[0][1:]) == (0, 0)

    @pytest.mark.clause("RFC 9484", "10.1", "SHOULD NOT", "send what is too big as a capsule")
    async def test_a_packet_beyond_the_path_is_not_sent_in_a_capsule(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, "h3")).ready()
            other = await (await open_ip(world.relay, "h2")).ready()
            other.send(ipv6(other.ipv6, client.ipv6, udp(bytes(1_440))))
            await other.until(lambda: other.packets)
            assert icmp_kind(other.packets[0]) == (2, 0)
            assert client.of_type(0) == []
            assert world.counters.downlink_too_big >= 1

    @pytest.mark.clause("RFC 9484", "11", "MUST", "no packet of one client reaches another unasked")
    async def test_a_tunnel_hears_only_what_is_addressed_to_it(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            alice = await (await open_ip(world.relay, "h2")).ready()
            bob = await (await open_ip(world.relay, "h2")).ready()
            await alice.exchange(ipv6(alice.ipv6, NOBODY6, udp(b"secret")))
            await bob.exchange(ipv6(bob.ipv6, NOBODY6, udp(b"own")))
            assert [packet[-3:] for packet in bob.packets] == [b"own"]


def test_idle_tunnels_live_for_two_minutes_by_default() -> None:
    assert TunnelLimits().idle_timeout_s >= 120
