"""The mesh under bad input: whatever one peer does, its neighbours go on."""

import asyncio
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from masque_relay.client.client_tls import tcp_tls
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.way import WayKind
from masque_relay.config.dev_state import DevState
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.ghostwire import CAPSULE_TYPES
from masque_relay.wire.capsule import encode_capsule
from masque_relay.wire.ghostwire import (
    MAX_FRAME_BYTES,
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
    Open,
    Opened,
    Ping,
    Welcome,
)
from masque_relay.wire.ghostwire_codec import decode_frame, frame_value
from masque_relay.wire.ghostwire_names import DEFAULT_PATH, SUBPROTOCOL
from masque_relay.wire.ghostwire_proof import Candidate, CandidateRecord, signed_record
from tests.integration.mesh.test_nodes import Echo
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_arrival import (
    CARRIERS,
    WAIT_S,
    Arrival,
    arriving,
    eventually,
    mesh_node,
    neighbours,
    token_of,
)
from tests.support.mesh_peer import MeshPeer
from tests.support.processes import GHOSTCTL, start_process

MIB = 1 << 20
HANDSHAKE_S = 3.0
_UNBOUND = "limits = { require_bound_key = false }"
_BOUND = f"limits = {{ require_bound_key = true, handshake_timeout_s = {HANDSHAKE_S} }}"

SAID_OF_MALFORMED = {ErrorCode.MALFORMED, ErrorCode.NONE}
"""On QUIC and HTTP/2 the reset of the stream may overtake the ERROR on it, and says as much."""

every_carrier = pytest.mark.parametrize("kind", CARRIERS)


def bind_keys(state: DevState) -> None:
    """Take only tokens that are bound to a key, as a relay in production does."""
    text = state.config_file.read_text(encoding="utf-8")
    assert _UNBOUND in text
    state.config_file.write_text(text.replace(_UNBOUND, _BOUND), encoding="utf-8")


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    with managed_relay(tmp_path_factory.mktemp("relay"), change=bind_keys) as running:
        yield running


def resident_bytes(relay: ManagedRelay) -> int:
    pages = Path(f"/proc/{relay.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# -- who a peer is -----------------------------------------------------------------------------


@every_carrier
async def test_key_that_is_not_the_tokens_is_refused(relay: ManagedRelay, kind: WayKind) -> None:
    others = token_of(relay, identity=PeerIdentity.generate())
    async with neighbours(relay):
        async with arriving(relay, kind, token=others) as thief:
            assert thief.refusal == "UNAUTHENTICATED"
        async with arriving(relay, kind, token=token_of(relay)) as nobody:
            assert nobody.refusal == "UNAUTHENTICATED"
        async with arriving(relay, kind) as honest:
            assert not honest.refusal


class Replay(Arrival):
    """Says what it has overheard, and nothing of its own; is the session itself."""

    capsule_types = CAPSULE_TYPES

    def __init__(self, heard: list[tuple[int, bytes]]) -> None:
        super().__init__(MeshPeer())
        self.heard = heard
        self.is_welcome = False

    def make(self, exporter: Any, **ports: str) -> Any:
        return self

    def attach(self, carrier: Any) -> None:
        for capsule_type, value in self.heard:
            carrier.send_capsule(capsule_type, value)

    def on_capsule(self, capsule_type: int, value: bytes) -> None:
        frame = decode_frame(capsule_type, value)
        self.is_welcome |= isinstance(frame, Welcome)
        if isinstance(frame, Error):
            self.peer.session_closed(frame.code, frame.reason, 0)

    def on_datagrams(self, payloads: Any) -> None: ...

    def on_writable(self) -> None: ...

    def ended(self, reason: EndReason) -> None:
        self.peer.opened.set()


@every_carrier
async def test_replayed_handshake_is_refused(relay: ManagedRelay, kind: WayKind) -> None:
    async with neighbours(relay), arriving(relay, kind) as honest:
        assert honest.tap is not None
        heard = [said for said in honest.tap.said if said[0] in {FrameType.HELLO, FrameType.AUTH}]
        assert len(heard) == 2
        token = token_of(relay, identity=honest.peer.identity)
        replay = Replay(heard)
        async with arriving(relay, kind, token=token, arrival=replay):
            assert replay.refusal == "UNAUTHENTICATED"
            assert not replay.is_welcome
        assert honest.session.is_open


@every_carrier
async def test_clock_that_is_days_off_does_not_matter(relay: ManagedRelay, kind: WayKind) -> None:
    class LateMeshPeer(MeshPeer):
        def make(self, *arguments: Any, **ports: Any) -> Any:
            session = super().make(*arguments, **ports)
            object.__setattr__(session._ports, "wall_s", lambda: time.time() - 3 * 86_400)
            return session

    async with arriving(relay, kind, peer=LateMeshPeer()) as late:
        assert not late.refusal


# -- what an authenticated peer may say ------------------------------------------------------


async def ended(arrival: Arrival) -> None:
    await eventually(lambda: arrival.peer.closed is not None)


def record_of(identity: PeerIdentity, sequence: int = 1) -> bytes:
    return CandidateRecord(
        peer_id=identity.peer_id,
        sequence=sequence,
        expires_s=int(time.time()) + 60,
        candidates=(Candidate(kind=0, address=b"\xc6\x33\x64\x07", port=7),),
    ).encode()


@every_carrier
async def test_forged_candidates_end_the_session_and_reach_nobody(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with neighbours(relay) as both:
        victim = both.one.peer.identity
        both.other.session.watch([victim.peer_id])
        for signer in ("mallory", "garbage"):
            async with arriving(relay, kind) as mallory:
                record = record_of(victim)
                signature = (
                    mallory.peer.identity.sign(signed_record(record))
                    if signer == "mallory"
                    else bytes(64)
                )
                mallory.say(Candidates(record=record, signature=signature))
                await ended(mallory)
                assert mallory.peer.closed is not None
                assert mallory.peer.closed[0] in SAID_OF_MALFORMED
        await both.go_on()
        assert not [frame for frame in both.other.peer.frames if isinstance(frame, CandidateRecord)]


@pytest.mark.parametrize("kind", [WayKind.H3, WayKind.WEBSOCKET])
@pytest.mark.parametrize(
    "frame",
    [
        Data(channel=40, data=b"x"),
        Credit(channel=40, limit_bytes=9),
        End(channel=40),
        Close(channel=40, code=0),
        Opened(channel=41, credit_bytes=9),
        Data(channel=41, data=b"x"),
    ],
    ids=lambda frame: f"{type(frame).__name__}-{frame.channel}",
)
async def test_frame_for_a_channel_that_was_never_open_ends_the_session(
    relay: ManagedRelay, kind: WayKind, frame: Frame
) -> None:
    async with arriving(relay, kind) as mallory:
        mallory.say(frame)
        await ended(mallory)
        assert mallory.peer.closed is not None
        assert mallory.peer.closed[0] in SAID_OF_MALFORMED


@every_carrier
async def test_datagrams_for_a_channel_that_was_never_open_are_counted_and_gone(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with neighbours(relay), arriving(relay, kind) as mallory:
        before = dropped(relay)
        mallory.tap.carrier.send_datagrams(b"\x28", [b"x" * 100] * 50)  # type: ignore[union-attr]
        await eventually(lambda: dropped(relay) >= before + 50)
        assert mallory.session.is_open


def dropped(relay: ManagedRelay) -> float:
    samples = relay.metrics().items()
    return sum(value for name, value in samples if "mesh" in name and "no_channel" in name)


@every_carrier
async def test_more_than_the_credit_ends_the_channel(relay: ManagedRelay, kind: WayKind) -> None:
    async with neighbours(relay) as both, arriving(relay, kind) as mallory:
        call = Recorder()
        call.channel = mallory.session.open_channel(
            ChannelKind.STREAM, call, peer_id=both.other.peer.identity.peer_id
        )
        await eventually(lambda: call.is_open)
        target = both.other.peer.calls[-1]
        target.consumes = False
        for _ in range(40):
            mallory.say(Data(channel=call.channel.channel_id, data=bytes(16_384)))
        await eventually(lambda: call.closed is not None)
        assert call.closed is not None
        assert call.closed[0] == ErrorCode.CREDIT
        await eventually(lambda: target.closed is not None)
        assert mallory.session.is_open


@every_carrier
async def test_frame_of_more_than_64_kib_ends_the_session(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with neighbours(relay), arriving(relay, kind) as mallory:
        assert mallory.tap is not None
        mallory.tap.carrier.send_capsule(FrameType.PADDING, bytes(MAX_FRAME_BYTES + 1))
        await ended(mallory)


@every_carrier
async def test_flood_of_calls_costs_the_relay_nothing_lasting(
    relay: ManagedRelay, kind: WayKind
) -> None:
    async with neighbours(relay) as both, arriving(relay, kind) as mallory:
        before_bytes = resident_bytes(relay)
        callees = [both.other.peer.identity.peer_id, PeerIdentity.generate().peer_id]
        for number in range(3_000):
            mallory.say(
                Open(
                    channel=2 * number,
                    kind=ChannelKind.STREAM,
                    priority=0,
                    credit_bytes=1_000,
                    peer_id=callees[number % 2],
                    service=b"x" * 60,
                )
            )
            if number % 100 == 0:
                await asyncio.sleep(0)
        await both.go_on()
        assert resident_bytes(relay) - before_bytes < 16 * MIB
        assert len(both.other.peer.calls) < 300


# -- memory ---------------------------------------------------------------------------------


@asynccontextmanager
async def raw_websocket(relay: ManagedRelay) -> AsyncGenerator[Any]:
    """A WebSocket without a credential, as a browser opens it."""
    async with connect(
        f"wss://{relay.host}:{relay.port}{DEFAULT_PATH}",
        ssl=tcp_tls(relay.ca_file, None, ("http/1.1",)),
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        proxy=None,
        close_timeout=1,
        open_timeout=WAIT_S,
    ) as socket:
        yield socket


async def test_stranger_fills_no_memory_with_questions_that_need_answers(
    relay: ManagedRelay,
) -> None:
    async with neighbours(relay), raw_websocket(relay) as socket:
        before_bytes = resident_bytes(relay)
        pings = encode_capsule(*frame_value(Ping(opaque=bytes(8)))) * 4_000
        with suppress(ConnectionClosed):
            for _ in range(200):
                await socket.send(pings)
            pytest.fail("it may go on for ever")
        assert resident_bytes(relay) - before_bytes < 8 * MIB


async def test_sessions_without_a_handshake_are_small_and_end_by_themselves(
    relay: ManagedRelay,
) -> None:
    count = 60
    async with neighbours(relay) as both, AsyncExitStack() as stack:
        before_bytes = resident_bytes(relay)
        sockets = [await stack.enter_async_context(raw_websocket(relay)) for _ in range(count)]
        assert resident_bytes(relay) - before_bytes < count * 256 * 1024
        await both.go_on()
        async with asyncio.timeout(HANDSHAKE_S + WAIT_S):
            for socket in sockets:
                await socket.wait_closed()


@every_carrier
async def test_peer_that_never_reads_costs_bounded_memory_and_harms_nobody(
    relay: ManagedRelay, kind: WayKind, tmp_path: Path
) -> None:
    identity = PeerIdentity.load_or_make(tmp_path / "deaf.pem")
    token = tmp_path / "token"
    token.write_text(token_of(relay, identity=identity))
    ready = tmp_path / "ready.json"
    command = [*GHOSTCTL, "peer", "listen", "--relay", relay.url, "--ca", str(relay.ca_file)]
    command += ["--token-file", str(token), "--key", str(tmp_path / "deaf.pem")]
    command += ["--way", str(kind), "--ready-file", str(ready)]
    async with neighbours(relay) as both, arriving(relay, WayKind.H3) as caller:
        with start_process(
            command, log=tmp_path / "deaf.log", ready=lambda: ready.exists() or None
        ) as (process, _):
            call = Recorder()
            call.channel = caller.session.open_channel(
                ChannelKind.DATAGRAMS,
                call,
                peer_id=identity.peer_id,
                service=b"ghostwire-e2e/12345678",
            )
            await eventually(lambda: call.is_open)
            process.send_signal(signal.SIGSTOP)
            try:
                before_bytes = resident_bytes(relay)
                for _ in range(150):
                    call.channel.send_datagrams([bytes(1_000)] * 100)
                    await asyncio.sleep(0.005)
                await both.go_on()
                assert resident_bytes(relay) - before_bytes < 12 * MIB
            finally:
                process.send_signal(signal.SIGCONT)


# -- fairness -------------------------------------------------------------------------------


@every_carrier
async def test_flooding_sender_does_not_starve_the_polite_ones(
    relay: ManagedRelay, kind: WayKind
) -> None:
    polite_count, each = 4, 60
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(arriving(relay, kind))
        senders = [
            await stack.enter_async_context(arriving(relay, WayKind.H3))
            for _ in range(polite_count + 1)
        ]
        calls = [Recorder() for _ in senders]
        for sender, call in zip(senders, calls, strict=True):
            call.channel = sender.session.open_channel(
                ChannelKind.DATAGRAMS, call, peer_id=target.peer.identity.peer_id
            )
        await eventually(lambda: all(call.is_open for call in calls))
        for number in range(each):
            calls[0].channel.send_datagrams([b"flood".ljust(1_000)] * 100)  # type: ignore[union-attr]
            for index, call in enumerate(calls[1:]):
                call.channel.send_datagrams([b"polite %d %d" % (index, number)])  # type: ignore[union-attr]
            await asyncio.sleep(0.01)

        def polite() -> list[bytes]:
            return [
                got
                for call in target.peer.calls
                for got in call.datagrams
                if got.startswith(b"polite")
            ]

        await eventually(lambda: len(polite()) >= 0.9 * polite_count * each)


# -- the relay is a bystander ---------------------------------------------------------------


def memory_holds(pid: int, marker: bytes) -> bool:
    """Search all memory that a process may write to."""
    regions = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for region in regions:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", region)
            if found is None or "[v" in region:
                continue
            start, end = (int(text, 16) for text in found.groups())
            try:
                memory.seek(start)
                data = memory.read(end - start)
            except OSError:
                continue
            if marker in data:
                return True
    return False


async def test_relay_never_holds_what_peers_say_end_to_end(tmp_path: Path) -> None:
    """The control first: on a channel without encryption the same search finds the words."""
    with managed_relay(tmp_path) as relay:
        plain, secret = secrets.token_bytes(24), secrets.token_bytes(24)
        async with (
            arriving(relay, WayKind.H2) as alice,
            arriving(relay, WayKind.H2) as bob,
        ):
            call = Recorder()
            call.channel = alice.session.open_channel(
                ChannelKind.STREAM, call, peer_id=bob.peer.identity.peer_id
            )
            await eventually(lambda: call.is_open)
            found = False
            async with asyncio.timeout(WAIT_S):
                while not found:
                    call.channel.send(plain * 200)
                    await asyncio.sleep(0.01)
                    found = await asyncio.to_thread(memory_holds, relay.process.pid, plain)
        async with (
            asyncio.TaskGroup() as tasks,
            mesh_node(relay, WayKind.H2) as listener,
            mesh_node(relay, WayKind.H2) as talker,
        ):
            listener.serve(b"echo", Echo(tasks))
            stream = await talker.open_stream(listener.identity.peer_id, b"echo")
            for _ in range(3):
                received = b""
                await stream.write(secret * 200)
                async with asyncio.timeout(WAIT_S):
                    while len(received) < len(secret) * 200:
                        received += await stream.read()
                assert received == secret * 200
                assert not await asyncio.to_thread(memory_holds, relay.process.pid, secret)
            stream.write_eof()
            assert not await stream.read()
            assert relay.metrics()["ghostwire_relay_mesh_bytes_total"] > 6 * len(secret) * 200
