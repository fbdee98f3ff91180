"""CONNECT-IP over HTTP/3, HTTP/2 and HTTP/1.1 with a whole relay and the loop egress."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from masque_relay.contract.ip_scope import IpRange
from masque_relay.contract.verdict import Denial, DenyReason
from masque_relay.control.auth.keys import generate_signing_key
from masque_relay.http.connect_ip_limits import ConnectIpLimits
from masque_relay.http.denials import refuse_denial
from masque_relay.quic.limits import QuicLimits
from masque_relay.wire.connect_ip_dns import (
    DNS_ASSIGN,
    PREF64,
    DnsConfiguration,
    Nameserver,
    decode_dns_assign,
    decode_pref64,
    encode_dns_assign,
    encode_pref64,
)
from tests.support.ip_packets import (
    has_good_checksums,
    icmp_kind,
    ipv4,
    ipv6,
    ping4,
    ping6,
    source_of,
    udp,
)
from tests.support.ip_rig import (
    GATEWAY4,
    GATEWAY6,
    IP_POLICY,
    NOBODY4,
    NOBODY6,
    VERSIONS,
    open_ip,
    running_ip_relay,
    wants,
)
from tests.support.relay import audit_end


@pytest.mark.parametrize("version", VERSIONS)
async def test_packets_of_both_families_go_there_and_back(tmp_path: Path, version: str) -> None:
    async with running_ip_relay(tmp_path) as world:
        client = await (await open_ip(world.relay, version)).ready()

        pong = await client.exchange(ping4(client.ipv4, NOBODY4))
        assert icmp_kind(pong) == (0, 0)
        assert source_of(pong) == NOBODY4
        assert has_good_checksums(pong)
        pong = await client.exchange(ping6(client.ipv6, NOBODY6, b"x" * 1_232))
        assert icmp_kind(pong) == (129, 0)
        assert len(pong) == 1_280
        assert has_good_checksums(pong)
        echo = await client.exchange(ipv4(client.ipv4, NOBODY4, udp(b"hello")))
        assert echo.endswith(b"hello")
        echo = await client.exchange(ipv6(client.ipv6, NOBODY6, udp(b"hello")))
        assert echo.endswith(b"hello")
        assert (client.fields["capsule-protocol"], world.counters.addresses_assigned) == ("?1", 2)
        client.close()
        record = await audit_end(world.relay)
        assert (record["method"], record["target"]) == ("connect-ip", "*")
        assert world.counters.addresses_assigned == 0
        assert world.pool.assigned_count == 0


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_relay_itself_answers_pings(tmp_path: Path, version: str) -> None:
    async with running_ip_relay(tmp_path) as world:
        client = await (await open_ip(world.relay, version)).ready()

        assert source_of(await client.exchange(ping4(client.ipv4, GATEWAY4))) == GATEWAY4
        assert source_of(await client.exchange(ping6(client.ipv6, GATEWAY6))) == GATEWAY6
        assert source_of(await client.exchange(ping6(client.ipv6, "ff02::1"))) == GATEWAY6


async def test_two_clients_on_two_versions_reach_each_other(tmp_path: Path) -> None:
    async with running_ip_relay(tmp_path) as world:
        alice = await (await open_ip(world.relay, "h3")).ready()
        bob = await (await open_ip(world.relay, "h1", token=world.relay.token("bob"))).ready()

        packet = ipv4(alice.ipv4, bob.ipv4, udp(b"to bob"), ttl=9)
        for _ in range(5):
            alice.send(packet)
        await bob.until(lambda: bob.packets)

        arrived = bob.packets[0]
        assert arrived.endswith(b"to bob")
        assert arrived[8] == 8
        assert has_good_checksums(arrived)


class TestScope:
    ROUTES = (
        ("10.71.0.192%2F28/17/", [("10.71.0.192", "10.71.0.207", 17)]),
        ("fd71%3A%3A200/%2A/", [("fd71::200", "fd71::200", 0)]),
        ("host.test/*/", [("10.71.0.200", "10.71.0.200", 0), ("fd71::200", "fd71::200", 0)]),
        ("four.test/6/", [("10.71.0.200", "10.71.0.200", 6)]),
        ("10.71.0.66%2F31/*/", [("10.71.0.67", "10.71.0.67", 0)]),
    )

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "resolve a name before the answer")
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_routes_are_those_of_the_scope(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            for path, routes in self.ROUTES:
                client = await open_ip(world.relay, version, path=f"/.well-known/masque/ip/{path}")
                await client.ready()

                assert client.routes == tuple(
                    IpRange(ip_address(first), ip_address(last), protocol)
                    for first, last, protocol in routes
                )
                versions = {ip_address(first).version for first, _, _ in routes}
                assert {entry.address.version for entry in client.assigned} == versions

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_packets_stay_inside_it_and_icmp_is_always_allowed(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            path = f"/.well-known/masque/ip/{NOBODY4}/17/"
            client = await (await open_ip(world.relay, version, path=path)).ready()

            assert icmp_kind(await client.exchange(ping4(client.ipv4, NOBODY4))) == (0, 0)
            outside = await client.exchange(ping4(client.ipv4, "10.71.0.201"))
            assert (icmp_kind(outside), source_of(outside)) == ((3, 0), GATEWAY4)
            tcp = ipv4(client.ipv4, NOBODY4, bytes(20), protocol=6)
            assert icmp_kind(await client.exchange(tcp)) == (3, 13)
            assert world.counters.uplink_wrong_protocol >= 1

    REFUSED = (
        ("10.71.0.1%2F24/*/", 400, "http_request_error"),
        ("*/256/", 400, "http_request_error"),
        ("*//", 400, "http_request_error"),
        ("fe80%3A%3A1%25eth0/*/", 400, "http_request_error"),
        ("%2Z/*/", 400, "http_request_error"),
        ("*/44/", 400, "http_request_error"),
        ("192.168.0.0%2F16/*/", 403, "destination_ip_prohibited"),
        ("private.test/*/", 403, "destination_ip_prohibited"),
        ("10.71.0.66/*/", 403, "http_request_denied"),
        ("9.9.9.9/*/", 502, "destination_ip_unroutable"),
    )

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "a malformed target or ipproto is refused")
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_what_can_not_be_had_is_refused(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            for path, status, error in self.REFUSED:
                client = await open_ip(world.relay, version, path=f"/.well-known/masque/ip/{path}")
                assert (client.status, client.proxy_status.error) == (status, error), path
            assert world.pool.assigned_count == 0

    @pytest.mark.clause("RFC 9484", "4.1", "MUST", "a name that does not resolve is refused")
    async def test_a_name_that_does_not_resolve_is_said_before_the_tunnel_opens(
        self, tmp_path: Path
    ) -> None:
        # A nameserver that nobody is: the answer is a refusal, whichever.
        async with running_ip_relay(tmp_path, nameservers=["127.0.0.1:9"]) as world:
            client = await open_ip(world.relay, path="/.well-known/masque/ip/nowhere.test/*/")
            assert client.status in {502, 504}
            assert client.proxy_status.error in {"dns_error", "dns_timeout"}

    async def test_of_a_name_only_the_admitted_addresses_are_routes(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            path = "/.well-known/masque/ip/mixed.test/*/"
            client = await (await open_ip(world.relay, path=path)).ready()
            assert [str(route.first) for route in client.routes] == ["10.71.0.200"]


class TestAddresses:
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_requests_are_answered_one_by_one(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, version)).ready()

            answer = await client.ask(wants(4, 7), wants(6, 8), wants(4, 9, "10.71.0.99"))
            assert [(entry.request_id, str(entry.address)) for entry in answer] == [
                (7, "10.71.0.2"),
                (8, "fd71::2"),
                (9, "10.71.0.99"),
            ]
            pong = await client.exchange(ping4("10.71.0.99", NOBODY4))
            assert icmp_kind(pong) == (0, 0)

    async def test_an_exhausted_pool_refuses_requests_and_then_tunnels(
        self, tmp_path: Path
    ) -> None:
        async with running_ip_relay(tmp_path, pools=["10.71.0.0/30"]) as world:
            first = await (await open_ip(world.relay, "h3")).ready()
            answer = await first.ask(wants(4, 1), wants(4, 2))
            assert [entry.is_refusal for entry in answer] == [False, True]
            assert world.counters.addresses_refused == 1

            second = await open_ip(world.relay, "h2")
            assert second.status == 503
            assert icmp_kind(await first.exchange(ping4(first.ipv4, GATEWAY4))) == (0, 0)
            first.close()
            await world.relay.audit.until(world.relay.audit.ends)
            assert (await open_ip(world.relay, "h2")).status == 200

    async def test_an_identity_gets_its_address_again(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            first = await (await open_ip(world.relay, "h2")).ready()
            await first.ask(wants(4, 1, "10.71.0.99"))
            stranger = await (
                await open_ip(world.relay, "h2", token=world.relay.token("bob"))
            ).ready()
            had, others = first.ipv6, stranger.ipv6
            first.close()
            await world.relay.audit.until(world.relay.audit.ends)

            again = await (await open_ip(world.relay, "h1")).ready()
            assert (again.ipv6, again.ipv6 == others) == (had, False)


class TestReload:
    async def test_routes_follow_the_policy(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, "h2")).ready()
            assert icmp_kind(await client.exchange(ping4(client.ipv4, NOBODY4))) == (0, 0)
            narrow = IP_POLICY.replace('"10.71.0.0/24:*"', '"10.71.0.0/24:53"')
            world.relay.gate_settings.policy_file.write_text(
                narrow.replace('"*:443"', '"9.9.9.9:1"')
            )
            world.relay.gate.reload(world.relay.gate_settings)

            assert icmp_kind(await client.exchange(ping4(client.ipv4, NOBODY4))) == (3, 13)

    async def test_a_policy_without_a_route_left_withdraws_all(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, "h3")).ready()
            away = IP_POLICY.replace("10.71.0.0/24:*", "9.9.9.9:*").replace(
                "fd71::/64", "fd72::/64"
            )
            world.relay.gate_settings.policy_file.write_text(away)
            world.relay.gate.reload(world.relay.gate_settings)
            await client.until(lambda: client.routes == ())


class TestExtensions:
    @pytest.mark.clause(
        "connect-ip-dns-06", "5", "MUST NOT", "send DNS_ASSIGN before ROUTE_ADVERTISEMENT"
    )
    @pytest.mark.parametrize("version", VERSIONS)
    async def test_resolvers_and_nat64_come_behind_the_routes(
        self, tmp_path: Path, version: str
    ) -> None:
        configuration = DnsConfiguration(
            nameservers=(Nameserver(addresses=(ip_address("10.71.0.53"),)),),
            internal_domains=("corp.example",),
        )
        nat64 = [ip_network("64:ff9b::/96")]
        extra = [
            (DNS_ASSIGN, encode_dns_assign([configuration])),
            (PREF64, encode_pref64(nat64)),  # type: ignore[arg-type]  # an IPv6 network
        ]
        async with running_ip_relay(tmp_path, extra_capsules=extra) as world:
            client = await (await open_ip(world.relay, version)).ready()
            await client.until(lambda: client.of_type(PREF64))

            assert [capsule.type for capsule in client.capsules] == [1, 3, DNS_ASSIGN, PREF64]
            assert decode_dns_assign(client.of_type(DNS_ASSIGN)[0]) == (configuration,)
            assert list(decode_pref64(client.of_type(PREF64)[0])) == nat64

    async def test_without_configuration_no_client_sees_a_capsule_that_it_may_not_know(
        self, tmp_path: Path
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay)).ready()
            assert [capsule.type for capsule in client.capsules] == [1, 3]

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_a_template_without_variables(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path, templates=["/vpn", "/ip{?target,ipproto}"]) as world:
            client = await (await open_ip(world.relay, version, path="/vpn")).ready()
            assert len(client.assigned) == 2
            scoped = await open_ip(world.relay, version, path="/ip?target=10.71.0.9&ipproto=6")
            await scoped.ready()
            assert [str(route.first) for route in scoped.routes] == ["10.71.0.9"]
            assert (await open_ip(world.relay, version)).status == 404

    @pytest.mark.parametrize("version", ["h3", "h2"])
    async def test_the_warp_dialect_where_it_is_on(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path, cloudflare=True) as world:
            client = await open_ip(world.relay, version, path="/", protocol="cf-connect-ip")
            await client.ready()
            pong = await client.exchange(ping4("10.71.0.123", NOBODY4))
            assert icmp_kind(pong) == (0, 0)
            spoofed = await client.exchange(ping4("192.0.2.1", NOBODY4))
            assert icmp_kind(spoofed) == (3, 13)

    @pytest.mark.parametrize("version", ["h3", "h2"])
    async def test_the_warp_dialect_is_off_unless_configured(
        self, tmp_path: Path, version: str
    ) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await open_ip(world.relay, version, path="/", protocol="cf-connect-ip")
            assert client.status == 501


class TestMtu:
    async def test_a_path_that_stays_narrow_ends_a_tunnel_with_ipv6(self, tmp_path: Path) -> None:
        narrow = QuicLimits(initial_datagram_bytes=1_250, max_datagram_bytes=1_250)
        limits = ConnectIpLimits(ipv6_settle_s=0.2)
        async with running_ip_relay(tmp_path, quic_limits=narrow, limits=limits) as world:
            client = await (await open_ip(world.relay)).ready()
            await client.aborted()
            assert "IPv6 needs 1280" in str((await audit_end(world.relay))["detail"])

    async def test_a_narrow_path_is_enough_for_ipv4(self, tmp_path: Path) -> None:
        narrow = QuicLimits(initial_datagram_bytes=1_250, max_datagram_bytes=1_250)
        limits = ConnectIpLimits(ipv6_settle_s=0.05)
        async with running_ip_relay(
            tmp_path, quic_limits=narrow, limits=limits, pools=["10.71.0.0/24"]
        ) as world:
            client = await (await open_ip(world.relay)).ready()
            big = ipv4(client.ipv4, NOBODY4, udp(bytes(1_150)))
            assert len(await client.exchange(big)) == len(big)

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_a_client_that_does_not_answer_the_probe_is_cut_off(
        self, tmp_path: Path, version: str
    ) -> None:
        limits = ConnectIpLimits(ipv6_settle_s=0.05, ipv6_probe_timeout_s=0.3)
        async with running_ip_relay(tmp_path, limits=limits, probe_ipv6=True) as world:
            client = await (await open_ip(world.relay, version)).ready()
            await client.until(lambda: client.packets)
            assert icmp_kind(client.packets[0]) == (128, 0)
            assert len(client.packets[0]) == 1_280
            await client.aborted()

    async def test_what_the_egress_does_not_take_is_told(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path, mtu_bytes=1_280) as world:
            client = await (await open_ip(world.relay, "h2")).ready()
            too_big = ipv6(client.ipv6, NOBODY6, udp(bytes(1_300)))
            assert icmp_kind(await client.exchange(too_big)) == (2, 0)


class TestGate:
    """Every credential and every denial, on every HTTP version, as for the other methods."""

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_bad_credentials_are_refused_alike(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            relay = world.relay
            for token in (
                "",
                "nonsense",
                relay.token(audience="somebody else"),
                relay.token(lifetime_s=1, issued_before_s=600),
                relay.token(key=generate_signing_key()),
            ):
                client = await open_ip(relay, version, token=token)
                assert client.status == 401
                assert client.proxy_status.error == "http_request_denied"
            assert world.pool.assigned_count == 0

    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("reason", list(DenyReason))
    async def test_every_denial_has_its_answer(
        self, tmp_path: Path, version: str, reason: DenyReason, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(_: object) -> Denial:
            return Denial(reason=reason, detail="secret detail")

        async with running_ip_relay(tmp_path) as world:
            monkeypatch.setattr(world.relay.gate, "admit", refuse)
            client = await open_ip(world.relay, version)
            expected = refuse_denial(await refuse(None), speaks_to_proxy=False)
            assert client.status == expected.status
            assert client.proxy_status.error == expected.error
            assert "secret" not in str(client.fields)

    @pytest.mark.parametrize("version", VERSIONS)
    async def test_a_revocation_ends_the_tunnel(self, tmp_path: Path, version: str) -> None:
        async with running_ip_relay(tmp_path) as world:
            client = await (await open_ip(world.relay, version)).ready()
            bob = await open_ip(world.relay, version, token=world.relay.token("bob"))
            await bob.ready()
            assert world.relay.gate.revoke(subject="alice", token_id=None) == 1
            await client.aborted()
            assert icmp_kind(await bob.exchange(ping4(bob.ipv4, NOBODY4))) == (0, 0)
            assert (await open_ip(world.relay, version)).status == 401

    async def test_what_the_policy_does_not_allow(self, tmp_path: Path) -> None:
        async with running_ip_relay(tmp_path) as world:
            stranger = await open_ip(world.relay, token=world.relay.token("carol"))
            assert (stranger.status, stranger.proxy_status.error) == (403, "http_request_denied")
