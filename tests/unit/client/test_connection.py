"""Owns the tests of one HTTP/3 connection to a relay: readiness, requests, ends."""

import asyncio

import pytest

from masque_relay.client.address import make_target
from masque_relay.client.errors import (
    ClientError,
    ConnectionLost,
    RelayIncapable,
    RelayLeaving,
    RelayTimeout,
)
from masque_relay.client.limits import ClientLimits
from tests.support.client_fakes import ACCEPTED, RELAY_SETTINGS, connection_on_fake

TARGET = make_target("2001:db8::1", 53)


class TestReadiness:
    """RFC 9220 section 3."""

    async def test_settings_with_extended_connect_make_it_ready(self) -> None:
        connection, _ = connection_on_fake(ready=False)
        asyncio.get_running_loop().call_soon(connection.settings_received, RELAY_SETTINGS)
        await connection.wait_ready()

    @pytest.mark.clause("RFC 9220", "3", "MUST NOT", "use :protocol before the server announced it")
    @pytest.mark.clause("RFC 8441", "3", "MUST NOT", "use :protocol before the server announced it")
    @pytest.mark.parametrize("settings", [{}, {0x8: 0}, {0x33: 1}])
    async def test_a_server_without_extended_connect_is_no_relay(
        self, settings: dict[int, int]
    ) -> None:
        connection, _ = connection_on_fake(ready=False)
        connection.settings_received(settings)
        with pytest.raises(RelayIncapable) as refused:
            await connection.wait_ready()
        assert refused.value.hint

    async def test_no_settings_in_time_is_a_timeout(self) -> None:
        connection, _ = connection_on_fake(ClientLimits(settings_timeout_s=0.0), ready=False)
        with pytest.raises(RelayTimeout):
            await connection.wait_ready()

    @pytest.mark.clause("RFC 8441", "3", "MUST NOT", "use :protocol before the server announced it")
    async def test_no_request_goes_out_before_the_settings(self) -> None:
        connection, transport = connection_on_fake(ready=False)
        with pytest.raises(ConnectionLost, match="not set up"):
            await connection.open_udp(TARGET, authority="r.test", path="/p")
        assert transport.headers == {}

    async def test_a_connection_lost_early_ends_the_wait(self) -> None:
        connection, _ = connection_on_fake(ready=False)
        asyncio.get_running_loop().call_soon(connection.connection_lost, 0x1, "gone")
        with pytest.raises(ConnectionLost, match="gone"):
            await connection.wait_ready()


@pytest.mark.clause(
    "RFC 9298", "3.4", "MUST", "send CONNECT with connect-udp, :scheme, :authority and :path"
)
async def test_a_tunnel_request_is_an_extended_connect() -> None:
    """RFC 9298 section 3.4."""
    connection, transport = connection_on_fake()
    asyncio.get_running_loop().call_soon(
        lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
    )
    await connection.open_udp(
        TARGET, authority="relay.test:4433", path="/u/%3A%3A1/53/", authorization=b"Bearer t"
    )
    assert transport.headers[0] == [
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"connect-udp"),
            (b":scheme", b"https"),
            (b":authority", b"relay.test:4433"),
            (b":path", b"/u/%3A%3A1/53/"),
            (b"capsule-protocol", b"?1"),
            (b"authorization", b"Bearer t"),
        ]
    ]
    assert transport.finished == set()


class TestRequests:
    async def test_a_response_is_returned_whole(self) -> None:
        connection, transport = connection_on_fake()

        def answer() -> None:
            connection.headers_received(0, [(b":status", b"103")], end_stream=False)
            connection.headers_received(0, [(b":status", b"200")], end_stream=False)
            connection.data_received(0, b"he", end_stream=False)
            connection.data_received(0, b"llo", end_stream=True)

        asyncio.get_running_loop().call_soon(answer)
        response = await connection.request("GET", authority="r.test", path="/x")
        assert (response.status, response.body) == (200, b"hello")
        assert transport.finished == {0}
        assert transport.consumed == {0: 5}
        assert connection.stream_count == 0

    @pytest.mark.clause("RFC 9114", "4.1.2", "MUST NOT", "accept a malformed response")
    async def test_a_malformed_response_fails_that_request_only(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(connection.malformed_received, 0, "no status")
        with pytest.raises(ClientError, match="no status"):
            await connection.request("GET", authority="r.test")
        assert connection.lost is None


class TestGoaway:
    """RFC 9114 section 5.2."""

    @pytest.mark.clause("RFC 9114", "5.2", "MUST NOT", "begin requests after the peer's GOAWAY")
    async def test_no_new_tunnels_are_asked_for_and_old_ones_live(self) -> None:
        connection, transport = connection_on_fake()
        changes: list[bool] = []
        connection.watch(lambda: changes.append(connection.is_leaving))
        asyncio.get_running_loop().call_soon(
            lambda: connection.headers_received(0, ACCEPTED, end_stream=False)
        )
        tunnel = await connection.open_udp(TARGET, authority="r.test", path="/p")
        connection.goaway_received(4)
        assert changes == [True]
        with pytest.raises(RelayLeaving):
            await connection.open_udp(TARGET, authority="r.test", path="/p")
        assert tunnel.send(b"x")
        assert transport.datagrams == [(0, b"\0x")]

    async def test_requests_that_never_ran_are_told_so(self) -> None:
        connection, _ = connection_on_fake()
        asyncio.get_running_loop().call_soon(connection.goaway_received, 0)
        with pytest.raises(ClientError, match="going away"):
            await connection.open_udp(TARGET, authority="r.test", path="/p")


class TestEnd:
    async def test_close_closes_with_no_error_and_tells_watchers_once(self) -> None:
        connection, transport = connection_on_fake()
        changes: list[int] = []
        connection.watch(lambda: changes.append(1))
        connection.close()
        connection.close()
        connection.connection_lost(0x100, "")
        assert transport.closed == (0x100, "")
        assert changes == [1]
        with pytest.raises(ConnectionLost, match="by its user"):
            await connection.request("GET", authority="r.test")

    async def test_late_datagrams_and_data_are_counted_and_credited(self) -> None:
        connection, transport = connection_on_fake()
        connection.datagrams_received(8, [b"\0x", b"\0y"])
        connection.data_received(8, b"late", end_stream=False)
        connection.headers_received(8, ACCEPTED, end_stream=False)
        connection.stream_reset_received(8, 0)
        connection.malformed_received(8, "")
        assert connection.unknown_datagram_count == 2
        assert transport.consumed == {8: 4}

    async def test_pings_stop_with_the_connection(self) -> None:
        connection, transport = connection_on_fake()
        connection.ping()
        connection.close()
        connection.ping()
        assert transport.quic.ping_count == 1


class TestPayloadSize:
    async def test_the_size_is_one_for_all_tunnels(self) -> None:
        connection, transport = connection_on_fake()
        asked: list[int] = []

        def size(stream_id: int) -> int:
            asked.append(stream_id)
            return 1_400

        transport.max_http_datagram_bytes = size  # type: ignore[method-assign]
        assert connection.max_udp_payload_bytes == 1_399
        assert asked == [65_532]

    async def test_capsules_carry_every_udp_payload(self) -> None:
        connection, _ = connection_on_fake(datagrams=False)
        assert connection.max_udp_payload_bytes == 65_527

    async def test_a_lost_connection_carries_nothing(self) -> None:
        connection, _ = connection_on_fake()
        connection.close()
        assert connection.max_udp_payload_bytes == 0
