"""Owns a UDP echo target in a thread, which can also be asked for an answer of a given size."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

_ASK = b"\xffreply-bytes:"


class UdpEcho:
    """What the echo saw; the counts are safe to read at any time.

    Attributes:
        sources: addresses that sent something.
        received_count: datagrams taken.
        sent_count: answers that the kernel took.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._socket = listener
        self.sources: set[tuple[str, int]] = set()
        self.received_count = 0
        self.sent_count = 0

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    @staticmethod
    def ask_for(reply_bytes: int) -> bytes:
        """Return a datagram whose answer has this size."""
        return _ASK + str(reply_bytes).encode()

    def serve(self) -> None:
        """Answer until an empty datagram comes from the socket itself."""
        while True:
            data, source = self._socket.recvfrom(65_536)
            if source == self._socket.getsockname():
                return
            self.sources.add(source)
            self.received_count += 1
            answer = bytes(int(data[len(_ASK) :])) if data.startswith(_ASK) else data
            try:
                self._socket.sendto(answer, source)
                self.sent_count += 1
            except OSError:
                continue


def _call(function: Callable[[], socket.socket]) -> socket.socket:
    return function()


@contextmanager
def run_udp_echo(
    host: str = "127.0.0.1",
    *,
    opened_by: Callable[[Callable[[], socket.socket]], socket.socket] = _call,
) -> Generator[UdpEcho]:
    """Echo while the block runs; ``opened_by`` may open the socket in another namespace."""

    def bind() -> socket.socket:
        listener = socket.socket(type=socket.SOCK_DGRAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        listener.bind((host, 0))
        return listener

    with opened_by(bind) as listener:
        echo = UdpEcho(listener)
        thread = threading.Thread(target=echo.serve, daemon=True)
        thread.start()
        try:
            yield echo
        finally:
            listener.sendto(b"", listener.getsockname())
            thread.join(timeout=10)
