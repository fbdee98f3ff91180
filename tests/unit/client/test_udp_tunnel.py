"""Owns the tests of one CONNECT-UDP tunnel, over a connection whose other end the test plays."""

import asyncio

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.connection import RelayConnection
from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.errors import (
    ConnectionLost,
    RelayTimeout,
    TunnelClosed,
    TunnelRefused,
)
from masque_relay.client.limits import ClientLimits
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.capsule import CapsuleDecoder, encode_capsule
from tests.support.client_fakes import ACCEPTED, FakeRelayTransport, connection_on_fake
from tests.support.http_fakes import settle

TARGET = make_target("dns.example", 53)


async def opened(
    connection: RelayConnection,
    answer: list[tuple[bytes, bytes]] | None = None,
    *,
    on_batch: OnBatch | None = None,
    on_closed: OnClosed | None = None,
) -> UdpTunnel:
    """Open a tunnel on stream 0 that the relay accepts (or answers as given)."""
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, answer or ACCEPTED, end_stream=False)
    )
    return await connection.open_udp(
        TARGET, authority="r.test", path="/p", on_batch=on_batch, on_closed=on_closed
    )


def refused_head(status: bytes, proxy_status: bytes) -> list[tuple[bytes, bytes]]:
    return [(b":status", status), (b"proxy-status", proxy_status)]


class TestOpening:
    """RFC 9298 section 3."""

    async def test_a_2xx_opens_the_tunnel_and_tells_the_next_hop(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection)
        assert tunnel.is_open
        assert tunnel.next_hop == "192.0.2.7:53"
        assert tunnel.target == TARGET

    async def test_interim_responses_are_waited_through(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, [(b":status", b"103")], end_stream=False)
        )
        assert (await opened(connection)).is_open

    @pytest.mark.clause("RFC 9298", "3.1", "MUST", "abort a request that was not answered with 2xx")
    async def test_another_status_is_a_refusal_with_the_relays_reason(self) -> None:
        connection, transport = connection_on_fake()
        closed: list[TunnelClosed] = []
        head = refused_head(b"403", b'g; error=http_request_denied; details="no"')
        with pytest.raises(TunnelRefused) as refused:
            await opened(connection, head, on_closed=closed.append)
        assert (refused.value.status, refused.value.error) == (403, "http_request_denied")
        assert refused.value.details == "no"
        assert refused.value.hint
        assert 0 in transport.resets
        assert [end.reason for end in closed] == [EndReason.DENIED]
        assert connection.stream_count == 0

    async def test_a_response_without_a_status_is_a_refusal(self) -> None:
        connection, _ = connection_on_fake()
        with pytest.raises(TunnelRefused):
            await opened(connection, [(b"server", b"x")])

    async def test_no_answer_in_time_is_a_timeout_and_cancels_the_request(self) -> None:
        connection, transport = connection_on_fake(ClientLimits(open_timeout_s=0.0))
        with pytest.raises(RelayTimeout) as late:
            await connection.open_udp(TARGET, authority="r.test", path="/p")
        assert late.value.hint
        assert transport.resets == {0: 0x10C}
        assert connection.stream_count == 0

    async def test_a_lost_connection_ends_the_wait(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(connection.connection_lost, 0x100, "bye")
        with pytest.raises(ConnectionLost, match="bye"):
            await connection.open_udp(TARGET, authority="r.test", path="/p")

    async def test_a_reset_ends_the_wait(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(connection.stream_reset_received, 0, 0x10B)
        with pytest.raises(TunnelClosed, match="0x10b"):
            await connection.open_udp(TARGET, authority="r.test", path="/p")

    async def test_a_cancelled_wait_cancels_the_request(self) -> None:
        connection, transport = connection_on_fake()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await connection.open_udp(TARGET, authority="r.test", path="/p")
        assert transport.resets == {0: 0x10C}

    async def test_datagrams_that_overtake_the_response_are_kept(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(
            connection.datagrams_received, 0, [b"\0early", b"\0bird"]
        )
        tunnel = await opened(connection)
        assert [await tunnel.receive(), await tunnel.receive()] == [b"early", b"bird"]


class TestDatagrams:
    """RFC 9298 section 5."""

    async def test_payloads_leave_with_context_id_0(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        assert tunnel.send_batch([b"a", b"bc"]) == 2
        assert transport.datagrams == [(0, b"\0a"), (0, b"\0bc")]
        assert (tunnel.sent_count, tunnel.sent_bytes) == (2, 3)

    async def test_the_payload_size_leaves_room_for_the_context_id(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        transport.max_payload_bytes = 1_200
        assert tunnel.max_payload_bytes == 1_199

    async def test_oversize_payloads_are_dropped_and_counted_and_the_others_sent(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        assert tunnel.send_batch([b"a", bytes(1_199), bytes(1_200), bytes(1_452)]) == 2
        assert [len(payload) for _, payload in transport.datagrams] == [2, 1_200]
        assert (tunnel.oversize_count, tunnel.oversize_largest_bytes) == (2, 1_452)
        assert tunnel.send(b"after")

    async def test_what_the_queue_does_not_take_is_counted(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        transport.send_datagrams = lambda *_arguments: 1  # type: ignore[method-assign]
        assert tunnel.send_batch([b"a", b"b", b"c"]) == 1
        assert (tunnel.sent_count, tunnel.send_dropped_count) == (1, 2)

    async def test_batches_go_to_the_callback_without_the_context_id(self) -> None:
        connection, _ = connection_on_fake()
        batches: list[list[bytes]] = []
        tunnel = await opened(connection, on_batch=lambda batch: batches.append(list(batch)))
        connection.datagrams_received(0, [b"\0one", b"\0"])
        assert batches == [[b"one", b""]]
        assert (tunnel.received_count, tunnel.received_bytes) == (2, 3)

    async def test_unknown_contexts_and_empty_datagrams_are_dropped_and_counted(self) -> None:
        connection, _ = connection_on_fake()
        batches: list[list[bytes]] = []
        tunnel = await opened(connection, on_batch=lambda batch: batches.append(list(batch)))
        connection.datagrams_received(0, [b"\x02x", b"", b"\0y", b"\x40\x00z"])
        assert batches == [[b"y"]]
        assert tunnel.unknown_context_count == 3

    async def test_the_receive_queue_drops_the_oldest(self) -> None:
        connection, _ = connection_on_fake(ClientLimits(receive_datagrams=2))
        tunnel = await opened(connection)
        connection.datagrams_received(0, [b"\0a", b"\0b"])
        connection.datagrams_received(0, [b"\0c"])
        assert tunnel.receive_dropped_count == 1
        assert [await tunnel.receive(), await tunnel.receive()] == [b"b", b"c"]

    async def test_receive_waits_for_what_comes_later(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection)
        asyncio.get_running_loop().call_soon(connection.datagrams_received, 0, [b"\0late"])
        assert await tunnel.receive() == b"late"

    async def test_batches_end_with_the_tunnel(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection)
        connection.datagrams_received(0, [b"\0a", b"\0b"])
        asyncio.get_running_loop().call_soon(tunnel.close)
        assert [batch async for batch in tunnel.batches()] == [[b"a", b"b"]]


class TestCapsules:
    """RFC 9297 section 3.5: for relays that take no QUIC datagrams."""

    async def test_payloads_leave_and_come_as_capsules(self) -> None:
        connection, transport = connection_on_fake(datagrams=False)
        tunnel = await opened(connection)
        assert tunnel.reliable
        assert tunnel.max_payload_bytes == 65_527
        assert tunnel.send_batch([b"a", bytes(3_000)]) == 2
        decoder = CapsuleDecoder(max_capsule_bytes=70_000, known_types=(0,))
        sent = [capsule.value for capsule in decoder.feed(transport.data[0])]
        assert sent == [b"\0a", bytes(3_001)]
        for byte in encode_capsule(0, b"\0back"):
            connection.data_received(0, bytes((byte,)), end_stream=False)
        assert await tunnel.receive() == b"back"
        assert transport.consumed[0] == len(encode_capsule(0, b"\0back"))

    async def test_capsules_are_taken_from_a_relay_with_datagrams_too(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection)
        connection.data_received(0, encode_capsule(0, b"\0x"), end_stream=False)
        assert await tunnel.receive() == b"x"

    async def test_unknown_capsules_are_skipped(self) -> None:
        connection, _ = connection_on_fake()
        tunnel = await opened(connection)
        connection.data_received(
            0, encode_capsule(0x1234, b"?") + encode_capsule(0, b"\0x"), end_stream=False
        )
        assert await tunnel.receive() == b"x"

    async def test_a_stream_that_is_not_acknowledged_takes_no_more(self) -> None:
        connection, transport = connection_on_fake(
            ClientLimits(capsule_buffer_bytes=1_000), datagrams=False
        )
        tunnel = await opened(connection)
        transport.unsent[0] = 900
        assert tunnel.send_batch([bytes(50), bytes(50)]) == 1
        assert tunnel.send_dropped_count == 1

    async def test_an_impossible_capsule_ends_the_tunnel_only(self) -> None:
        connection, transport = connection_on_fake()
        closed: list[TunnelClosed] = []
        tunnel = await opened(connection, on_closed=closed.append)
        connection.data_received(0, b"\0\xbf\xff\xff\xff", end_stream=False)
        assert not tunnel.is_open
        assert transport.resets == {0: 0x10E}
        assert closed[0].reason is EndReason.PROTOCOL_ERROR
        assert connection.lost is None


class TestEnding:
    async def test_close_sends_fin_once_and_waits_for_the_relays(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        tunnel.close()
        tunnel.close()
        assert transport.finished == {0}
        assert transport.resets == {}
        assert connection.stream_count == 1
        connection.data_received(0, b"", end_stream=True)
        assert connection.stream_count == 0

    async def test_a_relay_that_never_ends_its_side_is_reset(self) -> None:
        connection, transport = connection_on_fake(ClientLimits(linger_s=0.0))
        tunnel = await opened(connection)
        tunnel.close()
        await settle()
        assert transport.resets == {0: 0x10C}
        assert connection.stream_count == 0

    async def test_a_closed_tunnel_sends_nothing_and_counts_it(self) -> None:
        connection, transport = connection_on_fake()
        tunnel = await opened(connection)
        tunnel.close()
        assert tunnel.send_batch([b"x"]) == 0
        assert tunnel.send_dropped_count == 1
        assert tunnel.max_payload_bytes == 0
        assert transport.datagrams == []

    async def test_the_relays_fin_ends_the_tunnel(self) -> None:
        connection, transport = connection_on_fake()
        closed: list[TunnelClosed] = []
        tunnel = await opened(connection, on_closed=closed.append)
        connection.datagrams_received(0, [b"\0last"])
        connection.data_received(0, b"", end_stream=True)
        assert transport.finished == {0}
        assert await tunnel.receive() == b"last"
        with pytest.raises(TunnelClosed):
            await tunnel.receive()
        assert len(closed) == 1
        assert closed[0].hint

    async def test_a_reset_ends_the_tunnel_and_its_neighbour_goes_on(self) -> None:
        connection, transport = connection_on_fake()
        first = await opened(connection)
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(4, ACCEPTED, end_stream=False)
        )
        second = await connection.open_udp(TARGET, authority="r.test", path="/p")
        connection.stream_reset_received(0, 0x102)
        assert not first.is_open
        assert second.send(b"alive")
        assert transport.datagrams == [(4, b"\0alive")]

    async def test_a_lost_connection_ends_every_tunnel_with_its_reason(self) -> None:
        connection, _ = connection_on_fake()
        closed: list[TunnelClosed] = []
        tunnel = await opened(connection, on_closed=closed.append)
        connection.connection_lost(0x0, "idle")
        assert closed[0].reason is EndReason.CONNECTION_LOST
        with pytest.raises(TunnelClosed, match="idle"):
            await tunnel.receive()


async def test_a_transport_without_h3_datagrams_is_never_given_any() -> None:
    connection, transport = connection_on_fake(datagrams=False)
    tunnel = await opened(connection)
    tunnel.send(b"x")
    assert isinstance(transport, FakeRelayTransport)
    assert transport.datagrams == []
