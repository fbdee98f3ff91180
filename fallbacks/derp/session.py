"""Owns one DERP client's session at the relay, sans I/O: frames in, frames out, a Member between.

new --ClientInfo--> deciding --admitted--> open --> over
"""

from collections.abc import Sequence
from enum import Enum, auto

from fallbacks.derp.denials import NOT_ADMITTED, REPLACED, frames_of_denial, frames_of_end
from fallbacks.derp.info import ClientInfo, encode_server_info, parse_client_info
from fallbacks.derp.outbox import PacketOutbox
from fallbacks.derp.peers import PeerTable
from fallbacks.derp.ports import DerpPorts
from fallbacks.derp.wire import (
    MAX_FRAME_BYTES,
    MAX_GREETING_BYTES,
    PROTOCOL_VERSION,
    Frame,
    FrameDecoder,
    FrameType,
    PresentFlag,
    encode_frame,
    encode_health,
    encode_restarting,
    encode_server_key,
    split_client_info,
    split_forward,
    split_key,
    split_packet,
    split_ping,
    split_preferred,
)
from masque_relay.contract.address import Endpoint
from masque_relay.contract.ghostwire import Call, ChannelEnd, Member
from masque_relay.contract.lease import Lease
from masque_relay.contract.tunnel import StreamCarrier
from masque_relay.contract.verdict import Denial, EndReason
from masque_relay.tunnels.session import admit_batch
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import ErrorCode

SILENT_PERIODS = 3
_SECTION = "DERP: frames"


class _State(Enum):
    NEW = auto()
    DECIDING = auto()
    OPEN = auto()
    OVER = auto()


class DerpSession:
    """A StreamSession for its carrier, a Member for the switchboard.

    Attributes:
        source: where the client comes from.
        peer_id: its node key, proved from ClientInfo on; empty before.
        request_id: of the request that brought it.
        end_reason: why the session is over; None while it lives.
        is_mesh: it holds the mesh key.
        prefers_us: the client says that this relay is its home.
    """

    signed_candidates: tuple[bytes, bytes] | None = None

    def __init__(
        self, ports: DerpPorts, source: Endpoint, *, request_id: str, is_ideal: bool = True
    ) -> None:
        self._ports = ports
        self._limits = ports.limits
        self._counters = ports.counters
        self.source = source
        self.request_id = request_id
        self.peer_id = b""
        self.end_reason: EndReason | None = None
        self.is_mesh = False
        self.prefers_us = False
        self._is_ideal = is_ideal
        self._info = ClientInfo(version=0)
        self._state = _State.NEW
        self._lease: Lease | None = None
        self._carrier: StreamCarrier | None = None
        self._decoder = FrameDecoder(max_frame_bytes=MAX_GREETING_BYTES)
        self._early: list[Frame] = []
        self._early_bytes = 0
        self._peers = PeerTable(self, ports)
        self._outbox = PacketOutbox(ports.limits, ports.counters)
        now_s = ports.monotonic_s()
        self._began_s = self._heard_s = self._moved_s = now_s
        self._keepalive_s = now_s + self._keepalive_period_s()
        self._has_heard = False

    # -- StreamSession: what the carrier calls ----------------------------------------------------

    def attach(self, carrier: StreamCarrier) -> None:
        """Learn the way to the client, and greet it."""
        self._carrier = carrier
        if self.end_reason is not None:
            carrier.finish()
            return
        self.send(encode_server_key(self._ports.box.public_key))

    def on_stream_data(self, data: bytes) -> None:
        """Take stream bytes.

        Raises:
            WireError: they break the protocol.
        """
        if self._carrier is not None:
            self._carrier.consume(len(data))
        if self._state is _State.OVER:
            return
        self._has_heard = True
        decoder = self._decoder
        decoder.feed(data)
        try:
            self._take_frames(decoder)
        except WireError:
            self._counters.protocol_errors += 1
            raise

    def on_stream_end(self) -> None:
        """The client sends no more: so it is gone.

        Raises:
            WireError: inside a frame.
        """
        self._decoder.finish()
        self._finish(EndReason.PEER_CLOSED)

    def on_stream_writable(self) -> None:
        """Bytes have left."""
        self._moved_s = self._ports.monotonic_s()
        if self._carrier is not None:
            self._outbox.pump(self._carrier)

    def on_wake(self) -> None:
        """Nothing: no rate makes us wait, packets are dropped."""

    def ended(self, reason: EndReason) -> None:
        """Learn that the stream is over; tell everybody at the other ends. Idempotent."""
        self._over(reason, ErrorCode.PEER_UNAVAILABLE)

    def on_tick(self) -> None:
        """Watch the deadlines; to be called about once per second."""
        if self._state is _State.OVER:
            return
        now_s = self._ports.monotonic_s()
        if self._has_heard:
            self._heard_s, self._has_heard = now_s, False
        if self._state is not _State.OPEN:
            if now_s - self._began_s >= self._limits.handshake_timeout_s:
                self._counters.handshakes_refused += 1
                self.close(EndReason.IDLE)
            return
        self._peers.tick()
        self._watch_client(now_s)

    # -- what the server calls --------------------------------------------------------------------

    def admitted(self, lease: Lease) -> None:
        """The gate lets this key in."""
        if self._state is not _State.DECIDING:
            return
        self._lease = lease
        self._state = _State.OPEN
        self._counters.clients_opened += 1
        self._counters.clients_open += 1
        info = encode_server_info(lease.limits)
        self.send(encode_frame(FrameType.SERVER_INFO, self._ports.box.seal(self.peer_id, info)))
        self._ports.roster.add(self)  # first, so that watchers hear of no loss where we replace one
        self._ports.switchboard.join(self)
        early, self._early = self._early, []
        self._take_batch(early)

    def refused(self, denial: Denial) -> None:
        """The gate does not."""
        if self._state is _State.DECIDING:
            self._refuse(frames_of_denial(denial))

    def restarting(self, *, reconnect_in_ms: int, try_for_ms: int) -> None:
        """Tell the client that the relay will go."""
        if self._state is _State.OPEN:
            self.send(encode_restarting(reconnect_in_ms=reconnect_in_ms, try_for_ms=try_for_ms))

    def close(self, reason: EndReason) -> None:
        """End the session from our side; idempotent."""
        if self.end_reason is None:
            self.send(frames_of_end(reason))
            self._finish(reason)

    # -- Member: what the switchboard and other members call --------------------------------------

    @property
    def lease(self) -> Lease:
        """The permission to be here."""
        if self._lease is None:
            raise RuntimeError("a session without a lease is not a member")
        return self._lease

    def call(self, caller: ChannelEnd, call: Call) -> ChannelEnd | int:
        """Take a call, if the client is here."""
        if self._state is not _State.OPEN:
            return ErrorCode.PEER_UNAVAILABLE
        return self._peers.take(caller, call)

    def replaced(self) -> None:
        """A newer connection of this key is here."""
        self._counters.clients_replaced += 1
        self.send(encode_health(REPLACED))
        self._finish(EndReason.PEER_CLOSED, ErrorCode.REPLACED)

    def presence_changed(self, member: Member, *, is_here: bool) -> None:
        """Nothing: DERP clients watch nobody; the roster serves those with the mesh key."""

    def candidates_changed(self, member: Member) -> None:
        """Nothing: DERP has no candidates."""

    # -- Listed: what the roster calls ------------------------------------------------------------

    @property
    def present_flags(self) -> PresentFlag:
        """What watchers are told of this client."""
        flags = PresentFlag.MESH if self.is_mesh else PresentFlag.REGULAR
        if self._info.is_prober:
            flags = PresentFlag.PROBER
        return flags if self._is_ideal else flags | PresentFlag.NOT_IDEAL

    def send(self, frame: bytes) -> None:
        """Send one frame, or several."""
        if self._carrier is not None and frame:
            self._mark_progress()
            self._carrier.send(frame)

    def kicked_by_mesh(self) -> None:
        """A server of the mesh wants this client elsewhere; it may come back at once."""
        self._finish(EndReason.KICKED)

    # -- what the peers call ---------------------------------------------------------------------

    def receive(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Send packets of another member to our client, or queue them fairly."""
        if self._state is not _State.OPEN or self._carrier is None:
            return
        admitted = admit_batch(self.lease.downlink, packets)
        self._counters.rate_dropped += len(packets) - len(admitted)
        if admitted and self.end_reason is None:  # the last of a quota ends the lease
            self._mark_progress()
            self._outbox.send(self._carrier, source, admitted)

    # -- frames -----------------------------------------------------------------------------------

    def _take_frames(self, decoder: FrameDecoder) -> None:
        frames: list[Frame] = []
        while self._state is not _State.OVER:
            frame = decoder.take()
            if frame is None:
                break
            if self._state is _State.NEW:
                self._on_greeting(frame)
            elif self._state is _State.DECIDING:
                self._keep_early(frame)
            else:
                frames.append(frame)
        self._take_batch(frames)

    def _keep_early(self, frame: Frame) -> None:
        """Clients do not wait for ServerInfo: what they say meanwhile is kept, within a bound."""
        size = len(frame.body) + 64
        if self._early_bytes + size <= self._limits.early_bytes:
            self._early_bytes += size
            self._early.append(frame)
        elif frame.type is FrameType.SEND_PACKET:
            self._counters.early_dropped += 1
        else:
            raise WireError("too much before ServerInfo", section=_SECTION)

    def _on_greeting(self, frame: Frame) -> None:
        if frame.type is not FrameType.CLIENT_INFO:
            raise WireError("the first frame is not ClientInfo", section=_SECTION)
        key, sealed = split_client_info(frame.body)
        opened = self._ports.box.open(key, sealed)
        if opened is None:
            self._refuse(encode_health(NOT_ADMITTED))
            return
        info = self._info = parse_client_info(opened)
        if info.version != PROTOCOL_VERSION:
            self._refuse(encode_health(f"this relay speaks DERP version {PROTOCOL_VERSION}"))
            return
        if info.mesh_key and not self._ports.is_mesh_key(info.mesh_key):
            self._refuse(encode_health(NOT_ADMITTED))
            return
        self.is_mesh = bool(info.mesh_key)
        self.peer_id = key
        self._state = _State.DECIDING
        self._decoder.max_frame_bytes = MAX_FRAME_BYTES
        self._ports.authenticate(self, key)

    def _take_batch(self, frames: Sequence[Frame]) -> None:
        """Take frames in order; packets to one peer that follow each other go together."""
        run: list[bytes] = []
        destination = b""
        for frame in frames:
            if frame.type is FrameType.SEND_PACKET:
                key, packet = split_packet(frame.body)
                if key != destination and run:
                    self._send_packets(destination, run)
                    run = []
                destination = key
                run.append(packet)
                continue
            if run:
                self._send_packets(destination, run)
                run = []
            if self._state is _State.OPEN:
                self._on_frame(frame)
        if run:
            self._send_packets(destination, run)

    def _on_frame(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.PING:
                self._answer_ping(split_ping(frame.body))
            case FrameType.PONG:
                split_ping(frame.body)
            case FrameType.NOTE_PREFERRED:
                self._prefer(split_preferred(frame.body))
            case FrameType.WATCH_CONNS:
                self._require_mesh(frame)
                self._ports.roster.watch(self)
            case FrameType.CLOSE_PEER:
                self._require_mesh(frame)
                other = self._ports.roster.find(split_key(frame.body))
                if other is not None:
                    other.kicked_by_mesh()
            case FrameType.FORWARD_PACKET:
                self._require_mesh(frame)
                self._forward(*split_forward(frame.body))
            case _:
                raise WireError(f"{frame.type.name} in an open session", section=_SECTION)

    def _require_mesh(self, frame: Frame) -> None:
        if not self.is_mesh:
            raise WireError(f"{frame.type.name} without the mesh key", section=_SECTION)

    def _answer_ping(self, opaque: bytes) -> None:
        if self._carrier is not None and self._carrier.unsent_bytes < self._limits.busy_bytes:
            self.send(encode_frame(FrameType.PONG, opaque))

    def _prefer(self, is_home: bool) -> None:  # noqa: FBT001  (the frame's one value)
        self._counters.homes += is_home - self.prefers_us
        self.prefers_us = is_home

    # -- packets ----------------------------------------------------------------------------------

    def _send_packets(self, key: bytes, packets: list[bytes]) -> None:
        if self._state is not _State.OPEN:
            return
        admitted = admit_batch(self.lease.uplink, packets)
        self._counters.rate_dropped += len(packets) - len(admitted)
        if not admitted or self.end_reason is not None:  # the last of a quota ends the lease
            return
        self._peers.send(key, admitted)

    def _forward(self, source: bytes, key: bytes, packet: bytes) -> None:
        admitted = admit_batch(self.lease.uplink, [packet])
        self._counters.rate_dropped += 1 - len(admitted)
        if admitted and self.end_reason is None:
            self._peers.forward(source, key, admitted)

    # -- life -------------------------------------------------------------------------------------

    def _keepalive_period_s(self) -> float:
        return self._limits.keepalive_s + self._limits.keepalive_jitter_s * self._ports.jitter()

    def _watch_client(self, now_s: float) -> None:
        carrier = self._carrier
        if carrier is None:
            return
        if carrier.unsent_bytes and now_s - self._moved_s >= self._limits.stall_timeout_s:
            self._counters.clients_stalled += 1
            self._over(EndReason.IDLE, ErrorCode.PEER_UNAVAILABLE)
            carrier.abort(EndReason.IDLE)
        elif now_s >= self._keepalive_s:
            self._keepalive_s = now_s + self._keepalive_period_s()
            self._keep_alive(now_s)

    def _keep_alive(self, now_s: float) -> None:
        silent_s = now_s - self._heard_s
        if not self._info.can_ack_pings:
            self.send(encode_frame(FrameType.KEEP_ALIVE))
        elif silent_s >= SILENT_PERIODS * self._limits.keepalive_s:
            self.close(EndReason.IDLE)
        else:
            self.send(encode_frame(FrameType.PING, self._ports.random_bytes(8)))

    def _mark_progress(self) -> None:
        """The wait for a client that takes nothing begins with the first byte that waits."""
        if self._carrier is not None and not self._carrier.unsent_bytes:
            self._moved_s = self._ports.monotonic_s()

    def _refuse(self, frames: bytes) -> None:
        self._counters.handshakes_refused += 1
        self.send(frames)
        self._finish(EndReason.DENIED)

    def _finish(self, reason: EndReason, code: int = ErrorCode.PEER_UNAVAILABLE) -> None:
        carrier = self._carrier
        self._over(reason, code)
        if carrier is not None:
            carrier.finish()

    def _over(self, reason: EndReason, code: int) -> None:
        if self._state is _State.OVER:
            return
        self.end_reason = reason
        self._carrier = None
        was_open = self._state is _State.OPEN
        self._state = _State.OVER
        self._early.clear()
        if was_open:
            self._prefer(is_home=False)
            self._counters.clients_open -= 1
            self._ports.switchboard.leave(self)
            self._ports.roster.remove(self)
        self._peers.leave_all(code)
        self._ports.session_over(self)
