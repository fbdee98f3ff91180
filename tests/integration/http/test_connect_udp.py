"""CONNECT-UDP over real QUIC on loopback, through the real gate (RFC 9298)."""

import asyncio
import socket
from pathlib import Path

import pytest

from masque_relay.contract.verdict import EndReason
from masque_relay.http.limits import HttpLimits
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from tests.support.relay import (
    ECHO_HOST,
    LIMITED_POLICY,
    POLICY,
    audit_end,
    running_relay,
    udp_echo,
)


class TestTunnel:
    @pytest.mark.clause("RFC 9298", "3.5", "MUST", "answer 2xx when the socket is open")
    async def test_udp_goes_to_the_target_and_comes_back(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))

            assert answer.status == 200
            assert answer.fields["capsule-protocol"] == "?1"
            assert answer.proxy_status.next_hop == f"{ECHO_HOST}:{port}"
            assert answer.proxy_status.error is None
            await client.echo(stream_id, b"hello")
            await client.echo(stream_id, b"")
            await client.echo(stream_id, b"x" * 1_200)

            client.session.send_data(stream_id, b"", end_stream=True)
            assert (await client.finished(stream_id)).ended
            record = await audit_end(relay)
            assert record["reason"] == EndReason.PEER_CLOSED
            assert record["uplink_datagrams"] == record["downlink_datagrams"]
            assert relay.gate.tunnel_count == 0

    async def test_many_tunnels_share_a_connection_without_mixing(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            streams = [client.send(relay.connect_udp(ECHO_HOST, port)) for _ in range(20)]
            for stream_id in streams:
                assert (await client.answer(stream_id)).status == 200
            for stream_id in streams:
                await client.echo(stream_id, b"to %d" % stream_id)
            for stream_id in streams:
                own = b"\0to %d" % stream_id
                assert set(client.exchanges[stream_id].datagrams) == {own}

    async def test_name_is_resolved_before_the_answer(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp("echo.test", port))

            assert answer.proxy_status.next_hop == f"{ECHO_HOST}:{port}"
            await client.echo(stream_id, b"by name")

    async def test_prohibited_address_of_a_name_is_passed_over_for_an_admitted_one(
        self, tmp_path: Path
    ) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            _, answer = await client.request(relay.connect_udp("mixed.test", port))

            assert answer.status == 200
            assert answer.proxy_status.next_hop == f"{ECHO_HOST}:{port}"

    async def test_an_address_that_refuses_makes_room_for_the_next(self, tmp_path: Path) -> None:
        policy = POLICY.replace(f'"{ECHO_HOST}/32:*"', f'"{ECHO_HOST}/32:*", "[::1/128]:*"')
        names = {"echo.test": ["::1", ECHO_HOST]}
        async with running_relay(tmp_path, policy=policy, names=names) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp("echo.test", port))

            assert answer.proxy_status.next_hop == f"[::1]:{port}"
            client.session.send_datagrams(stream_id, b"\0", [b"sent once"])
            await client.until(lambda: client.exchanges[stream_id].datagrams)
            assert client.exchanges[stream_id].datagrams == [b"\0sent once"]

    @pytest.mark.clause(
        "RFC 9298", "3", "MUST", "serve names, IPv4 and IPv6 literals as target_host"
    )
    @pytest.mark.parametrize("spelling", ["%3A%3A1", "::1", "0%3A0%3A0%3A0%3A0%3A0%3A0%3A1"])
    async def test_ipv6_target_percent_encoded_or_not(self, tmp_path: Path, spelling: str) -> None:
        policy = POLICY.replace(f'"{ECHO_HOST}/32:*"', f'"{ECHO_HOST}/32:*", "[::1/128]:*"')
        async with running_relay(tmp_path, policy=policy) as relay, udp_echo("::1") as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp(spelling, port))

            assert answer.proxy_status.next_hop == f"[::1]:{port}"
            await client.echo(stream_id, b"six")

    @pytest.mark.parametrize(
        ("template", "path"),
        [
            ("/proxy/{target_host}/{target_port}", "/proxy/{host}/{port}"),
            ("/masque{?target_host,target_port}", "/masque?target_host={host}&target_port={port}"),
            ("https://relay.example/u/{target_host}/{target_port}/", "/u/{host}/{port}/"),
        ],
    )
    async def test_custom_template(self, tmp_path: Path, template: str, path: str) -> None:
        async with running_relay(tmp_path, templates=[template]) as relay, udp_echo() as port:
            client = await relay.connect()
            custom = path.format(host=ECHO_HOST, port=port).encode()
            stream_id, answer = await client.request(relay.connect_udp("", "", path=custom))

            assert answer.status == 200
            await client.echo(stream_id, b"templated")
            _, default = await client.request(relay.connect_udp(ECHO_HOST, port))
            assert default.status == 404


class TestAcceptList:
    """What real clients do (RFC 9297, RFC 9298), each of which must work."""

    @pytest.mark.parametrize("authority", [b"localhost", b"localhost:443", b"127.0.0.1:9"])
    async def test_authority_with_and_without_port(self, tmp_path: Path, authority: bytes) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            head = [
                (name, authority if name == b":authority" else value)
                for name, value in relay.connect_udp(ECHO_HOST, port)
            ]

            assert (await client.request(head))[1].status == 200

    @pytest.mark.clause(
        "RFC 9297", "3.4", "MUST", "ignore Capsule-Protocol of another type than Boolean"
    )
    @pytest.mark.parametrize("value", [None, b"?1", b"?1;p", b"?0", b"1", b'"?1"'])
    async def test_capsule_protocol_may_be_missing_or_of_another_type(
        self, tmp_path: Path, value: bytes | None
    ) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            head = [
                field
                for field in relay.connect_udp(ECHO_HOST, port)
                if field[0] != b"capsule-protocol"
            ]
            if value is not None:
                head.append((b"capsule-protocol", value))
            stream_id, answer = await client.request(head)

            assert answer.status == 200
            await client.echo(stream_id, b"works")

    async def test_path_without_its_trailing_slash(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            path = f"/.well-known/masque/udp/{ECHO_HOST}/{port}".encode()

            assert (await client.request(relay.connect_udp("", "", path=path)))[1].status == 200

    @pytest.mark.clause(
        "RFC 9298", "5", "MUST", "drop or buffer datagrams that overtake their request"
    )
    async def test_datagrams_before_the_answer_reach_the_target(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id = client.send(relay.connect_udp(ECHO_HOST, port))
            client.session.send_datagrams(stream_id, b"\0", [b"early one", b"early two"])
            await client.answer(stream_id)
            exchange = client.exchanges[stream_id]

            await client.until(lambda: len(exchange.datagrams) == 2)
            assert exchange.datagrams == [b"\0early one", b"\0early two"]

    @pytest.mark.clause("RFC 9297", "3.5", "MUST", "take DATAGRAM capsules for HTTP Datagrams")
    async def test_capsules_are_accepted_and_answered_in_kind(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))
            wire = encode_capsule(0x29, b"grease") + encode_capsule(0, b"\0" + b"x" * 2_000)
            client.session.send_data(stream_id, wire[:5], end_stream=False)
            client.session.send_data(stream_id, wire[5:700], end_stream=False)
            client.session.send_data(stream_id, wire[700:], end_stream=False)
            decoder = CapsuleDecoder(max_capsule_bytes=65_536, known_types={0})

            await client.until(lambda: len(answer.data) >= 2_001)
            (capsule,) = decoder.feed(bytes(answer.data))
            assert capsule.value == b"\0" + b"x" * 2_000
            assert not answer.datagrams
            assert relay.http.capsules_skipped == 1

    async def test_client_that_sends_quic_datagrams_later_gets_them_from_then_on(
        self, tmp_path: Path
    ) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))
            capsule = encode_capsule(0, b"\0capsule")
            client.session.send_data(stream_id, capsule, end_stream=False)
            await client.until(lambda: bytes(answer.data) == capsule)

            await client.echo(stream_id, b"datagram")

            assert bytes(answer.data) == capsule


class TestEnds:
    async def test_reset_by_the_client_ends_the_tunnel(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            client.session.reset(stream_id, 0x10C)

            assert (await audit_end(relay))["reason"] == EndReason.PEER_RESET
            assert relay.gate.tunnel_count == 0

    async def test_lost_connection_ends_its_tunnels(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            await client.request(relay.connect_udp(ECHO_HOST, port))
            client.session.close(0x100, "bye")

            assert (await audit_end(relay))["reason"] == EndReason.CONNECTION_LOST

    async def test_revocation_resets_the_running_tunnel(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            await client.echo(stream_id, b"alive")

            assert relay.gate.revoke(subject="alice", token_id=None) == 1

            assert (await client.finished(stream_id)).reset == 0x10C
            assert (await audit_end(relay))["reason"] == EndReason.REVOKED
            _, refused = await client.request(relay.connect_udp(ECHO_HOST, port))
            assert refused.status == 401

    @pytest.mark.clause(
        "RFC 9298", "3.1", "MUST", "close the request stream together with the socket"
    )
    async def test_idle_tunnel_ends_cleanly(self, tmp_path: Path) -> None:
        policy = LIMITED_POLICY % "idle_timeout_s = 1"
        async with running_relay(tmp_path, policy=policy) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            await client.echo(stream_id, b"once")

            ended = await client.finished(stream_id)

            assert ended.ended
            assert ended.reset in {None, 0x100}, "STOP_SENDING without an error"
            assert (await audit_end(relay))["reason"] == EndReason.IDLE

    async def test_byte_quota_ends_the_tunnel(self, tmp_path: Path) -> None:
        policy = LIMITED_POLICY % "max_bytes = 3_000"
        async with running_relay(tmp_path, policy=policy) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            for _ in range(4):
                client.session.send_datagrams(stream_id, b"\0", [bytes(1_000)])
                await asyncio.sleep(0.01)

            assert (await client.finished(stream_id)).reset == 0x10C
            assert (await audit_end(relay))["reason"] == EndReason.BYTE_QUOTA

    async def test_drain_lets_a_tunnel_live_until_the_deadline(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await relay.connect()
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            relay.front_end.begin_drain()
            await client.until(lambda: client.goaway is not None)
            await client.echo(stream_id, b"still here")

            await relay.front_end.drain(grace_s=0.05)

            await client.until(lambda: client.lost is not None)
            assert client.lost is not None
            assert client.lost[0] == 0x100
            assert (await audit_end(relay))["reason"] == EndReason.DRAINED


class TestFailures:
    @pytest.mark.clause("RFC 9298", "3.1", "SHOULD", "say with Proxy-Status what failed")
    @pytest.mark.clause("RFC 9298", "3.1", "MUST", "refuse the request when resolution fails")
    async def test_name_that_does_not_exist(self, tmp_path: Path) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            nameserver = f"127.0.0.1:{deaf.getsockname()[1]}"
            async with running_relay(
                tmp_path,
                nameservers=[nameserver],
                http_limits=HttpLimits(resolve_timeout_s=0.2),
            ) as relay:
                client = await relay.connect()
                _, answer = await client.request(relay.connect_udp("nowhere.test", 53))

                assert answer.status == 504
                assert answer.proxy_status.error == "dns_timeout"

    @pytest.mark.clause("RFC 9220", "3", "SHOULD", "answer an unknown :protocol with 501")
    async def test_unknown_protocol_is_501(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client = await relay.connect()
            head = [
                (name, b"connect-ether" if name == b":protocol" else value)
                for name, value in relay.connect_udp(ECHO_HOST, 9)
            ]
            _, answer = await client.request(head)

            assert answer.status == 501
            assert "connect-ether" in (answer.proxy_status.details or "")


async def test_plain_web_beside_the_tunnels(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        client = await relay.connect()

        async def get(path: bytes) -> int | None:
            head = [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"localhost"),
                (b":path", path),
            ]
            return (await client.request(head, end=True))[1].status

        assert await get(b"/") == 200
        assert await get(b"/nothing") == 404
        assert await get(b"/.well-known/masque/udp/192.0.2.1/53/") == 501
