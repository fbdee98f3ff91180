"""Owns the tests of a socket as a ByteStream, over a Unix socket pair."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from masque_relay.client.errors import TunnelClosed
from masque_relay.client.socket_stream import SocketStream
from tests.support.byte_streams import stream_pair
from tests.support.http_fakes import settle

Pair = tuple[SocketStream, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    stream, far = stream_pair()
    with contextlib.closing(far):
        yield stream, far
    stream.abort()


async def test_bytes_and_ends_go_both_ways(pair: Pair) -> None:
    stream, far = pair
    far.send(b"in")
    assert await stream.read() == b"in"
    await stream.write(b"out")
    stream.write_eof()
    stream.write_eof()
    assert far.recv(10) == b"out"
    assert far.recv(10) == b""
    far.shutdown(socket.SHUT_WR)
    assert await stream.read() == b""


async def test_a_write_waits_for_a_slow_reader(pair: Pair) -> None:
    stream, far = pair
    data = bytes(4 << 20)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(stream.write(data))
        await settle()
        assert not writing.done()
        received = 0
        while received < len(data):
            with contextlib.suppress(BlockingIOError):
                received += len(far.recv(1 << 20))
            await asyncio.sleep(0)


async def test_a_peer_that_is_gone_breaks_the_stream_off(pair: Pair) -> None:
    stream, far = pair
    far.close()
    with pytest.raises(TunnelClosed, match="broke off"):
        await stream.write(b"x")


async def test_a_closed_stream_can_be_closed_again_and_gives_nothing(pair: Pair) -> None:
    stream, far = pair
    stream.abort()
    stream.abort()
    assert far.recv(10) == b""
    with pytest.raises(TunnelClosed):
        await stream.read()
