"""Owns the DERP server: its sessions' tasks and clock, and the gate for each proved key."""

import asyncio
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from fallbacks.derp.box import ServerBox
from fallbacks.derp.elsewhere import Elsewhere
from fallbacks.derp.ports import DerpPorts
from fallbacks.derp.roster import Roster
from fallbacks.derp.session import DerpSession
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import DerpCounters
from masque_relay.contract.derp_limits import DerpLimits
from masque_relay.contract.ghostwire import Member, Switchboard
from masque_relay.contract.lease import Lease
from masque_relay.contract.ports import Clock, Gate
from masque_relay.contract.request import Method, NodeKey, RelayRequest, Transport
from masque_relay.contract.verdict import Denial, DenyReason, EndReason

TICK_S = 1.0
RESTART_SPREAD_MS = 2_000
"""Clients of a relay that goes away come back at random moments within this."""

RESTART_TRY_MS = 60_000
"""How long they try before they take another relay for good."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpSettings:
    """How the DERP server of one relay is."""

    private_key: bytes = field(repr=False)
    """X25519, 32 bytes."""
    mesh_key: str | None = field(default=None, repr=False)
    """64 lower-case hexadecimal digits; None: nobody belongs to the mesh."""
    limits: DerpLimits = field(default_factory=DerpLimits)


class DerpServer:
    """An async context manager: tasks of clients that wait for the gate live in it, and a tick.

    Attributes:
        box: has the public key.
        elsewhere: clients of other servers of the mesh, for whoever dials these.
    """

    def __init__(
        self,
        settings: DerpSettings,
        *,
        gate: Gate,
        switchboard: Switchboard,
        clock: Clock,
        counters: DerpCounters,
    ) -> None:
        self._gate = gate
        self._counters = counters
        self._limits = settings.limits
        self._mesh_key = settings.mesh_key
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._sessions: set[DerpSession] = set()
        self._leases: dict[DerpSession, Lease] = {}
        self.box = ServerBox(settings.private_key)
        self.elsewhere = Elsewhere()
        self._ports = DerpPorts(
            box=self.box,
            switchboard=switchboard,
            roster=Roster(),
            may_reach=self._may_reach,
            elsewhere=self.elsewhere,
            may_reach_elsewhere=self._may_reach_elsewhere,
            generation=lambda: gate.generation,
            authenticate=self._authenticate,
            session_over=self._session_over,
            is_mesh_key=self._is_mesh_key,
            random_bytes=secrets.token_bytes,
            monotonic_s=clock.monotonic_s,
            jitter=lambda: secrets.randbelow(1_000) / 1_000,
            counters=counters,
            limits=settings.limits,
        )

    async def __aenter__(self) -> Self:
        """Begin to tick."""
        await self._tasks.__aenter__()
        self._tick()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every session and give up what is under way."""
        if self._timer is not None:
            self._timer.cancel()
        for session in tuple(self._sessions):
            session.close(EndReason.DRAINED)
        for task in tuple(self._running):
            task.cancel()
        # Not with the error: a group would wrap it, and a configuration error has to stay one.
        await self._tasks.__aexit__(None, None, None)

    def arrive(
        self, source: Endpoint, *, request_id: str, is_ideal: bool = True
    ) -> DerpSession | None:
        """Make the session of a new connection; None where too many are unproved."""
        if len(self._sessions) - len(self._leases) >= self._limits.max_unproved:
            self._counters.handshakes_refused += 1
            return None
        session = DerpSession(self._ports, source, request_id=request_id, is_ideal=is_ideal)
        self._sessions.add(session)
        return session

    def restarting(self) -> None:
        """Tell every client that the relay will go."""
        for session in tuple(self._sessions):
            session.restarting(
                reconnect_in_ms=secrets.randbelow(RESTART_SPREAD_MS), try_for_ms=RESTART_TRY_MS
            )

    def status(self) -> dict[str, object]:
        """What an operator sees; JSON-ready, without identities."""
        return {
            "public_key": self.box.public_key.hex(),
            "clients": self._counters.clients_open,
            "homes": self._counters.homes,
        }

    def _tick(self) -> None:
        for session in tuple(self._sessions):
            self._guard(session, session.on_tick)
        self.elsewhere.tick()
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    @staticmethod
    def _guard(session: DerpSession, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one session ends that session)
            _log.exception("a DERP session raised", request_id=session.request_id)
            session.close(EndReason.BUG)

    def _session_over(self, session: DerpSession) -> None:
        self._sessions.discard(session)
        lease = self._leases.pop(session, None)
        if lease is not None:
            lease.release(session.end_reason or EndReason.BUG)

    def _may_reach(self, lease: Lease, member: Member) -> bool:
        return self._gate.admit_peer(lease, member.lease) is None

    def _may_reach_elsewhere(self, lease: Lease, key: bytes) -> bool:
        return self._gate.admit_distant_peer(lease, NodeKey(key=key)) is None

    def _is_mesh_key(self, key: str) -> bool:
        if self._mesh_key is None:
            return False
        # JSON may hold half of a surrogate pair, which is no text.
        return hmac.compare_digest(self._mesh_key.encode(), key.lower().encode(errors="replace"))

    def _authenticate(self, session: DerpSession, key: bytes) -> None:
        task = self._tasks.create_task(self._admit(session, key))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _admit(self, session: DerpSession, key: bytes) -> None:
        request = RelayRequest(
            request_id=session.request_id,
            transport=Transport.DERP,
            method=Method.GHOSTWIRE,
            target=None,
            credentials=(NodeKey(key=key),),
            source=session.source,
        )
        try:
            verdict = await self._gate.admit(request)
        except Exception:  # noqa: BLE001  (STYLE 17: fail closed, and end this session alone)
            _log.exception("the gate raised", request_id=session.request_id)
            session.refused(Denial(reason=DenyReason.OVERLOADED, detail="the gate raised"))
            return
        if isinstance(verdict, Denial):
            session.refused(verdict)
            return
        if session.end_reason is not None:
            verdict.release(session.end_reason)
            return
        self._leases[session] = verdict
        verdict.on_end(session.close)
        self._guard(session, lambda: session.admitted(verdict))
