"""Owns local listeners that lead to a service of another peer: TCP and UDP."""

import asyncio
import socket
from collections import OrderedDict

from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import ClientError, ListenFailed
from masque_relay.client.mesh.messages import MessageReader, encode_message
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.peer_stream import PeerStream
from masque_relay.client.socket_stream import SocketStream
from masque_relay.client.splice import Meter, splice
from masque_relay.contract.address import Endpoint

MAX_CONNECTIONS = 256
"""Local programs at once; further ones wait in the kernel's queue."""
MAX_UDP_PROGRAMS = 256
"""Local addresses with a stream each; the longest idle one makes room."""
PENDING_DATAGRAMS = 64
"""Kept for a local program while its stream opens; what comes then is dropped."""

_BACKLOG = 128


class TcpPeerForward:
    """A local TCP port; each connection gets a stream of its own."""

    def __init__(self, node: MeshNode, peer_id: bytes, service: bytes, listen: Endpoint) -> None:
        """Listen at once.

        Raises:
            ListenFailed: the address is taken or not ours.
        """
        self._node = node
        self._peer_id = peer_id
        self._service = service
        self._socket = _listen(listen, socket.SOCK_STREAM)
        self._socket.listen(_BACKLOG)
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)

    @property
    def port(self) -> int:
        """The real one."""
        port: int = self._socket.getsockname()[1]
        return port

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        with self._socket:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._room.acquire()
                    connected, _ = await loop.sock_accept(self._socket)
                    tasks.create_task(self._serve(SocketStream(connected)))

    async def _serve(self, program: SocketStream) -> None:
        try:
            stream = await self._node.open_stream(self._peer_id, self._service)
            clock = SystemClock()
            await splice(program, stream, Meter(clock=clock, last_active_s=clock.monotonic_s()))
        except ClientError:
            program.abort()
        finally:
            self._room.release()


class UdpPeerForward:
    """A local UDP port; each local program (its address) gets a stream of its own.

    Attributes:
        dropped_count: datagrams for which there was no room.
    """

    def __init__(self, node: MeshNode, peer_id: bytes, service: bytes, listen: Endpoint) -> None:
        """Bind at once.

        Raises:
            ListenFailed: the address is taken or not ours.
        """
        self._node = node
        self._peer_id = peer_id
        self._service = service
        self._socket = _listen(listen, socket.SOCK_DGRAM)
        self._programs: OrderedDict[tuple[str, int], asyncio.Queue[bytes]] = OrderedDict()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self.dropped_count = 0

    @property
    def port(self) -> int:
        """The real one."""
        port: int = self._socket.getsockname()[1]
        return port

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        with self._socket:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    payload, source = await loop.sock_recvfrom(self._socket, 65_535)
                    self._take(tasks, payload, source)

    def _take(self, tasks: asyncio.TaskGroup, payload: bytes, source: tuple[str, int]) -> None:
        queue = self._programs.get(source)
        if queue is None:
            if len(self._programs) >= MAX_UDP_PROGRAMS:
                oldest, _ = self._programs.popitem(last=False)
                self._tasks.pop(oldest).cancel()
            queue = self._programs[source] = asyncio.Queue(PENDING_DATAGRAMS)
            self._tasks[source] = tasks.create_task(self._serve(source, queue))
        self._programs.move_to_end(source)
        try:
            queue.put_nowait(payload)
        except asyncio.QueueFull:
            self.dropped_count += 1

    async def _serve(self, source: tuple[str, int], queue: "asyncio.Queue[bytes]") -> None:
        try:
            stream = await self._node.open_stream(self._peer_id, self._service)
            async with asyncio.TaskGroup() as tasks:
                returning = tasks.create_task(self._return(stream, source))
                try:
                    while True:
                        await stream.write(encode_message(await queue.get()))
                finally:
                    returning.cancel()
                    stream.abort()
        except* ClientError:
            pass
        finally:
            if self._programs.get(source) is queue:
                del self._programs[source]
                self._tasks.pop(source, None)

    async def _return(self, stream: PeerStream, source: tuple[str, int]) -> None:
        messages = MessageReader(stream)
        loop = asyncio.get_running_loop()
        while (payload := await messages.read()) is not None:
            await loop.sock_sendto(self._socket, payload, source)


def _listen(listen: Endpoint, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if listen.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, kind)
    listener.settimeout(0.0)
    try:
        if kind == socket.SOCK_STREAM:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(listen.address), listen.port))
    except OSError as error:
        listener.close()
        raise ListenFailed(f"cannot listen on {listen}: {error.strerror}") from error
    return listener
