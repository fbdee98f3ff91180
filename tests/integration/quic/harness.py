"""Owns what the QUIC endpoint tests share: identities, echo applications, raw clients, a NAT."""

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Self

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import QuicCounters
from masque_relay.dataplane.batch_io import bind_udp
from masque_relay.quic.application import QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore

LOOPBACK_4 = Endpoint(address=ip_address("127.0.0.1"), port=0)
LOOPBACK_6 = Endpoint(address=ip_address("::1"), port=0)
ANY_6 = Endpoint(address=ip_address("::"), port=0)
ALPN = "echo"
WAIT_S = 10.0
"""Ordinary deadline; nothing here should take a tenth of it."""


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()


class Authority:
    """A certificate authority of the test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
        ca = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = ca.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def identity(self, name: str = "localhost") -> CertificateIdentity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        leaf = self._builder(subject, key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False
        )
        return CertificateIdentity.from_pem(
            leaf.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


class EchoApplication:
    """Sends back what it gets, on streams and in datagrams."""

    def __init__(self, transport: QuicTransport) -> None:
        self.transport = transport
        self.ended: tuple[int, str] | None = None

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        if data == b"crash":
            raise RuntimeError("a bug of the application")
        self.transport.consume_stream_bytes(stream_id, len(data))
        self.transport.send_stream_data(stream_id, data, end_stream=end_stream)

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        pass

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        pass

    def datagrams_received(self, payloads: list[bytes]) -> None:
        self.transport.send_datagrams(b"", payloads)

    def streams_writable(self) -> None:
        pass

    def connection_lost(self, error_code: int, reason: str) -> None:
        self.ended = (error_code, reason)


class ClientApplication(EchoApplication):
    """Collects what comes back and lets a test wait for it."""

    def __init__(self, transport: QuicTransport) -> None:
        super().__init__(transport)
        self.received: dict[int, bytearray] = {}
        self.datagrams: list[bytes] = []
        self._changed = asyncio.Event()

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        self.received.setdefault(stream_id, bytearray()).extend(data)
        self.transport.consume_stream_bytes(stream_id, len(data))
        self._changed.set()

    def datagrams_received(self, payloads: list[bytes]) -> None:
        self.datagrams.extend(payloads)
        self._changed.set()

    def connection_lost(self, error_code: int, reason: str) -> None:
        super().connection_lost(error_code, reason)
        self._changed.set()

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def echo(self, text: bytes, timeout_s: float = WAIT_S) -> None:
        """Send on a new stream and wait for the same to come back."""
        stream_id = self.transport.next_stream_id(unidirectional=False)
        self.transport.send_stream_data(stream_id, text, end_stream=True)
        await self.wait_until(
            lambda: self.received.get(stream_id) == text or self.ended is not None, timeout_s
        )
        assert self.ended is None, self.ended

    async def lost(self, timeout_s: float = WAIT_S) -> tuple[int, str]:
        await self.wait_until(lambda: self.ended is not None, timeout_s)
        assert self.ended is not None
        return self.ended


@dataclass(slots=True)
class Server:
    """A listening endpoint and what a test asks of it."""

    endpoint: QuicEndpoint
    address: Endpoint
    counters: QuicCounters
    certificates: CertificateStore
    settings: EndpointSettings


def make_settings(
    certificates: CertificateStore | None = None, **options: object
) -> EndpointSettings:
    limits = QuicLimits(
        **{name: options.pop(name) for name in list(options) if name in QuicLimits.__slots__}  # type: ignore[arg-type]  # any field
    )
    return EndpointSettings(
        applications={ALPN: EchoApplication},
        certificates=certificates,
        limits=limits,
        **options,  # type: ignore[arg-type]  # any field
    )


def make_server(authority: Authority, listen: Endpoint = LOOPBACK_4, **options: object) -> Server:
    """Start a server; ``options`` are fields of QuicLimits or EndpointSettings."""
    certificates = CertificateStore(authority.identity())
    settings = make_settings(certificates, **options)
    counters = QuicCounters()
    endpoint = QuicEndpoint(
        settings, socket_factory=bind_udp, clock=SystemClock(), counters=counters
    )
    return Server(endpoint, endpoint.listen(listen), counters, certificates, settings)


class Client:
    """An endpoint that only opens connections."""

    def __init__(self, authority: Authority, **options: object) -> None:
        self.counters = QuicCounters()
        self.tls = ClientTls(ca_pem=authority.pem)
        self.endpoint = QuicEndpoint(
            make_settings(**options),
            socket_factory=bind_udp,
            clock=SystemClock(),
            counters=self.counters,
        )

    async def connect(
        self, address: Endpoint, *, server_name: str = "localhost", timeout_s: float = WAIT_S
    ) -> ClientApplication:
        applications: list[ClientApplication] = []

        def application(transport: QuicTransport) -> ClientApplication:
            applications.append(ClientApplication(transport))
            return applications[0]

        await self.endpoint.connect(
            address,
            server_name=server_name,
            alpn=ALPN,
            application=application,
            tls=self.tls,
            timeout_s=timeout_s,
        )
        return applications[0]


class RawSocket:
    """A plain UDP socket that speaks to one address, for packets of any kind."""

    def __init__(self, address: Endpoint, *, source: str = "") -> None:
        family = socket.AF_INET6 if ":" in str(address.address) else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        if source:
            self._socket.bind((source, 0))
        self._socket.connect((str(address.address), address.port))

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self._socket.send(packet)

    async def receive(self, timeout_s: float = WAIT_S) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(self._socket, 65_535)

    def received_now(self) -> list[bytes]:
        packets: list[bytes] = []
        while True:
            try:
                packets.append(self._socket.recv(65_535))
            except BlockingIOError:
                return packets

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def first_flight() -> list[bytes]:
    """Return the Initial datagrams of a client that will never say more."""
    connection = QuicConnection(
        configuration=QuicConfiguration(alpn_protocols=[ALPN], server_name="localhost")
    )
    connection.connect(("192.0.2.1", 443), now=0.0)
    return [data for data, _ in connection.datagrams_to_send(now=0.0)]


class Nat:
    """Forwards one client's datagrams to a server, from a port that a test can change."""

    def __init__(self, server: Endpoint) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = (str(server.address), server.port)
        self._next_server: tuple[str, int] | None = None
        self._inside = self._bind()
        self._outside = self._bind()
        self._client: tuple[str, int] | None = None
        self._loop.add_reader(self._inside, self._from_client)
        self._loop.add_reader(self._outside, self._from_server)

    @property
    def address(self) -> Endpoint:
        host, port = self._inside.getsockname()
        return Endpoint(address=ip_address(host), port=port)

    def rebind(self) -> None:
        """Give the client another port, and forget the old one."""
        self._loop.remove_reader(self._outside)
        self._outside.close()
        self._outside = self._bind()
        self._loop.add_reader(self._outside, self._from_server)

    def after_first_answer(self, server: Endpoint) -> None:
        """Send what follows the server's next datagram to another one, as a load balancer may."""
        self._next_server = (str(server.address), server.port)

    def close(self) -> None:
        for sock in (self._inside, self._outside):
            self._loop.remove_reader(sock)
            sock.close()

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        return sock

    def _from_client(self) -> None:
        data, self._client = self._inside.recvfrom(65_535)
        self._outside.sendto(data, self._server)

    def _from_server(self) -> None:
        try:
            data = self._outside.recv(65_535)
        except ConnectionRefusedError:
            return
        if self._next_server is not None:
            self._server, self._next_server = self._next_server, None
        if self._client is not None:
            self._inside.sendto(data, self._client)


async def eventually(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait until something that nobody announces is so."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - counters have no event
            await asyncio.sleep(0.005)
