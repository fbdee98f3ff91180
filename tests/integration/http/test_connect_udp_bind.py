"""Bound UDP over HTTP/3, HTTP/2 and HTTP/1.1, with real peers on loopback."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.dataplane.udp_bind import BindSettings
from masque_relay.tunnels.connect_udp_bind import Inbound
from masque_relay.wire.varint import encode_varint
from tests.support.bind_rig import (
    ACK,
    BIND_FIELD,
    BIND_POLICY,
    CLOSE,
    LOOPBACK_BIND,
    VERSIONS,
    open_bind,
    plain,
    udp_peer,
    wire,
)
from tests.support.relay import ECHO_HOST, audit_end, running_relay, udp_echo

every_version = pytest.mark.parametrize("version", VERSIONS)


class TestTraffic:
    @pytest.mark.clause(
        "connect-udp-listen-15", "7", "MUST", "tell the client the bound addresses and ports"
    )
    @pytest.mark.clause(
        "connect-udp-listen-15", "7", "MUST", "keep address and port while the tunnel lives"
    )
    @every_version
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_any_peer_talks_to_the_client_and_is_answered(
        self, tmp_path: Path, version: str, host: str
    ) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer(host) as one,
            udp_peer(host) as two,
        ):
            client = await open_bind(relay, version)
            assert client.status == 200
            assert client.fields["connect-udp-bind"] == "?1"
            assert client.fields["capsule-protocol"] == "?1"
            assert [address for address, _ in client.public] == ["127.0.0.1", "::1"]
            public = next(end for end in client.public if end[0] == host)
            assert await client.assign(2) == ACK

            for peer in (one, two):
                peer.send(b"hello", public)
                await client.until_datagram(plain(2, peer.address, b"hello"))
                client.send_datagrams([plain(2, peer.address, b"welcome")])
                assert await peer.until(b"welcome") == public

            client.close()
            record = await audit_end(relay)
            assert record["reason"] == EndReason.PEER_CLOSED
            assert record["method"] == "bind-udp"
            assert f"{public[1]}" in str(record["detail"])
            assert record["uplink_datagrams"] == 2
            assert relay.dataplane.counters.flows_open == 0

    @every_version
    async def test_compressed_context_carries_both_ways(self, tmp_path: Path, version: str) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer() as peer,
        ):
            client = await open_bind(relay, version)
            assert await client.assign(4, peer.address) == ACK

            client.send_datagrams([b"\x04ping"])
            public = await peer.until(b"ping")
            assert public == client.public[0]
            peer.send(b"pong", public)
            await client.until_datagram(b"\x04pong")

    async def test_two_bound_clients_reach_each_other(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            first, second = await open_bind(relay, "h3"), await open_bind(relay, "h2")
            assert await first.assign(2) == await second.assign(2) == ACK
            first.send_datagrams([plain(2, second.public[0], b"to you")])

            await second.until_datagram(plain(2, first.public[0], b"to you"))

    async def test_clients_behind_the_same_nat_reach_each_other_by_the_public_address(
        self, tmp_path: Path
    ) -> None:
        outside = BindSettings(
            addresses=LOOPBACK_BIND.addresses[:1], public_addresses=(ip_address("203.0.113.9"),)
        )
        policy = BIND_POLICY.replace('"127.0.0.1/32:*"', '"203.0.113.9/32:*"')
        async with running_relay(tmp_path, policy=policy, bind=outside) as relay:
            first, second = await open_bind(relay, "h3"), await open_bind(relay, "h3")
            assert first.public[0][0] == "203.0.113.9"
            assert await first.assign(2) == await second.assign(2) == ACK
            first.send_datagrams([plain(2, second.public[0], b"hairpin")])

            await second.until_datagram(plain(2, first.public[0], b"hairpin"))

    async def test_relay_registers_a_context_for_a_peer_that_goes_on(self, tmp_path: Path) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer() as peer,
        ):
            client = await open_bind(relay, "h3")
            await client.assign(2)
            for number in range(8):
                peer.send(b"%d" % number, client.public[0])
            await client.until_true(lambda: len(client.capsules) == 2)
            assert client.capsules[1] == (0x11, b"\x01" + wire(peer.address))
            client.capsule(ACK, b"\x01")
            client.send_datagrams([b"\x01by yours"])
            await peer.until(b"by yours")

            peer.send(b"by mine", client.public[0])
            await client.until_datagram(b"\x01by mine")


class TestTargets:
    @pytest.mark.clause(
        "connect-udp-listen-15", "2", "MUST", "refuse a request with only one * (400)"
    )
    @every_version
    @pytest.mark.parametrize("path", [b"%2A/53", b"192.0.2.1/%2A", b"*/53"])
    async def test_only_one_wildcard_is_400(
        self, tmp_path: Path, version: str, path: bytes
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            full = b"/.well-known/masque/udp/" + path + b"/"
            assert (await open_bind(relay, version, path=full)).status == 400

    @every_version
    async def test_request_with_a_target_has_context_0_for_it(
        self, tmp_path: Path, version: str
    ) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_echo() as port,
        ):
            path = f"/.well-known/masque/udp/echo.test/{port}/".encode()
            client = await open_bind(relay, version, path=path)
            assert client.fields["connect-udp-bind"] == "?1"
            assert f"{ECHO_HOST}:{port}" in client.fields["proxy-status"]

            client.send_datagrams([b"\x00by name"])
            await client.until_datagram(b"\x00by name")

    async def test_who_may_not_bind_gets_plain_connect_udp_to_the_target(
        self, tmp_path: Path
    ) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_echo() as port,
        ):
            path = f"/.well-known/masque/udp/{ECHO_HOST}/{port}/".encode()
            client = await open_bind(relay, "h3", path=path, token=relay.token("carol"))
            assert client.status == 200
            assert "connect-udp-bind" not in client.fields
            client.send_datagrams([b"\x00plain"])
            await client.until_datagram(b"\x00plain")

    async def test_relay_without_bound_udp_takes_a_target_as_plain(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY) as relay, udp_echo() as port:
            path = f"/.well-known/masque/udp/{ECHO_HOST}/{port}/".encode()
            client = await open_bind(relay, "h3", path=path)
            assert (client.status, client.fields.get("connect-udp-bind")) == (200, None)
            assert (await open_bind(relay, "h3")).status == 400

    @pytest.mark.clause(
        "connect-udp-listen-15", "6", "MUST", "take any other value type for an absent field"
    )
    @pytest.mark.parametrize(
        ("fields", "binds"),
        [
            ((BIND_FIELD,), True),
            (((b"connect-udp-bind", b"?1;later=2"),), True),
            (((b"connect-udp-bind", b"?0"),), False),
            (((b"connect-udp-bind", b"1"),), False),
            (((b"connect-udp-bind", b'"?1"'),), False),
            (((b"connect-udp-bind", b"?1, ?1"),), False),
            ((BIND_FIELD, BIND_FIELD), False),
            ((), False),
        ],
    )
    async def test_field_must_be_one_boolean(
        self, tmp_path: Path, fields: tuple[tuple[bytes, bytes], ...], binds: bool
    ) -> None:
        async with running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay:
            assert (await open_bind(relay, "h3", fields=fields)).status == (200 if binds else 400)


class TestPeers:
    @every_version
    async def test_peer_that_the_policy_does_not_name_gets_nothing(
        self, tmp_path: Path, version: str
    ) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer("127.0.0.5") as private,
            udp_peer() as peer,
        ):
            client = await open_bind(relay, version)
            await client.assign(2)
            assert await client.assign(4, private.address) == CLOSE
            client.send_datagrams(
                [plain(2, private.address, b"no"), plain(2, peer.address, b"yes")]
            )
            await peer.until(b"yes")
            private.send(b"in", client.public[0])
            peer.send(b"last", client.public[0])
            await client.until_datagram(plain(2, peer.address, b"last"))

            assert private.received == []
            assert client.datagrams == [plain(2, peer.address, b"last")]
            assert relay.bind.denied_dropped == 2
            denied = [record for record in relay.audit.records if record["event"] == "address"]
            assert [record["address"] for record in denied] == ["127.0.0.5"]

    async def test_reload_takes_a_peer_away(self, tmp_path: Path) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer() as peer,
        ):
            client = await open_bind(relay, "h3")
            assert await client.assign(2, peer.address) == ACK
            client.send_datagrams([b"\x02before"])
            await peer.until(b"before")
            policy = BIND_POLICY.replace('"127.0.0.1/32:*", ', "")
            (tmp_path / "policy.toml").write_text(policy)
            relay.gate.commit(relay.gate.prepare(relay.gate_settings))

            client.send_datagrams([b"\x02after"])
            await client.until_true(lambda: (CLOSE, encode_varint(2)) in client.capsules)
            assert [payload for payload, _ in peer.received] == [b"before"]

    async def test_without_the_uncompressed_context_strangers_are_kept_out(
        self, tmp_path: Path
    ) -> None:
        async with (
            running_relay(tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND) as relay,
            udp_peer() as known,
            udp_peer() as stranger,
        ):
            client = await open_bind(relay, "h3")
            await client.assign(2)
            await client.assign(4, known.address)
            client.capsule(CLOSE, b"\x02")
            client.send_datagrams([b"\x04marker"])
            await known.until(b"marker")
            stranger.send(b"knock", client.public[0])
            known.send(b"in", client.public[0])
            await client.until_datagram(b"\x04in")

            assert client.datagrams == [b"\x04in"]
            assert relay.bind.unregistered_dropped == 1

    async def test_contacted_lets_in_only_who_was_sent_to(self, tmp_path: Path) -> None:
        async with (
            running_relay(
                tmp_path, policy=BIND_POLICY, bind=LOOPBACK_BIND, inbound=Inbound.CONTACTED
            ) as relay,
            udp_peer() as peer,
            udp_peer("127.0.0.9") as stranger,
        ):
            client = await open_bind(relay, "h3")
            await client.assign(2)
            client.send_datagrams([plain(2, peer.address, b"call")])
            await peer.until(b"call")
            stranger.send(b"knock", client.public[0])
            peer.send(b"answer", client.public[0])
            await client.until_datagram(plain(2, peer.address, b"answer"))

            assert client.datagrams == [plain(2, peer.address, b"answer")]
            assert relay.bind.uncontacted_dropped == 1

    async def test_ports_come_from_the_range_and_run_out(self, tmp_path: Path) -> None:
        async with udp_peer() as taken:
            port = taken.address[1]
            bind = BindSettings(
                addresses=LOOPBACK_BIND.addresses[:1], first_port=port, last_port=port
            )
            async with running_relay(tmp_path, policy=BIND_POLICY, bind=bind) as relay:
                refused = await open_bind(relay, "h3")
                assert refused.status == 503
