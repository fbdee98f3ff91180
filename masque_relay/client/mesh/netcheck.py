"""Owns the check of a network: which ways lead to a relay from here, how well, by which NAT."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from secrets import SystemRandom
from typing import Any

import orjson

from masque_relay.client.errors import ClientError, ConnectionLost, MeshRefused, TunnelRefused
from masque_relay.client.mesh.identity import PeerIdentity, verify_signature
from masque_relay.client.mesh.nat_kind import NatKind, NatReport, find_nat
from masque_relay.client.mesh.way import OpenWay, WayKind, WayOpener
from masque_relay.client.settle import settled_payload_bytes
from masque_relay.contract.ghostwire import Exporter
from masque_relay.tunnels.ghostwire_peer import PeerPorts, PeerSession
from masque_relay.tunnels.ghostwire_peer_channel import PeerChannel
from masque_relay.wire.ghostwire import (
    ErrorCode,
    Observed,
    Presence,
    Relays,
    Restarting,
    Welcome,
)
from masque_relay.wire.ghostwire_proof import CandidateRecord

WELCOME_S = 10.0
"""From an open carrier to WELCOME."""
PINGS = 3
PING_S = 5.0
UDP_WAYS = frozenset({WayKind.H3, WayKind.QUIC})


class WayState(StrEnum):
    """What became of one way."""

    WORKS = "works"
    REFUSED = "refused"
    """It leads there, but the relay does not let us in."""
    BLOCKED = "blocked"
    """It does not lead there, or the relay does not serve it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayReport:
    """One way."""

    kind: WayKind
    state: WayState
    connect_ms: float | None = None
    """TCP or QUIC, TLS, and what asks for a session."""
    welcome_ms: float | None = None
    """From there to WELCOME."""
    rtt_ms: float | None = None
    """The best of three pings over the session."""
    datagram_bytes: int | None = None
    """The largest datagram; None where a stream carries them, whatever their size."""
    remote: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetReport:
    """Everything that was found."""

    ways: tuple[WayReport, ...]
    udp_blocked: bool | None
    """None where nothing works that could tell."""
    nat: NatReport
    clock_skew_s: int | None
    """The relay's clock less ours, whole seconds."""
    relays: tuple[str, ...] = ()
    """The relay map's URLs, best first."""

    @property
    def best(self) -> WayKind | None:
        """What a peer would use."""
        return next((way.kind for way in self.ways if way.state is WayState.WORKS), None)


async def check_network(
    ways: Sequence[tuple[WayKind, WayOpener]],
    *,
    token: str,
    relay_name: str,
    identity: PeerIdentity | None = None,
) -> NetReport:
    """Open every way for real, one after the other, and measure it.

    Args:
        ways: the most wanted first.
        token: for ways that have no field for it.
        relay_name: the relay's host.
        identity: for tokens that are bound to a key; None makes a new key for each way. A peer
            that is at the relay with the same key now is replaced there.
    """
    checks: list[_Check] = []
    for kind, opener in ways:
        check = _Check(kind, identity or PeerIdentity.generate(), token, relay_name)
        checks.append(check)
        await check.run(opener)
    reports = tuple(check.report for check in checks)
    found = [check for check in checks if check.report.state is WayState.WORKS]
    skews = [check.skew_s for check in checks if check.skew_s is not None]
    return NetReport(
        ways=reports,
        udp_blocked=_is_udp_blocked(reports),
        nat=await _nat_of(found),
        clock_skew_s=skews[0] if skews else None,
        relays=next((check.relays for check in found if check.relays), ()),
    )


@dataclass(slots=True, eq=False)
class _Check:
    """One way: opened, measured, closed. The PeerHandler of its session."""

    kind: WayKind
    identity: PeerIdentity
    token: str
    relay_name: str
    report: WayReport = field(init=False)
    skew_s: int | None = None
    observer: tuple[str, int] | None = None
    relays: tuple[str, ...] = ()
    _session: PeerSession | None = None
    _welcomed: "asyncio.Future[None]" = field(init=False)
    _pongs: "asyncio.Queue[bytes]" = field(init=False)

    async def run(self, opener: WayOpener) -> None:
        """Fill ``report``; what fails is in it."""
        self._welcomed = asyncio.get_running_loop().create_future()
        self._pongs = asyncio.Queue(PINGS)
        way: OpenWay | None = None
        began_s = time.monotonic()
        try:
            way = await opener(self._make_session)
            opened_s = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                running = None if way.run is None else tasks.create_task(way.run())
                try:
                    await self._measure(way, began_s, opened_s)
                finally:
                    if self._session is not None:
                        self._session.close()
                    await way.close()
                    if running is not None:
                        running.cancel()
        except* (ClientError, TimeoutError) as errors:
            self._failed(_first(errors))

    async def _measure(self, way: OpenWay, began_s: float, opened_s: float) -> None:
        async with asyncio.timeout(WELCOME_S):
            await self._welcomed
        welcomed_s = time.monotonic()
        session = self._session
        if session is None:
            raise RuntimeError("a way that opened has no session")
        self.skew_s = session.clock_skew_s
        rtt_ms = await self._ping(session)
        datagram_bytes: int | None = None
        if self.kind in UDP_WAYS:
            datagram_bytes = await settled_payload_bytes(lambda: session.max_datagram_bytes)
        self.report = WayReport(
            kind=self.kind,
            state=WayState.WORKS,
            connect_ms=_ms(began_s, opened_s),
            welcome_ms=_ms(opened_s, welcomed_s),
            rtt_ms=rtt_ms,
            datagram_bytes=datagram_bytes,
            remote=way.remote,
        )
        host = way.remote.rpartition(":")[0].strip("[]")
        if self.observer is not None:
            self.observer = (host, self.observer[1]) if host else None

    async def _ping(self, session: PeerSession) -> float | None:
        session.pong_received = self._pongs.put_nowait
        times_ms: list[float] = []
        for _ in range(PINGS):
            sent_s = time.monotonic()
            session.ping(secrets.token_bytes(8))
            try:
                async with asyncio.timeout(PING_S):
                    await self._pongs.get()
            except TimeoutError:
                break
            times_ms.append(_ms(sent_s, time.monotonic()))
        session.pong_received = lambda _: None
        return min(times_ms, default=None)

    def _failed(self, error: Exception) -> None:
        is_refusal = isinstance(error, MeshRefused | TunnelRefused)
        why = error.message if isinstance(error, ClientError) else "no WELCOME in time"
        if self._session is not None and self.skew_s is None:
            self.skew_s = self._session.clock_skew_s
        self.report = WayReport(
            kind=self.kind,
            state=WayState.REFUSED if is_refusal else WayState.BLOCKED,
            why=why,
        )

    def _make_session(self, exporter: Exporter | None) -> PeerSession:
        self._session = PeerSession(
            PeerPorts(
                peer_id=self.identity.peer_id,
                sign=self.identity.sign,
                verify=verify_signature,
                token=self.token,
                exporter=exporter,
                relay_name=self.relay_name,
                window_bytes=65_536,
                random_bytes=secrets.token_bytes,
                monotonic_s=time.monotonic,
                wall_s=time.time,
                jitter=SystemRandom().random,
            ),
            self,
        )
        return self._session

    # PeerHandler.

    def session_opened(self, welcome: Welcome) -> None:
        """WELCOME."""
        if not self._welcomed.done():
            self._welcomed.set_result(None)

    def called(self, channel: PeerChannel) -> None:
        """Nobody is here for anybody."""
        channel.close(ErrorCode.REFUSED)

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        """Keep where the relay's observer is, and its map."""
        if isinstance(frame, Observed) and frame.observer_port:
            self.observer = ("", frame.observer_port)
        elif isinstance(frame, Relays):
            self.relays = _urls(frame.document)

    def candidates_received(self, record: CandidateRecord) -> None:
        """We watch nobody."""

    def session_closed(self, code: int, reason: str, retry_after_ms: int) -> None:
        """The relay does not want us, or the way broke."""
        if not self._welcomed.done():
            error = MeshRefused(code) if code else ConnectionLost("the relay closed the connection")
            self._welcomed.set_exception(error)
            self._welcomed.exception()  # nobody may be waiting any more


def _is_udp_blocked(reports: Sequence[WayReport]) -> bool | None:
    """UDP is blocked where only ways over TCP lead there."""
    by_udp = [way.state for way in reports if way.kind in UDP_WAYS]
    by_tcp = [way.state for way in reports if way.kind not in UDP_WAYS]
    if any(state is not WayState.BLOCKED for state in by_udp):
        return False
    is_there = any(state is not WayState.BLOCKED for state in by_tcp)
    return True if by_udp and is_there else None


async def _nat_of(checks: Sequence[_Check]) -> NatReport:
    observer = next((check.observer for check in checks if check.observer is not None), None)
    try:
        if observer is not None:
            ip_address(observer[0])
            return await find_nat(observer)
    except ValueError:  # a name: the carrier did not say which address answered
        pass
    return NatReport(kind=NatKind.UNKNOWN)


def _urls(document: bytes) -> tuple[str, ...]:
    """Return the URLs of a relay map; a map that is none has none."""
    try:
        value: Any = orjson.loads(document)
        return tuple(str(relay["url"]) for relay in value["relays"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ()


def _ms(from_s: float, to_s: float) -> float:
    return round((to_s - from_s) * 1_000, 3)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
