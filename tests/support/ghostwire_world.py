"""A relay and peers in memory: real sessions, carriers that hand frames over when told to."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from masque_relay.client.mesh.identity import verify_signature
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.ghostwire import Arrival, Exporter
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.request import Transport
from masque_relay.contract.verdict import EndReason
from masque_relay.dataplane.switchboard import RelaySwitchboard
from masque_relay.tunnels.ghostwire import GhostwireSession
from masque_relay.tunnels.ghostwire_handshake import HandshakePorts
from masque_relay.tunnels.ghostwire_peer import PeerPorts, PeerSession
from masque_relay.tunnels.ghostwire_peer_channel import PeerChannel
from masque_relay.tunnels.ghostwire_ports import SessionPorts
from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.tunnels.session import Unmetered
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import Auth, ErrorCode, FrameType, Open
from masque_relay.wire.ghostwire_proof import CandidateRecord

NOW_S = 1_800_000_000.0


class Randomness:
    """Different bytes each time, the same in every run."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, byte_count: int) -> bytes:
        self._count += 1
        return self._count.to_bytes(8, "big").rjust(byte_count, b"\0")[-byte_count:]


@dataclass
class FakeLease:
    """A lease that counts."""

    subject: str = "peer"
    limits: TunnelLimits = field(default_factory=TunnelLimits)
    uplink: Any = field(default_factory=Unmetered)
    downlink: Any = field(default_factory=Unmetered)


class MemoryCarrier:
    """One side's way to the other; nothing moves before ``World.settle``."""

    def __init__(self, world: "World", max_payload_bytes: int) -> None:
        self.world = world
        self.max_payload_bytes = max_payload_bytes
        self.is_busy = False
        self.unsent_bytes = 0
        self.far: Any = None
        self.is_over = False
        self.frames: list[int] = []
        self.aborted: list[EndReason] = []
        self.is_stalled = False

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        self._post("on_datagrams", [prefix + payload for payload in payloads])
        return len(payloads)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        self.frames.append(capsule_type)
        if self.is_stalled:
            self.unsent_bytes += len(value)
        if capsule_type == FrameType.DATAGRAM:
            self._post("on_datagrams", [value])
        else:
            self._post("on_capsule", capsule_type, value)

    def abort(self, reason: EndReason) -> None:
        self.aborted.append(reason)
        self.finish()

    def finish(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._post("ended", EndReason.PEER_CLOSED)

    def _post(self, method: str, *arguments: Any) -> None:
        self.world.post(self, method, arguments)


class Recorder:
    """A channel's user: keeps what it hears, consumes at once unless told not to."""

    def __init__(self, *, consumes: bool = True) -> None:
        self.channel: PeerChannel | None = None
        self.consumes = consumes
        self.datagrams: list[bytes] = []
        self.data = b""
        self.has_ended = False
        self.is_open = False
        self.writable_count = 0
        self.closed: tuple[int, str] | None = None

    def channel_opened(self) -> None:
        self.is_open = True

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        self.datagrams += payloads

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.consumes and self.channel is not None:
            self.channel.consume(len(data))

    def end_received(self) -> None:
        self.has_ended = True

    def channel_writable(self) -> None:
        self.writable_count += 1

    def channel_closed(self, code: int, reason: str) -> None:
        self.closed = (code, reason)


class Peer:
    """One peer with its session; takes every call unless ``refuses``."""

    def __init__(self, world: "World", name: str, **changes: Any) -> None:
        self.world = world
        self.name = name
        self.key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))
        self.peer_id = self.key.public_key().public_bytes_raw()
        self.calls: list[Recorder] = []
        self.channels: list[PeerChannel] = []
        self.refuses = False
        self.consumes = True
        self.heard: list[Any] = []
        self.records: list[CandidateRecord] = []
        self.closed: tuple[int, str, int] | None = None
        self.welcome: Any = None
        self.lease = FakeLease(subject=name)
        self.carrier = MemoryCarrier(world, changes.pop("max_payload_bytes", 1_200))
        self.relay_carrier = MemoryCarrier(world, self.carrier.max_payload_bytes)
        exporter: Exporter | None = changes.pop("exporter", None)
        relay_exporter = changes.pop("relay_exporter", exporter)
        arrival = Arrival(
            transport=Transport.HTTP3,
            source=Endpoint(address=ip_address("198.51.100.9"), port=4_433),
            credentials=(),
            lease=self.lease,  # type: ignore[arg-type]
            exporter=relay_exporter,
            relay_name=changes.pop("relay_name", "relay.example"),
            request_id=name,
        )
        ports: dict[str, Any] = {
            "peer_id": self.peer_id,
            "sign": self.key.sign,
            "verify": verify_signature,
            "token": "",
            "exporter": exporter,
            "relay_name": "relay.example",
            "window_bytes": 1_000,
            "random_bytes": world.random,
            "monotonic_s": lambda: world.now_s,
            "wall_s": lambda: NOW_S + 5,
            "jitter": lambda: 0.5,
        } | changes
        self.session = PeerSession(PeerPorts(**ports), self)
        self.at_relay = GhostwireSession(world.ports, arrival)
        self.carrier.far, self.relay_carrier.far = self.at_relay, self.session
        self.at_relay.attach(self.relay_carrier)
        self.session.attach(self.carrier)

    def call(self, other: "Peer | bytes", kind: Any, **changes: Any) -> Recorder:
        """Open a channel to another peer."""
        recorder = Recorder()
        peer_id = other if isinstance(other, bytes) else other.peer_id
        recorder.channel = self.session.open_channel(kind, recorder, peer_id=peer_id, **changes)
        return recorder

    # PeerHandler

    def session_opened(self, welcome: Any) -> None:
        self.welcome = welcome

    def called(self, channel: PeerChannel) -> None:
        if self.refuses:
            channel.close(ErrorCode.REFUSED, "not today")
            return
        recorder = Recorder(consumes=self.consumes)
        recorder.channel = channel
        self.calls.append(recorder)
        channel.accept(recorder)

    def mesh_frame_received(self, frame: Any) -> None:
        self.heard.append(frame)

    def candidates_received(self, record: CandidateRecord) -> None:
        self.records.append(record)

    def session_closed(self, code: int, reason: str, retry_after_ms: int) -> None:
        self.closed = (code, reason, retry_after_ms)


def arrival_without_lease() -> Arrival:
    """Return how a peer comes that still has to show its credential."""
    return Arrival(
        transport=Transport.WEBSOCKET,
        source=Endpoint(address=ip_address("198.51.100.9"), port=4_433),
        credentials=(),
        lease=None,
        exporter=None,
        relay_name="relay.example",
        request_id="arrival",
    )


class World:
    """A relay's switchboard and policy, and everything under way."""

    def __init__(self, **limits: Any) -> None:
        self.now_s = 100.0
        self.generation = 0
        self.random = Randomness()
        self.board = RelaySwitchboard()
        self.counters = MeshCounters()
        self.forbidden: set[tuple[str, bytes]] = set()
        self.hosts: list[tuple[GhostwireSession, Any, Open]] = []
        self.over: list[GhostwireSession] = []
        self.refuse_with: ErrorCode | None = None
        self.under_way: deque[tuple[MemoryCarrier, str, tuple[Any, ...]]] = deque()
        self.wire_errors: list[WireError] = []
        self.ports = SessionPorts(
            switchboard=self.board,
            may_reach=lambda lease, member, _: (
                (lease.subject, member.peer_id) not in self.forbidden
            ),
            generation=lambda: self.generation,
            authenticate=self._authenticate,
            open_host=lambda session, channel, frame: self.hosts.append((session, channel, frame)),
            session_over=self.over.append,
            handshake=HandshakePorts(
                verify=verify_signature, random_bytes=self.random, wall_s=lambda: NOW_S
            ),
            monotonic_s=lambda: self.now_s,
            jitter=lambda: 0.5,
            counters=self.counters,
            limits=GhostwireLimits(**limits),
            relays_document=b"",
            observer_port=lambda: 443,
        )

    def peer(self, name: str, **changes: Any) -> Peer:
        """Let a peer come in, and wait until it is there."""
        peer = Peer(self, name, **changes)
        self.settle()
        return peer

    def post(self, carrier: MemoryCarrier, method: str, arguments: tuple[Any, ...]) -> None:
        self.under_way.append((carrier, method, arguments))

    def settle(self) -> None:
        """Hand over what is under way until nothing is."""
        while self.under_way:
            carrier, method, arguments = self.under_way.popleft()
            try:
                getattr(carrier.far, method)(*arguments)
            except WireError as error:
                self.wire_errors.append(error)
                carrier.far.ended(EndReason.PROTOCOL_ERROR)

    def _authenticate(self, session: GhostwireSession, auth: Auth) -> None:
        if self.refuse_with is not None:
            session.refused(self.refuse_with, retry_after_ms=7)
        else:
            session.admitted(auth, session.lease)
