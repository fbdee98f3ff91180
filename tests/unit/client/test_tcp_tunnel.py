"""Owns the tests of one TCP tunnel, over a connection whose other end the test plays."""

import asyncio

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.connection import RelayConnection
from masque_relay.client.errors import ClientError, RelayTimeout, TunnelClosed, TunnelRefused
from masque_relay.client.limits import ClientLimits
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.quic.application import Headers
from tests.support.client_fakes import FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

TARGET = make_target("web.example", 443)
OK: Headers = [(b":status", b"200"), (b"proxy-status", b'g; next-hop="192.0.2.7:443"')]


async def opened(connection: RelayConnection, answer: Headers = OK) -> TcpTunnel:
    """Open a tunnel on stream 0 that the relay answers."""
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, answer, end_stream=False)
    )
    return await connection.open_tcp(TARGET, authorization=b"Bearer t")


class TestOpening:
    """RFC 9114 section 4.4."""

    async def test_the_request_has_method_and_authority_and_no_more(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        assert transport.headers[0] == [
            [
                (b":method", b"CONNECT"),
                (b":authority", b"web.example:443"),
                (b"proxy-authorization", b"Bearer t"),
            ]
        ]
        assert tunnel.next_hop == "192.0.2.7:443"

    async def test_ipv6_stands_in_brackets(self) -> None:
        connection, transport = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, OK, end_stream=False)
        )
        await connection.open_tcp(make_target("2001:db8::7", 80))
        assert dict(transport.headers[0][0])[b":authority"] == b"[2001:db8::7]:80"

    async def test_a_refusal_carries_the_relays_reason(self) -> None:
        connection, transport = connection_on_fake()
        head = [(b":status", b"502"), (b"proxy-status", b"g; error=connection_refused")]
        with pytest.raises(TunnelRefused) as refused:
            await opened(connection, head)
        assert (refused.value.status, refused.value.error) == (502, "connection_refused")
        assert 0 in transport.resets
        assert connection.stream_count == 0

    async def test_a_relay_without_tcp_is_named_as_such(self) -> None:
        connection, _ = connection_on_fake()
        with pytest.raises(TunnelRefused) as refused:
            await opened(connection, [(b":status", b"501")])
        assert "TCP" in (refused.value.hint or "")

    async def test_silence_is_a_timeout_and_resets_the_stream(self) -> None:
        connection, transport = connection_on_fake(ClientLimits(open_timeout_s=0.0))
        with pytest.raises(RelayTimeout):
            await connection.open_tcp(TARGET)
        assert 0 in transport.resets
        assert connection.stream_count == 0

    async def test_who_gives_up_waiting_leaves_no_stream(self) -> None:
        connection, transport = connection_on_fake()
        task = asyncio.get_running_loop().create_task(connection.open_tcp(TARGET))
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0 in transport.resets
        assert connection.stream_count == 0

    async def test_an_end_without_an_answer_is_an_error(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            lambda: connection.data_received(0, b"", end_stream=True)
        )
        with pytest.raises(TunnelClosed):
            await connection.open_tcp(TARGET)

    async def test_an_interim_response_is_waited_through(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, [(b":status", b"103")], end_stream=False)
        )
        assert (await opened(connection)).next_hop is not None


@pytest.fixture
async def pair() -> tuple[TcpTunnel, RelayConnection, FakeRelayTransport]:
    """An open tunnel with a buffer of 1,000 bytes."""
    connection, transport = connection_on_fake(ClientLimits(stream_buffer_bytes=1_000))
    return await opened(connection), connection, transport


Pair = tuple[TcpTunnel, RelayConnection, FakeRelayTransport]


class TestReading:
    async def test_credit_is_granted_for_what_was_read_and_nothing_else(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        connection.data_received(0, b"x" * 700, end_stream=False)
        connection.data_received(0, b"y" * 300, end_stream=False)
        await settle()
        assert transport.consumed.get(0, 0) == 0
        assert tunnel.waiting_bytes == 1_000
        assert await tunnel.read() == b"x" * 700 + b"y" * 300
        assert transport.consumed[0] == 1_000
        assert tunnel.received_bytes == 1_000

    async def test_a_reader_waits_for_bytes(self, pair: Pair) -> None:
        tunnel, connection, _ = pair
        reader = asyncio.get_running_loop().create_task(tunnel.read())
        await settle()
        assert not reader.done()
        connection.data_received(0, b"late", end_stream=False)
        assert await reader == b"late"

    async def test_the_end_comes_after_the_last_byte(self, pair: Pair) -> None:
        tunnel, connection, _ = pair
        connection.data_received(0, b"last", end_stream=True)
        assert await tunnel.read() == b"last"
        assert await tunnel.read() == b""
        assert await tunnel.read() == b""

    async def test_a_reset_comes_after_what_had_arrived(self, pair: Pair) -> None:
        tunnel, connection, _ = pair
        connection.data_received(0, b"last", end_stream=False)
        connection.stream_reset_received(0, 0x10F)
        assert await tunnel.read() == b"last"
        with pytest.raises(TunnelClosed, match="0x10f"):
            await tunnel.read()

    async def test_a_waiting_reader_hears_of_a_lost_connection(self, pair: Pair) -> None:
        tunnel, connection, _ = pair
        reader = asyncio.get_running_loop().create_task(tunnel.read())
        await settle()
        connection.connection_lost(0x100, "gone")
        with pytest.raises(ClientError, match="gone"):
            await reader


class TestWriting:
    async def test_a_writer_waits_until_acknowledgements_make_room(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        transport.unsent[0] = 1_000
        writer = asyncio.get_running_loop().create_task(tunnel.write(b"data"))
        await settle()
        connection.streams_writable()
        await settle()
        assert not writer.done()
        transport.unsent[0] = 999
        connection.streams_writable()
        await writer
        assert transport.data[0] == b"data"
        assert tunnel.sent_bytes == 4

    async def test_a_waiting_writer_hears_of_a_reset(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        transport.unsent[0] = 1_000
        writer = asyncio.get_running_loop().create_task(tunnel.write(b"data"))
        await settle()
        connection.stream_reset_received(0, 0x10F)
        with pytest.raises(TunnelClosed):
            await writer
        assert 0 not in transport.data

    async def test_nothing_is_written_after_the_end(self, pair: Pair) -> None:
        tunnel, _, transport = pair
        tunnel.write_eof()
        tunnel.write_eof()
        with pytest.raises(TunnelClosed):
            await tunnel.write(b"more")
        assert transport.data[0] == b""


class TestEnding:
    async def test_each_direction_ends_on_its_own(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        tunnel.write_eof()
        assert 0 in transport.finished
        connection.data_received(0, b"still here", end_stream=False)
        assert await tunnel.read() == b"still here"
        assert connection.stream_count == 1
        connection.data_received(0, b"", end_stream=True)
        assert await tunnel.read() == b""
        assert connection.stream_count == 0
        assert 0 not in transport.resets

    async def test_the_target_may_end_first(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        connection.data_received(0, b"", end_stream=True)
        await tunnel.write(b"answer")
        tunnel.write_eof()
        assert transport.data[0] == b"answer"
        assert connection.stream_count == 0

    async def test_abort_resets_and_is_idempotent(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        tunnel.abort()
        tunnel.abort()
        assert transport.resets == {0: 0x10C}
        assert connection.stream_count == 0
        with pytest.raises(TunnelClosed):
            await tunnel.read()

    async def test_abort_after_both_ends_resets_nothing(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        connection.data_received(0, b"", end_stream=True)
        tunnel.write_eof()
        tunnel.abort()
        assert transport.resets == {}

    async def test_what_comes_after_an_abort_is_no_loss_of_credit(self, pair: Pair) -> None:
        tunnel, connection, transport = pair
        tunnel.abort()
        connection.data_received(0, b"late", end_stream=False)
        assert transport.consumed[0] == 4
