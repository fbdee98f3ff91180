"""CONNECT-UDP over HTTP/2 and HTTP/1.1 on loopback, through the real gate (RFC 9298)."""

import asyncio
import socket
from pathlib import Path

import pytest

from masque_relay.contract.request import Transport
from masque_relay.contract.verdict import EndReason
from masque_relay.http.limits import HttpLimits
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.wire.capsule import encode_capsule
from tests.support.relay import (
    ECHO_HOST,
    LIMITED_POLICY,
    InProcessRelay,
    audit_end,
    running_relay,
    udp_echo,
)
from tests.support.tcp_clients import H1Client, H1Response, H2Client, upgrade_request


async def h2(relay: InProcessRelay) -> H2Client:
    return await H2Client.connect(relay.https_address, relay.ca_pem)


async def h1(relay: InProcessRelay) -> H1Client:
    return await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")


def upgrade(
    relay: InProcessRelay,
    port: int,
    *,
    token: str | None = None,
    host: str = ECHO_HOST,
    prefix: str = "",
    field: str = "Authorization",
) -> bytes:
    """Return an Upgrade; ``token=""`` sends no credential."""
    token = relay.token() if token is None else token
    fields = [f"{field}: Bearer {token}"] if token else []
    return upgrade_request(f"{prefix}/.well-known/masque/udp/{host}/{port}/", *fields)


class TestHttp2:
    async def test_udp_goes_to_the_target_and_comes_back(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h2(relay)
            stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))

            assert answer.status == 200
            assert answer.fields["capsule-protocol"] == "?1"
            assert answer.fields["alt-svc"] == f'h3=":{relay.address.port}"; ma=86400'
            assert answer.proxy_status.next_hop == f"{ECHO_HOST}:{port}"
            for payload in (b"hello", b"", b"x" * 1_200, b"y" * 60_000):
                await client.echo(stream_id, payload)

            client.send_data(stream_id, b"", end=True)
            assert (await client.finished(stream_id)).ended
            record = await audit_end(relay)
            assert record["reason"] == EndReason.PEER_CLOSED
            assert record["transport"] == Transport.HTTP2
            assert relay.gate.tunnel_count == 0

    async def test_many_tunnels_share_a_connection_without_mixing(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h2(relay)
            streams = [client.send(relay.connect_udp(ECHO_HOST, port)) for _ in range(20)]
            for stream_id in streams:
                assert (await client.answer(stream_id)).status == 200
            for stream_id in streams:
                await client.echo(stream_id, b"to %d" % stream_id)
            for stream_id in streams:
                assert client.exchanges[stream_id].datagrams == [b"\0to %d" % stream_id]

    async def test_stuck_reader_beside_a_live_tunnel(self, tmp_path: Path) -> None:
        """The tunnel without credit loses datagrams; its neighbour notices nothing."""
        limits = HttpLimits(capsule_backlog_bytes=20_000)
        async with running_relay(tmp_path, http_limits=limits) as relay, udp_echo() as port:
            client = await h2(relay)
            stuck, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            live, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            client.stuck.add(stuck)
            for _ in range(40):
                client.send_data(stuck, encode_capsule(0, b"\0" + b"z" * 5_000))
                await client.echo(live, b"alive")
                client.exchanges[live].datagrams.clear()

            assert len(client.exchanges[stuck].data) <= 65_535
            assert relay.http.capsule_datagrams_dropped > 0

    async def test_tunnel_that_cannot_begin_holds_back_nobody(self, tmp_path: Path) -> None:
        """Capsules wait for DNS, up to the stream's window; the neighbour's window is open."""
        tcp_limits = TcpLimits(connection_window_bytes=131_072)
        with socket.socket(type=socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            async with (
                running_relay(
                    tmp_path,
                    tcp_limits=tcp_limits,
                    nameservers=[f"127.0.0.1:{deaf.getsockname()[1]}"],
                ) as relay,
                udp_echo() as port,
            ):
                await self._begin_beside_a_waiting_one(relay, port)

    @staticmethod
    async def _begin_beside_a_waiting_one(relay: InProcessRelay, port: int) -> None:
        client = await h2(relay)
        waiting = client.send(relay.connect_udp("slow.test", 53))
        client.send_data(waiting, encode_capsule(0, b"\0" + b"z" * 1_000) * 400)
        stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))

        assert answer.status == 200
        for _ in range(20):
            await client.echo(stream_id, b"alive")
            client.exchanges[stream_id].datagrams.clear()
        assert client.exchanges[waiting].status is None
        assert client.unsent(waiting) > 100_000

    async def test_reset_and_lost_connection_end_tunnels(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h2(relay)
            first, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            await client.request(relay.connect_udp(ECHO_HOST, port))
            client.reset(first)
            assert (await audit_end(relay))["reason"] == EndReason.PEER_RESET
            client.transport.abort()
            await relay.audit.until(lambda: len(relay.audit.ends()) == 2)

            assert relay.audit.ends()[1]["reason"] == EndReason.CONNECTION_LOST

    async def test_revocation_resets_the_running_tunnel(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h2(relay)
            stream_id, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            await client.echo(stream_id, b"alive")

            assert relay.gate.revoke(subject="alice", token_id=None) == 1
            assert (await client.finished(stream_id)).reset == 8  # CANCEL
            assert (await client.request(relay.connect_udp(ECHO_HOST, port)))[1].status == 401

    async def test_broken_capsule_resets_its_stream_alone(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h2(relay)
            broken, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            live, _ = await client.request(relay.connect_udp(ECHO_HOST, port))
            client.send_data(broken, b"\x00\xbf\xff\xff\xff")

            assert (await client.finished(broken)).reset == 1  # PROTOCOL_ERROR
            await client.echo(live, b"alive")


class TestHttp1:
    @pytest.mark.parametrize("prefix", ["", "https://localhost:8443"], ids=["origin", "absolute"])
    async def test_udp_goes_to_the_target_and_comes_back(self, tmp_path: Path, prefix: str) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h1(relay)
            answer = await client.request(upgrade(relay, port, prefix=prefix))

            assert answer.status == 101
            assert answer.fields["upgrade"] == "connect-udp"
            assert answer.fields["connection"].lower() == "upgrade"
            assert answer.fields["capsule-protocol"] == "?1"
            assert f'next-hop="{ECHO_HOST}:{port}"' in answer.fields["proxy-status"]
            for payload in (b"hello", b"", b"x" * 1_200, b"y" * 60_000):
                await client.echo(payload)

            await client.close()
            record = await audit_end(relay)
            assert record["reason"] == EndReason.PEER_CLOSED
            assert record["transport"] == Transport.HTTP1

    async def test_optimistic_capsules_reach_the_target(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h1(relay)
            client.send(upgrade(relay, port) + encode_capsule(0, b"\0early"))
            assert (await client.head()).status == 101
            await client.until_datagram(b"\0early")

    async def test_refused_upgrade_closes_the_connection(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h1(relay)
            smuggled = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
            answer = await client.request(upgrade(relay, port, token="") + smuggled)

            assert answer.status == 401
            assert answer.fields["connection"] == "close"
            await client.body(answer)
            assert await client.is_closed()

    async def test_ordinary_request_for_the_tunnel_hears_426(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client = await h1(relay)
            path = b"/.well-known/masque/udp/192.0.2.1/53/"
            answer = await client.request(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)

            assert answer.status == 426
            assert answer.fields["upgrade"] == "connect-udp"
            await client.body(answer)
            assert await client.is_closed()

    async def test_revocation_cuts_the_running_tunnel(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay, udp_echo() as port:
            client = await h1(relay)
            assert (await client.request(upgrade(relay, port))).status == 101
            await client.echo(b"alive")
            relay.gate.revoke(subject="alice", token_id=None)

            assert await client.is_closed()
            assert (await audit_end(relay))["reason"] == EndReason.REVOKED

    async def test_idle_tunnel_ends_cleanly(self, tmp_path: Path) -> None:
        policy = LIMITED_POLICY % "idle_timeout_s = 1"
        async with running_relay(tmp_path, policy=policy) as relay, udp_echo() as port:
            client = await h1(relay)
            assert (await client.request(upgrade(relay, port))).status == 101
            await client.echo(b"once")

            assert await client.is_closed()
            assert (await audit_end(relay))["reason"] == EndReason.IDLE

    async def test_refused_classic_connect_closes_the_connection(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client = await h1(relay)
            answer = await client.request(
                b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n"
            )

            assert answer.status in {407, 501}
            await client.body(answer)
            assert await client.is_closed()


class TestRefusals:
    """The same gate and the same refusals on both."""

    @pytest.mark.parametrize("version", ["h2", "h1"])
    @pytest.mark.parametrize(
        ("token", "host", "status", "error"),
        [
            ("", ECHO_HOST, 401, "http_request_denied"),
            ("not.a.token", ECHO_HOST, 401, "http_request_denied"),
            (None, "127.0.0.1", 403, "destination_ip_prohibited"),
            (None, "metadata.test", 403, "destination_ip_prohibited"),
            (None, "bad%20host", 400, "http_request_error"),
            ("mallory", ECHO_HOST, 403, "http_request_denied"),
        ],
    )
    async def test_refusal_has_the_status_of_http3(
        self,
        tmp_path: Path,
        version: str,
        token: str | None,
        host: str,
        status: int,
        error: str,
    ) -> None:
        async with running_relay(tmp_path) as relay:
            if token == "mallory":
                token = relay.token("mallory")
            if version == "h2":
                client = await h2(relay)
                head = relay.connect_udp(host, 9, token=token)
                fields, got = (answer := (await client.request(head))[1]).fields, answer.status
            else:
                first = await h1(relay)
                response: H1Response = await first.request(
                    upgrade(relay, 9, token=token, host=host)
                )
                fields, got = response.fields, response.status

            assert got == status
            assert f"error={error}" in fields["proxy-status"]
            assert ("www-authenticate" in fields) == (status == 401)

    @pytest.mark.parametrize("version", ["h2", "h1"])
    async def test_one_who_speaks_to_a_proxy_hears_407(self, tmp_path: Path, version: str) -> None:
        async with running_relay(tmp_path) as relay:
            if version == "h2":
                extra = [(b"proxy-authorization", b"Bearer not.a.token")]
                client = await h2(relay)
                head = relay.connect_udp(ECHO_HOST, 9, token="", extra=extra)
                answer = (await client.request(head))[1]
                assert (answer.status, "proxy-authenticate" in answer.fields) == (407, True)
            else:
                raw = await h1(relay)
                response = await raw.request(
                    upgrade(relay, 9, token="not.a.token", field="Proxy-Authorization")
                )
                assert (response.status, "proxy-authenticate" in response.fields) == (407, True)


async def test_quota_is_shared_by_all_versions(tmp_path: Path) -> None:
    policy = LIMITED_POLICY % "tunnels = 2"
    async with running_relay(tmp_path, policy=policy) as relay, udp_echo() as port:
        over_quic, over_h2, over_h1 = await relay.connect(), await h2(relay), await h1(relay)
        _, first = await over_quic.request(relay.connect_udp(ECHO_HOST, port))
        _, second = await over_h2.request(relay.connect_udp(ECHO_HOST, port))
        third = await over_h1.request(upgrade(relay, port))

        assert (first.status, second.status, third.status) == (200, 200, 429)


async def test_drain_lets_tunnels_live_until_the_deadline(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        over_h2, over_h1, idle = await h2(relay), await h1(relay), await h2(relay)
        stream_id, _ = await over_h2.request(relay.connect_udp(ECHO_HOST, port))
        assert (await over_h1.request(upgrade(relay, port))).status == 101
        relay.tcp_front.drain()
        relay.front_end.begin_drain()
        await idle.until(lambda: idle.is_lost)
        assert idle.goaway == (0, 0)
        with pytest.raises(OSError, match="Connect call failed"):
            await h1(relay)
        await over_h1.echo(b"still here")
        await over_h2.until(lambda: over_h2.goaway is not None)
        await over_h2.echo(stream_id, b"still here")

        async with asyncio.TaskGroup() as group:
            group.create_task(relay.front_end.drain(grace_s=0.05))

        await over_h2.until(lambda: over_h2.is_lost)
        assert await over_h1.is_closed()
        await relay.audit.until(lambda: len(relay.audit.ends()) == 2)
        assert {record["reason"] for record in relay.audit.ends()} == {EndReason.DRAINED}
        assert over_h2.goaway == (0, stream_id)
