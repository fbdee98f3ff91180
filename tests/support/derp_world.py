"""A DERP server in memory: real sessions and boxes, clients that keep what they hear."""

import json
import secrets
import struct
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from nacl.public import Box, PrivateKey, PublicKey

from fallbacks.derp.box import ServerBox
from fallbacks.derp.elsewhere import Elsewhere
from fallbacks.derp.ports import DerpPorts
from fallbacks.derp.roster import Roster
from fallbacks.derp.session import DerpSession
from fallbacks.derp.wire import FrameType, encode_frame
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import DerpCounters
from masque_relay.contract.derp_limits import DerpLimits
from masque_relay.contract.lease import TunnelLimits
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.dataplane.switchboard import RelaySwitchboard
from masque_relay.tunnels.session import Unmetered
from masque_relay.wire.errors import WireError

MESH_KEY = "ab" * 32


@dataclass
class FakeLease:
    """A lease that counts."""

    subject: str
    uplink: Any = field(default_factory=Unmetered)
    downlink: Any = field(default_factory=Unmetered)
    limits: TunnelLimits = field(default_factory=TunnelLimits)


def split_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return type and body of whole frames; what is left over is a failure."""
    frames: list[tuple[int, bytes]] = []
    while data:
        number, length = struct.unpack_from("!BI", data)
        assert len(data) >= 5 + length, "a frame is cut short"
        frames.append((number, data[5 : 5 + length]))
        data = data[5 + length :]
    return frames


class Pipe:
    """A StreamCarrier that keeps what it is given."""

    def __init__(self) -> None:
        self.data = b""
        self.unsent_bytes = 0
        self.is_stalled = False
        self.is_over = False
        self.aborted: EndReason | None = None
        self.consumed_bytes = 0

    def send(self, data: bytes) -> None:
        self.data += data
        if self.is_stalled:
            self.unsent_bytes += len(data)

    def end_sending(self) -> None:
        self.is_over = True

    def consume(self, byte_count: int) -> None:
        self.consumed_bytes += byte_count

    def wake_later(self) -> None:
        raise AssertionError("DERP asks for no wake-up")

    def abort(self, reason: EndReason) -> None:
        self.aborted = reason
        self.is_over = True

    def finish(self) -> None:
        self.is_over = True


class DerpClient:
    """One client and its session at the relay."""

    def __init__(self, world: "DerpWorld", name: str, key: PrivateKey | None = None) -> None:
        self.world = world
        self.name = name
        self.key = key or PrivateKey.generate()
        self.public = bytes(self.key.public_key)
        self.pipe = Pipe()
        world.names[self.public] = name
        self.session = DerpSession(
            world.ports,
            Endpoint(address=ip_address("198.51.100.7"), port=40_000),
            request_id=name,
        )
        self.session.attach(self.pipe)

    def greeting(self, **info: Any) -> bytes:
        """Return ClientInfo; ``info`` adds to what the box says."""
        text = json.dumps({"version": 2, **info}).encode()
        box = Box(self.key, PublicKey(self.world.box.public_key))
        return encode_frame(FrameType.CLIENT_INFO, self.public + bytes(box.encrypt(text)))

    def enter(self, **info: Any) -> "DerpClient":
        """Be admitted, and forget what was heard up to then."""
        self.feed(self.greeting(**info))
        heard = [number for number, _ in self.heard()]
        assert heard[:2] == [FrameType.SERVER_KEY, FrameType.SERVER_INFO], heard
        return self

    def feed(self, data: bytes) -> None:
        """Send bytes; what breaks the protocol ends the session, as the carrier would end it."""
        try:
            self.session.on_stream_data(data)
        except WireError as error:
            self.world.wire_errors.append(error)
            self.session.ended(EndReason.PROTOCOL_ERROR)
            raise

    def send(self, to: bytes, *packets: bytes) -> None:
        """Send packets in one go."""
        self.feed(b"".join(encode_frame(FrameType.SEND_PACKET, to + packet) for packet in packets))

    def heard(self) -> list[tuple[int, bytes]]:
        """Return what came since the last time."""
        data, self.pipe.data = self.pipe.data, b""
        return split_frames(data)

    def packets(self) -> list[tuple[bytes, bytes]]:
        """Return sources and packets that came since the last time, and nothing else."""
        frames = self.heard()
        assert all(number == FrameType.RECV_PACKET for number, _ in frames), frames
        return [(body[:32], body[32:]) for _, body in frames]

    def drain(self) -> None:
        """Take all that waits."""
        while self.pipe.unsent_bytes:
            self.pipe.unsent_bytes = 0
            self.session.on_stream_writable()


class DerpWorld:
    """The server's side of everything but I/O."""

    def __init__(self, board: RelaySwitchboard | None = None, **limits: Any) -> None:
        self.now_s = 100.0
        self.box = ServerBox(secrets.token_bytes(32))
        self.board = RelaySwitchboard() if board is None else board
        self.counters = DerpCounters()
        self.names: dict[bytes, str] = {}
        self.elsewhere = Elsewhere()
        self.forbidden: set[tuple[str, bytes]] = set()
        self.generation = 0
        self.refuse_with: DenyReason | None = None
        self.decides_later = False
        self.waiting: list[DerpSession] = []
        self.over: list[DerpSession] = []
        self.tunnel_limits = TunnelLimits()
        self.wire_errors: list[WireError] = []
        self.ports = DerpPorts(
            box=self.box,
            switchboard=self.board,
            roster=Roster(),
            may_reach=lambda lease, member: (lease.subject, member.peer_id) not in self.forbidden,
            elsewhere=self.elsewhere,
            may_reach_elsewhere=lambda lease, key: (lease.subject, key) not in self.forbidden,
            generation=lambda: self.generation,
            authenticate=self._authenticate,
            session_over=self.over.append,
            is_mesh_key=lambda key: key == MESH_KEY,
            random_bytes=bytes,
            monotonic_s=lambda: self.now_s,
            jitter=lambda: 0.5,
            counters=self.counters,
            limits=DerpLimits(**limits),
        )

    def client(self, name: str, **info: Any) -> DerpClient:
        """Let a client come in."""
        return DerpClient(self, name).enter(**info)

    def decide(self) -> None:
        """Answer those who wait."""
        waiting, self.waiting = self.waiting, []
        for session in waiting:
            self._answer(session)

    def _authenticate(self, session: DerpSession, key: bytes) -> None:
        assert session.peer_id == key
        self.waiting.append(session)
        if not self.decides_later:
            self.decide()

    def _answer(self, session: DerpSession) -> None:
        if self.refuse_with is not None:
            session.refused(Denial(reason=self.refuse_with, detail="secret detail"))
        else:
            lease: Any = FakeLease(self.names[session.peer_id], limits=self.tunnel_limits)
            session.admitted(lease)
