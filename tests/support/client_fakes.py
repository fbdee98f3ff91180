"""Owns the fakes below the client: an HTTP/3 connection, a local socket, a clock, a relay."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from masque_relay.client.connection import RelayConnection
from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.quic.application import Headers
from tests.support.http_fakes import RecordingH3Transport

RELAY_SETTINGS = {0x8: 1, 0x33: 1}
ACCEPTED: Headers = [
    (b":status", b"200"),
    (b"capsule-protocol", b"?1"),
    (b"proxy-status", b'ghostwire; next-hop="192.0.2.7:53"'),
]


class PingCounter:
    """A QuicTransport of which only PINGs matter."""

    def __init__(self) -> None:
        self.ping_count = 0

    def send_ping(self) -> None:
        self.ping_count += 1


class FakeRelayTransport(RecordingH3Transport):
    """The client's side of an HTTP/3 connection; the test plays the relay."""

    http_version = "3"
    request_limit = 1_000

    async def prepare(self) -> None:
        pass

    def ping(self) -> None:
        self.quic.send_ping()

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        stream_id = 4 * len(self.headers)
        self.send_headers(stream_id, headers, end_stream=end_stream)
        return stream_id


def connection_on_fake(
    limits: ClientLimits | None = None, *, datagrams: bool = True, ready: bool = True
) -> tuple[RelayConnection, FakeRelayTransport]:
    """Return a connection whose relay has sent its SETTINGS (if ready)."""
    connection = RelayConnection(limits or ClientLimits())
    transport = FakeRelayTransport(connection, quic=PingCounter(), datagrams_negotiated=datagrams)
    connection.attach(transport)
    if ready:
        connection.settings_received(RELAY_SETTINGS)
    return connection, transport


class FakeClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


@dataclass
class FakeSocket:
    """A DatagramSocket whose file descriptor a test makes readable by hand."""

    local: Endpoint
    waiting: list[ReceivedBatch] = field(default_factory=list)
    sent: list[tuple[bytes, tuple[str, int]]] = field(default_factory=list)
    takes: bool = True
    closed: bool = False

    def fileno(self) -> int:
        return -1

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        del max_datagrams
        waiting, self.waiting = self.waiting, []
        return waiting

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        if not self.takes:
            return 0
        self.sent += [(payload, destination) for payload in payloads]
        return len(payloads)

    def close(self) -> None:
        self.closed = True


class FakeOpener:
    """A TunnelOpener on a fake connection; the test decides what each request is answered."""

    def __init__(self, limits: ClientLimits | None = None) -> None:
        self.connection, self.transport = connection_on_fake(limits)
        self.max_payload_bytes = 1_199
        self.reliable = False
        self.answer: Headers | None = ACCEPTED
        """None: no answer, the request waits."""
        self.failure: Exception | None = None
        self.tunnels: list[Any] = []

    async def open_udp(
        self,
        target: Target,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        if self.failure is not None:
            raise self.failure
        stream_id = 4 * len(self.transport.headers)
        if self.answer is not None:
            answer = self.answer
            # the request is on its stream by then
            self._soon(
                lambda: self.connection.headers_received(stream_id, answer, end_stream=False)
            )
        tunnel = await self.connection.open_udp(
            target,
            authority="relay.test",
            path="/",
            authorization=b"Bearer t",
            on_batch=on_batch,
            on_closed=on_closed,
        )
        self.tunnels.append(tunnel)
        return tunnel

    @staticmethod
    def _soon(call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)
