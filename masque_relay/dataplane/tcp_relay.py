"""Owns a relayed transport address for TCP: peers connect to it, and it connects to peers."""

import asyncio
import socket
from ipaddress import ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import ByteSink, FlowError, FlowFault
from masque_relay.contract.relay_socket import AcceptPeer, RelayTcpFactory
from masque_relay.dataplane.errors import flow_error_from_os
from masque_relay.dataplane.tcp_flow import SocketTcpFlow, TcpFlowTable

BACKLOG_COUNT = 32
"""Peers of one client."""
ACCEPTS_PER_TURN = 16


class RelayTcpSocket:
    """A listening socket, and further ones bound to the same port; a contract RelayTcp."""

    def __init__(
        self,
        listening: socket.socket,
        accept_peer: AcceptPeer,
        *,
        counters: FlowCounters,
        table: TcpFlowTable,
    ) -> None:
        """Take over a listening, non-blocking socket and begin to accept in the running loop."""
        self._listening = listening
        self._accept_peer = accept_peer
        self._counters = counters
        self._table = table
        self._loop = asyncio.get_running_loop()
        self._local = _endpoint(listening.getsockname())
        self._loop.add_reader(listening.fileno(), self._on_readable)

    @property
    def local(self) -> Endpoint:
        """What it is bound to."""
        return self._local

    async def connect(self, peer: Endpoint, sink: ByteSink, *, timeout_s: float) -> SocketTcpFlow:
        """Connect from the relayed address itself; the flow begins paused.

        Raises:
            FlowError: refused, unreachable, or no answer in time.
        """
        try:
            connecting = _bound_socket(self._local)
        except OSError as error:
            raise flow_error_from_os(error, f"connect to {peer}") from error
        try:
            async with asyncio.timeout(timeout_s):
                await self._loop.sock_connect(connecting, (str(peer.address), peer.port))
            if connecting.getsockname() == connecting.getpeername():
                raise FlowError(FlowFault.CONNECTION_REFUSED, "connected to itself")
        except TimeoutError as error:
            connecting.close()
            raise FlowError(
                FlowFault.CONNECTION_TIMEOUT, f"connect to {peer}: no answer in {timeout_s:g} s"
            ) from error
        except OSError as error:
            connecting.close()
            self._counters.connects_failed += 1
            raise flow_error_from_os(error, f"connect to {peer}") from error
        except BaseException:
            connecting.close()
            raise
        return self._flow(connecting, sink)

    def close(self) -> None:
        """Accept no more; connections live on. Idempotent."""
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()

    def _on_readable(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, address = self._listening.accept()
            except OSError:  # none is left, or the peer has gone again
                return
            accepted.settimeout(0)
            taken: list[SocketTcpFlow] = []

            def take(
                sink: ByteSink,
                accepted: socket.socket = accepted,
                taken: list[SocketTcpFlow] = taken,
            ) -> SocketTcpFlow:
                flow = self._flow(accepted, sink)
                taken.append(flow)
                return flow

            self._accept_peer(_endpoint(address), take)
            if not taken:
                accepted.close()

    def _flow(self, connected: socket.socket, sink: ByteSink) -> SocketTcpFlow:
        return SocketTcpFlow(
            connected, sink, loop=self._loop, counters=self._counters, table=self._table
        )


def relay_tcp_factory(counters: FlowCounters) -> RelayTcpFactory:
    """Return a factory whose sockets share counters."""
    table = TcpFlowTable()

    def bind(endpoint: Endpoint, accept_peer: AcceptPeer) -> RelayTcpSocket:
        try:
            listening = _bound_socket(endpoint)
        except OSError as error:
            raise flow_error_from_os(error, f"bind {endpoint}") from error
        try:
            listening.listen(BACKLOG_COUNT)
        except OSError as error:
            listening.close()
            raise flow_error_from_os(error, f"listen on {endpoint}") from error
        return RelayTcpSocket(listening, accept_peer, counters=counters, table=table)

    return bind


def _bound_socket(local: Endpoint) -> socket.socket:
    """Return a socket bound to the relayed address, which several may share.

    Raises:
        OSError: it can't be had.
    """
    family = socket.AF_INET6 if local.address.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.settimeout(0)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # RFC 6062 section 5.2: connections in both directions have the relayed address; the kernel
        # lets sockets of one user share a port if all of them say so.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((str(local.address), local.port))
    except OSError:
        made.close()
        raise
    return made


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return Endpoint(address=ip_address(name[0].partition("%")[0]), port=name[1])
