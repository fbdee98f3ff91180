"""Owns fakes below the socket seam: sockets that answer by a playbook, a loop, a recording sink."""

import socket
from collections.abc import Callable, Sequence
from typing import Any

from masque_relay.contract.flow import FlowError


def gro(segment_size: int) -> list[tuple[int, int, bytes]]:
    """Return the control message of a GRO receive."""
    return [(17, 104, segment_size.to_bytes(4, "little"))]


class FakeSocket:
    """A UDP socket that pops what it receives and what its sends meet from lists."""

    def __init__(self, family: socket.AddressFamily = socket.AF_INET) -> None:
        self.family = family
        self.incoming: list[Any] = []
        """Exceptions to raise, or (payload, ancillary, flags, address)."""
        self.error_queue: list[Any] = []
        self.send_errors: list[OSError | None] = []
        """One per send call; an empty list means success."""
        self.sent: list[tuple[str, list[bytes], Any]] = []
        self.options: list[tuple[int, int, int]] = []
        self.refused_options: set[tuple[int, int]] = set()
        self.closed = False

    def settimeout(self, value: float) -> None:
        assert value == 0.0

    def getsockname(self) -> Any:
        return ("::", 443, 0, 0) if self.family == socket.AF_INET6 else ("0.0.0.0", 443)

    def getpeername(self) -> Any:
        return ("192.0.2.1", 53)

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if (level, option) in self.refused_options:
            raise PermissionError(1, "refused")
        self.options.append((level, option, value))

    def fileno(self) -> int:
        return -1 if self.closed else 7

    def close(self) -> None:
        self.closed = True

    def _take(self) -> Any:
        if not self.incoming:
            raise BlockingIOError(11, "nothing there")
        item = self.incoming.pop(0)
        if isinstance(item, OSError):
            raise item
        return item

    def recvmsg_into(self, buffers: Sequence[bytearray], _ancillary_bytes: int) -> Any:
        payload, ancillary, flags, address = self._take()
        buffers[0][: len(payload)] = payload
        return len(payload), ancillary, flags, address

    def recvmsg(self, _size: int, _ancillary_bytes: int, _flags: int) -> Any:
        if not self.error_queue:
            raise BlockingIOError(11, "nothing there")
        return b"", self.error_queue.pop(0), 0, None

    def recvfrom(self, _size: int) -> Any:
        payload, _, _, address = self._take()
        return payload, address

    def recv(self, _size: int, flags: int = 0) -> bytes:
        if flags & socket.MSG_PEEK:
            if not self.incoming:
                raise BlockingIOError(11, "nothing there")
            return bytes(self.incoming[0][0][:1])
        return bytes(self._take()[0])

    def _sending(self, kind: str, payloads: list[bytes], address: Any) -> int:
        error = self.send_errors.pop(0) if self.send_errors else None
        if error is not None:
            raise error
        self.sent.append((kind, payloads, address))
        return sum(map(len, payloads))

    def send(self, data: bytes) -> int:
        return self._sending("send", [data], None)

    def sendto(self, data: bytes, address: Any) -> int:
        return self._sending("sendto", [data], address)

    def sendmsg(self, buffers: Sequence[bytes], ancdata: Any, _flags: int, address: Any) -> int:
        ((level, kind, value),) = ancdata
        assert (level, kind) == (17, 103)
        assert int.from_bytes(value, "little") == len(buffers[0])
        return self._sending("run", list(buffers), address)


class FakeLoop:
    """Readers and call_soon, run by hand."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.soon: list[Callable[[], None]] = []

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.readers[descriptor] = callback

    def remove_reader(self, descriptor: int) -> bool:
        return self.readers.pop(descriptor, None) is not None

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def turn(self) -> None:
        """Wake every reader once, then run what was put off."""
        for callback in list(self.readers.values()):
            callback()
        while self.soon:
            self.soon.pop(0)()


class RecordingSink:
    """A DatagramSink that keeps what it hears."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.errors: list[FlowError] = []
        self.on_each: Callable[[], None] = lambda: None

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        self.batches.append(list(payloads))
        self.on_each()

    def on_flow_error(self, error: FlowError) -> None:
        self.errors.append(error)
