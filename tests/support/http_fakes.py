"""Owns recording fakes below and beside the HTTP front end: transport, gate, dataplane, clock."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.flow import ByteSink, DatagramSink, FlowError
from masque_relay.contract.ip import PacketFilter
from masque_relay.contract.lease import Lease, TunnelLimits
from masque_relay.contract.request import RelayRequest
from masque_relay.contract.verdict import Denial, EndReason
from masque_relay.quic.application import H3Application, Headers

CONNECT_UDP_HEAD: Headers = [
    (b":method", b"CONNECT"),
    (b":protocol", b"connect-udp"),
    (b":scheme", b"https"),
    (b":authority", b"relay.example"),
    (b":path", b"/.well-known/masque/udp/192.0.2.7/53/"),
]
GET_HEAD: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"relay.example"),
    (b":path", b"/"),
]


def head_with(head: Headers, **changes: bytes | None) -> Headers:
    """Return a head with pseudo-headers replaced (``path=b"/x"``) or left out (``path=None``)."""
    names = {f":{name}".encode(): value for name, value in changes.items()}
    kept = [(name, names.pop(name, value)) for name, value in head]
    return [(name, value) for name, value in [*kept, *names.items()] if value is not None]


class FakeClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class FakeQuic:
    """A QuicTransport without a network."""

    def __init__(self) -> None:
        self.connection_id = "c0ffee"
        self.is_client = False
        self.peer = Endpoint(address=ip_address("198.51.100.9"), port=40_000)
        self.server_name: str | None = "relay.example"
        self.alpn = "h3"
        self.peer_certificate_chain: tuple[bytes, ...] = ()
        self.max_datagram_payload_bytes = 1_200

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        return (label + context).ljust(length, b"\0")[:length]


@dataclass
class RecordingH3Transport:
    """An H3Transport (and QuicApplication) that records; the test plays the peer.

    ``unsent`` is what unsent_bytes answers for a stream.
    """

    application: H3Application
    quic: Any = field(default_factory=FakeQuic)
    datagrams_negotiated: bool = True
    peer_settings: Mapping[int, int] | None = None
    max_payload_bytes: int = 1_200
    headers: dict[int, list[Headers]] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    finished: set[int] = field(default_factory=set)
    resets: dict[int, int] = field(default_factory=dict)
    stopped: dict[int, int] = field(default_factory=dict)
    consumed: dict[int, int] = field(default_factory=dict)
    datagrams: list[tuple[int, bytes]] = field(default_factory=list)
    unsent: dict[int, int] = field(default_factory=dict)
    closed: tuple[int, str] | None = None
    goaways: int = 0

    def max_http_datagram_bytes(self, stream_id: int) -> int:
        return self.max_payload_bytes if self.datagrams_negotiated else 0

    def send_datagrams(self, stream_id: int, prefix: bytes, payloads: Sequence[bytes]) -> int:
        fitting = [prefix + p for p in payloads if len(prefix + p) <= self.max_payload_bytes]
        self.datagrams += [(stream_id, payload) for payload in fitting]
        return len(fitting)

    def open_request(self, headers: Headers, *, end_stream: bool) -> int:
        raise NotImplementedError

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool) -> None:
        self.headers.setdefault(stream_id, []).append(headers)
        if end_stream:
            self.finished.add(stream_id)

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        self.data[stream_id] = self.data.get(stream_id, b"") + data
        if end_stream:
            self.finished.add(stream_id)

    def unsent_bytes(self, stream_id: int) -> int:
        return self.unsent.get(stream_id, 0)

    def consume(self, stream_id: int, byte_count: int) -> None:
        self.consumed[stream_id] = self.consumed.get(stream_id, 0) + byte_count

    def reset(self, stream_id: int, error_code: int) -> None:
        self.resets.setdefault(stream_id, error_code)

    def stop_receiving(self, stream_id: int, error_code: int) -> None:
        self.stopped[stream_id] = error_code

    def send_goaway(self) -> None:
        self.goaways += 1

    def close(self, error_code: int, reason: str) -> None:
        self.closed = (error_code, reason)

    # QuicApplication: never called, the test speaks to ``application`` directly.

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        raise NotImplementedError

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        raise NotImplementedError

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        raise NotImplementedError

    def datagrams_received(self, payloads: list[bytes]) -> None:
        raise NotImplementedError

    def streams_writable(self) -> None:
        raise NotImplementedError

    def connection_lost(self, error_code: int, reason: str) -> None:
        raise NotImplementedError

    # What tests ask.

    def status(self, stream_id: int) -> int | None:
        """The final status of a stream, None before it."""
        for headers in self.headers.get(stream_id, []):
            status = int(dict(headers).get(b":status", b"0"))
            if status >= 200:
                return status
        return None

    def fields(self, stream_id: int) -> dict[bytes, bytes]:
        """The fields of the final head."""
        for headers in self.headers[stream_id]:
            if int(dict(headers)[b":status"]) >= 200:
                return dict(headers)
        raise AssertionError("no final response yet")


class FakeMeter:
    """A meter with a byte budget."""

    def __init__(self, budget_bytes: int | None = None) -> None:
        self.budget_bytes = budget_bytes
        self.datagram_count = 0
        self.byte_count = 0
        self.dropped_count = 0
        self.take_calls = 0

    def take(self, datagram_count: int, byte_count: int) -> bool:
        self.take_calls += 1
        if self.budget_bytes is not None:
            if byte_count > self.budget_bytes:
                return False
            self.budget_bytes -= byte_count
        self.datagram_count += datagram_count
        self.byte_count += byte_count
        return True

    def drop(self, datagram_count: int) -> None:
        self.dropped_count += datagram_count


class FakeLease:
    """A lease that the test can end."""

    def __init__(self, request: RelayRequest, limits: TunnelLimits | None = None) -> None:
        self.lease_id = "lease-1"
        self.request = request
        self.subject = "alice"
        self.peer_id: bytes | None = None
        self.rule = "test rule"
        self.limits = limits or TunnelLimits()
        self.uplink = FakeMeter()
        self.downlink = FakeMeter()
        self.released: list[tuple[EndReason, str]] = []
        self._callback: Callable[[EndReason], None] | None = None
        self._ended: EndReason | None = None

    def on_end(self, callback: Callable[[EndReason], None]) -> None:
        self._callback = callback
        if self._ended is not None:
            callback(self._ended)

    def release(self, reason: EndReason, *, detail: str = "") -> None:
        self.released.append((reason, detail))

    def end(self, reason: EndReason) -> None:
        self._ended = reason
        if self._callback is not None:
            self._callback(reason)


class FakeGate:
    """Says yes, or what the test set; prohibits the addresses that the test named."""

    def __init__(self) -> None:
        self.requests: list[RelayRequest] = []
        self.leases: list[FakeLease] = []
        self.addresses: list[tuple[IPAddress, int]] = []
        self.denial: Denial | None = None
        self.prohibited: dict[IPAddress, Denial] = {}
        self.limits = TunnelLimits()
        self.generation = 0

    async def admit(self, request: RelayRequest) -> Lease | Denial:
        self.requests.append(request)
        if self.denial is not None:
            return self.denial
        lease = FakeLease(request, self.limits)
        self.leases.append(lease)
        return lease

    def admit_address(self, lease: Lease, address: IPAddress, port: int) -> Denial | None:
        self.addresses.append((address, port))
        return self.prohibited.get(address)

    def packet_filter(self, lease: Lease) -> PacketFilter:
        raise NotImplementedError("CONNECT-IP is tested with a real gate")


class FakeFlow:
    """A UDP flow that records what it is told to send."""

    def __init__(self, peer: Endpoint, sink: DatagramSink) -> None:
        self.peer = peer
        self.local = Endpoint(address=ip_address("192.0.2.1"), port=50_000)
        self.sink = sink
        self.dropped_count = 0
        self.sent: list[bytes] = []
        self.batches: list[int] = []
        self.is_closed = False

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        self.sent += payloads
        self.batches.append(len(payloads))
        return len(payloads)

    def close(self) -> None:
        self.is_closed = True


class FakeTcpFlow:
    """A TCP flow that records; the test plays the target through ``sink``.

    ``takes`` false: what is sent stays unsent.
    """

    def __init__(self, peer: Endpoint, sink: ByteSink) -> None:
        self.peer = peer
        self.local = Endpoint(address=ip_address("192.0.2.1"), port=50_000)
        self.sink = sink
        self.sent = bytearray()
        self.unsent_bytes = 0
        self.takes = True
        self.is_reading = False
        self.has_ended = False
        self.is_closed = False
        self.is_aborted = False

    def send(self, data: bytes) -> None:
        self.sent += data
        if not self.takes:
            self.unsent_bytes += len(data)

    def end(self) -> None:
        self.has_ended = True

    def pause(self) -> None:
        self.is_reading = False

    def resume(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def drain(self) -> None:
        """The target has taken everything."""
        self.unsent_bytes = 0
        self.sink.on_flow_writable()


class FakeDataplane:
    """Resolves from a dict and opens FakeFlows."""

    def __init__(self) -> None:
        self.names: dict[str, tuple[str, ...] | FlowError] = {}
        self.unroutable: dict[IPAddress, FlowError] = {}
        self.flows: list[FakeFlow] = []
        self.tcp_flows: list[FakeTcpFlow] = []
        self.tcp_attempts: list[list[Endpoint]] = []
        self.tcp_error: FlowError | None = None
        self.resolving = asyncio.Event()
        self.may_resolve = asyncio.Event()
        self.may_resolve.set()

    async def resolve(self, host: str, *, timeout_s: float) -> tuple[IPAddress, ...]:
        self.resolving.set()
        await self.may_resolve.wait()
        answer = self.names[host]
        if isinstance(answer, FlowError):
            raise answer
        return tuple(ip_address(text) for text in answer)

    def open_udp(self, lease: Lease, endpoint: Endpoint, sink: DatagramSink) -> FakeFlow:
        if endpoint.address in self.unroutable:
            raise self.unroutable[endpoint.address]
        flow = FakeFlow(endpoint, sink)
        self.flows.append(flow)
        return flow

    async def open_tcp(
        self, lease: Lease, endpoints: Sequence[Endpoint], sink: ByteSink, *, timeout_s: float
    ) -> FakeTcpFlow:
        self.tcp_attempts.append(list(endpoints))
        if self.tcp_error is not None:
            raise self.tcp_error
        flow = FakeTcpFlow(endpoints[0], sink)
        self.tcp_flows.append(flow)
        return flow


class RecordingCarrier:
    """A Carrier for sessions."""

    def __init__(self, max_payload_bytes: int = 1_200) -> None:
        self.max_payload_bytes = max_payload_bytes
        self.datagrams: list[bytes] = []
        self.capsules: list[tuple[int, bytes]] = []
        self.unsent_bytes = 0
        self.is_busy = False
        self.aborted: list[EndReason] = []
        self.is_finished = False

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        self.datagrams += [prefix + payload for payload in payloads]
        return len(payloads)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        self.capsules.append((capsule_type, value))

    def abort(self, reason: EndReason) -> None:
        self.aborted.append(reason)

    def finish(self) -> None:
        self.is_finished = True


async def settle() -> None:
    """Let every ready task run until nothing moves."""
    for _ in range(20):
        await asyncio.sleep(0)
