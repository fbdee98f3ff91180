"""An application's own socket as a flow; the real thing is in tests/integration/http."""

import socket
from typing import Any

from masque_relay.contract.flow import FlowError
from masque_relay.http.socket_flow import SocketFlow


class FakeSocket:
    """A connected UDP socket that plays a script; its file descriptor is a real one."""

    def __init__(self) -> None:
        self._pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.incoming: list[bytes | OSError] = []
        self.sent: list[bytes] = []
        self.send_error: OSError | None = None
        self.is_closed = False

    def settimeout(self, value: float) -> None:
        self.timeout = value

    def fileno(self) -> int:
        return self._pair[0].fileno()

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.7", 53)

    def getsockname(self) -> tuple[str, int]:
        return ("192.0.2.1", 50_000)

    def send(self, data: bytes) -> int:
        if self.send_error is not None:
            raise self.send_error
        self.sent.append(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        if not self.incoming:
            raise BlockingIOError
        item = self.incoming.pop(0)
        if isinstance(item, OSError):
            raise item
        return item

    def close(self) -> None:
        self.is_closed = True
        for end in self._pair:
            end.close()


class Sink:
    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.errors: list[FlowError] = []

    def on_batch(self, payloads: Any) -> None:
        self.batches.append(list(payloads))

    def on_flow_error(self, error: FlowError) -> None:
        self.errors.append(error)


async def test_batches_errors_and_drops() -> None:
    fake, sink = FakeSocket(), Sink()
    flow = SocketFlow(fake, sink)  # type: ignore[arg-type]  # plays the part of a socket
    fake.incoming = [b"one", b"two", ConnectionRefusedError("refused"), b"three"]
    flow._on_readable()
    flow._on_readable()

    assert sink.batches == [[b"one", b"two"], [b"three"]]
    assert len(sink.errors) == 1
    assert str(flow.peer) == "192.0.2.7:53"
    assert str(flow.local) == "192.0.2.1:50000"
    assert flow.send_batch([b"a", b"b"]) == 2
    fake.send_error = BlockingIOError()
    assert flow.send_batch([b"c"]) == 0
    assert flow.dropped_count == 1

    flow.close()
    flow.close()
    assert fake.is_closed
    assert flow.send_batch([b"d"]) == 0


async def test_one_turn_takes_a_bounded_batch() -> None:
    fake, sink = FakeSocket(), Sink()
    flow = SocketFlow(fake, sink)  # type: ignore[arg-type]  # plays the part of a socket
    fake.incoming = [b"x"] * 100
    flow._on_readable()

    assert [len(batch) for batch in sink.batches] == [64]
    flow.close()
