"""QuicEndpoint against strangers: floods, spoofed handshakes, caps, unknown versions, garbage."""

import asyncio
import os

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header

from masque_relay.quic.limits import RetryMode
from masque_relay.quic.retry import CONNECTION_REFUSED, EndpointSecrets
from masque_relay.quic.settings import ConnectFailed
from tests.integration.quic.conftest import StartClient, StartServer
from tests.integration.quic.harness import Nat, RawSocket, eventually, first_flight


class TestRetry:
    """RFC 9000 section 8.1.2."""

    async def test_quiet_relay_asks_for_no_retry(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server = start_server()
        await (await start_client().connect(server.address)).echo(b"hello")
        assert server.counters.retries_sent == 0

    async def test_retry_always_costs_a_round_trip_and_nothing_else(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server = start_server(retry_mode=RetryMode.ALWAYS)
        await (await start_client().connect(server.address)).echo(b"hello")
        assert server.counters.retries_sent >= 1
        assert server.counters.retry_tokens_invalid == 0
        assert server.counters.connections_opened == 1

    async def test_spoofed_handshakes_turn_retry_on_and_honest_clients_get_in(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server = start_server(retry_half_open_count=5)
        with RawSocket(server.address) as spoofer:
            for _ in range(50):
                spoofer.send(*first_flight())
            await eventually(lambda: server.counters.retries_sent >= 45)
            assert server.counters.connections_half_open == 5
            assert server.endpoint.snapshot()["retry_active"] is True
            await (await start_client().connect(server.address)).echo(b"hello")
            assert server.counters.connections_opened == 6

    async def test_relay_behind_the_same_address_takes_the_token(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        # The neighbour has only the keys in common; packets go there after the Retry.
        secrets = EndpointSecrets.generate()
        server = start_server(retry_mode=RetryMode.ALWAYS, secrets=secrets)
        rotated = EndpointSecrets(
            retry_keys=(bytes(32), *secrets.retry_keys), reset_key=secrets.reset_key
        )
        neighbour = start_server(retry_mode=RetryMode.ALWAYS, secrets=rotated)
        nat = Nat(server.address)
        nat.after_first_answer(neighbour.address)
        try:
            await (await start_client().connect(nat.address)).echo(b"hello")
        finally:
            nat.close()
        assert (server.counters.retries_sent, server.counters.connections_opened) == (1, 0)
        assert (neighbour.counters.retries_sent, neighbour.counters.connections_opened) == (0, 1)

    async def test_foreign_token_is_refused_at_once(self, start_server: StartServer) -> None:
        server = start_server(retry_mode=RetryMode.ALWAYS)
        (packet,) = first_flight()
        with RawSocket(server.address) as raw:
            # Splice a token into the Initial: type, version, both IDs, then the token length.
            after_ids = 7 + packet[5] + packet[6 + packet[5]]
            assert packet[after_ids] == 0
            raw.send(packet[:after_ids] + b"\x10" + bytes(16) + packet[after_ids + 1 :])
            answer = await raw.receive()
            header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
            assert header.packet_type is QuicPacketType.INITIAL
            assert server.counters.retry_tokens_invalid == 1
            assert server.counters.connections_opened == 0


class TestCaps:
    async def test_one_source_cannot_have_more_than_its_share(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(max_connections_per_source=2), start_client()
        applications = [await client.connect(server.address) for _ in range(2)]
        with pytest.raises(ConnectFailed) as caught:
            await client.connect(server.address)
        assert caught.value.error_code == CONNECTION_REFUSED
        assert server.counters.refused_per_source >= 1
        applications[0].transport.close(0, "")
        await eventually(lambda: server.counters.connections_open == 1)
        await (await client.connect(server.address)).echo(b"there is room again")

    async def test_half_open_connections_are_capped_and_expire(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server = start_server(max_half_open=3, handshake_timeout_s=0.5, retry_mode=RetryMode.NEVER)
        with RawSocket(server.address) as raw:
            for _ in range(10):
                raw.send(*first_flight())
            await eventually(lambda: server.counters.refused_half_open == 7)
            assert server.counters.connections_half_open == 3
            await eventually(lambda: server.counters.handshakes_expired == 3)
            assert server.counters.connections_half_open == 0
            assert server.endpoint._table.by_cid == {}
            await (await start_client().connect(server.address)).echo(b"there is room again")

    async def test_cap_on_all_connections_refuses(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(max_connections=1), start_client()
        application = await client.connect(server.address)
        with pytest.raises(ConnectFailed):
            await client.connect(server.address)
        assert server.counters.refused_total >= 1
        await application.echo(b"still here")


class TestVersionNegotiation:
    """RFC 9000 section 6."""

    async def test_only_full_sized_packets_of_unknown_versions_are_answered(
        self, start_server: StartServer
    ) -> None:
        server = start_server()
        with RawSocket(server.address) as raw:
            head = b"\xc0\x1a\x2a\x3a\x4a\x08serverid\x08clientid"
            raw.send(head + bytes(1199 - len(head)), head + bytes(1200 - len(head)))
            answer = await raw.receive()
            header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
            assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
            assert (header.destination_cid, header.source_cid) == (b"clientid", b"serverid")
            raw.send(answer.ljust(1200, b"\x00"))
            await eventually(lambda: server.counters.packets_unroutable == 2)
            assert raw.received_now() == []
            assert server.counters.version_negotiations_sent == 1

    async def test_flood_of_unknown_versions_is_answered_within_the_rate(
        self, start_server: StartServer
    ) -> None:
        server = start_server(version_negotiations_per_s=10)
        with RawSocket(server.address) as raw:
            packet = (b"\xc0\x1a\x2a\x3a\x4a\x08serverid\x08clientid").ljust(1200, b"\x00")
            for _ in range(20):
                raw.send(*[packet] * 20)
                await asyncio.sleep(0)
            await eventually(lambda: server.counters.datagrams_received == 400)
            assert 10 <= server.counters.version_negotiations_sent < 100


class TestGarbage:
    async def test_garbage_of_any_kind_does_no_harm(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(stateless_resets_per_s=5), start_client()
        application = await client.connect(server.address)
        with RawSocket(server.address) as raw:
            (initial,) = first_flight()
            kinds = [
                b"",
                b"\x40",
                bytes(8),
                b"\x00\x01\x00\x00\x21\x12\xa4\x42".ljust(20, b"t"),  # STUN
                b"\x16\xfe\xfd".ljust(60, b"d"),  # DTLS
                b"\x80".ljust(100, b"r"),  # RTP
                b"\x40".ljust(1200, b"s"),
                b"\xff" * 1472,
                b"\xc0\x00\x00\x00\x01".ljust(1300, b"\xff"),
                b"\xc0\x00\x00\x00\x01\x08" + os.urandom(1300),
                initial[:1199],
                initial[:200].ljust(1200, b"\x00"),
                initial[:100] + bytes((initial[100] ^ 1,)) + initial[101:],  # cannot be decrypted
                b"\xe0" + initial[1:],
            ]
            for kind in kinds:
                for _ in range(10):
                    raw.send(kind)
                await asyncio.sleep(0.001)
            await application.echo(b"still here")
            for size in range(40, 1300, 40):
                raw.send(*(os.urandom(size) for _ in range(5)))
                await asyncio.sleep(0.001)
            await application.echo(b"still here")
            await (await client.connect(server.address)).echo(b"and newcomers too")
            await eventually(lambda: server.counters.connections_half_open == 0)
            assert server.counters.packets_unroutable > 50
            assert server.counters.stateless_resets_sent < 50
            assert server.counters.connections_open == 2

    async def test_garbage_under_the_id_of_a_connection_does_not_disturb_it(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        with RawSocket(server.address) as raw:
            for connection_id in list(server.endpoint._table.by_cid):
                for size in (0, 1, 20, 1200):
                    raw.send(b"\x40" + connection_id + os.urandom(size))
                    raw.send(b"\xc0\x00\x00\x00\x01\x08" + connection_id + os.urandom(size))
            await application.echo(b"still here")
            assert server.counters.migrations == 0

    async def test_noise_towards_a_client_does_not_disturb_it(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        (connection,) = client.endpoint._connections.values()
        with RawSocket(
            type(server.address)(
                address=server.address.address, port=connection.port.socket.local.port
            )
        ) as raw:
            raw.send(b"", b"\x40", b"\x40" * 50, b"\xc0" * 50, b"\x00" * 50, os.urandom(1200))
            await asyncio.sleep(0.05)
            await application.echo(b"still here")
