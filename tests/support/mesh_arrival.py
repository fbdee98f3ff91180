"""Owns how tests let peers come in by any carrier, with any token, and say what they like."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from masque_relay.client import Bearer, RelayAddress, RelayOptions
from masque_relay.client.errors import TunnelRefused
from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.node import MeshNode
from masque_relay.client.mesh.uplink import UplinkSettings
from masque_relay.client.mesh.way import OpenWay, WayKind
from masque_relay.client.mesh.ways import ways_to
from masque_relay.client.turn.server import TurnRoute
from masque_relay.config.dev_state import DEV_AUDIENCE, DEV_ISSUER
from masque_relay.contract.ghostwire import Exporter
from masque_relay.control.auth.keys import load_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode, Frame
from masque_relay.wire.ghostwire_codec import frame_value
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay
from tests.support.mesh_peer import MeshPeer
from tests.support.processes import TIMESCALE

CARRIERS = (WayKind.H3, WayKind.QUIC, WayKind.H2, WayKind.H1, WayKind.WEBSOCKET)
WAIT_S = 30.0 * TIMESCALE


class Tap:
    """A session with a hole: tests say frames through it, and read what was said.

    Attributes:
        said: the frames of the session itself, with their values.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.carrier: Any = None
        self.said: list[tuple[int, bytes]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def attach(self, carrier: Any) -> None:
        self.carrier = carrier
        self.session.attach(_Recording(carrier, self.said))

    def say(self, frame: Frame) -> None:
        """Send a frame that the session would not send."""
        self.carrier.send_capsule(*frame_value(frame))


class _Recording:
    def __init__(self, carrier: Any, said: list[tuple[int, bytes]]) -> None:
        self._carrier = carrier
        self._said = said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        self._said.append((capsule_type, value))
        self._carrier.send_capsule(capsule_type, value)


class Arrival:
    """One peer that has come in, or was refused."""

    def __init__(self, peer: MeshPeer) -> None:
        self.peer = peer
        self.tap: Tap | None = None
        self.way: OpenWay | None = None
        self.refusal: str = ""
        """In the words of ErrorCode; empty for one who is in."""

    @property
    def session(self) -> Any:
        return self.peer.session

    def make(self, exporter: Exporter | None, **ports: str) -> Any:
        self.tap = Tap(self.peer.make(exporter, **ports))
        return self.tap

    def say(self, frame: Frame) -> None:
        assert self.tap is not None
        self.tap.say(frame)


def token_of(
    relay: ManagedRelay,
    subject: str = "dev",
    *,
    identity: PeerIdentity | None = None,
    audience: str = DEV_AUDIENCE,
    lifetime_s: float = 600,
    age_s: float = 0,
) -> str:
    """Return a token, bound to a peer's key if one is named."""
    return issue_token(
        load_signing_key(relay.state.signing_key_file),
        subject=subject,
        audience=audience,
        issuer=DEV_ISSUER,
        lifetime_s=lifetime_s,
        now_s=time.time() - age_s,
        peer_id=None if identity is None else identity.peer_id,
    )


@asynccontextmanager
async def arriving(
    relay: ManagedRelay,
    kind: WayKind,
    *,
    token: str | None = None,
    peer: MeshPeer | None = None,
    arrival: Arrival | None = None,
    turn: TurnRoute | None = None,
) -> AsyncGenerator[Arrival]:
    """Let a peer come in by a carrier; the block begins when it is in or refused.

    Args:
        relay: where.
        kind: the carrier.
        token: what it shows; by default one that is bound to its key.
        peer: who; by default somebody new.
        arrival: how; by default as everybody does.
        turn: the TURN servers of that carrier.
    """
    arrival = arrival or Arrival(peer or MeshPeer())
    token = token_of(relay, identity=arrival.peer.identity) if token is None else token
    address = RelayAddress.parse(relay.url)
    credential = Bearer(token=token) if token else None
    options = RelayOptions(ca_file=relay.ca_file, credential=credential)
    ((_, opener),) = ways_to(address, options, kinds=[kind], turn=turn)
    running: asyncio.Future[None] | None = None
    try:
        try:
            arrival.way = await opener(partial(arrival.make, token=token, name=address.host))
        except TunnelRefused as error:
            arrival.refusal = {401: "UNAUTHENTICATED", 407: "UNAUTHENTICATED", 403: "DENIED"}.get(
                error.status, str(error.status)
            )
        else:
            if arrival.way.run is not None:
                running = asyncio.ensure_future(arrival.way.run())
            async with asyncio.timeout(WAIT_S):
                await arrival.peer.opened.wait()
            if arrival.peer.closed is not None:
                arrival.refusal = ErrorCode(arrival.peer.closed[0]).name
        yield arrival
    finally:
        if arrival.peer.session is not None:
            arrival.peer.session.close()
        if arrival.way is not None:
            await arrival.way.close()
        if running is not None:
            await asyncio.wait([running], timeout=WAIT_S)


@asynccontextmanager
async def mesh_node(
    relay: ManagedRelay,
    kind: WayKind,
    *,
    direct: bool = False,
    identity: PeerIdentity | None = None,
) -> AsyncGenerator[MeshNode]:
    """Run a node while the block runs, which begins when its session is up."""
    identity = identity or PeerIdentity.generate()
    address = RelayAddress.parse(relay.url)
    token = token_of(relay, identity=identity)
    options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(token=token))
    settings = UplinkSettings(
        ways=ways_to(address, options, kinds=[kind]), token=token, relay_name=address.host
    )
    async with MeshNode(identity, settings, direct=direct) as node:
        async with asyncio.timeout(WAIT_S):
            await node.wait_up()
        yield node


async def eventually(condition: Any) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110  (what is waited for is seen from outside)
            await asyncio.sleep(0.005)


class Neighbours:
    """Two peers who talk, whatever others do at the same relay."""

    def __init__(self, one: Arrival, other: Arrival, call: Recorder) -> None:
        self.one = one
        self.other = other
        self._call = call
        self._count = 0

    async def go_on(self) -> None:
        """See that they still can."""
        self._count += 1
        said = b"still here %d" % self._count
        assert self._call.channel is not None
        async with asyncio.timeout(WAIT_S):
            while said not in self.other.peer.calls[0].datagrams:
                self._call.channel.send_datagrams([said])
                await asyncio.sleep(0.005)
        assert self.one.session.is_open
        assert self.other.session.is_open


@asynccontextmanager
async def neighbours(relay: ManagedRelay, *, subject: str = "dev") -> AsyncGenerator[Neighbours]:
    """Let two peers talk while the block runs; they must be able to at its end."""
    one_peer, other_peer = MeshPeer(), MeshPeer()
    token, other_token = (
        token_of(relay, subject, identity=peer.identity) for peer in (one_peer, other_peer)
    )
    async with (
        arriving(relay, WayKind.H3, peer=one_peer, token=token) as one,
        arriving(relay, WayKind.H2, peer=other_peer, token=other_token) as other,
    ):
        call = Recorder()
        call.channel = one.session.open_channel(
            ChannelKind.DATAGRAMS, call, peer_id=other.peer.identity.peer_id
        )
        await eventually(lambda: other.peer.calls)
        both = Neighbours(one, other, call)
        await both.go_on()
        yield both
        await both.go_on()
