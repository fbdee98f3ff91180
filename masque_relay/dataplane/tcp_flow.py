"""Owns one TCP connection towards a target: bytes to it, bytes from it to the sink."""

import asyncio
import socket
import struct
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import ByteSink
from masque_relay.dataplane.errors import flow_error_from_os

READ_BYTES = 65_536
"""Per wake-up: bounds the turn of one flow, and is four TLS records or one H2 write."""
LINGER_S = 30.0
"""For the last bytes and FIN to a target that is slow to take them, after the tunnel is gone."""
MAX_LINGERING = 256
"""No quota counts a flow whose tunnel is over: with a stream's window each, this bounds their
memory near 64 MiB. Beyond it a flow closes with what it has."""

_BUFFERS_PER_SEND = 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_NOT_NOW = (BlockingIOError, InterruptedError)


@dataclass(slots=True)
class TcpFlowTable:
    """The TCP flows of one data plane whose sockets are open.

    Attributes:
        flows: lingering ones included.
        lingering_count: those whose tunnel is over.
    """

    flows: "set[SocketTcpFlow]" = field(default_factory=set["SocketTcpFlow"])
    lingering_count: int = 0


class SocketTcpFlow:
    """A connected TCP socket; a contract.flow.TcpFlow. No task and no copy per chunk.

    What the kernel does not take is queued here without a bound of its own: the session grants its
    client no credit while something waits, so a stream's window bounds it.
    """

    __slots__ = (
        "_counters",
        "_ends",
        "_has_sent_end",
        "_is_closed",
        "_is_lingering",
        "_is_reading",
        "_linger_timer",
        "_local",
        "_loop",
        "_peer",
        "_queue",
        "_saw_end",
        "_sink",
        "_socket",
        "_table",
        "_unsent_bytes",
    )

    def __init__(
        self,
        connected_socket: socket.socket,
        sink: ByteSink,
        *,
        loop: asyncio.AbstractEventLoop,
        counters: FlowCounters,
        table: TcpFlowTable,
    ) -> None:
        """Take over a connected, non-blocking socket; it is not read before :meth:`resume`.

        Args:
            connected_socket: this flow closes it.
            sink: hears nothing after :meth:`close`.
            loop: the running loop.
            counters: shared by all flows.
            table: holds the flow while its socket is open.
        """
        self._socket = connected_socket
        self._sink = sink
        self._loop = loop
        self._counters = counters
        self._table = table
        self._peer = _endpoint(connected_socket.getpeername())
        self._local = _endpoint(connected_socket.getsockname())
        self._queue: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._is_reading = False
        self._saw_end = False
        self._ends = False
        """FIN follows the queue."""
        self._has_sent_end = False
        self._is_closed = False
        """The sink is done with us; the socket may linger."""
        self._is_lingering = False
        self._linger_timer: asyncio.TimerHandle | None = None
        table.flows.add(self)
        counters.flows_opened += 1
        counters.flows_open += 1

    @property
    def peer(self) -> Endpoint:
        """The target that the socket is connected to."""
        return self._peer

    @property
    def local(self) -> Endpoint:
        """Our end, as the target sees it from this host."""
        return self._local

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the kernel did not take yet."""
        return self._unsent_bytes

    def send(self, data: bytes) -> None:
        """Send, or queue what the kernel does not take now."""
        if self._is_closed or self._ends or not data:
            return
        sent = 0
        if not self._queue:
            try:
                sent = self._socket.send(data)
            except _NOT_NOW:
                pass
            except OSError as error:
                # Not at once: the sink is in the middle of its own call.
                self._loop.call_soon(self._lose, error)
                return
            if sent == len(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._on_writable)
        self._queue.append(memoryview(data)[sent:])
        self._unsent_bytes += len(data) - sent

    def end(self) -> None:
        """Send FIN after what is queued."""
        if self._is_closed or self._ends:
            return
        self._ends = True
        if not self._queue:
            self._send_end()

    def pause(self) -> None:
        """Read no more."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Read (on)."""
        if not (self._is_reading or self._is_closed or self._saw_end):
            self._is_reading = True
            self._loop.add_reader(self._socket.fileno(), self._on_readable)

    def close(self) -> None:
        """Close; what was queued before :meth:`end` still leaves."""
        if self._is_closed:
            return
        self.pause()
        self._is_closed = True
        if self._ends and self._queue and self._table.lingering_count < MAX_LINGERING:
            self._is_lingering = True
            self._table.lingering_count += 1
            self._linger_timer = self._loop.call_later(LINGER_S, self.abort)
        else:
            self._close_socket()

    def abort(self) -> None:
        """Reset the connection."""
        if self._is_closed and not self._is_lingering:
            return
        self.pause()
        self._is_closed = True
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._close_socket()

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except _NOT_NOW:
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._sink.on_bytes(data)
            return
        self._saw_end = True
        self.pause()
        self._sink.on_bytes_end()

    def _on_writable(self) -> None:
        queue = self._queue
        try:
            if len(queue) == 1:
                sent = self._socket.send(queue[0])
            else:
                sent = self._socket.sendmsg([queue[i] for i in range(_count_to_send(queue))])
        except _NOT_NOW:
            return
        except OSError as error:
            self._lose(error)
            return
        self._unsent_bytes -= sent
        while sent:
            first = queue[0]
            if sent < len(first):
                queue[0] = first[sent:]
                break
            sent -= len(first)
            queue.popleft()
        if not queue:
            self._loop.remove_writer(self._socket.fileno())
            if self._ends:
                self._send_end()
        if self._is_lingering:
            if not queue:
                self._close_socket()
        else:
            self._sink.on_flow_writable()

    def _send_end(self) -> None:
        if not self._has_sent_end:
            self._has_sent_end = True
            with suppress(OSError):  # a target that is gone is noticed by reading
                self._socket.shutdown(socket.SHUT_WR)

    def _lose(self, error: OSError) -> None:
        """The connection is gone."""
        if self._is_lingering:
            self._close_socket()
        if self._is_closed:
            return
        self._is_closed = True
        self._counters.receive_errors += 1
        self._close_socket()
        self._sink.on_flow_lost(flow_error_from_os(error, f"relay to {self._peer}"))

    def _close_socket(self) -> None:
        if self._is_lingering:
            self._is_lingering = False
            self._table.lingering_count -= 1
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        descriptor = self._socket.fileno()
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        self._socket.close()
        self._queue.clear()
        self._unsent_bytes = 0
        self._table.flows.discard(self)
        self._counters.flows_closed += 1
        self._counters.flows_open -= 1


def _count_to_send(queue: deque[memoryview]) -> int:
    return min(len(queue), _BUFFERS_PER_SEND)


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(address=ip_address(name[0].partition("%")[0]), port=name[1])
