"""Owns what a peer offers others: local TCP and UDP ports, and an answer to pings."""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.client.clock import SystemClock
from masque_relay.client.direct import open_direct
from masque_relay.client.errors import AddressError, ClientError
from masque_relay.client.mesh.messages import MessageReader, encode_message
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.splice import Meter, splice
from masque_relay.contract.address import Target
from masque_relay.wire.ghostwire import MAX_SERVICE_BYTES

CONNECT_S = 10.0
PING_SERVICE = b"ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A local port that other peers may use under a name."""

    service: str
    target: Target
    is_udp: bool = False

    @classmethod
    def parse(cls, text: str, parse_target: Callable[[str], Target]) -> "Exposure":
        """Return the exposure for ``NAME=HOST:PORT``, ``NAME=udp:HOST:PORT``.

        Raises:
            AddressError: no name, or no target.
        """
        service, equals, where = text.partition("=")
        if not equals or not service or len(service.encode()) > MAX_SERVICE_BYTES:
            raise AddressError(
                f"{text!r} is not NAME=HOST:PORT", hint="for example ssh=127.0.0.1:22"
            )
        is_udp = where.startswith("udp:")
        return cls(service=service, target=parse_target(where.removeprefix("udp:")), is_udp=is_udp)


async def serve_tcp(exposure: Exposure, stream: PeerStream) -> None:
    """Connect a stream with a local TCP port; whatever fails ends this stream alone."""
    try:
        program = await open_direct(exposure.target, timeout_s=CONNECT_S)
    except ClientError:
        stream.abort()
        return
    clock = SystemClock()
    await splice(program, stream, Meter(clock=clock, last_active_s=clock.monotonic_s()))


async def serve_udp(exposure: Exposure, stream: PeerStream) -> None:
    """Connect a stream of datagrams with a local UDP port."""
    loop = asyncio.get_running_loop()
    host = str(exposure.target.host)
    try:
        found = await loop.getaddrinfo(host, exposure.target.port, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, address = found[0]
        connected = socket.socket(family, kind, protocol)
    except OSError:
        stream.abort()
        return
    with connected:
        connected.settimeout(0.0)
        try:
            await loop.sock_connect(connected, address)
            await _both_ways(stream, connected)
        except (OSError, ClientError):
            stream.abort()


async def _both_ways(stream: PeerStream, connected: socket.socket) -> None:
    loop = asyncio.get_running_loop()

    async def from_program() -> None:
        while True:
            try:
                payload = await loop.sock_recv(connected, 65_535)
            except ConnectionRefusedError:
                continue  # the program is not there yet; UDP knows no more
            await stream.write(encode_message(payload))

    async with asyncio.TaskGroup() as tasks:
        returning = tasks.create_task(from_program())
        messages = MessageReader(stream)
        while (payload := await messages.read()) is not None:
            try:
                await loop.sock_sendall(connected, payload)
            except ConnectionRefusedError:
                continue
        returning.cancel()
    stream.write_eof()


async def serve_ping(stream: PeerStream) -> None:
    """Send everything back."""
    try:
        while data := await stream.read():
            await stream.write(data)
        stream.write_eof()
    except ClientError:
        stream.abort()
