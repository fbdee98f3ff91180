"""Owns a TURN session without sockets: real gate, real session, recorded sockets and paths.

rig = TurnRig(tmp_path)
client = rig.client()
client.allocate()
rig.relay_sockets[0].arrive(PEER, b"hello")
"""

import hashlib
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from fallbacks.turn.allocation import Allocation
from fallbacks.turn.path import PathKind, RelayAddress, Splice, TurnServices, TurnSettings
from fallbacks.turn.session import TurnSession
from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import TunnelCounters, TurnCounters
from masque_relay.contract.flow import ByteSink, FlowError, FlowFault, TcpFlow
from masque_relay.contract.ports import ReceivedBatch
from masque_relay.contract.relay_socket import AcceptPeer, PeerError
from masque_relay.contract.verdict import EndReason
from masque_relay.control.auth.turn import mint_time_limited
from masque_relay.control.settings import GateLimits, GateSettings, StunSettings
from masque_relay.stun.channel_data import encode_channel_head
from masque_relay.stun.codepoints import Attribute, ErrorCode, MessageClass, Method
from masque_relay.stun.integrity import append_integrity, is_signed_by
from masque_relay.stun.message import StunMessage, decode_message, encode_message
from masque_relay.stun.values import encode_xor_address
from tests.support.gates import GateBench
from tests.support.turn_client import UDP, Attributes, Credentials, Reply

REALM = "relay.example"
SECRET = b"a shared secret of many bytes"
RELAY_V4 = ip_address("198.51.100.1")
RELAY_V6 = ip_address("2001:db8::1")
PEER = Endpoint(address=ip_address("8.8.8.8"), port=5000)
OTHER_PEER = Endpoint(address=ip_address("8.8.4.4"), port=5000)
PEER_V6 = Endpoint(address=ip_address("2001:4860:4860::8888"), port=5000)
PRIVATE_PEER = Endpoint(address=ip_address("10.0.0.1"), port=80)
POLICY = """
[[rule]]
name = "turn"
action = "allow"
who = ["alice", "bob"]
methods = ["bind-udp", "connect-tcp"]
targets = ["*:*"]
"""


class FakeRelaySocket:
    """A RelaySocket that records what is sent and gives what a test put in."""

    _descriptors = iter(range(1000, 1_000_000))

    def __init__(self, local: Endpoint, closed: Callable[["FakeRelaySocket"], None]) -> None:
        self.local = local
        self.sent: list[tuple[list[bytes], tuple[str, int], bool]] = []
        self.errors: list[PeerError] = []
        self.is_closed = False
        self._batches: list[ReceivedBatch] = []
        self._descriptor = next(self._descriptors)
        self._forbids_fragments = False
        self._closed = closed

    def fileno(self) -> int:
        return -1 if self.is_closed else self._descriptor

    def arrive(self, peer: Endpoint, *payloads: bytes) -> None:
        """Put datagrams of a peer into the socket."""
        self._batches.append(ReceivedBatch(list(payloads), (str(peer.address), peer.port)))

    def receive_batches(self, max_datagrams: int) -> list[ReceivedBatch]:
        batches, self._batches = self._batches, []
        return batches

    def send_batch(self, payloads: Sequence[bytes], destination: tuple[str, int]) -> int:
        self.sent.append((list(payloads), destination, self._forbids_fragments))
        return len(payloads)

    def forbid_fragments(self, *, forbidden: bool) -> None:
        self._forbids_fragments = forbidden

    def take_errors(self) -> list[PeerError]:
        errors, self.errors = self.errors, []
        return errors

    def close(self) -> None:
        self.is_closed = True
        self._closed(self)


class FakeFlow:
    """A TcpFlow that records."""

    def __init__(self, peer: Endpoint, local: Endpoint, sink: ByteSink) -> None:
        self.peer, self.local, self.sink = peer, local, sink
        self.sent = b""
        self.unsent_bytes = 0
        self.is_reading = False
        self.is_closed = False

    def send(self, data: bytes) -> None:
        self.sent += data

    def end(self) -> None:
        pass

    def pause(self) -> None:
        self.is_reading = False

    def resume(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True


class FakeRelayTcp:
    """A RelayTcp whose peers are the test."""

    def __init__(self, local: Endpoint, accept: AcceptPeer) -> None:
        self.local = local
        self.flows: list[FakeFlow] = []
        self.refuses = False
        self.is_closed = False
        self.while_connecting: Callable[[], None] = lambda: None
        self._accept = accept

    async def connect(self, peer: Endpoint, sink: ByteSink, *, timeout_s: float) -> TcpFlow:
        if self.refuses:
            raise FlowError(FlowFault.CONNECTION_REFUSED, "refused")
        self.while_connecting()
        return self._flow(peer, sink)

    def peer_connects(self, peer: Endpoint) -> None:
        """A peer connects to the relayed address."""
        self._accept(peer, lambda sink: self._flow(peer, sink))

    def close(self) -> None:
        self.is_closed = True

    def _flow(self, peer: Endpoint, sink: ByteSink) -> FakeFlow:
        flow = FakeFlow(peer, self.local, sink)
        self.flows.append(flow)
        return flow


class FakePath:
    """A ClientPath that keeps what is sent; a SplicedPath where it is a stream."""

    def __init__(self, client: Endpoint, kind: PathKind = PathKind.UDP) -> None:
        self.allocation: Allocation | None = None
        self.kind = kind
        self.client = client
        self.server = Endpoint(address=ip_address("198.51.100.1"), port=3478)
        self.sent: list[bytes] = []
        self.is_kept = False
        self.is_lost = False
        self.is_closed = False
        self.takes = True
        self.splice: Splice | None = None
        self.is_reading = True
        self.written = b""
        self.siblings: dict[tuple[bool, bool], FakePath] = {}
        self.redirected: FakePath | None = None

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def send_batch(self, messages: Sequence[bytes]) -> int:
        if not self.takes:
            return 0
        self.sent += messages
        return len(messages)

    def keep(self) -> None:
        self.is_kept = True

    def forget(self) -> None:
        self.is_kept = False

    def close(self) -> None:
        self.is_closed = True

    @property
    def other_address(self) -> Endpoint | None:
        other = self.siblings.get((True, True))
        return None if other is None else other.server

    def sibling(self, *, change_ip: bool, change_port: bool) -> "FakePath":
        return self.siblings.get((change_ip, change_port), self)

    def to(self, client: Endpoint) -> "FakePath":
        self.redirected = FakePath(client)
        return self.redirected

    def begin_splice(self, splice: Splice) -> None:
        self.splice = splice

    def write(self, data: bytes) -> bool:
        self.written += data
        return self.takes

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True


class RigClient:
    """A client of the rig: signs, sends, and reads what its path was sent."""

    def __init__(self, rig: "TurnRig", path: FakePath, credentials: Credentials) -> None:
        self.rig = rig
        self.path = path
        self.credentials = credentials

    @property
    def allocation(self) -> Allocation:
        assert self.path.allocation is not None
        return self.path.allocation

    def deliver(self, data: bytes) -> list[bytes]:
        """Hand a message in; return what came back at once."""
        before = len(self.path.sent)
        self.rig.session.on_batch(self.path, [data])
        return self.path.sent[before:]

    def exchange(self, data: bytes) -> Reply:
        """Hand a request in and return its answer, whose integrity is checked."""
        answers = [decode_message(one) for one in self.deliver(data) if one[0] < 0x40]
        found = [one for one in answers if one.transaction_id == data[8:20]]
        assert len(found) == 1, f"{len(found)} answers"
        if found[0].integrity_at is not None or found[0].integrity_sha256_at is not None:
            assert is_signed_by(found[0], self.credentials.signing_key())
        return Reply(found[0])

    def build(
        self,
        method: Method,
        attributes: Attributes = (),
        *,
        peers: Sequence[Endpoint] = (),
        message_class: MessageClass = MessageClass.REQUEST,
        signed: bool = True,
        key: bytes | None = None,
    ) -> bytes:
        """Return a message."""
        transaction_id = secrets.token_bytes(12)
        listed = list(attributes)
        listed += [
            (int(Attribute.XOR_PEER_ADDRESS), encode_xor_address(peer, transaction_id))
            for peer in peers
        ]
        if signed:
            listed += self.credentials.attributes()
        data = encode_message(method, message_class, transaction_id, listed)
        if signed:
            key = key or self.credentials.signing_key()
            data = append_integrity(data, key, sha256=self.credentials.sha256)
        return data

    def challenge(self) -> Reply:
        """Be challenged, and learn realm and nonce."""
        reply = self.exchange(self.build(Method.ALLOCATE, signed=False))
        self.credentials.learn(reply)
        return reply

    def request(
        self, method: Method, attributes: Attributes = (), *, peers: Sequence[Endpoint] = ()
    ) -> Reply:
        """Exchange a signed request."""
        if not self.credentials.nonce:
            self.challenge()
        return self.exchange(self.build(method, attributes, peers=peers))

    def try_allocate(self, attributes: Attributes = (), *, transport: bytes = UDP) -> Reply:
        asked = [(int(Attribute.REQUESTED_TRANSPORT), transport), *attributes]
        return self.request(Method.ALLOCATE, asked)

    def allocate(self, attributes: Attributes = (), *, transport: bytes = UDP) -> Endpoint:
        reply = self.try_allocate(attributes, transport=transport)
        assert reply.ok, f"error {reply.error}"
        return reply.address(Attribute.XOR_RELAYED_ADDRESS)

    def refresh(self, lifetime_s: int | None = None, attributes: Attributes = ()) -> Reply:
        asked = list(attributes)
        if lifetime_s is not None:
            asked.append((Attribute.LIFETIME, lifetime_s.to_bytes(4, "big")))
        return self.request(Method.REFRESH, asked)

    def permit(self, *peers: Endpoint) -> Reply:
        return self.request(Method.CREATE_PERMISSION, peers=peers)

    def bind_channel(self, number: int, peer: Endpoint) -> Reply:
        value = number.to_bytes(2, "big") + bytes(2)
        attributes = [(int(Attribute.CHANNEL_NUMBER), value)]
        return self.request(Method.CHANNEL_BIND, attributes, peers=[peer])

    def send_channel(self, number: int, *payloads: bytes) -> None:
        """Send a batch of ChannelData."""
        messages = [encode_channel_head(number, len(data)) + data for data in payloads]
        self.rig.session.on_batch(self.path, messages)

    def send_indication(self, peer: Endpoint, data: bytes, attributes: Attributes = ()) -> None:
        listed = [(int(Attribute.DATA), data), *attributes]
        message = self.build(
            Method.SEND,
            listed,
            peers=[peer],
            message_class=MessageClass.INDICATION,
            signed=False,
        )
        assert self.deliver(message) == []

    def received(self) -> list[bytes]:
        """Return and forget what the path was sent."""
        sent, self.path.sent = self.path.sent, []
        return sent

    def received_messages(self) -> list[StunMessage]:
        """The same, decoded."""
        return [decode_message(one) for one in self.received()]


class TurnRig:
    """A session, its gate and its clock."""

    def __init__(
        self,
        directory: Path,
        *,
        policy: str = POLICY,
        gate_limits: GateLimits | None = None,
        **settings: object,
    ) -> None:
        secret_file = directory / "turn-secret"
        secret_file.write_bytes(SECRET)
        stun = StunSettings(shared_secret_files=(secret_file,))

        def with_stun(gate: GateSettings) -> GateSettings:
            return replace(gate, stun=stun)

        self.bench = GateBench(directory, policy=policy, limits=gate_limits, change=with_stun)
        self.clock = self.bench.clock
        self.counters = TurnCounters()
        self.tunnels = TunnelCounters()
        self.relay_sockets: list[FakeRelaySocket] = []
        self.tcp_relays: list[FakeRelayTcp] = []
        self.readers: dict[int, Callable[[], None]] = {}
        self.later: list[Callable[[], None]] = []
        self.own_addresses: set[IPAddress] = set()
        self.relayed_elsewhere: set[tuple[str, int]] = set()
        self.own_listeners: set[Endpoint] = set()
        self.takes_requests = True
        self.waiting: list[Coroutine[None, None, None]] = []
        self.holds_requests = False
        self._taken: set[Endpoint] = set()
        base = TurnSettings(
            realm=REALM,
            relay_addresses=(
                RelayAddress(local=RELAY_V4, public=RELAY_V4),
                RelayAddress(local=RELAY_V6, public=RELAY_V6),
            ),
        )
        self.services = TurnServices(
            settings=replace(base, **settings),  # type: ignore[arg-type]  # fields by name
            gate=self.bench.gate,
            clock=self.clock,
            counters=self.counters,
            tunnels=self.tunnels,
            bind_relay=self._bind,
            bind_tcp_relay=self._bind_tcp,
            spawn=self._spawn,
            watch=self._watch,
            unwatch=lambda descriptor: self.readers.pop(descriptor, None),
            call_later=lambda _, callback: self.later.append(callback),
            is_own_address=lambda address: address in self.own_addresses,
            is_relayed_elsewhere=lambda source: source in self.relayed_elsewhere,
            is_own_listener=lambda peer: peer in self.own_listeners,
        )
        self.session = TurnSession(self.services)

    def path(
        self, address: str = "203.0.113.7", port: int = 40_000, kind: PathKind = PathKind.UDP
    ) -> FakePath:
        return FakePath(Endpoint(address=ip_address(address), port=port), kind)

    def credentials(self, subject: str = "alice", **changes: object) -> Credentials:
        """Return a time-limited credential."""
        made = mint_time_limited(SECRET, subject=subject, expires_s=int(self.clock.wall_s()) + 3600)
        return Credentials(username=made.username, password=made.password, **changes)  # type: ignore[arg-type]  # fields by name

    def client(
        self,
        subject: str = "alice",
        *,
        path: FakePath | None = None,
        credentials: Credentials | None = None,
        **changes: object,
    ) -> RigClient:
        return RigClient(
            self, path or self.path(), credentials or self.credentials(subject, **changes)
        )

    def readable(self, relay_socket: FakeRelaySocket) -> None:
        """Let the session read a relayed address."""
        self.readers[relay_socket.fileno()]()

    def advance(self, seconds: float) -> None:
        """Move the clock and let the session look at it."""
        self.clock.advance(seconds)
        self.bench.gate.tick()
        self.session.tick()

    def close(self) -> None:
        self.session.end_all(EndReason.DRAINED)
        self.bench.gate.close()

    def release_requests(self) -> None:
        """Let requests go on that were held."""
        self.holds_requests = False
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            self._run(one)

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> bool:
        if not self.takes_requests:
            coroutine.close()
            return False
        if self.holds_requests:
            self.waiting.append(coroutine)
        else:
            self._run(coroutine)
        return True

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        """Nothing in the rig really waits: one step is all."""
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the request waits for something")

    def _watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        self.readers[descriptor] = callback

    def _bind(self, endpoint: Endpoint) -> FakeRelaySocket:
        if endpoint in self._taken:
            raise FlowError(FlowFault.RESOURCES, "taken")
        self._taken.add(endpoint)
        made = FakeRelaySocket(endpoint, lambda closed: self._taken.discard(closed.local))
        self.relay_sockets.append(made)
        return made

    def _bind_tcp(self, endpoint: Endpoint, accept: AcceptPeer) -> FakeRelayTcp:
        made = FakeRelayTcp(endpoint, accept)
        self.tcp_relays.append(made)
        return made


def error_name(reply: Reply) -> str | None:
    """Return the name of an answer's error, None for success."""
    return None if reply.error is None else ErrorCode(reply.error).name


def name_hash(username: str) -> bytes:
    """Return what USERHASH has to be."""
    return hashlib.sha256(f"{username}:{REALM}".encode()).digest()
