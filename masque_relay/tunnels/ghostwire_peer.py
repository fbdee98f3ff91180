"""Owns a peer's side of a Ghostwire session: proof, channels, presence; without I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from masque_relay.contract.ghostwire import Exporter
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_handshake import OUR_FEATURES, VerifySignature
from masque_relay.tunnels.ghostwire_peer_channel import ChannelHandler, PeerChannel
from masque_relay.tunnels.keepalive import Keepalive
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    FRAME_TYPES,
    NONCE_BYTES,
    VERSION,
    Auth,
    Batch,
    Binding,
    Candidates,
    Challenge,
    ChannelKind,
    Close,
    Credit,
    Data,
    End,
    Error,
    ErrorCode,
    Frame,
    FrameType,
    Hello,
    Observed,
    Open,
    Opened,
    PeerCandidates,
    Ping,
    Pong,
    Presence,
    Relays,
    Restarting,
    Watch,
    Welcome,
)
from masque_relay.wire.ghostwire_codec import decode_frame, frame_value, runs_by_channel
from masque_relay.wire.ghostwire_proof import (
    EXPORTER_BYTES,
    EXPORTER_LABEL,
    CandidateRecord,
    challenge_value,
    peer_proof,
    signed_record,
)

_SECTION = "ghostwire: Frames"
_DEFAULT_KEEPALIVE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPorts:
    """What a peer's session is given. The private key stays behind ``sign``."""

    peer_id: bytes
    sign: Callable[[bytes], bytes]
    verify: VerifySignature
    token: str
    """For AUTH; empty where the carrier's request had it."""
    exporter: Exporter | None
    relay_name: str
    window_bytes: int
    """Credit on streams."""
    random_bytes: Callable[[int], bytes]
    monotonic_s: Callable[[], float]
    wall_s: Callable[[], float]
    jitter: Callable[[], float]
    """0 to 1, random."""


class PeerHandler(Protocol):
    """Whom the session tells; must neither block nor raise."""

    def session_opened(self, welcome: Welcome) -> None:
        """WELCOME."""
        ...

    def called(self, channel: PeerChannel) -> None:
        """Another peer calls: ``channel.accept(handler)`` or ``channel.close(code)``."""
        ...

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        """What the relay tells of itself and of others."""
        ...

    def candidates_received(self, record: CandidateRecord) -> None:
        """Another peer's record; its signature is right and it has not expired."""
        ...

    def session_closed(self, code: int, reason: str, retry_after_ms: int) -> None:
        """The session is over; once, the last call. Channels have been told before."""
        ...


class _State(Enum):
    NEW = auto()
    GREETED = auto()
    OPEN = auto()
    OVER = auto()


class PeerSession:
    """The client's state machine; its carrier drives it like a FrameSession.

    Attributes:
        clock_skew_s: the relay's clock less ours, from CHALLENGE; None before.
        end_reason: why the session is over; None while it lives.
        pong_received: told the 8 bytes of each PONG; may be set by whoever measures.
    """

    capsule_types = FRAME_TYPES - {FrameType.DATAGRAM}

    def __init__(self, ports: PeerPorts, handler: PeerHandler) -> None:
        self._ports = ports
        self._handler = handler
        self._carrier: Carrier | None = None
        self._state = _State.NEW
        self._nonce = ports.random_bytes(NONCE_BYTES)
        self._channels: dict[int, PeerChannel] = {}
        self._next_id = 0
        self._highest_odd = -1
        self._last_error = Error(code=ErrorCode.NONE)
        self.clock_skew_s: int | None = None
        self.end_reason: EndReason | None = None
        self.pong_received: Callable[[bytes], object] = lambda _: None
        self._keepalive = Keepalive(
            period_s=_DEFAULT_KEEPALIVE_S, now_s=ports.monotonic_s(), jitter=ports.jitter
        )

    # -- for the user -----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Welcomed, and not over."""
        return self._state is _State.OPEN

    @property
    def max_datagram_bytes(self) -> int:
        """What the carrier takes as one datagram now, our channel's id included; 0 without one."""
        return 0 if self._carrier is None else self._carrier.max_payload_bytes

    def open_channel(
        self,
        kind: ChannelKind,
        handler: ChannelHandler,
        *,
        peer_id: bytes = b"",
        host: str = "",
        port: int = 0,
        service: bytes = b"",
        priority: int = 0,
    ) -> PeerChannel:
        """Call another peer, or a host.

        Raises:
            RuntimeError: the session is not open; a bug of the caller.
        """
        if self._state is not _State.OPEN:
            raise RuntimeError("the session is not open")
        window_bytes = self._ports.window_bytes if kind.is_stream else 0
        channel = PeerChannel(
            self,
            self._next_id,
            kind,
            peer_id=peer_id,
            service=service,
            window_bytes=window_bytes,
            handler=handler,
        )
        self._next_id += 2
        self._channels[channel.channel_id] = channel
        self.send_frame(
            Open(
                channel=channel.channel_id,
                kind=kind,
                priority=priority,
                credit_bytes=window_bytes,
                peer_id=peer_id,
                host=host,
                port=port,
                service=service,
            )
        )
        return channel

    def watch(self, peer_ids: Sequence[bytes]) -> None:
        """Ask to hear of these peers, and of no others."""
        self.send_frame(Watch(peer_ids=tuple(peer_ids)))

    def publish(self, record: CandidateRecord) -> None:
        """Tell where we might be reached."""
        data = record.encode()
        signature = self._ports.sign(signed_record(data))
        self.send_frame(Candidates(record=data, signature=signature))

    def ping(self, opaque: bytes) -> None:
        """Ask for a PONG; 8 bytes."""
        self.send_frame(Ping(opaque=opaque))

    def close(self, reason: EndReason = EndReason.PEER_CLOSED) -> None:
        """End the session; idempotent."""
        carrier = self._carrier
        self.send_frame(Error(code=ErrorCode.NONE))
        self.ended(reason)
        if carrier is not None:
            carrier.finish()

    # -- FrameSession: what the carrier calls -----------------------------------------------------

    def attach(self, carrier: Carrier) -> None:
        """Learn the way to the relay, and greet it; with an exporter, prove in the same flight."""
        self._carrier = carrier
        if self._state is not _State.NEW:
            carrier.finish()
            return
        self._state = _State.GREETED
        self.send_frame(
            Hello(
                versions=(VERSION,),
                features=OUR_FEATURES,
                nonce=self._nonce,
                time_s=int(self._ports.wall_s()),
            )
        )
        if self._ports.exporter is not None:
            label, peer_id = EXPORTER_LABEL.encode("ascii"), self._ports.peer_id
            self._prove(Binding.EXPORTER, self._ports.exporter(label, peer_id, EXPORTER_BYTES))

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Take datagrams; runs of one channel stay together.

        Raises:
            WireError: one ends before its channel does.
        """
        self._keepalive.heard()
        for channel_id, run in runs_by_channel(payloads):
            if channel_id is None:
                raise WireError("a datagram that ends in its channel", section=_SECTION)
            self._deliver(channel_id, run)

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Take one frame.

        Raises:
            WireError: the relay breaks the protocol.
        """
        self._keepalive.heard()
        if self._state is _State.OVER:
            return
        frame = decode_frame(capsule_type, value)
        if frame is not None:
            self._on_frame(frame)

    def on_writable(self) -> None:
        """Nothing waits here: credit bounds the streams, and datagrams that do not fit are lost."""

    def on_tick(self) -> None:
        """Keep alive; to be called about once per second."""
        if self._state is _State.OVER:
            return
        now_s = self._ports.monotonic_s()
        self._keepalive.tick(now_s)
        if self._keepalive.is_lost(now_s):
            self._last_error = Error(code=ErrorCode.IDLE, reason="the relay is silent")
            self.close(EndReason.IDLE)
        elif self._state is _State.OPEN and self._keepalive.wants_ping(now_s):
            self.ping(self._ports.random_bytes(8))

    def ended(self, reason: EndReason) -> None:
        """Learn that the carrier is gone. Idempotent."""
        if self._state is _State.OVER:
            return
        self._state = _State.OVER
        self.end_reason = reason
        self._carrier = None
        for channel in tuple(self._channels.values()):
            channel.closed(ErrorCode.RESET, "the session is over")
        error = self._last_error
        self._handler.session_closed(error.code, error.reason, error.retry_after_ms)

    # -- SessionSide: what our channels call ------------------------------------------------------

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame."""
        if self._carrier is not None:
            self._keepalive.sent()
            self._carrier.send_capsule(*frame_value(frame))

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Send as datagrams what fits one, and the rest on the frame stream."""
        carrier = self._carrier
        if carrier is None:
            return 0
        self._keepalive.sent()
        limit_bytes = carrier.max_payload_bytes - len(prefix)
        fitting = [payload for payload in payloads if len(payload) <= limit_bytes]
        sent = carrier.send_datagrams(prefix, fitting) if fitting else 0
        if len(fitting) < len(payloads) and carrier.unsent_bytes <= self._ports.window_bytes:
            for payload in payloads:
                if len(payload) > limit_bytes:
                    carrier.send_capsule(FrameType.DATAGRAM, prefix + payload)
                    sent += 1
        return sent

    def forget(self, channel: PeerChannel) -> None:
        """The channel is over."""
        self._channels.pop(channel.channel_id, None)

    # -- frames -----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame) -> None:
        match frame:
            case Challenge():
                self._on_challenge(frame)
            case Welcome():
                self._on_welcome(frame)
            case Error():
                self._last_error = frame
                self.ended(EndReason.DENIED if self._state is _State.GREETED else EndReason.KICKED)
            case Ping():
                self.send_frame(Pong(opaque=frame.opaque))
            case Pong():
                self.pong_received(frame.opaque)
            case Observed() | Presence() | Relays() | Restarting():
                self._handler.mesh_frame_received(frame)
            case PeerCandidates():
                self._on_candidates(frame)
            case Open():
                self._on_open(frame)
            case Opened() | Close() | Data() | End() | Credit() | Batch():
                self._on_channel_frame(frame)
            case _:
                raise WireError(f"{type(frame).__name__} from a relay", section=_SECTION)

    def _on_challenge(self, challenge: Challenge) -> None:
        if self._state is not _State.GREETED or challenge.version != VERSION:
            raise WireError(f"CHALLENGE of version {challenge.version}", section=_SECTION)
        self.clock_skew_s = challenge.time_s - int(self._ports.wall_s())
        if self._ports.exporter is None:
            value = challenge_value(
                relay_nonce=challenge.nonce,
                peer_nonce=self._nonce,
                peer_id=self._ports.peer_id,
                relay_name=self._ports.relay_name,
            )
            self._prove(Binding.CHALLENGE, value)

    def _prove(self, binding: Binding, channel_value: bytes) -> None:
        message = peer_proof(version=VERSION, binding=binding, channel_value=channel_value)
        self.send_frame(
            Auth(
                peer_id=self._ports.peer_id,
                binding=binding,
                signature=self._ports.sign(message),
                token=self._ports.token,
            )
        )

    def _on_welcome(self, welcome: Welcome) -> None:
        if self._state is not _State.GREETED:
            raise WireError("a second WELCOME", section=_SECTION)
        self._state = _State.OPEN
        self._keepalive.set_period(welcome.keepalive_ms / 1_000)
        self._handler.session_opened(welcome)

    def _on_candidates(self, frame: PeerCandidates) -> None:
        """Believe nobody's word but the key's."""
        record = CandidateRecord.decode(frame.record)
        is_signed = self._ports.verify(record.peer_id, frame.signature, signed_record(frame.record))
        if is_signed and record.expires_s > self._ports.wall_s():
            self._handler.candidates_received(record)

    def _on_open(self, frame: Open) -> None:
        if not frame.channel % 2 or frame.channel <= self._highest_odd or not frame.kind.is_to_peer:
            raise WireError(f"OPEN of channel {frame.channel}", section="ghostwire: Channels")
        self._highest_odd = frame.channel
        channel = PeerChannel(
            self,
            frame.channel,
            frame.kind,
            peer_id=frame.peer_id,
            service=frame.service,
            window_bytes=self._ports.window_bytes if frame.kind.is_stream else 0,
            handler=None,
        )
        channel.credit_received(frame.credit_bytes)
        self._channels[frame.channel] = channel
        self._handler.called(channel)

    def _on_channel_frame(self, frame: Opened | Close | Data | End | Credit | Batch) -> None:
        channel = self._channels.get(frame.channel)
        if channel is None:
            return  # it is over here, and the other side does not know yet
        match frame:
            case Opened():
                channel.opened(frame.credit_bytes)
            case Close():
                channel.closed(frame.code, frame.reason)
            case Data():
                channel.data_received(frame.data)
            case End():
                channel.end_received()
            case Credit():
                channel.credit_received(frame.limit_bytes)
            case Batch():
                channel.datagrams_received(frame.payloads)

    def _deliver(self, channel_id: int, payloads: Sequence[bytes]) -> None:
        channel = self._channels.get(channel_id)
        if channel is not None:
            channel.datagrams_received(payloads)
