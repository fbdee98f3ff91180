"""Owns a client and a server connection wired back to back in memory: no socket, no waiting."""

import datetime as dt
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.adapter import AdapterOwner, QuicAdapter
from masque_relay.quic.application import ApplicationFactory, QuicApplication, QuicTransport
from masque_relay.quic.connecting import accept_connection, open_connection
from masque_relay.quic.connection_settings import ClientSettings, ServerSettings
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.outgoing import Address
from masque_relay.quic.tls import CertificateIdentity, CertificateStore

CLIENT: Address = ("192.0.2.1", 4000)
SERVER: Address = ("192.0.2.2", 443)

Packet = tuple[bytes, Address]
Filter = Callable[[bytes], Sequence[bytes]]
"""What becomes of a packet on the way: nothing, itself, several."""


def certificate_authority(name: str = "test CA") -> "Authority":
    """Return a CA; one for each name."""
    return _authority(name)


@functools.cache
def _authority(name: str) -> "Authority":
    return Authority(name)


class Authority:
    """A CA that signs leaves."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            _builder(self.subject, self.subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self, *names: str, purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH
    ) -> CertificateIdentity:
        """Return a leaf for DNS names, through PEM as an operator's files are."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        certificate = (
            _builder(subject, self.subject, key.public_key())
            .add_extension(
                x509.SubjectAlternativeName([x509.DNSName(name) for name in names]),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return CertificateIdentity.from_pem(
            certificate.public_bytes(Encoding.PEM),
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=2))
    )


@functools.cache
def server_identity() -> CertificateIdentity:
    """Return the certificate that pairs use."""
    return certificate_authority().issue("relay.test")


class RecordingApplication:
    """A QuicApplication that writes everything down, and consumes what it reads when told to."""

    def __init__(self, transport: QuicTransport, *, consumes: bool = True) -> None:
        self.transport = transport
        self.consumes = consumes
        self.calls: list[tuple[object, ...]] = []
        self.streams: dict[int, bytearray] = {}
        self.datagrams: list[bytes] = []
        self.datagram_calls = 0
        self.writable_calls = 0
        self.lost: tuple[int, str] | None = None

    def stream_data_received(self, stream_id: int, data: bytes, *, end_stream: bool) -> None:
        self.calls.append(("data", stream_id, len(data), end_stream))
        self.streams.setdefault(stream_id, bytearray()).extend(data)
        if self.consumes:
            self.transport.consume_stream_bytes(stream_id, len(data))

    def stream_reset_received(self, stream_id: int, error_code: int) -> None:
        self.calls.append(("reset", stream_id, error_code))

    def stop_sending_received(self, stream_id: int, error_code: int) -> None:
        self.calls.append(("stop", stream_id, error_code))

    def datagrams_received(self, payloads: list[bytes]) -> None:
        self.calls.append(("datagrams", len(payloads)))
        self.datagram_calls += 1
        self.datagrams.extend(payloads)

    def streams_writable(self) -> None:
        self.writable_calls += 1

    def connection_lost(self, error_code: int, reason: str) -> None:
        assert self.lost is None, "connection_lost is called exactly once"
        self.calls.append(("lost", error_code))
        self.lost = (error_code, reason)


class RecordingOwner(AdapterOwner):
    """An endpoint that only remembers what it was told."""

    def __init__(self) -> None:
        self.dirty = 0
        self.issued: list[bytes] = []
        self.retired: list[bytes] = []
        self.moved = 0
        self.completed = 0
        self.terminated = 0

    def adapter_dirty(self, adapter: QuicAdapter) -> None:
        self.dirty += 1

    def connection_id_issued(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        self.issued.append(connection_id)

    def connection_id_retired(self, adapter: QuicAdapter, connection_id: bytes) -> None:
        self.retired.append(connection_id)

    def handshake_completed(self, adapter: QuicAdapter) -> None:
        self.completed += 1

    def peer_moved(self, adapter: QuicAdapter) -> None:
        self.moved += 1

    def adapter_terminated(self, adapter: QuicAdapter) -> None:
        self.terminated += 1


@dataclass
class Pair:
    """A client and a server; time stands still until it is told to go on."""

    client: QuicAdapter
    server: QuicAdapter
    client_owner: RecordingOwner
    server_owner: RecordingOwner
    client_counters: QuicCounters
    server_counters: QuicCounters
    now: float = 100.0
    to_server: Filter = field(default=lambda packet: [packet])
    to_client: Filter = field(default=lambda packet: [packet])
    client_address: Address = CLIENT

    @property
    def client_app(self) -> QuicApplication:
        """What the client's ALPN chose."""
        assert self.client.application is not None
        return self.client.application

    @property
    def server_app(self) -> QuicApplication:
        """What the server's ALPN chose."""
        assert self.server.application is not None
        return self.server.application

    def turn(self) -> int:
        """Carry one flight each way, a millisecond later; return how many packets there were."""
        self.now += 0.002
        count = 0
        for sender, receiver, source, way in (
            (self.client, self.server, self.client_address, self.to_server),
            (self.server, self.client, SERVER, self.to_client),
        ):
            sender.handle_timer(self.now)
            packets = [p for group, _ in sender.packets_to_send(self.now) for p in group]
            count += len(packets)
            arriving = [p for packet in packets for p in way(packet)]
            if arriving:
                receiver.receive_packets(arriving, source, self.now)
        return count

    def settle(self, *, max_turns: int = 200) -> None:
        """Let both ends talk until neither has anything to say."""
        for _ in range(max_turns):
            if not self.turn() and not self.turn() and not self.turn():
                return

    def wait(self, seconds: float, *, steps: int = 20) -> None:
        """Let time pass and both ends talk."""
        for _ in range(steps):
            self.now += seconds / steps
            self.turn()


def make_pair(
    *,
    server_settings: ServerSettings | None = None,
    client_settings: ClientSettings | None = None,
    applications: Mapping[str, ApplicationFactory] | None = None,
    client_applications: Mapping[str, ApplicationFactory] | None = None,
    handshake: bool = True,
    client_address: Address = CLIENT,
) -> Pair:
    """Wire two ends together, and complete the handshake unless told not to."""
    apps = applications or {"test": RecordingApplication}
    client_apps = client_applications or apps
    owners = RecordingOwner(), RecordingOwner()
    counters = QuicCounters(), QuicCounters()
    client = open_connection(
        client_settings
        or ClientSettings(
            applications=client_apps, server_name="relay.test", ca_pem=certificate_authority().pem
        ),
        owner=owners[0],
        counters=counters[0],
        destination=SERVER,
        now=100.0,
    )
    server = accept_connection(
        server_settings
        or ServerSettings(applications=apps, certificates=CertificateStore(server_identity())),
        owner=owners[1],
        counters=counters[1],
        source=client_address,
        original_destination_cid=bytes.fromhex(client.connection_id),
        retry_source_cid=None,
    )
    pair = Pair(client, server, *owners, *counters, client_address=client_address)
    if handshake:
        pair.settle()
    return pair


def pair_with_limits(*, server: QuicLimits | None = None, client: QuicLimits | None = None) -> Pair:
    """Wire two ends with limits of their own."""
    applications = {"test": RecordingApplication}
    return make_pair(
        server_settings=ServerSettings(
            applications=applications,
            certificates=CertificateStore(server_identity()),
            limits=server or QuicLimits(),
        ),
        client_settings=ClientSettings(
            applications=applications,
            server_name="relay.test",
            ca_pem=certificate_authority().pem,
            limits=client or QuicLimits(),
        ),
    )
