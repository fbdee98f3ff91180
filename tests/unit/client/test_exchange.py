"""Owns the tests of one ordinary request."""

import pytest

from masque_relay.client.errors import ClientError, ConnectionLost, RelayTimeout
from masque_relay.client.exchange import Exchange
from masque_relay.client.limits import ClientLimits
from tests.support.client_fakes import FakeRelayTransport, connection_on_fake


def exchange(limits: ClientLimits | None = None) -> tuple[Exchange, FakeRelayTransport]:
    _, transport = connection_on_fake()
    return Exchange(transport, 0, limits=limits or ClientLimits()), transport


async def test_a_response_without_a_body_is_complete_with_its_head() -> None:
    waiting, _ = exchange()
    waiting.headers_received([(b":status", b"204")], end_stream=True)
    response = await waiting.wait()
    assert (response.status, response.body) == (204, b"")


async def test_trailers_do_not_replace_the_head() -> None:
    waiting, _ = exchange()
    waiting.headers_received([(b":status", b"200")], end_stream=False)
    waiting.data_received(b"x", end_stream=False)
    waiting.headers_received([(b"checksum", b"1")], end_stream=True)
    assert (await waiting.wait()).status == 200


async def test_a_body_beyond_the_limit_is_refused_and_the_stream_reset() -> None:
    waiting, transport = exchange(ClientLimits(response_bytes=3))
    waiting.headers_received([(b":status", b"200")], end_stream=False)
    waiting.data_received(b"four", end_stream=True)
    with pytest.raises(ClientError, match="more than 3 bytes"):
        await waiting.wait()
    assert transport.resets == {0: 0x10C}


async def test_a_body_without_a_head_is_no_response() -> None:
    waiting, _ = exchange()
    waiting.data_received(b"x", end_stream=True)
    with pytest.raises(ClientError, match="without a status"):
        await waiting.wait()


async def test_no_response_in_time_cancels_the_request() -> None:
    waiting, transport = exchange(ClientLimits(request_timeout_s=0.0))
    with pytest.raises(RelayTimeout):
        await waiting.wait()
    assert transport.resets == {0: 0x10C}


async def test_what_breaks_off_is_told() -> None:
    waiting, _ = exchange()
    waiting.reset_received("stream error 0x102")
    waiting.connection_lost(ConnectionLost("later"))
    with pytest.raises(ClientError, match="0x102"):
        await waiting.wait()
