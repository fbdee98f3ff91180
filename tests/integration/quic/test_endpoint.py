"""QuicEndpoint over real loopback sockets: connections, movement, reload, drain, diagnostics."""

import asyncio
import dataclasses
import gc
import json
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane.batch_io import BatchUdpSocket
from masque_relay.quic.retry import CONNECTION_REFUSED, EndpointSecrets
from masque_relay.quic.settings import ClientTls, ConnectFailed
from tests.integration.quic.conftest import StartClient, StartServer
from tests.integration.quic.harness import (
    ANY_6,
    LOOPBACK_4,
    LOOPBACK_6,
    Authority,
    Nat,
    eventually,
    make_server,
)


class TestHandshake:
    @pytest.mark.parametrize("listen", [LOOPBACK_4, LOOPBACK_6], ids=["ipv4", "ipv6"])
    async def test_streams_and_datagrams_go_both_ways(
        self, listen: Endpoint, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(listen), start_client()
        application = await client.connect(server.address)
        await application.echo(b"hello" * 20_000)
        application.transport.send_datagrams(b"", [b"one", b"two"])
        await application.wait_until(lambda: len(application.datagrams) == 2)
        assert application.datagrams == [b"one", b"two"]
        assert server.counters.handshakes_completed == 1
        assert server.counters.connections_open == 1
        assert server.counters.connections_half_open == 0
        assert server.counters.datagrams_received > 0
        assert server.counters.bytes_sent > 100_000

    async def test_dual_stack_listener_serves_both_families(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(ANY_6), start_client()
        for loopback in (LOOPBACK_4, LOOPBACK_6):
            address = Endpoint(address=loopback.address, port=server.address.port)
            application = await client.connect(address)
            await application.echo(b"over " + str(address).encode())
        assert server.counters.connections_open == 2

    async def test_one_endpoint_has_several_listeners(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        for address in (server.address, server.endpoint.listen(LOOPBACK_6)):
            await (await client.connect(address)).echo(b"hello")
        assert len(server.endpoint.snapshot()["listeners"]) == 2  # type: ignore[arg-type]  # a list

    async def test_what_the_kernel_does_not_take_is_counted_and_recovered(
        self,
        start_server: StartServer,
        start_client: StartClient,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        send_batch = BatchUdpSocket.send_batch
        refusals = 3

        def full_at_first(
            self: BatchUdpSocket, payloads: Sequence[bytes], destination: tuple[str, int]
        ) -> int:
            nonlocal refusals
            if self.local == server.address and refusals:
                refusals -= 1
                return 0
            return send_batch(self, payloads, destination)

        monkeypatch.setattr(BatchUdpSocket, "send_batch", full_at_first)
        await application.echo(b"hello" * 1_000)
        assert server.counters.sends_dropped >= 3

    async def test_untrusted_certificate_fails_with_a_tls_alert(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        client.tls = ClientTls(ca_pem=Authority().pem)
        with pytest.raises(ConnectFailed) as caught:
            await client.connect(server.address)
        assert caught.value.error_code is not None
        assert 0x100 <= caught.value.error_code < 0x200
        await eventually(lambda: client.endpoint.snapshot()["connections_open"] == 0)

    async def test_unknown_protocol_is_refused(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        with pytest.raises(ConnectFailed) as caught:
            await client.endpoint.connect(
                server.address,
                server_name="localhost",
                alpn="nobody-speaks-this",
                application=lambda _: pytest.fail("no application is made"),
                tls=client.tls,
            )
        # no_application_protocol, RFC 9001 section 8.1
        assert caught.value.error_code == 0x178

    async def test_silence_ends_with_the_deadline(
        self, start_client: StartClient, start_server: StartServer
    ) -> None:
        client, server = start_client(), start_server()
        server.endpoint._shut()
        with pytest.raises(ConnectFailed):
            await client.connect(server.address, timeout_s=0.1)
        assert client.endpoint.snapshot()["connections_open"] == 0

    async def test_cancelled_connect_leaves_nothing_behind(
        self, start_client: StartClient, start_server: StartServer
    ) -> None:
        client, server = start_client(), start_server()
        server.endpoint._shut()
        attempt = asyncio.ensure_future(client.connect(server.address))
        await asyncio.sleep(0)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        assert client.endpoint.snapshot()["connections_open"] == 0

    async def test_fifty_clients_at_once_are_served_within_the_budget_of_a_turn(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        async with asyncio.TaskGroup() as group:
            attempts = [group.create_task(client.connect(server.address)) for _ in range(50)]
        for attempt in attempts:
            await attempt.result().echo(b"hello")
        assert server.counters.connections_open == 50


class TestMovement:
    """RFC 9000 section 9."""

    @pytest.mark.clause("RFC 9000", "9.3", "MUST", "follow a validated peer to its new address")
    async def test_connection_survives_nat_rebinding(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        nat = Nat(server.address)
        try:
            application = await client.connect(nat.address)
            await application.echo(b"before")
            for _ in range(2):
                nat.rebind()
                await application.echo(b"after")
        finally:
            nat.close()
        assert server.counters.migrations == 2
        assert server.counters.connections_open == 1
        assert server.counters.connections_opened == 1


class TestStatelessReset:
    """RFC 9000 section 10.3."""

    @pytest.mark.clause(
        "RFC 9000", "10.3", "MUST", "end connections that nobody remembers by a stateless reset"
    )
    async def test_restarted_relay_resets_connections_of_its_former_life(
        self, authority: Authority, start_server: StartServer, start_client: StartClient
    ) -> None:
        secrets = EndpointSecrets.generate()
        former, client = make_server(authority, secrets=secrets), start_client()
        application = await client.connect(former.address)
        await application.echo(b"hello")
        former.endpoint._shut()  # as a crash does: not a word to the peer
        restarted = start_server(former.address, secrets=secrets)
        application.transport.send_stream_data(400, b"x" * 100, end_stream=False)
        _, reason = await application.lost()
        assert "reset" in reason
        assert restarted.counters.stateless_resets_sent >= 1

    async def test_relay_with_another_key_cannot_reset(
        self, authority: Authority, start_server: StartServer, start_client: StartClient
    ) -> None:
        former, client = make_server(authority), start_client()
        application = await client.connect(former.address)
        await application.echo(b"hello")
        former.endpoint._shut()
        stranger = start_server(former.address)
        application.transport.send_stream_data(400, b"x" * 100, end_stream=False)
        await eventually(lambda: stranger.counters.stateless_resets_sent >= 2)
        assert application.ended is None


class TestReload:
    async def test_new_certificate_serves_new_connections_and_keeps_the_old_ones(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        old = await client.connect(server.address)
        others = Authority()
        server.certificates.replace(others.identity())
        await old.echo(b"still here")
        with pytest.raises(ConnectFailed):
            await client.connect(server.address)
        client.tls = ClientTls(ca_pem=others.pem)
        new = await client.connect(server.address)
        await new.echo(b"new")
        await old.echo(b"still here")
        assert old.transport.peer_certificate_chain != new.transport.peer_certificate_chain

    async def test_name_chooses_the_certificate(
        self, authority: Authority, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        server.certificates.replace(authority.identity(), [authority.identity("relay.example")])
        await (await client.connect(server.address, server_name="relay.example")).echo(b"hello")
        server.certificates.refuse_unknown_names = True
        with pytest.raises(ConnectFailed) as caught:
            await client.connect(server.address, server_name="stranger.example")
        # unrecognized_name, RFC 6066 section 3
        assert caught.value.error_code == 0x170

    async def test_applied_limits_hold_for_the_next_connection(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        await client.connect(server.address)
        limits = dataclasses.replace(server.settings.limits, max_connections=1)
        server.endpoint.apply(dataclasses.replace(server.settings, limits=limits))
        with pytest.raises(ConnectFailed) as caught:
            await client.connect(server.address)
        assert caught.value.error_code == CONNECTION_REFUSED


class TestEnd:
    async def test_draining_refuses_newcomers_and_lets_others_live(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        server.endpoint.drain()
        with pytest.raises(ConnectFailed) as caught:
            await client.connect(server.address)
        assert caught.value.error_code == CONNECTION_REFUSED
        await application.echo(b"still here")
        await server.endpoint.close(error_code=0, reason="drained", timeout_s=0.5)
        assert await application.lost() == (0, "drained")
        assert server.counters.connections_open == 0

    async def test_client_that_closes_is_forgotten_with_all_its_ids(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        await application.echo(b"hello")
        assert len(server.endpoint._table.by_cid) > 1
        application.transport.close(0, "done")
        await eventually(lambda: server.counters.connections_open == 0)
        assert server.endpoint._table.by_cid == {}
        assert server.endpoint._table._by_initial_cid == {}
        assert server.counters.connections_closed == 1

    async def test_closed_connection_is_released(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(), start_client()
        application = await client.connect(server.address)
        await application.echo(b"hello")
        (adapter,) = server.endpoint._connections
        gone = weakref.ref(adapter)
        del adapter
        application.transport.close(0, "done")
        await eventually(lambda: server.counters.connections_open == 0)
        gc.collect()
        assert gone() is None

    async def test_idle_connection_ends(
        self, start_server: StartServer, start_client: StartClient
    ) -> None:
        server, client = start_server(idle_timeout_s=0.3), start_client()
        application = await client.connect(server.address)
        await application.echo(b"hello")
        await application.lost()
        await eventually(lambda: server.counters.connections_open == 0)

    async def test_bug_of_an_application_ends_its_connection_only(
        self,
        start_server: StartServer,
        start_client: StartClient,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server, client = start_server(), start_client()
        victim, neighbour = [await client.connect(server.address) for _ in range(2)]
        stream_id = victim.transport.next_stream_id(unidirectional=False)
        victim.transport.send_stream_data(stream_id, b"crash", end_stream=True)
        error_code, _ = await victim.lost()
        assert error_code != 0
        await neighbour.echo(b"still here")
        assert "bug of the application" in caplog.text

    async def test_bug_of_an_adapter_ends_its_connection_only(
        self,
        start_server: StartServer,
        start_client: StartClient,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        server, client = start_server(), start_client()
        victim, neighbour = [await client.connect(server.address) for _ in range(2)]
        adapter = next(
            a
            for a in server.endpoint._connections
            if a.connection_id == victim.transport.connection_id
        )

        def fail(*_: object) -> None:
            raise RuntimeError("a bug of the adapter")

        monkeypatch.setattr(adapter, "receive_packets", fail)
        stream_id = victim.transport.next_stream_id(unidirectional=False)
        victim.transport.send_stream_data(stream_id, b"hello" * 100, end_stream=True)
        await eventually(lambda: server.counters.connections_open == 1)
        await neighbour.echo(b"still here")
        assert "a bug of the adapter" in caplog.text


class TestDiagnostics:
    async def test_qlog_and_key_log_are_written_when_asked_for(
        self, tmp_path: Path, start_server: StartServer, start_client: StartClient
    ) -> None:
        directory, key_log = tmp_path / "qlog", tmp_path / "keys.log"
        server = start_server(qlog_directory=directory, key_log_file=key_log)
        client = start_client()
        for _ in range(2):
            application = await client.connect(server.address)
            await application.echo(b"hello")
            application.transport.close(0, "")
        await eventually(lambda: server.counters.connections_open == 0)
        paths = list(directory.iterdir())
        assert len(paths) == 2
        events = [json.loads(text) for text in paths[0].read_text().split("\x1e")[1:]]
        assert any(event.get("name") == "transport:packet_received" for event in events)
        assert stat.S_IMODE(key_log.stat().st_mode) == 0o600
        labels = [line.split()[0] for line in key_log.read_text().splitlines()]
        assert labels.count("CLIENT_TRAFFIC_SECRET_0") == 2
