"""Owns how a client knocks at each way into a relay, and what it hears there.

    async with knocking(Door(relay=…, way=Way.TURN_TLS), shown) as heard:
        heard is "" while the client is in, else what refused it, in the words of that wire

The words: ``403 http_request_denied`` (HTTP status and Proxy-Status error), ``ERROR DENIED`` and
``CLOSE DENIED`` (Ghostwire session and channel), ``403 FORBIDDEN`` (STUN), and the texts of DERP's
Health, with ``Restarting`` where that follows.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol, assert_never

from nacl.public import PrivateKey
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from fallbacks.derp.wire import FrameType, encode_frame
from masque_relay.client import (
    Basic,
    Bearer,
    MutualTls,
    RelayAddress,
    RelayClient,
    RelayOptions,
    TunnelRefused,
    make_target,
)
from masque_relay.client.mesh.way import OpenWay
from masque_relay.client.mesh.ways import ways_to
from masque_relay.contract.address import Endpoint
from masque_relay.stun.codepoints import Attribute, Method
from masque_relay.stun.codepoints import ErrorCode as StunError
from masque_relay.wire.ghostwire import ChannelKind, ErrorCode
from masque_relay.wire.ghostwire import FrameType as GhostwireType
from tests.support.derp_socket import DerpSocket, seal_greeting
from tests.support.derp_world import split_frames
from tests.support.every_way import Family, Way
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay
from tests.support.mesh_arrival import WAIT_S, Arrival, Tap, eventually
from tests.support.mesh_peer import MeshPeer
from tests.support.turn_client import UDP, Credentials, Reply, TurnClient

METADATA = "169.254.169.254"
"""Prohibited unless a rule names it."""

_RELAYED_UDP = [(int(Attribute.REQUESTED_TRANSPORT), UDP)]

Shown = Bearer | Basic | MutualTls | Credentials | PrivateKey | None
"""What a client shows; None is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One way into one relay."""

    relay: ManagedRelay
    way: Way
    turn_ports: dict[str, tuple[str, int]]
    """Of the listeners that are TURN's alone: udp, tcp, tls."""

    def turn_client(self, credentials: Credentials) -> TurnClient:
        """Return a connected TURN client of a TURN way."""
        relay, kind = self.relay, self.way.removeprefix("turn-")
        host, _, port = relay.ready["https"].rpartition(":")
        address = {"https-port": (host, int(port)), "h3-port": relay.address} | self.turn_ports
        tls = None
        if self.way.is_turn_over_tls:
            tls = ssl.create_default_context(cafile=str(relay.ca_file))
            tls.set_alpn_protocols(["stun.turn"])
        return TurnClient(address[kind], credentials=credentials, stream=kind == "tcp", tls=tls)


class Visit(Protocol):
    """One client at one door."""

    async def connect(self) -> None:
        """Do whatever comes before the gate is asked."""
        ...

    async def ask(self, host: str, port: int) -> str:
        """Ask for what that way gives, and for this target where it has targets; "" is yes."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


@asynccontextmanager
async def knocking(
    door: Door, shown: Shown, *, peer: MeshPeer | None = None, host: str = "127.0.0.1", port: int
) -> AsyncGenerator[str]:
    """Come in by a door, and stay while the block runs; it is given what was heard.

    Args:
        door: where.
        shown: the credential.
        peer: who comes to the mesh; by default somebody new.
        host: whom the client wants to reach. Ghostwire, which asks for nobody at first, and TURN
            ask about it once they are in, unless it is this very host.
        port: of the target.
    """
    visit = visit_of(door, shown, peer=peer)
    try:
        await visit.connect()
        yield await visit.ask(host, port)
    finally:
        await visit.close()


def visit_of(door: Door, shown: Shown, *, peer: MeshPeer | None = None) -> Visit:
    """Return a client that has not done anything yet."""
    match door.way.family:
        case Family.MASQUE:
            assert not isinstance(shown, Credentials | PrivateKey)
            return _MasqueVisit(door, shown)
        case Family.GHOSTWIRE:
            assert not isinstance(shown, Credentials | PrivateKey)
            return _GhostwireVisit(door, shown, peer or MeshPeer())
        case Family.TURN:
            assert isinstance(shown, Credentials | None)
            return _TurnVisit(door, shown)
        case Family.DERP:
            assert isinstance(shown, PrivateKey)
            if door.way is Way.DERP_WEBSOCKET:
                return _DerpWebSocketVisit(door, shown)
            return _DerpVisit(door, shown)
        case _:
            assert_never(door.way.family)


def _refused(error: TunnelRefused) -> str:
    return f"{error.status} {error.error}"


class _MasqueVisit:
    def __init__(self, door: Door, shown: Bearer | Basic | MutualTls | None) -> None:
        options = RelayOptions(ca_file=door.relay.ca_file, credential=shown, http=door.way.http)
        self._client = RelayClient(RelayAddress.parse(door.relay.url), options)

    async def connect(self) -> None:
        await self._client.connect()

    async def ask(self, host: str, port: int) -> str:
        try:
            await self._client.start_udp(make_target(host, port), on_batch=lambda _: None)
        except TunnelRefused as error:
            return _refused(error)
        return ""

    async def close(self) -> None:
        await self._client.close()


class _HoldingTap(Tap):
    """A session whose AUTH waits until it is let go."""

    def __init__(self, session: Any) -> None:
        super().__init__(session)
        self.held: list[bytes] = []
        self.holds = True

    def attach(self, carrier: Any) -> None:
        self.carrier = carrier
        self.session.attach(_Holding(carrier, self))

    def let_go(self) -> None:
        self.holds = False
        for value in self.held:
            self.carrier.send_capsule(GhostwireType.AUTH, value)


class _Holding:
    def __init__(self, carrier: Any, tap: _HoldingTap) -> None:
        self._carrier = carrier
        self._tap = tap

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)

    def send_capsule(self, capsule_type: int, value: bytes) -> None:
        if capsule_type == GhostwireType.AUTH and self._tap.holds:
            self._tap.held.append(value)
        else:
            self._carrier.send_capsule(capsule_type, value)


class _HoldingArrival(Arrival):
    def make(self, exporter: Any, **ports: str) -> Any:
        self.tap: _HoldingTap = _HoldingTap(self.peer.make(exporter, **ports))
        return self.tap


class _GhostwireVisit:
    """Where the gate is asked late, AUTH waits for :meth:`ask`."""

    def __init__(
        self, door: Door, shown: Bearer | Basic | MutualTls | None, peer: MeshPeer
    ) -> None:
        self._peer = peer
        self._arrival = _HoldingArrival(peer)
        self._asks_late = door.way.asks_late
        address = RelayAddress.parse(door.relay.url)
        is_for_auth = isinstance(shown, Bearer) and self._asks_late
        options = RelayOptions(
            ca_file=door.relay.ca_file, credential=None if is_for_auth else shown
        )
        ((_, self._opener),) = ways_to(address, options, kinds=[door.way.carrier])
        token = shown.token if isinstance(shown, Bearer) else None
        self._make = partial(self._arrival.make, token=token or "", name=address.host)
        self._way: OpenWay | None = None
        self._running: asyncio.Future[None] | None = None

    async def connect(self) -> None:
        if self._asks_late:
            await self._open()
            await eventually(lambda: self._arrival.tap.held or self._peer.closed)

    async def ask(self, host: str, port: int) -> str:
        if not self._asks_late:
            try:
                await self._open()
            except TunnelRefused as error:
                return _refused(error)
        self._arrival.tap.let_go()
        async with asyncio.timeout(WAIT_S):
            await self._peer.opened.wait()
        if self._peer.closed is not None:
            return f"ERROR {ErrorCode(self._peer.closed[0]).name}"
        return "" if ip_address(host).is_loopback else await self._ask_for_host(host, port)

    async def _open(self) -> None:
        self._way = await self._opener(self._make)
        if self._way.run is not None:
            self._running = asyncio.ensure_future(self._way.run())

    async def _ask_for_host(self, host: str, port: int) -> str:
        assert self._peer.session is not None
        channel = Recorder()
        self._peer.session.open_channel(ChannelKind.UDP, channel, host=host, port=port)
        await eventually(lambda: channel.is_open or channel.closed)
        return "" if channel.closed is None else f"CLOSE {ErrorCode(channel.closed[0]).name}"

    async def close(self) -> None:
        if self._peer.session is not None:
            self._peer.session.close()
        if self._way is not None:
            await self._way.close()
        if self._running is not None:
            await asyncio.wait([self._running], timeout=WAIT_S)


class _TurnVisit:
    """Blocks the event loop for as long as the relay takes to answer."""

    def __init__(self, door: Door, shown: Credentials | None) -> None:
        self._door = door
        self._shown = shown
        self._client: TurnClient | None = None
        self._is_in = False

    async def connect(self) -> None:
        self._client = self._door.turn_client(self._shown or Credentials())

    async def ask(self, host: str, port: int) -> str:
        assert self._client is not None
        if self._shown is None:
            return _said(self._client.plain(Method.ALLOCATE, _RELAYED_UDP))
        heard = _said(self._client.request(Method.ALLOCATE, _RELAYED_UDP))
        self._is_in = not heard
        if heard or ip_address(host).is_loopback:
            return heard
        return _said(self._client.permit(Endpoint(address=ip_address(host), port=port)))

    async def close(self) -> None:
        if self._client is None:
            return
        with self._client:
            if self._is_in:
                self._client.refresh(0)


def _said(reply: Reply) -> str:
    return "" if reply.error is None else f"{reply.error} {StunError(reply.error).name}"


class _DerpVisit:
    """Asks by an Upgrade; blocks the event loop for as long as the relay takes to answer."""

    def __init__(self, door: Door, key: PrivateKey) -> None:
        self._relay = door.relay
        self._key = key
        self._socket: DerpSocket | None = None

    async def connect(self) -> None:
        self._socket = DerpSocket(self._relay.ready["https"], self._relay.ca_file, self._key)
        self._socket.request()
        assert self._socket.head().startswith("HTTP/1.1 101 ")

    async def ask(self, host: str, port: int) -> str:
        assert self._socket is not None
        del host, port
        self._socket.greet()
        said: list[str] = []
        with suppress(EOFError, ConnectionError):
            while (frame := self._socket.frame())[0] != FrameType.SERVER_INFO:
                said.append(_derp_words(*frame))
            return ""
        return ", ".join(said)

    async def close(self) -> None:
        if self._socket is not None:
            self._socket.socket.close()


class _DerpWebSocketVisit:
    """Has the same conversation in the messages of a WebSocket."""

    def __init__(self, door: Door, key: PrivateKey) -> None:
        self._relay = door.relay
        self._key = key
        self._socket: ClientConnection | None = None

    async def connect(self) -> None:
        self._socket = await open_websocket(
            f"wss://{self._relay.ready['https']}/derp",
            ssl=ssl.create_default_context(cafile=str(self._relay.ca_file)),
            subprotocols=[Subprotocol("derp")],
            proxy=None,
            open_timeout=WAIT_S,
            close_timeout=1,
        )

    async def ask(self, host: str, port: int) -> str:
        assert self._socket is not None
        del host, port
        said: list[str] = []
        with suppress(ConnectionClosed):
            async with asyncio.timeout(WAIT_S):
                while True:
                    message = await self._socket.recv()
                    assert isinstance(message, bytes)
                    for number, body in split_frames(message):
                        if number == FrameType.SERVER_INFO:
                            return ""
                        if number == FrameType.SERVER_KEY:
                            await self._socket.send(self._greeting(body[8:]))
                        else:
                            said.append(_derp_words(number, body))
        return ", ".join(said)

    def _greeting(self, server_key: bytes) -> bytes:
        sealed = seal_greeting(self._key, bytes(self._key.public_key), server_key)
        return encode_frame(FrameType.CLIENT_INFO, sealed)

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()


def _derp_words(number: int, body: bytes) -> str:
    return f"Health: {body.decode()}" if number == FrameType.HEALTH else FrameType(number).name
