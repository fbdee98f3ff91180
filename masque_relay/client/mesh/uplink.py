"""Owns MeshUplink: a session at a relay that is kept up, over the best way that works."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from secrets import SystemRandom
from typing import Protocol

from masque_relay.client.backoff import Backoff
from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import ClientError, ConnectionLost, MeshRefused, TunnelRefused
from masque_relay.client.limits import ReconnectLimits
from masque_relay.client.mesh.identity import PeerIdentity, verify_signature
from masque_relay.client.mesh.race import Race, RaceReport
from masque_relay.client.mesh.way import OpenWay, WayKind, WayOpener
from masque_relay.contract.ghostwire import Exporter
from masque_relay.contract.ports import Clock
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

TICK_S = 1.0
PROBE_UP_S = (15.0, 30.0, 60.0, 300.0)
"""While on a worse way: how long before the better ones are tried again."""
FATAL_CODES = frozenset({ErrorCode.UNAUTHENTICATED, ErrorCode.REVOKED, ErrorCode.DENIED})
_FATAL_STATUSES = frozenset({401, 403, 407})


class UplinkState(Enum):
    """Whether there is a session."""

    AWAY = "away"
    UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkChange:
    """The session came, went or moved: one line for people, one value for scripts."""

    state: UplinkState
    kind: WayKind | None = None
    remote: str = ""
    why: str = ""


class UplinkUser(Protocol):
    """Whom the uplink tells; must neither block nor raise."""

    def session_changed(self, session: PeerSession | None) -> None:
        """Another session, or none, is there now."""
        ...

    def called(self, channel: PeerChannel) -> None:
        """Another peer calls."""
        ...

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        """What the relay tells."""
        ...

    def candidates_received(self, record: CandidateRecord) -> None:
        """Another peer's record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkSettings:
    """How an uplink behaves."""

    ways: Sequence[tuple[WayKind, WayOpener]]
    """The most wanted first."""
    token: str = field(default="", repr=False)
    """For ways that have no field for it."""
    relay_name: str = ""
    window_bytes: int = 262_144
    reconnect: ReconnectLimits = field(default_factory=ReconnectLimits)
    probe_up_s: Sequence[float] = PROBE_UP_S
    remembered: WayKind | None = None
    """What worked here the last time: it is tried first."""


class _Attempt:
    """One session on its way up, then up: the PeerHandler of exactly one PeerSession."""

    def __init__(self, uplink: "MeshUplink") -> None:
        self._uplink = uplink
        self.welcomed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.error = Restartable()

    def session_opened(self, welcome: Welcome) -> None:
        if not self.welcomed.done():
            self.welcomed.set_result(None)

    def called(self, channel: PeerChannel) -> None:
        self._uplink.user.called(channel)

    def mesh_frame_received(self, frame: Observed | Presence | Relays | Restarting) -> None:
        self._uplink.user.mesh_frame_received(frame)

    def candidates_received(self, record: CandidateRecord) -> None:
        self._uplink.user.candidates_received(record)

    def session_closed(self, code: int, reason: str, retry_after_ms: int) -> None:
        self.error = Restartable(code=code, reason=reason, retry_after_s=retry_after_ms / 1_000)
        self.over.set()
        if not self.welcomed.done():
            error: ClientError = (
                MeshRefused(code, retry_after_s=self.error.retry_after_s)
                if code
                else ConnectionLost("the relay closed the connection")
            )
            self.welcomed.set_exception(error)
            self.welcomed.exception()  # nobody may be waiting any more


@dataclass(frozen=True, slots=True, kw_only=True)
class Restartable:
    """How a session ended."""

    code: int = ErrorCode.NONE
    reason: str = ""
    retry_after_s: float = 0


class MeshUplink:
    """Keeps one session up while :meth:`run` runs; moves it to a better way when one works.

    Attributes:
        identity: who we are.
        user: told of everything.
        session: the one that is open; None while there is none.
        way: what carries it.
        report: of the last race.
    """

    def __init__(
        self,
        identity: PeerIdentity,
        settings: UplinkSettings,
        user: UplinkUser,
        *,
        on_change: Callable[[UplinkChange], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self.identity = identity
        self.user = user
        self.session: PeerSession | None = None
        self.way: OpenWay | None = None
        self.report = RaceReport()
        self._settings = settings
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._backoff = Backoff(settings.reconnect, SystemRandom().random)
        self._attempts: dict[int, _Attempt] = {}
        self._remembered = settings.remembered
        self._look_again = asyncio.Event()
        self._has_moved = False
        self._tasks = asyncio.TaskGroup()

    def network_changed(self, remembered: WayKind | None = None) -> None:
        """Try all ways again now: the machine has another address, and sockets may be dead.

        Args:
            remembered: what worked in the new network the last time.
        """
        self._remembered = remembered
        self._has_moved = True
        self._look_again.set()

    async def run(self) -> None:
        """Connect and stay connected; ends by cancellation only.

        Raises:
            MeshRefused: the relay will not let us in, however often we ask.
            ClientError: the relay's certificate or our credential is at fault.
        """
        async with self._tasks:
            ticking = self._tasks.create_task(self._tick())
            try:
                await self._keep_up()
            finally:
                ticking.cancel()
                await self._drop()

    async def _keep_up(self) -> None:
        while True:
            try:
                way, report = await self._connect(self._ordered())
            except ClientError as error:
                if _is_fatal(error):
                    raise
                delay_s = self._backoff.failed()
                self._on_change(UplinkChange(state=UplinkState.AWAY, why=error.message))
                await self._pause(max(delay_s, getattr(error, "retry_after_s", None) or 0))
                continue
            self._use(way, report)
            ended = await self._stay()
            self._on_change(UplinkChange(state=UplinkState.AWAY, why=ended.reason))
            if ended.code in FATAL_CODES:
                raise MeshRefused(ended.code)
            await self._pause(max(ended.retry_after_s, self._backoff.failed()))

    async def _pause(self, delay_s: float) -> None:
        """Wait before the next attempt; another network is a reason to wait no longer."""
        self._look_again.clear()
        try:
            async with asyncio.timeout(delay_s):
                await self._look_again.wait()
        except TimeoutError:
            pass

    async def _stay(self) -> Restartable:
        """Stay until the session is over; look for a better way from time to time."""
        probes = 0
        since_s = self._clock.monotonic_s()
        while True:
            way, session = self.way, self.session
            if way is None or session is None:
                raise RuntimeError("nothing to stay with")
            attempt = self._attempts[id(session)]
            better = self._better_than(way.kind)
            delays_s = self._settings.probe_up_s
            delay_s = delays_s[min(probes, len(delays_s) - 1)] if better else None
            if await _first_of(attempt.over, self._look_again, delay_s) is attempt.over:
                if self._clock.monotonic_s() - since_s >= self._settings.reconnect.stable_after_s:
                    self._backoff.succeeded()
                await self._drop()
                return attempt.error
            self._look_again.clear()
            if self._has_moved:
                self._has_moved, probes = False, 0
                better = self._ordered()
            probes += 1
            await self._try_better(better, way)

    async def _try_better(self, better: Sequence[tuple[WayKind, WayOpener]], old: OpenWay) -> None:
        """Move to a better way if one works; the relay ends the older session by itself."""
        if not better:
            return
        try:
            way, report = await self._connect(better)
        except ClientError:
            return
        self._use(way, report)
        await old.close()

    async def _connect(
        self, ways: Sequence[tuple[WayKind, WayOpener]]
    ) -> tuple[OpenWay, RaceReport]:
        race = Race(
            self._make_session,
            welcomed=lambda way: self._attempts[id(way.session)].welcomed,
            spawn=self._tasks.create_task,
        )
        return await race.run(ways), race.report

    def _use(self, way: OpenWay, report: RaceReport) -> None:
        if not isinstance(way.session, PeerSession):
            raise TypeError("a way carries another session than it was given")
        self.way, self.session, self.report = way, way.session, report
        self._remembered = way.kind
        self._attempts = {id(way.session): self._attempts[id(way.session)]}
        failed = ", ".join(f"{kind}: {error.message}" for kind, error in report.failures.items())
        self._on_change(
            UplinkChange(state=UplinkState.UP, kind=way.kind, remote=way.remote, why=failed)
        )
        self.user.session_changed(way.session)

    async def _drop(self) -> None:
        way, self.way, self.session = self.way, None, None
        if way is not None:
            self.user.session_changed(None)
            if isinstance(way.session, PeerSession):
                way.session.close()
            await way.close()

    def _make_session(self, exporter: Exporter | None) -> PeerSession:
        attempt = _Attempt(self)
        session = PeerSession(
            PeerPorts(
                peer_id=self.identity.peer_id,
                sign=self.identity.sign,
                verify=verify_signature,
                token=self._settings.token,
                exporter=exporter,
                relay_name=self._settings.relay_name,
                window_bytes=self._settings.window_bytes,
                random_bytes=secrets.token_bytes,
                monotonic_s=self._clock.monotonic_s,
                wall_s=self._clock.wall_s,
                jitter=SystemRandom().random,
            ),
            attempt,
        )
        self._attempts[id(session)] = attempt
        return session

    def _ordered(self) -> list[tuple[WayKind, WayOpener]]:
        """What worked the last time comes first."""
        return sorted(self._settings.ways, key=lambda way: way[0] is not self._remembered)

    def _better_than(self, kind: WayKind) -> list[tuple[WayKind, WayOpener]]:
        kinds = [known for known, _ in self._settings.ways]
        return list(self._settings.ways[: kinds.index(kind)])

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            if self.session is not None:
                self.session.on_tick()


async def _first_of(
    over: asyncio.Event, look_again: asyncio.Event, delay_s: float | None
) -> asyncio.Event | None:
    """Wait for either event, or for the delay."""
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(event.wait()) for event in (over, look_again)]
        await asyncio.wait(waiting, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
    if over.is_set():
        return over
    return look_again if look_again.is_set() else None


def _is_fatal(error: ClientError) -> bool:
    if isinstance(error, MeshRefused):
        return error.code in FATAL_CODES
    return isinstance(error, TunnelRefused) and error.status in _FATAL_STATUSES
