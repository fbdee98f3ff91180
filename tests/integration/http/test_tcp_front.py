"""The TCP listener: caps, handshakes, deadlines, floods, certificates (real sockets and TLS)."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hyperframe.frame import PingFrame

from masque_relay.contract.address import Endpoint
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_tls import READ_BUFFER_BYTES
from tests.support.h3_client import WAIT_S
from tests.support.relay import InProcessRelay, running_relay, server_context
from tests.support.site_certificate import write_site_certificate
from tests.support.tcp_clients import H1Client, H2Client, client_context

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def h1(relay: InProcessRelay, *alpn: str) -> H1Client:
    return await H1Client.connect(relay.https_address, relay.ca_pem, *alpn)


async def h2(relay: InProcessRelay) -> H2Client:
    return await H2Client.connect(relay.https_address, relay.ca_pem)


async def plain(relay: InProcessRelay) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A TCP connection that begins no TLS."""
    address = relay.https_address
    return await asyncio.open_connection(str(address.address), address.port)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (counters have no event)
            await asyncio.sleep(0.01)


class TestHandshake:
    async def test_alpn_decides_and_without_it_it_is_http1(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            for alpn in (("http/1.1",), (), ("imap",)):
                client = await h1(relay, *alpn)
                assert (await client.request(GET)).status == 200
                await client.close()
            over_h2 = await h2(relay)
            await over_h2.close()
            await until(lambda: not relay.tcp.connections_open)

            assert relay.tcp.handshakes_h1 == 3
            assert relay.tcp.handshakes_h2 == 1
            assert relay.tcp.connections_opened == 4
            assert relay.tcp.connections_closed == 4
            assert relay.tcp.connections_half_open == 0

    @pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""])
    async def test_one_that_fails_is_counted_and_forgotten(
        self, tmp_path: Path, garbage: bytes
    ) -> None:
        async with running_relay(tmp_path) as relay:
            _, writer = await plain(relay)
            writer.write(garbage)
            await until(lambda: relay.tcp.connections_half_open == 1)
            writer.close()
            await until(lambda: relay.tcp.handshakes_failed)

            assert relay.tcp.handshakes_failed == 1
            assert relay.tcp.connections_open == 0
            assert relay.tcp.connections_half_open == 0

    async def test_one_that_takes_too_long_is_dropped(self, tmp_path: Path) -> None:
        limits = TcpLimits(handshake_timeout_s=0.2)
        async with running_relay(tmp_path, tcp_limits=limits) as relay:
            reader, writer = await plain(relay)

            async with asyncio.timeout(WAIT_S):
                assert await reader.read() == b""
            await until(lambda: relay.tcp.handshakes_failed == 1)
            writer.close()


class TestCaps:
    async def test_too_many_from_one_source(self, tmp_path: Path) -> None:
        limits = TcpLimits(max_connections_per_source=2)
        async with running_relay(tmp_path, tcp_limits=limits) as relay:
            first, _ = await h1(relay), await h1(relay)
            with pytest.raises((OSError, ssl.SSLError)):
                await h1(relay)
            assert relay.tcp.refused_per_source == 1

            await first.close()
            await until(lambda: relay.tcp.connections_open == 1)
            assert (await (await h1(relay)).request(GET)).status == 200

    async def test_too_many_at_all(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, tcp_limits=TcpLimits(max_connections=1)) as relay:
            await h1(relay)
            with pytest.raises((OSError, ssl.SSLError)):
                await h1(relay)
            assert relay.tcp.refused_total == 1

    async def test_too_many_handshakes(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path, tcp_limits=TcpLimits(max_half_open=1)) as relay:
            _, writer = await plain(relay)
            await until(lambda: relay.tcp.connections_half_open == 1)
            with pytest.raises((OSError, ssl.SSLError)):
                await h1(relay)
            assert relay.tcp.refused_half_open == 1

            writer.close()
            await until(lambda: relay.tcp.connections_half_open == 0)
            assert (await (await h1(relay)).request(GET)).status == 200

    async def test_without_file_descriptors_the_listener_waits_and_goes_on(
        self, tmp_path: Path
    ) -> None:
        async with running_relay(tmp_path) as relay:
            address = (str(relay.https_address.address), relay.https_address.port)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as client:
                client.settimeout(0)
                lowest_free = os.dup(client.fileno())
                os.close(lowest_free)
                resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
                try:
                    await asyncio.get_running_loop().sock_connect(client, address)
                    await until(lambda: relay.tcp.accepts_failed == 1)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await until(lambda: relay.tcp.connections_opened == 1)

            assert (await (await h1(relay)).request(GET)).status == 200
            assert relay.tcp.accepts_failed == 1


async def test_an_idle_connection_holds_a_small_buffer(tmp_path: Path) -> None:
    """The one of asyncio would be 256 KiB, which is most of what such a connection costs."""
    async with running_relay(tmp_path) as relay:
        client = await h1(relay)
        assert (await client.request(GET)).status == 200
        (connection,) = relay.tcp_front._keys
        tls = connection._transport._ssl_protocol  # type: ignore[union-attr]  # asyncio's inside
        assert len(tls._ssl_buffer) == READ_BUFFER_BYTES


class TestDeadlines:
    async def test_head_that_trickles_in_is_cut_off(self, tmp_path: Path) -> None:
        """The slow-loris attack."""
        limits = TcpLimits(head_timeout_s=0.2)
        async with running_relay(tmp_path, tcp_limits=limits) as relay:
            client, silent = await h1(relay), await h1(relay)
            client.send(b"GET / HT")

            assert (await client.head()).status == 408
            assert await client.is_closed()
            assert await silent.is_closed()
            assert relay.tcp.deadlines_passed == 2

    async def test_idle_connections_end_and_tunnels_and_requests_do_not(
        self, tmp_path: Path
    ) -> None:
        limits = TcpLimits(idle_timeout_s=0.2)
        async with running_relay(tmp_path, tcp_limits=limits) as relay:
            client, idle = await h1(relay), await h2(relay)
            answer = await client.request(GET)
            await client.body(answer)

            await idle.until(lambda: idle.is_lost)
            assert idle.goaway == (0, 0)
            assert await client.is_closed()

    async def test_client_that_reads_nothing_is_cut_off(self, tmp_path: Path) -> None:
        limits = TcpLimits(write_timeout_s=0.2, control_frames_burst_count=10**9)
        async with running_relay(tmp_path, tcp_limits=limits) as relay:
            client = await h2(relay)
            client.transport.pause_reading()
            pings = PingFrame(0, opaque_data=b"12345678").serialize() * 2_000
            async with asyncio.timeout(3 * WAIT_S):
                while not relay.tcp.deadlines_passed:
                    client.send_raw(pings)
                    await asyncio.sleep(0.005)

            await until(lambda: relay.tcp.connections_open == 0)
            assert relay.tcp.deadlines_passed == 1
            client.transport.abort()


class TestAbuse:
    async def test_flood_of_pings_closes_the_connection(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client, neighbour = await h2(relay), await h1(relay)
            client.send_raw(PingFrame(0, opaque_data=b"12345678").serialize() * 3_000)
            await client.until(lambda: client.is_lost)

            assert client.goaway is None or client.goaway[0] == 11  # ENHANCE_YOUR_CALM
            assert relay.tcp.floods_stopped == 1
            assert (await neighbour.request(GET)).status == 200

    async def test_broken_framing_closes_the_connection(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client, neighbour = await h2(relay), await h1(relay)
            client.send_raw(bytes.fromhex("000004080000000000") + bytes(4))
            await client.until(lambda: client.is_lost)

            assert client.goaway == (1, 0)
            assert relay.tcp.protocol_errors == 1
            assert (await neighbour.request(GET)).status == 200

    async def test_smuggled_request_never_runs(self, tmp_path: Path) -> None:
        async with running_relay(tmp_path) as relay:
            client = await h1(relay)
            ambiguous = (
                b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nG" + GET
            )
            answer = await client.request(ambiguous)

            assert answer.status == 400
            assert answer.fields["connection"] == "close"
            assert await client.is_closed()
            assert relay.http.requests == 0


class TestCertificates:
    async def test_new_one_is_used_for_new_connections_and_the_old_ones_live(
        self, tmp_path: Path
    ) -> None:
        async with running_relay(tmp_path) as relay:
            before = await h1(relay)
            other = write_site_certificate(tmp_path / "other")
            relay.tcp_front.replace_context(server_context(other))
            with pytest.raises(ssl.SSLCertVerificationError):
                await h1(relay)
            context = client_context(other.ca_file.read_bytes())
            after = await H1Client.connect(relay.https_address, b"", context=context)

            assert (await before.request(GET)).status == 200
            assert (await after.request(GET)).status == 200


async def test_ipv4_client_of_a_dual_stack_listener_has_an_ipv4_address(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay:
        relay.tcp_front.drain()
        listening = relay.tcp_front.listen(Endpoint(address=ip_address("::"), port=0))
        address = Endpoint(address=ip_address("127.0.0.1"), port=listening.port)
        client = await H1Client.connect(address, relay.ca_pem)
        (connection,) = relay.tcp_front._keys

        assert str(connection.peer.address) == "127.0.0.1"
        await client.close()
