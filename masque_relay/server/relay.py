"""Owns the life of a relay: start, serve, reload, drain, end; and what an operator may do to it."""

import asyncio
import platform
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import structlog
from prometheus_client import CollectorRegistry

from masque_relay import __version__
from masque_relay.admin.app import build_admin_app
from masque_relay.admin.errors import ApiError
from masque_relay.config import RelayConfig
from masque_relay.contract.errors import ConfigError, OperationRefused
from masque_relay.contract.ports import Clock, ReceivedBatch, ReloadReport, TunnelSnapshot
from masque_relay.contract.verdict import EndReason
from masque_relay.control.metrics import RelayCollector, build_registry, exposition
from masque_relay.control.revocation import RevocationError
from masque_relay.control.worker_metrics import Dump, dump_families
from masque_relay.server.clock import SystemClock
from masque_relay.server.log import configure_logging
from masque_relay.server.material import Material, load_material
from masque_relay.server.notify import notify, notify_reloading
from masque_relay.server.parts import Parts, endpoint_settings, open_parts
from masque_relay.server.ready_file import remove_ready_files
from masque_relay.server.reload import InForce, Prepared, changes, in_force, needs_restart, prepare
from masque_relay.server.serving import Serving, announce
from masque_relay.server.signals import signals_handled
from masque_relay.server.source import ConfigSource, RelayFiles
from masque_relay.server.surroundings import Surroundings
from masque_relay.server.turn import apply_turn, drain_turn

_log = structlog.get_logger(__name__)

TICK_S = 1.0
"""How exact the gate's deadlines are."""


class Relay:
    """One relay process. Implements contract.ports.Operator; :meth:`run` is its whole life."""

    def __init__(
        self,
        source: ConfigSource,
        config: RelayConfig,
        files: RelayFiles | None = None,
        *,
        on_serving: Callable[[Serving], None] | None = None,
        clock: Clock | None = None,
        surroundings: Surroundings | None = None,
    ) -> None:
        """Take the source to read again at a reload, and what it said at the start."""
        self._surroundings = surroundings or Surroundings()
        self._source = source
        self._start_config = config
        self._config = config
        self._files = files or RelayFiles()
        self._on_serving = on_serving
        self._clock: Clock = clock or SystemClock()
        self._started_s = self._clock.monotonic_s()
        self._parts: Parts | None = None
        self._material: Material | None = None
        self._in_force: InForce | None = None
        self._registry: CollectorRegistry | None = None
        self._restart_needed: tuple[str, ...] = ()
        self._reloads: Counter[tuple[str, ...]] = Counter()
        self._reload_lock = asyncio.Lock()
        self._is_serving = False
        self._drain_wanted = asyncio.Event()
        self._end_wanted = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._drain_deadline_s: float | None = None

    # -- life -----------------------------------------------------------------------------------

    async def run(self, *, handle_signals: bool = True) -> None:
        """Serve until :meth:`drain` or SIGTERM, then end gracefully.

        Raises:
            ConfigError: a file or an address can't be used; nothing was served.
        """
        config = self._config
        async with AsyncExitStack() as stack:
            if handle_signals:
                # First in, last out: a late signal must not change the exit code.
                stack.enter_context(
                    signals_handled(
                        {
                            signal.SIGTERM: self.on_termination,
                            signal.SIGINT: self.on_termination,
                            signal.SIGHUP: self.on_hangup,
                        }
                    )
                )
            material = load_material(config)
            parts = await open_parts(
                stack, config, material, clock=self._clock, surroundings=self._surroundings
            )
            self._parts, self._material = parts, material
            self._in_force = in_force(config, material, parts.gate.policy.digest)
            self._registry = build_registry(self._collector(parts))
            stack.callback(self._no_longer_serving)
            await self._serve(parts, material.admin_token)
        _log.info("ended")

    async def _serve(self, parts: Parts, admin_token: str) -> None:
        """Supervise: if one of these tasks fails, all end and the process with them."""
        config = self._config
        stop_admin = asyncio.Event()
        # The sockets listen already: whoever comes at once waits for a moment.
        self._announce(parts)
        async with asyncio.TaskGroup() as group:
            if parts.admin is not None:
                app = build_admin_app(
                    self,
                    token=admin_token,
                    limits=config.admin.limits,
                    over_unix_socket=parts.admin.is_unix,
                )
                group.create_task(
                    parts.admin.serve(app, config.admin.limits, stop_admin), name="admin"
                )
            helpers = (
                group.create_task(self._tick(parts), name="tick"),
                group.create_task(self._reload_when_wanted(), name="reload"),
            )
            await self._drain_wanted.wait()
            await self._drain(parts)
            for helper in helpers:
                helper.cancel()
            stop_admin.set()

    def _announce(self, parts: Parts) -> None:
        self._is_serving = True
        serving = Serving(
            h3_address=parts.h3_address,
            admin_url="" if parts.admin is None else parts.admin.url,
            admin_token_file=str(self._start_config.admin.token_file),
            https_address=parts.https_address,
        )
        announce(serving, self._files, self._on_serving)

    def _no_longer_serving(self) -> None:
        self._is_serving = False
        remove_ready_files(self._files)

    async def _tick(self, parts: Parts) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                parts.gate.tick()
            except Exception:  # noqa: BLE001 (one lease's bug must not end the others' tunnels)
                _log.exception("tick failed")

    async def _reload_when_wanted(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await self.reload()

    async def _drain(self, parts: Parts) -> None:
        """GOAWAY, refuse new tunnels, wait for the others until the deadline, end the rest."""
        deadline_s = self._drain_deadline_s
        if deadline_s is None:
            deadline_s = self._config.drain.deadline_s
        notify("STOPPING=1", f"STATUS=draining for at most {deadline_s:.0f} s")
        _log.info("draining", deadline_s=deadline_s, tunnels=parts.gate.tunnel_count)
        parts.gate.drain()
        parts.endpoint.drain()
        if parts.mesh is not None:
            parts.mesh.restarting()
        if parts.derp is not None:
            parts.derp.restarting()
        if parts.tcp_front is not None:
            parts.tcp_front.drain()
        async with asyncio.TaskGroup() as group:
            waits = (
                group.create_task(_drain_clients(parts, deadline_s)),
                group.create_task(self._end_wanted.wait()),
            )
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        ended_count = parts.gate.end_all(EndReason.DRAINED)
        _log.info("drained", tunnels_ended=ended_count)

    # -- Operator -------------------------------------------------------------------------------

    def alive(self) -> bool:
        """The event loop turns (this is answered in it) and the listeners are open."""
        return self._is_serving

    def ready(self) -> bool:
        """New tunnels are welcome; False while draining."""
        return self._is_serving and not self._drain_wanted.is_set()

    async def status(self) -> Mapping[str, object]:
        """Versions, listeners, uptime, counts; JSON-ready, without identities."""
        parts = self._wired()
        return {
            "version": __version__,
            "python": platform.python_version(),
            "uptime_s": round(self._clock.monotonic_s() - self._started_s, 1),
            "ready": self.ready(),
            "draining": self._drain_wanted.is_set(),
            "h3": str(parts.h3_address),
            "https": None if parts.https_address is None else str(parts.https_address),
            "turn": None if parts.turn is None else parts.turn.status(),
            "derp": None if parts.derp is None else parts.derp.status(),
            "admin": None if parts.admin is None else parts.admin.url,
            "tunnels": parts.gate.tunnel_count,
            "requests": parts.front_end.request_count,
            "connections": parts.counters.quic.connections_open,
            "connections_fast_path": parts.counters.quic.connections_fast,
            "connections_accelerated": parts.counters.quic.connections_accelerated,
            "tcp_connections": parts.counters.tcp.connections_open,
            "ip_addresses": parts.counters.ip.addresses_assigned,
            "policy": parts.gate.policy.digest,
            "audit_records_lost": parts.audit.lost_count,
            "restart_needed": list(self._restart_needed),
        }

    async def tunnels(self) -> Sequence[TunnelSnapshot]:
        """The live tunnels, oldest first."""
        return self._wired().gate.snapshots()

    async def kick(self, lease_id: str) -> bool:
        """End one tunnel; False if there is none of that id."""
        return self._wired().gate.kick(lease_id)

    async def revoke(self, *, subject: str | None, token_id: str | None) -> int:
        """Refuse a subject or a token id from now on; return how many tunnels that ended.

        Raises:
            ApiError: the tunnels have ended, but the revocation can't be kept.
        """
        try:
            return self._wired().gate.revoke(subject=subject, token_id=token_id)
        except RevocationError as error:
            raise ApiError(
                507,
                "revocation_not_kept",
                f"the tunnels were ended, but: {error}",
                hint="free space, or raise gate.limits.revocations; then revoke again",
            ) from error

    async def reload(self) -> ReloadReport:
        """Read config, policy, keys and certificates again; all or nothing."""
        async with self._reload_lock:
            notify_reloading()
            try:
                report = self.commit_reload(await self.prepare_reload())
            except ConfigError as error:
                problems = tuple(str(problem) for problem in error.problems)
                report = ReloadReport(problems=problems, changed=())
            except Exception as error:  # noqa: BLE001 (a reload never ends a relay that runs)
                _log.exception("reload failed")
                report = ReloadReport(problems=(f"internal error: {error!r}",), changed=())
            finally:
                notify("READY=1")
        self._reloads["refused" if report.problems else "done",] += 1
        if report.problems:
            _log.error("reload refused, nothing was changed", problems=report.problems)
        else:
            _log.info("reloaded", changed=report.changed)
        return report

    async def prepare_reload(self) -> Prepared:
        """Read everything anew; nothing changes.

        Raises:
            ConfigError: with the problems of all files together.
        """
        parts = self._wired()
        config = await asyncio.to_thread(self._source.load)
        return await asyncio.to_thread(prepare, config, parts.gate)

    def commit_reload(self, prepared: Prepared) -> ReloadReport:
        """Put what was read in force; say what changed."""
        parts, config = self._wired(), prepared.config
        before = self._in_force
        material_before = self._material
        if before is None or material_before is None:
            raise RuntimeError("reload before start")
        # Everything is read and good; nothing below fails.
        parts.gate.commit(prepared.gate)
        parts.certificates.refuse_unknown_names = config.tls.refuse_unknown_names
        parts.certificates.replace(
            prepared.material.certificate, prepared.material.more_certificates
        )
        # The shared secrets stay: those made at start are known to this process only.
        self._material = replace(prepared.material, secrets=material_before.secrets)
        parts.endpoint.apply(
            endpoint_settings(
                config,
                self._material,
                parts.certificates,
                applications=parts.applications,
                share=self._surroundings.share,
            )
        )
        parts.front_end.apply_limits(config.http)
        if parts.tcp_front is not None:
            parts.tcp_front.apply_limits(config.tcp)
            if prepared.material.tcp_tls is not None:
                parts.tcp_front.replace_context(prepared.material.tcp_tls)
        if parts.turn is not None:
            apply_turn(parts.turn, config.turn, prepared.material.turn_tls)
        parts.dataplane.resolver.clear_cache()
        configure_logging(config.log.level, config.log.format)
        after = in_force(config, self._material, parts.gate.policy.digest)
        self._in_force, self._config = after, config
        self._restart_needed = needs_restart(self._start_config, config)
        if self._restart_needed:
            _log.warning("changed, but read at start only", sections=self._restart_needed)
        return ReloadReport(problems=(), changed=changes(before, after))

    def drain(self, *, deadline_s: float | None) -> None:
        """Begin the graceful end; returns at once. The first deadline counts."""
        if not self._drain_wanted.is_set():
            self._drain_deadline_s = deadline_s
            self._drain_wanted.set()

    async def restart(self) -> None:
        """Refuse: one process can't hand its connections to another one."""
        raise OperationRefused(
            "one_process",
            "a relay of one process can't be replaced while it runs",
            hint="set workers to 2 or more, or drain it and start it again",
        )

    async def metrics(self) -> bytes:
        """The Prometheus text exposition."""
        if self._registry is None:
            raise RuntimeError("metrics before start")
        return exposition(self._registry)

    # -- what a supervisor asks of a worker ------------------------------------------------------

    def dump_metrics(self) -> Dump:
        """Return all metrics, JSON-ready, to be added to those of other workers."""
        if self._registry is None:
            raise RuntimeError("metrics before start")
        return dump_families(self._registry)

    def holds(self, lease_id: str) -> bool:
        """Whether one of our tunnels has this id."""
        return self._wired().gate.holds(lease_id)

    def revoke_here(self, *, subject: str | None, token_id: str | None) -> tuple[int, float]:
        """Revoke; return how many tunnels that ended, and until when to remember it.

        Raises:
            RevocationError: the list is full; the tunnels have ended all the same.
        """
        gate = self._wired().gate
        until_s = gate.revoked_until_s(token_id)
        return gate.revoke(subject=subject, token_id=token_id), until_s

    def take_handed_over(self, batches: list[ReceivedBatch]) -> None:
        """Take QUIC packets that another worker received."""
        self._wired().endpoint.take_handed_over(batches)

    # -- inside ---------------------------------------------------------------------------------

    def on_hangup(self) -> None:
        """Reload soon; several signals meanwhile are one reload."""
        self._reload_wanted.set()

    def on_termination(self) -> None:
        """Drain at the first SIGTERM or SIGINT, end at once at the second."""
        if self._drain_wanted.is_set():
            _log.warning("a second signal: ending at once")
            self._end_wanted.set()
        self.drain(deadline_s=None)

    def _wired(self) -> Parts:
        if self._parts is None:
            raise RuntimeError("the relay is not running")
        return self._parts

    def _collector(self, parts: Parts) -> RelayCollector:
        gate = parts.gate
        return RelayCollector(
            counters={
                "quic": parts.counters.quic,
                "http": parts.counters.http,
                "tcp": parts.counters.tcp,
                "tunnel": parts.counters.tunnel,
                "bind": parts.counters.bind,
                "ip": parts.counters.ip,
                "flow": parts.counters.flow,
                "turn": parts.counters.turn,
                "mesh": parts.counters.mesh,
                "derp": parts.counters.derp,
                "derp_mesh": parts.counters.derp_mesh,
                "upstream": parts.counters.upstream,
            },
            tallies={
                "decisions": gate.decisions.items,
                "tunnels": lambda: gate.tunnels_open().items(),
                "tunnel_ends": gate.tunnel_ends.items,
                "audit_records_dropped": lambda: [((), parts.audit.lost_count)],
                "reloads": self._reloads.items,
                "ready": lambda: [((), int(self.ready()))],
            },
        )


async def _drain_clients(parts: Parts, deadline_s: float) -> None:
    """Wait until the last tunnel of any transport has ended, or the deadline passes."""
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.front_end.drain(grace_s=deadline_s))
        if parts.turn is not None:
            group.create_task(drain_turn(parts.turn, deadline_s))
