"""Owns TURN's listeners, tasks and clock: what turns the session's wishes into sockets."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

import structlog

from fallbacks.turn.path import PathKind, TurnServices
from fallbacks.turn.session import TurnSession
from fallbacks.turn.shared_socket import SharedSocket
from fallbacks.turn.stream import TurnStream, Wire
from fallbacks.turn.stream_listener import StreamListener
from fallbacks.turn.udp_listener import UdpListener
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ports import DatagramSocket
from masque_relay.contract.verdict import EndReason

TICK_S = 1.0
"""How exact lifetimes, permissions and channels are."""

_UNKNOWN_SERVER = Endpoint(address=IPv4Address(0), port=0)
"""Our end of a connection that somebody else accepted: a part of what a nonce is bound to."""

_log = structlog.get_logger(__name__)


class Readers:
    """The event loop's readers, for :class:`TurnServices`."""

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable."""
        asyncio.get_running_loop().add_reader(descriptor, callback)

    def unwatch(self, descriptor: int) -> None:
        """Stop that. A closed descriptor is none."""
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> object:
        """Call back once, after so many seconds."""
        return asyncio.get_running_loop().call_later(delay_s, callback)


class PendingRequests:
    """Tasks of requests that wait, in a group that the server awaits; bounded."""

    def __init__(self, max_count: int) -> None:
        self._max_count = max_count
        self._tasks: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup | None = None

    def open(self, group: asyncio.TaskGroup) -> None:
        """Take the group in which tasks live."""
        self._group = group

    def spawn(self, coroutine: Coroutine[None, None, None]) -> bool:
        """Run a coroutine; False, and it never runs, if too many wait already."""
        if self._group is None or len(self._tasks) >= self._max_count:
            coroutine.close()
            return False
        task = self._group.create_task(_logged(coroutine), name="turn request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    def cancel(self) -> None:
        """Give up what waits."""
        for task in tuple(self._tasks):
            task.cancel()


async def _logged(coroutine: Coroutine[None, None, None]) -> None:
    """Run a request; a bug in it ends that request, not the server."""
    try:
        await coroutine
    except Exception:  # noqa: BLE001 (one client's request)
        _log.exception("turn_request_failed")


class TurnServer:
    """STUN and TURN on any number of listeners; an async context manager.

    Attributes:
        session: what happens to messages.
    """

    def __init__(
        self,
        services: TurnServices,
        pending: PendingRequests,
    ) -> None:
        self.session = TurnSession(services)
        self._services = services
        self._pending = pending
        self._group = asyncio.TaskGroup()
        self._udp: list[UdpListener] = []
        self._streams: list[StreamListener] = []
        self._is_draining = False
        self._drained = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Be ready to listen."""
        await self._group.__aenter__()
        self._pending.open(self._group)
        self._tick()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every allocation, close every socket."""
        if self._timer is not None:
            self._timer.cancel()
        self.session.end_all(EndReason.DRAINED)
        self._pending.cancel()
        for udp in self._udp:
            udp.close()
        for stream in self._streams:
            stream.close()
        if exc_type is asyncio.CancelledError:
            await self._group.__aexit__(exc_type, exc, traceback)
        else:
            await self._group.__aexit__(None, None, None)

    def serve_udp(self, socket: DatagramSocket) -> Endpoint:
        """Serve UDP clients on a bound socket, which is ours from now on; return its address."""
        listener = UdpListener(self.session, socket)
        self._udp.append(listener)
        return listener.local

    def share_udp(self, socket: SharedSocket) -> None:
        """Serve UDP clients on a socket that somebody else reads."""
        listener = UdpListener(self.session, socket, is_shared=True)
        self._udp.append(listener)
        socket.share_with(listener)

    def serve_discovery(self, sockets: Sequence[DatagramSocket]) -> None:
        """Serve NAT behaviour discovery (RFC 5780) beside the first UDP listener.

        Args:
            sockets: with the other port, the other address, and both.
        """
        listeners = [UdpListener(self.session, one) for one in sockets]
        self._udp += listeners
        everyone = [self._udp[0], *listeners]
        for one in everyone:
            for other in everyone:
                change_ip = one.local.address != other.local.address
                change_port = one.local.port != other.local.port
                one.siblings[change_ip, change_port] = other

    def serve_stream(self, listening: socket.socket, tls: ssl.SSLContext | None) -> Endpoint:
        """Serve clients on a listening TCP socket, which is ours from now on; return its address.

        Args:
            listening: non-blocking.
            tls: None for plain TCP.
        """
        listener = StreamListener(self.session, listening, tls=tls, group=self._group)
        self._streams.append(listener)
        return listener.local

    def serve_connection(self, wire: Wire, *, client: Endpoint) -> TurnStream:
        """Return what a TLS connection feeds that somebody else has accepted (RFC 7443)."""
        return TurnStream(
            self.session, wire, kind=PathKind.TLS, client=client, server=_UNKNOWN_SERVER
        )

    def replace_tls(self, context: ssl.SSLContext) -> None:
        """Use other certificates for handshakes that begin from now on."""
        for listener in self._streams:
            listener.replace_tls(context)

    def status(self) -> dict[str, object]:
        """Return listeners and counts for a status page; JSON-ready, without identities."""
        return {
            "udp": [str(listener.local) for listener in self._udp],
            "tcp": self._stream_addresses(PathKind.TCP),
            "tls": self._stream_addresses(PathKind.TLS),
            "allocations": len(self.session.allocations),
        }

    async def drain(self) -> None:
        """Accept no more connections; wait until the last allocation has ended.

        New allocations are refused by the gate, whose clients are sent to another relay.
        """
        for listener in self._streams:
            listener.stop_accepting()
        self._is_draining = True
        self._tick_over()
        await self._drained.wait()

    def _stream_addresses(self, kind: PathKind) -> list[str]:
        return [str(listener.local) for listener in self._streams if listener.kind is kind]

    def _tick(self) -> None:
        try:
            self.session.tick()
        except Exception:  # noqa: BLE001 (one allocation's bug must not keep the others alive)
            _log.exception("turn_tick_failed")
        for listener in self._streams:
            listener.sweep()
        self._tick_over()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _tick_over(self) -> None:
        if self._is_draining and not self.session.allocations:
            self._drained.set()
