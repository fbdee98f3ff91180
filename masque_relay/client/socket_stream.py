"""Owns SocketStream: a connected TCP socket of this machine, as a ByteStream."""

import asyncio
import contextlib
import socket
import struct

from masque_relay.client.byte_stream import READ_BYTES
from masque_relay.client.errors import TunnelClosed
from masque_relay.contract.verdict import EndReason

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class SocketStream:
    """A TCP connection; reads only when asked, so that the kernel holds the peer back.

    Args:
        connected: a connected socket, taken over; :meth:`abort` closes it.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0.0)
        with contextlib.suppress(OSError):  # no TCP, or gone already: the next call says so
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # a program whose machine vanished is noticed, although nothing is sent to it
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connected
        self._has_sent_end = False
        self._has_received_end = False

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; empty at the end.

        Raises:
            TunnelClosed: the peer reset the connection, or it is closed.
        """
        try:
            data = await asyncio.get_running_loop().sock_recv(self._socket, READ_BYTES)
        except OSError as error:
            raise _broken(error) from error
        if not data:
            self._has_received_end = True
        return data

    async def write(self, data: bytes) -> None:
        """Send all bytes, waiting for the kernel to take them.

        Raises:
            TunnelClosed: the peer reset the connection, or it is closed.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError as error:
            raise _broken(error) from error

    def write_eof(self) -> None:
        """End our direction; idempotent."""
        if not self._has_sent_end:
            self._has_sent_end = True
            with contextlib.suppress(OSError):  # the peer was faster, or we have closed
                self._socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Close; with a reset, unless we have said all that we had to say. Idempotent."""
        if self._socket.fileno() < 0:
            return
        if not self._has_sent_end:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()


def _broken(error: OSError) -> TunnelClosed:
    return TunnelClosed(EndReason.PEER_RESET, f"the connection broke off: {error.strerror}")
