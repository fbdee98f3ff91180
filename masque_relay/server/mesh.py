"""Owns the mesh of one relay: sessions, and what they need of the world (gate, hosts, time)."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import orjson
import structlog

from masque_relay.client.mesh.identity import verify_signature
from masque_relay.config import RelayConfig
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import MeshCounters
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ghostwire import Arrival, Member, Switchboard
from masque_relay.contract.lease import Lease
from masque_relay.contract.ports import Clock, Dataplane, Gate
from masque_relay.contract.request import BearerToken, Method, RelayRequest
from masque_relay.contract.verdict import Denial, DenyReason, EndReason
from masque_relay.tunnels.ghostwire import GhostwireSession
from masque_relay.tunnels.ghostwire_channel import RelayChannel
from masque_relay.tunnels.ghostwire_handshake import HandshakePorts
from masque_relay.tunnels.ghostwire_host import HostTcpEnd, HostUdpEnd
from masque_relay.tunnels.ghostwire_ports import SessionPorts
from masque_relay.tunnels.limits import GhostwireLimits
from masque_relay.wire.connect_udp import parse_host
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire import Auth, ChannelKind, ErrorCode, Open

TICK_S = 1.0
RESTART_SPREAD_MS = 2_000
"""Clients of a relay that goes away come back at random moments within this."""

RESTART_TRY_S = 60.0
"""How long clients of a relay that goes away keep trying it, before they call it gone."""

_log = structlog.get_logger(__name__)

_DENIAL_CODES = {
    DenyReason.OVERLOADED: ErrorCode.OVERLOADED,
    DenyReason.DRAINING: ErrorCode.OVERLOADED,
    DenyReason.TUNNEL_QUOTA: ErrorCode.QUOTA,
    DenyReason.OPEN_RATE: ErrorCode.QUOTA,
    DenyReason.BYTE_QUOTA: ErrorCode.QUOTA,
    DenyReason.REVOKED: ErrorCode.REVOKED,
    DenyReason.POLICY: ErrorCode.DENIED,
    DenyReason.ADDRESS_PROHIBITED: ErrorCode.DENIED,
}
"""Every other reason is UNAUTHENTICATED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """How the mesh of one relay is."""

    limits: GhostwireLimits
    resolve_timeout_s: float
    connect_timeout_s: float
    relays_document: bytes = b""
    """The relay map as JSON; empty for none."""


class Mesh:
    """An async context manager: its sessions' tasks live in it, and a tick once per second.

    Attributes:
        observer_port: the UDP port that answers STUN Bindings; 0 for none.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        gate: Gate,
        dataplane: Dataplane,
        switchboard: Switchboard,
        clock: Clock,
        counters: MeshCounters,
    ) -> None:
        self.observer_port = 0
        self._settings = settings
        self._gate = gate
        self._dataplane = dataplane
        self._clock = clock
        self._tasks = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._tick_timer: asyncio.TimerHandle | None = None
        self._sessions: set[GhostwireSession] = set()
        self._leases: dict[GhostwireSession, Lease] = {}
        """Of sessions whose carrier had none."""
        self._host_ends: set[HostUdpEnd | HostTcpEnd] = set()
        self._ports = SessionPorts(
            switchboard=switchboard,
            may_reach=self._may_reach,
            generation=lambda: gate.generation,
            authenticate=self._authenticate,
            open_host=self._open_host,
            session_over=self._session_over,
            handshake=HandshakePorts(
                verify=verify_signature, random_bytes=secrets.token_bytes, wall_s=clock.wall_s
            ),
            monotonic_s=clock.monotonic_s,
            jitter=lambda: secrets.randbelow(1_000) / 1_000,
            counters=counters,
            limits=settings.limits,
            relays_document=settings.relays_document,
            observer_port=lambda: self.observer_port,
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
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        for session in tuple(self._sessions):
            session.close(EndReason.DRAINED)
        for task in tuple(self._running):
            task.cancel()
        # Not with the error: a group would wrap it, and a configuration error has to stay one.
        await self._tasks.__aexit__(None, None, None)

    def new_session(self, arrival: Arrival) -> GhostwireSession:
        """Make the session of one arrival; a SessionFactory."""
        session = GhostwireSession(self._ports, arrival)
        self._sessions.add(session)
        return session

    def restarting(self) -> None:
        """Tell every peer that the relay will go."""
        for session in tuple(self._sessions):
            session.restarting(
                reconnect_in_ms=secrets.randbelow(RESTART_SPREAD_MS),
                try_for_ms=int(RESTART_TRY_S * 1_000),
            )

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Run something until it ends, or the mesh does."""
        task = self._tasks.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _tick(self) -> None:
        self._tick_timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        for session in tuple(self._sessions):
            self._guard(session, session.on_tick)
        now_s = self._clock.monotonic_s()
        for end in tuple(self._host_ends):
            try:
                end.on_tick(now_s)
            except Exception:  # noqa: BLE001  (STYLE 17: a bug in one channel ends that channel)
                _log.exception("a host channel raised")
                end.close(EndReason.BUG)

    @staticmethod
    def _guard(session: GhostwireSession, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one session ends that session)
            _log.exception("a session raised", request_id=session.arrival.request_id)
            session.close(EndReason.BUG)

    def _session_over(self, session: GhostwireSession) -> None:
        self._sessions.discard(session)
        lease = self._leases.pop(session, None)
        if lease is not None:
            lease.release(session.end_reason or EndReason.BUG)

    def _may_reach(self, lease: Lease, member: Member, kind: ChannelKind) -> bool:
        return self._gate.admit_peer(lease, member.lease) is None

    # -- who a peer is ----------------------------------------------------------------------------

    def _authenticate(self, session: GhostwireSession, auth: Auth) -> None:
        if session.arrival.lease is not None:
            self._admit_key(session, auth, session.arrival.lease)
        else:
            self.start(self._admit_token(session, auth))

    async def _admit_token(self, session: GhostwireSession, auth: Auth) -> None:
        arrival = session.arrival
        credentials = (BearerToken(token=auth.token),) if auth.token else ()
        request = RelayRequest(
            request_id=arrival.request_id,
            transport=arrival.transport,
            method=Method.GHOSTWIRE,
            target=None,
            credentials=(*arrival.credentials, *credentials),
            source=arrival.source,
        )
        try:
            verdict = await self._gate.admit(request)
        except Exception:  # noqa: BLE001  (STYLE 17: fail closed, and end this session alone)
            _log.exception("the gate raised", request_id=arrival.request_id)
            session.refused(ErrorCode.INTERNAL)
            return
        if isinstance(verdict, Denial):
            code, retry_after_ms = _refusal(verdict)
            session.refused(code, retry_after_ms=retry_after_ms)
            return
        if session.end_reason is not None:
            verdict.release(session.end_reason)
            return
        self._leases[session] = verdict
        verdict.on_end(session.close)
        self._guard(session, lambda: self._admit_key(session, auth, verdict))

    def _admit_key(self, session: GhostwireSession, auth: Auth, lease: Lease) -> None:
        """The proved key must be the one that the credential is bound to."""
        is_unbound = lease.peer_id is None and not self._settings.limits.require_bound_key
        if is_unbound or lease.peer_id == auth.peer_id:
            session.admitted(auth, lease)
        else:
            session.refused(ErrorCode.UNAUTHENTICATED)

    # -- channels to hosts ------------------------------------------------------------------------

    def _open_host(self, session: GhostwireSession, channel: RelayChannel, frame: Open) -> None:
        self.start(self._reach(session, channel, frame))

    async def _reach(self, session: GhostwireSession, channel: RelayChannel, frame: Open) -> None:
        """Open one host channel; whatever fails ends that channel alone."""
        if channel.is_closed:
            return  # in the same turn: a session that was kicked must get no lease any more
        lease: Lease | None = None
        try:
            target = Target(host=parse_host(frame.host), port=frame.port)
            verdict = self._gate.admit_under(session.lease, _host_request(session, frame, target))
            if isinstance(verdict, Denial):
                self._refuse(channel, _refusal(verdict)[0], "")
                return
            lease = verdict
            await self._connect(channel, lease, target)
        except WireError as error:
            self._refuse(channel, ErrorCode.MALFORMED, error.detail)
        except FlowError as error:
            self._refuse(channel, ErrorCode.TARGET, str(error.fault))
            if lease is not None:
                lease.release(EndReason.TARGET_FAILED, detail=str(error))
        except Exception:  # noqa: BLE001  (STYLE 17: a bug in one channel ends that channel)
            _log.exception("opening a host channel raised", request_id=session.arrival.request_id)
            self._refuse(channel, ErrorCode.INTERNAL, "")
            if lease is not None:
                lease.release(EndReason.BUG)

    async def _connect(self, channel: RelayChannel, lease: Lease, target: Target) -> None:
        """Resolve, show every address to the gate, and open a flow to an admitted one.

        Raises:
            FlowError: nothing answers.
        """
        endpoints = await self._admitted_endpoints(lease, target)
        if not endpoints:
            self._refuse(channel, ErrorCode.DENIED, "")
            lease.release(EndReason.DENIED)
            return
        if channel.kind is ChannelKind.UDP:
            udp = HostUdpEnd(channel, lease, _releaser(lease, lambda: self._host_ends.discard(udp)))
            lease.on_end(udp.close)
            udp.bind_flow(self._dataplane.open_udp(lease, endpoints[0], udp))
            if udp.is_open:
                self._host_ends.add(udp)
            return
        tcp = HostTcpEnd(
            channel,
            lease,
            _releaser(lease, lambda: self._host_ends.discard(tcp)),
            window_bytes=self._settings.limits.window_bytes,
        )
        lease.on_end(tcp.close)
        flow = await self._dataplane.open_tcp(
            lease, endpoints, tcp, timeout_s=self._settings.connect_timeout_s
        )
        tcp.bind_flow(flow)
        if tcp.is_open:
            self._host_ends.add(tcp)

    async def _admitted_endpoints(self, lease: Lease, target: Target) -> list[Endpoint]:
        if isinstance(target.host, str):
            addresses = await self._dataplane.resolve(
                target.host, timeout_s=self._settings.resolve_timeout_s
            )
        else:
            addresses = (target.host,)
        return [
            Endpoint(address=address, port=target.port)
            for address in addresses
            if self._gate.admit_address(lease, address, target.port) is None
        ]

    def _refuse(self, channel: RelayChannel, code: ErrorCode, reason: str) -> None:
        self._ports.counters.channels_refused += 1
        channel.closed(code, reason)


async def open_mesh(
    stack: AsyncExitStack,
    config: RelayConfig,
    *,
    gate: Gate,
    dataplane: Dataplane,
    switchboard: Switchboard,
    clock: Clock,
    counters: MeshCounters,
) -> Mesh | None:
    """Open the mesh; None where it is off."""
    section = config.ghostwire
    if not section.enabled:
        return None
    relays = {"revision": 1, "relays": [{"url": url} for url in section.relays]}
    settings = MeshSettings(
        limits=section.limits,
        resolve_timeout_s=config.http.resolve_timeout_s,
        connect_timeout_s=config.http.connect_timeout_s,
        relays_document=orjson.dumps(relays) if section.relays else b"",
    )
    mesh = Mesh(
        settings,
        gate=gate,
        dataplane=dataplane,
        switchboard=switchboard,
        clock=clock,
        counters=counters,
    )
    return await stack.enter_async_context(mesh)


def _host_request(session: GhostwireSession, frame: Open, target: Target) -> RelayRequest:
    is_udp = frame.kind is ChannelKind.UDP
    return replace(
        session.lease.request,
        method=Method.CONNECT_UDP if is_udp else Method.CONNECT_TCP,
        target=target,
        proved_peer_id=session.peer_id,
    )


def _releaser(
    lease: Lease, also: Callable[[], object] = lambda: None
) -> Callable[[EndReason, str], None]:
    def release(reason: EndReason, detail: str) -> None:
        also()
        lease.release(reason, detail=detail)

    return release


def _refusal(denial: Denial) -> tuple[ErrorCode, int]:
    code = _DENIAL_CODES.get(denial.reason, ErrorCode.UNAUTHENTICATED)
    return code, (denial.retry_after_s or 0) * 1_000
