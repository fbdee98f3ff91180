"""Owns our session at another server of the mesh, sans I/O: we are its client, with the mesh key.

new --ServerKey, ClientInfo--> greeting --ServerInfo, WatchConns--> open --> over
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from fallbacks.derp.box import ServerBox
from fallbacks.derp.elsewhere import Elsewhere
from fallbacks.derp.info import encode_mesh_client_info
from fallbacks.derp.outbox import PacketOutbox
from fallbacks.derp.wire import (
    FROM_SERVER,
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    MAX_HEALTH_BYTES,
    PING_BYTES,
    Frame,
    FrameDecoder,
    FrameType,
    PresentFlag,
    encode_client_info,
    encode_forwards,
    encode_frame,
    split_peer_gone,
    split_peer_present,
    split_ping,
    split_server_key,
)
from masque_relay.contract.counters import DerpMeshCounters
from masque_relay.contract.derp_limits import DerpMeshLimits
from masque_relay.contract.tunnel import StreamCarrier
from masque_relay.contract.verdict import EndReason
from masque_relay.wire.errors import WireError

_SECTION = "DERP: mesh"


class _State(Enum):
    NEW = auto()
    GREETING = auto()
    OPEN = auto()
    OVER = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPorts:
    """What our sessions at other servers share."""

    box: ServerBox
    """Ours: to the others we are the same key that our own clients know."""
    mesh_key: str = field(repr=False)
    elsewhere: Elsewhere
    random_bytes: Callable[[int], bytes]
    monotonic_s: Callable[[], float]
    jitter: Callable[[], float]
    """0 to 1, random."""
    counters: DerpMeshCounters
    limits: DerpMeshLimits


class MeshClient:
    """A StreamSession for its carrier, a Place for our clients' packets.

    Attributes:
        server_key: of the other server, from its greeting on; empty before.
        is_ourselves: the other server is this one.
        was_open: the other server has let us in.
        fault: what went wrong, for people; of the other server's words only printable ones.
        end_reason: why the session is over; None while it lives.
    """

    def __init__(self, ports: MeshPorts) -> None:
        self._ports = ports
        self._limits = ports.limits
        self._counters = ports.counters
        self._state = _State.NEW
        self._carrier: StreamCarrier | None = None
        self._decoder = FrameDecoder(max_frame_bytes=MAX_GREETING_BYTES, known=FROM_SERVER)
        self._outbox = PacketOutbox(ports.limits, ports.counters, encode_forwards)
        self._clients: set[bytes] = set()
        self._is_leaving = False
        now_s = ports.monotonic_s()
        self._began_s = self._heard_s = self._moved_s = now_s
        self._keepalive_s = now_s + self._keepalive_period_s()
        self._has_heard = False
        self.server_key = b""
        self.is_ourselves = False
        self.was_open = False
        self.fault = ""
        self.end_reason: EndReason | None = None

    @property
    def is_open(self) -> bool:
        """Whether the other server takes packets."""
        return self._state is _State.OPEN

    @property
    def client_count(self) -> int:
        """Clients there that we know of."""
        return len(self._clients)

    # -- StreamSession: what the carrier calls ----------------------------------------------------

    def attach(self, carrier: StreamCarrier) -> None:
        """Learn the way to the server, which speaks first."""
        self._carrier = carrier
        if self.end_reason is not None:
            carrier.finish()

    def on_stream_data(self, data: bytes) -> None:
        """Take stream bytes.

        Raises:
            WireError: they break the protocol.
        """
        if self._carrier is not None:
            self._carrier.consume(len(data))
        self._has_heard = True
        self._decoder.feed(data)
        while self._state is not _State.OVER:
            frame = self._decoder.take()
            if frame is None:
                return
            self._on_frame(frame)

    def on_stream_end(self) -> None:
        """The server sends no more: it has gone.

        Raises:
            WireError: inside a frame.
        """
        self._decoder.finish()
        self._finish(EndReason.PEER_CLOSED, "the other server closed the connection")

    def on_stream_writable(self) -> None:
        """Bytes have left."""
        self._moved_s = self._ports.monotonic_s()
        if self._carrier is not None:
            self._outbox.pump(self._carrier)

    def on_wake(self) -> None:
        """Nothing: no rate makes us wait."""

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over. Idempotent."""
        self._over(reason, "the connection was lost")

    def on_tick(self) -> None:
        """Watch the deadlines; to be called about once per second."""
        now_s = self._ports.monotonic_s()
        if self._has_heard:
            self._heard_s, self._has_heard = now_s, False
        if self._state in {_State.NEW, _State.GREETING}:
            if now_s - self._began_s >= self._limits.handshake_timeout_s:
                self._cut("the other server did not let us in in time")
        elif self._state is _State.OPEN:
            self._watch_server(now_s)

    # -- what our server calls --------------------------------------------------------------------

    def close(self) -> None:
        """End the session from our side; idempotent."""
        self._finish(EndReason.DRAINED, "")

    def forward(self, source: bytes, key: bytes, packets: Sequence[bytes]) -> None:
        """Bring packets of a client of ours to one of theirs, or queue them fairly."""
        if self._state is _State.OPEN and self._carrier is not None:
            self._mark_progress()
            self._outbox.send(self._carrier, source + key, packets)

    # -- frames -----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.HEALTH:
                said = _printable(frame.body)  # nothing: all is well again
                self.fault = f"the other server says: {said}" if said else ""
            case FrameType.KEEP_ALIVE | FrameType.RESTARTING | FrameType.PING | FrameType.PONG:
                self._on_life(frame)
            case FrameType.SERVER_KEY if self._state is _State.NEW:
                self._on_server_key(split_server_key(frame.body))
            case FrameType.SERVER_INFO if self._state is _State.GREETING:
                self._on_server_info(frame.body)
            case FrameType.PEER_PRESENT if self._state is _State.OPEN:
                self._on_present(*split_peer_present(frame.body))
            case FrameType.PEER_GONE if self._state is _State.OPEN:
                self._on_gone(*split_peer_gone(frame.body))
            case _:
                raise WireError(f"{frame.type.name} out of turn", section=_SECTION)

    def _on_server_key(self, key: bytes) -> None:
        self.server_key = key
        box = self._ports.box
        if key == box.public_key:
            self.is_ourselves = True
            self._finish(EndReason.PEER_CLOSED, "the other server is this one")
            return
        self._state = _State.GREETING
        self._decoder.max_frame_bytes = MAX_FRAME_BYTES
        sealed = box.seal(key, encode_mesh_client_info(self._ports.mesh_key))
        self._send(encode_client_info(box.public_key, sealed))

    def _on_server_info(self, body: bytes) -> None:
        """Take the server's word only if it has the key that it showed."""
        if self._ports.box.open(self.server_key, body) is None:
            raise WireError("ServerInfo is not sealed by the server's key", section=_SECTION)
        self._state = _State.OPEN
        self.was_open = True
        self.fault = ""
        self._counters.servers_connected += 1
        self._send(encode_frame(FrameType.WATCH_CONNS))

    def _on_present(self, key: bytes, flags: PresentFlag) -> None:
        if PresentFlag.MESH in flags or key == self._ports.box.public_key:
            return  # servers, and nobody's peers
        if key not in self._clients:
            if len(self._clients) >= self._limits.max_clients:
                self._counters.clients_refused += 1
                return
            self._clients.add(key)
            self._counters.clients += 1
        self._ports.elsewhere.came(self, key)

    def _on_gone(self, key: bytes, is_absent: bool) -> None:  # noqa: FBT001  (the frame's values)
        if is_absent:
            self._counters.absent += 1
            self._ports.elsewhere.absent(self, key)
        elif key in self._clients:
            self._clients.discard(key)
            self._counters.clients -= 1
            self._ports.elsewhere.went(self, key)
            self._leave_if_empty()

    def _on_life(self, frame: Frame) -> None:
        if frame.type is FrameType.PING:
            opaque = split_ping(frame.body)
            carrier = self._carrier
            if carrier is not None and carrier.unsent_bytes < self._limits.busy_bytes:
                self._send(encode_frame(FrameType.PONG, opaque))
        elif frame.type is FrameType.RESTARTING:
            self._is_leaving = True
            self._leave_if_empty()

    def _leave_if_empty(self) -> None:
        """Do not keep a server that goes away waiting for us, once its clients have gone."""
        if self._is_leaving and not self._clients:
            self._finish(EndReason.PEER_CLOSED, "the other server goes away")

    # -- life -------------------------------------------------------------------------------------

    def _watch_server(self, now_s: float) -> None:
        carrier = self._carrier
        if carrier is None:
            return
        if carrier.unsent_bytes and now_s - self._moved_s >= self._limits.stall_timeout_s:
            self._cut("the other server takes no bytes")
        elif now_s - self._heard_s >= self._limits.silence_timeout_s:
            self._cut("the other server is silent")
        elif now_s >= self._keepalive_s:
            self._keepalive_s = now_s + self._keepalive_period_s()
            self._send(encode_frame(FrameType.PING, self._ports.random_bytes(PING_BYTES)))

    def _keepalive_period_s(self) -> float:
        return self._limits.keepalive_s + self._limits.keepalive_jitter_s * self._ports.jitter()

    def _send(self, frame: bytes) -> None:
        if self._carrier is not None:
            self._mark_progress()
            self._carrier.send(frame)

    def _mark_progress(self) -> None:
        """The wait for a server that takes nothing begins with the first byte that waits."""
        if self._carrier is not None and not self._carrier.unsent_bytes:
            self._moved_s = self._ports.monotonic_s()

    def _finish(self, reason: EndReason, fault: str) -> None:
        carrier = self._carrier
        self._over(reason, fault)
        if carrier is not None:
            carrier.finish()

    def _cut(self, fault: str) -> None:
        carrier = self._carrier
        self._over(EndReason.IDLE, fault)
        if carrier is not None:
            carrier.abort(EndReason.IDLE)

    def _over(self, reason: EndReason, fault: str) -> None:
        if self._state is _State.OVER:
            return
        if self._state is _State.OPEN:
            self._counters.servers_connected -= 1
        self._state = _State.OVER
        self.end_reason = reason
        self.fault = self.fault or fault
        self._carrier = None
        clients, self._clients = self._clients, set()
        self._counters.clients -= len(clients)
        for key in clients:
            self._ports.elsewhere.went(self, key)


def _printable(text: bytes) -> str:
    """Return a server's words as they can go into a log."""
    decoded = text[:MAX_HEALTH_BYTES].decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in decoded)
