"""Owns a peer's session at the relay: frames in, frames out, channels to members and hosts."""

from collections.abc import Sequence
from enum import Enum, auto

from masque_relay.contract.address import Endpoint
from masque_relay.contract.ghostwire import Arrival, Call, ChannelEnd, Member
from masque_relay.contract.lease import Lease
from masque_relay.contract.tunnel import Carrier
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire_channel import ChannelTable, RelayChannel, admit_datagrams
from masque_relay.tunnels.ghostwire_handshake import RelayHandshake
from masque_relay.tunnels.ghostwire_outbox import DatagramOutbox, end_carrier
from masque_relay.tunnels.ghostwire_ports import END_CODES, SessionPorts
from masque_relay.tunnels.ghostwire_presence import PresenceDesk
from masque_relay.tunnels.keepalive import Keepalive
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import (
    FRAME_TYPES,
    MAX_FRAME_BYTES,
    Auth,
    Batch,
    Candidates,
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
    Ping,
    Pong,
    Relays,
    Restarting,
    Watch,
    Welcome,
)
from masque_relay.wire.ghostwire_codec import decode_frame, frame_value, runs_by_channel

CAPSULE_TYPES = FRAME_TYPES - {FrameType.DATAGRAM}

_DATAGRAMS = ChannelKind.DATAGRAMS
_SECTION = "ghostwire: Frames"


class _State(Enum):
    NEW = auto()
    DECIDING = auto()
    OPEN = auto()
    OVER = auto()


class GhostwireSession:
    """One peer's session; a FrameSession for its carrier and a Member for the switchboard.

    Attributes:
        arrival: how the peer came.
        peer_id: proved from WELCOME on; empty before.
        end_reason: why the session is over; None while it lives.
    """

    capsule_types = CAPSULE_TYPES

    def __init__(self, ports: SessionPorts, arrival: Arrival) -> None:
        self._ports = ports
        self._limits = ports.limits
        self._counters = ports.counters
        self.arrival = arrival
        self.peer_id = b""
        self.end_reason: EndReason | None = None
        self._presence = PresenceDesk(
            may_reach=lambda other: ports.may_reach(self.lease, other, _DATAGRAMS),
            may_be_reached_by=lambda other: ports.may_reach(other.lease, self, _DATAGRAMS),
            send=self.send_frame,
            verify=ports.handshake.verify,
            max_watched=ports.limits.max_watched,
        )
        self._lease = arrival.lease
        self._state = _State.NEW
        self._handshake = RelayHandshake(
            ports.handshake,
            exporter=arrival.exporter,
            relay_name=arrival.relay_name,
            require_exporter=ports.limits.require_exporter,
        )
        self._carrier: Carrier | None = None
        self._channels = ChannelTable()
        self._outbox = DatagramOutbox(ports.limits, ports.counters)
        now_s = ports.monotonic_s()
        self._deadline_s = now_s + ports.limits.handshake_timeout_s
        self._keepalive = Keepalive(
            period_s=ports.limits.keepalive_s, now_s=now_s, jitter=ports.jitter
        )

    # -- FrameSession: what the carrier calls -----------------------------------------------------

    def attach(self, carrier: Carrier) -> None:
        """Learn the way to the peer, who speaks first."""
        self._carrier = carrier
        if self.end_reason is not None:
            end_carrier(carrier, self.end_reason)

    def on_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Take datagrams of any channels; runs of one channel stay together."""
        self._keepalive.heard()
        if self._state is not _State.OPEN:
            self._counters.stray_dropped += len(payloads)
            return
        for channel_id, run in runs_by_channel(payloads):
            if channel_id is None:
                self._counters.stray_dropped += len(run)
            else:
                self._relay_datagrams(channel_id, run)

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        """Take one frame.

        Raises:
            WireError: it breaks the protocol; the peer has been told why.
        """
        self._keepalive.heard()
        if self._state is _State.OVER:
            return
        try:
            frame = decode_frame(capsule_type, value)
            if frame is not None:
                self._on_frame(frame)
            if self._is_choked():
                raise WireError("answers that nobody takes", section=_SECTION)
        except WireError as error:
            self._counters.protocol_errors += 1
            self.send_frame(Error(code=ErrorCode.MALFORMED, reason=error.detail))
            raise

    def on_writable(self) -> None:
        """Send what waited, and offer the credit that was held back."""
        carrier = self._carrier
        if carrier is None:
            return
        self._outbox.pump(carrier)
        # Not for every few bytes: credit in small pieces costs a frame each.
        if self._channels.stream_count and carrier.unsent_bytes * 2 <= self._limits.window_bytes:
            for channel in self._channels:
                if channel.kind.is_stream:
                    channel.offer_credit()

    def on_tick(self) -> None:
        """Watch the deadlines; to be called about once per second."""
        if self._state is _State.OVER:
            return
        now_s = self._ports.monotonic_s()
        self._keepalive.tick(now_s)
        self._presence.tick()
        for channel in self._channels:
            channel.send_held()
        self._channels.recheck(self._ports.generation(), self._reachable)
        if self._state in {_State.NEW, _State.DECIDING}:
            if now_s >= self._deadline_s:
                self._counters.handshakes_refused += 1
                self.close(EndReason.IDLE)
        elif self._keepalive.is_lost(now_s) or self._is_choked():
            self._counters.sessions_silent += 1
            self.close(EndReason.IDLE)
        elif self._keepalive.wants_ping(now_s):
            self.send_frame(Ping(opaque=self._ports.handshake.random_bytes(8)))

    def ended(self, reason: EndReason) -> None:
        """Learn that the carrier is gone; tell everybody at the other ends. Idempotent."""
        if self._state is _State.OVER:
            return
        self.end_reason = reason
        self._carrier = None
        was_open = self._state is _State.OPEN
        self._state = _State.OVER
        if was_open:
            self._counters.sessions_open -= 1
            self._ports.switchboard.leave(self)
        for channel in self._channels:
            channel.closed_by_peer(ErrorCode.PEER_UNAVAILABLE, "")
        self._ports.session_over(self)

    def close(self, reason: EndReason) -> None:
        """End the session from our side, with ERROR where the peer is owed one; idempotent."""
        if self.end_reason is not None:
            return
        carrier = self._carrier
        code = END_CODES.get(reason)
        if code is not None:
            self.send_frame(Error(code=code))
        self.ended(reason)
        if carrier is not None:
            end_carrier(carrier, reason)

    # -- what the host calls ----------------------------------------------------------------------

    @property
    def lease(self) -> Lease:
        """The permission to be here."""
        if self._lease is None:
            raise RuntimeError("a session without a lease is not a member")
        return self._lease

    def admitted(self, auth: Auth, lease: Lease) -> None:
        """The gate lets this key in."""
        if self._state is not _State.DECIDING:
            return
        self._lease, self.peer_id = lease, auth.peer_id
        self._state = _State.OPEN
        self._counters.sessions_opened += 1
        self._counters.sessions_open += 1
        self.send_frame(
            Welcome(
                session_id=self._ports.handshake.random_bytes(16),
                keepalive_ms=int(self._limits.keepalive_s * 1_000),
                max_channels=self._limits.max_channels,
                max_frame_bytes=MAX_FRAME_BYTES,
                window_bytes=self._limits.window_bytes,
            )
        )
        self.send_observed(self.arrival.source)
        if self._ports.relays_document:
            self.send_frame(Relays(document=self._ports.relays_document))
        self._ports.switchboard.join(self)

    def refused(self, code: ErrorCode, *, retry_after_ms: int = 0) -> None:
        """The gate does not; the reason stays ours."""
        if self._state is not _State.DECIDING:
            return
        self._counters.handshakes_refused += 1
        self.send_frame(Error(code=code, retry_after_ms=retry_after_ms))
        self._finish(EndReason.DENIED)

    def send_observed(self, source: Endpoint) -> None:
        """Tell the peer where it is seen; again when that changes."""
        self.send_frame(
            Observed(
                address=source.address.packed,
                port=source.port,
                observer_port=self._ports.observer_port(),
            )
        )

    def restarting(self, *, reconnect_in_ms: int, try_for_ms: int) -> None:
        """Tell the peer that the relay will go."""
        if self._state is _State.OPEN:
            self.send_frame(Restarting(reconnect_in_ms=reconnect_in_ms, try_for_ms=try_for_ms))

    # -- Member: what the switchboard and other members call --------------------------------------

    def call(self, caller: ChannelEnd, call: Call) -> ChannelEnd | int:
        """Ring the peer: it hears OPEN and answers OPENED or CLOSE."""
        is_full = len(self._channels) >= self._limits.max_channels
        # Half: whoever rings and rings must not be able to choke the peer's session.
        if self._state is not _State.OPEN or is_full or self._is_choked(share=2):
            return ErrorCode.PEER_UNAVAILABLE
        # Tells the caller nothing but how many calls it has made itself.
        most = self._limits.max_channels_per_caller
        if self._channels.count_called_by(call.caller_id) >= most:
            return ErrorCode.QUOTA
        channel = RelayChannel(
            self,
            self._channels.take_odd_id(),
            call.kind,
            priority=call.priority,
            sender_id=call.caller_id,
            allowed_bytes=call.credit_bytes,
        )
        channel.far = caller
        self._channels.keep(channel)
        self.send_frame(
            Open(
                channel=channel.channel_id,
                kind=call.kind,
                priority=call.priority,
                credit_bytes=call.credit_bytes,
                peer_id=call.caller_id,
                service=call.service,
            )
        )
        return channel

    def replaced(self) -> None:
        """A newer session of this peer is here."""
        self._counters.sessions_replaced += 1
        self.send_frame(Error(code=ErrorCode.REPLACED))
        self._finish(EndReason.PEER_CLOSED)

    def presence_changed(self, member: Member, *, is_here: bool) -> None:
        """Tell the peer, if it may know."""
        self._presence.tell_presence(member, is_here=is_here)

    def candidates_changed(self, member: Member) -> None:
        """Pass a record on, if the peer may know."""
        self._presence.tell_candidates(member)

    @property
    def signed_candidates(self) -> tuple[bytes, bytes] | None:
        """The newest record of this peer, and its signature."""
        return self._presence.signed_candidates

    @property
    def stream_room_bytes(self) -> int:
        """The window, less what is queued, shared by the streams."""
        unsent_bytes = 0 if self._carrier is None else self._carrier.unsent_bytes
        room_bytes = max(0, self._limits.window_bytes - unsent_bytes)
        return room_bytes // max(1, self._channels.stream_count)

    def send_frame(self, frame: Frame) -> None:
        """Queue a frame."""
        if self._carrier is None:
            return
        self._keepalive.sent()
        self._carrier.send_capsule(*frame_value(frame))

    def take_uplink(self, channel: RelayChannel, byte_count: int) -> bool:
        """Meter stream bytes of our peer; False while its rate has no room for them."""
        # Channels to hosts have leases of their own, which count.
        return not channel.kind.is_to_peer or self.lease.uplink.take(0, byte_count)

    def send_stream_data(self, channel: RelayChannel, data: bytes) -> bool:
        """Send stream bytes to our peer; False while its rate has no room for them."""
        if channel.kind.is_to_peer and not self.lease.downlink.take(0, len(data)):
            return False
        self._counters.relayed_bytes += len(data)
        self.send_frame(Data(channel=channel.channel_id, data=data))
        return True

    def send_channel_datagrams(self, channel: RelayChannel, payloads: Sequence[bytes]) -> None:
        """Send at once while nothing waits; else queue, fairly among the senders."""
        carrier = self._carrier
        if carrier is None or self._lease is None:
            return
        admitted = admit_datagrams(channel, self._lease.downlink, payloads, self._counters)
        if admitted and self._carrier is not None:  # the last of a quota ends the lease
            self._outbox.send(
                carrier,
                channel.prefix,
                admitted,
                sender_id=channel.sender_id,
                priority=channel.priority,
            )

    def forget_channel(self, channel: RelayChannel) -> None:
        """The channel is over."""
        self._channels.forget(channel)

    def _on_frame(self, frame: Frame) -> None:
        if isinstance(frame, Error):
            self._finish(EndReason.PEER_CLOSED)
        elif self._state is _State.OPEN:
            self._on_open_frame(frame)
        elif isinstance(frame, Hello):
            self._on_hello(frame)
        elif isinstance(frame, Auth):
            self._on_auth(frame)
        else:
            raise WireError(f"{type(frame).__name__} before WELCOME", section=_SECTION)

    def _on_open_frame(self, frame: Frame) -> None:
        match frame:
            case Ping():
                self.send_frame(Pong(opaque=frame.opaque))
            case Pong():
                return
            case Open():
                self._on_open(frame)
            case Opened() | Close() | Data() | End() | Credit():
                self._on_channel_frame(frame)
            case Batch():
                self._relay_datagrams(frame.channel, frame.payloads)
            case Watch():
                self._presence.watch(frame, self, self._ports.switchboard)
            case Candidates():
                if self._presence.publish(frame, self.peer_id):
                    self._ports.switchboard.published(self)
            case _:
                raise WireError(f"{type(frame).__name__} in an open session", section=_SECTION)

    def _on_hello(self, hello: Hello) -> None:
        challenge = self._handshake.hello(hello)
        if challenge is None:
            self._counters.handshakes_refused += 1
            self.send_frame(Error(code=ErrorCode.VERSION))
            self._finish(EndReason.PROTOCOL_ERROR)
        else:
            self.send_frame(challenge)

    def _on_auth(self, auth: Auth) -> None:
        if self._state is not _State.NEW:
            raise WireError("a second AUTH", section=_SECTION)
        self._state = _State.DECIDING
        if self._handshake.proves(auth):
            self._ports.authenticate(self, auth)
        else:
            self.refused(ErrorCode.UNAUTHENTICATED)

    def _on_open(self, frame: Open) -> None:
        self._channels.take_even_id(frame.channel)
        if len(self._channels) >= self._limits.max_channels:
            self._counters.channels_refused += 1
            self.send_frame(Close(channel=frame.channel, code=ErrorCode.QUOTA))
            return
        channel = RelayChannel(
            self,
            frame.channel,
            frame.kind,
            priority=frame.priority,
            sender_id=frame.peer_id,
            taken_bytes=frame.credit_bytes,
        )
        self._channels.keep(channel)
        if frame.kind.is_to_peer:
            self._call(channel, frame)
        else:
            self._ports.open_host(self, channel, frame)

    def _call(self, channel: RelayChannel, frame: Open) -> None:
        """Ring another member. "Not here" and "not allowed" take the same way to one answer."""
        member = self._reachable(frame.peer_id, frame.kind)
        answer: ChannelEnd | int = ErrorCode.PEER_UNAVAILABLE
        if member is not None:
            call = Call(
                caller_id=self.peer_id,
                kind=frame.kind,
                priority=frame.priority,
                credit_bytes=channel.next_offer_bytes(),
                service=frame.service,
            )
            answer = member.call(channel, call)
        if isinstance(answer, int):
            self._counters.channels_refused += 1
            channel.closed(answer, "")
        else:
            self._counters.channels_opened += 1
            channel.far = answer

    def _reachable(self, peer_id: bytes, kind: ChannelKind) -> Member | None:
        """Return another member, if it is here and policy lets our peer reach it."""
        member = self._ports.switchboard.find(peer_id)
        if member is None or member is self:
            return None
        return member if self._ports.may_reach(self.lease, member, kind) else None

    def _on_channel_frame(self, frame: Opened | Close | Data | End | Credit) -> None:
        channel = self._channels.expect(frame.channel)
        if channel is None:
            return
        match frame:
            case Opened():
                if not frame.channel % 2:
                    raise WireError("OPENED by the caller", section="ghostwire: Channels")
                channel.opened_by_peer(frame.credit_bytes)
            case Close():
                channel.closed_by_peer(frame.code, frame.reason)
            case Data():
                self._on_data(channel, frame.data)
            case End():
                channel.end_from_peer()
            case Credit():
                channel.credit_from_peer(frame.limit_bytes)

    def _on_data(self, channel: RelayChannel, data: bytes) -> None:
        if not channel.kind.is_stream:
            raise WireError("DATA on a channel of datagrams", section="ghostwire: Channels")
        if not channel.data_from_peer(data):
            self.send_frame(Close(channel=channel.channel_id, code=ErrorCode.CREDIT))
            channel.closed_by_peer(ErrorCode.RESET, "")

    def _relay_datagrams(self, channel_id: int, payloads: Sequence[bytes]) -> None:
        channel = self._channels.get(channel_id)
        if channel is None or channel.far is None or channel.kind.is_stream:
            self._counters.stray_dropped += len(payloads)
            return
        admitted = admit_datagrams(channel, self.lease.uplink, payloads, self._counters)
        far = self._channels.far_of(channel_id)  # anew: the last of a quota ends the lease
        if admitted and far is not None:
            far.deliver(admitted)

    def _is_choked(self, *, share: int = 1) -> bool:
        carrier = self._carrier
        return carrier is not None and carrier.unsent_bytes * share > self._limits.max_unsent_bytes

    def _finish(self, reason: EndReason) -> None:
        """End without another ERROR."""
        carrier = self._carrier
        self.ended(reason)
        if carrier is not None:
            carrier.finish()
