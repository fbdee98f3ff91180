"""Owns ``http.splice`` of kind ``udp``: an application's own connected UDP socket as a flow.

The relay's tunnels do not come this way (their sockets live in the dataplane, behind the gate);
it serves other ASGI applications that opened a socket themselves. Deviation from STYLE 18: OSError
becomes FlowError here, because the socket is the application's and not the dataplane's.
"""

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import TunnelCounters
from masque_relay.contract.flow import DatagramSink, FlowError, FlowFault
from masque_relay.contract.tunnel import TunnelSession
from masque_relay.tunnels.connect_udp import ConnectUdpSession
from masque_relay.tunnels.session import Unmetered

_BATCH_COUNT = 64  # DatagramSink.on_batch takes up to 64
_MAX_DATAGRAM_BYTES = 65_535


class SocketFlow:
    """A UdpFlow over a connected UDP socket, one system call per datagram."""

    def __init__(self, sock: socket.socket, sink: DatagramSink) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._dropped_count = 0
        self._is_closed = False
        self.peer = _endpoint(sock.getpeername())
        self.local = _endpoint(sock.getsockname())
        self._loop.add_reader(sock.fileno(), self._on_readable)

    @property
    def dropped_count(self) -> int:
        """Datagrams that the kernel would not take."""
        return self._dropped_count

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send now; return how many the kernel took."""
        if self._is_closed:
            return 0
        taken = 0
        for payload in payloads:
            try:
                self._sock.send(payload)
                taken += 1
            except OSError:  # full, too large, or an ICMP error that waited: one datagram lost
                self._dropped_count += 1
        return taken

    def close(self) -> None:
        """Stop reading and close the socket; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _on_readable(self) -> None:
        payloads: list[bytes] = []
        while len(payloads) < _BATCH_COUNT:
            try:
                payloads.append(self._sock.recv(_MAX_DATAGRAM_BYTES))
            except BlockingIOError:
                break
            except OSError as error:
                fault = FlowFault.DESTINATION_UNAVAILABLE
                self._sink.on_flow_error(FlowError(fault, str(error)))
                break
        if payloads:
            self._sink.on_batch(payloads)


def splice_socket(sock: socket.socket, context_id: int) -> TunnelSession:
    """Return a session that moves UDP payloads of one context to and from the socket.

    Takes ownership of the socket.
    """
    session = ConnectUdpSession(
        uplink=Unmetered(),
        downlink=Unmetered(),
        counters=TunnelCounters(),
        context_id=context_id,
    )
    session.bind_flow(SocketFlow(sock, session))
    return session


def _endpoint(address: tuple[str, int]) -> Endpoint:
    return Endpoint(address=ip_address(address[0]), port=address[1])
