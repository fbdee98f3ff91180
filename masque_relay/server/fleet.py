"""Owns what an operator may do to a relay of several workers: ask all, add up, fan out."""

import asyncio
import platform
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import structlog

from masque_relay import __version__
from masque_relay.admin.errors import ApiError
from masque_relay.config import RelayConfig
from masque_relay.contract.errors import ConfigError, OperationRefused
from masque_relay.contract.ports import ReloadReport, TunnelSnapshot
from masque_relay.control.audit import AuditWriter
from masque_relay.control.metrics import exposition
from masque_relay.control.revocation import RevocationError, RevocationList
from masque_relay.control.worker_metrics import Dump, build_sum
from masque_relay.server.crew import Crew
from masque_relay.server.handover import rehearse
from masque_relay.server.log import configure_logging
from masque_relay.server.notify import notify, notify_reloading
from masque_relay.server.reload import needs_restart
from masque_relay.server.serving import Serving
from masque_relay.server.source import ConfigSource
from masque_relay.server.worker_process import WorkerProcess

_log = structlog.get_logger(__name__)

PREPARE_TIMEOUT_S = 30.0
"""Reading every file anew: certificates, keys and policies of thousands of rules included."""
_WORKER_COUNTS = ("tunnels", "requests", "connections", "tcp_connections")
"""What a worker's line in the status has."""


class Fleet:
    """Implements contract.ports.Operator for a supervisor."""

    def __init__(
        self,
        crew: Crew,
        *,
        source: ConfigSource,
        config: RelayConfig,
        audit: AuditWriter,
        revocations: RevocationList,
        on_drain: Callable[[float | None], None],
        on_restart: Callable[[], None],
    ) -> None:
        self.serving: Serving | None = None
        """Where the relay is to be found; None before it serves."""
        self.is_draining = False
        self.restarts: Counter[tuple[str, ...]] = Counter()
        self.reloads: Counter[tuple[str, ...]] = Counter()
        self.is_restarting = False
        self._crew = crew
        self._source = source
        self._start_config = config
        self._audit = audit
        self._revocations = revocations
        self._on_drain = on_drain
        self._on_restart = on_restart
        self._restart_needed: tuple[str, ...] = ()
        self._started_s = time.monotonic()
        self._lock = asyncio.Lock()

    # -- Operator -------------------------------------------------------------------------------

    def alive(self) -> bool:
        """The supervisor turns and a worker serves, or is about to again."""
        return self.serving is not None

    def ready(self) -> bool:
        """New tunnels are welcome; False while draining and while no worker serves."""
        return self.serving is not None and not self.is_draining and bool(self._crew.serving)

    async def status(self) -> Mapping[str, object]:
        """Versions, listeners, uptime, counts over all workers, and a line for each."""
        serving = self.serving
        if serving is None:
            raise RuntimeError("status before start")
        told = await self._ask("status")
        counts: Counter[str] = Counter()
        for status in told.values():
            for key, value in status.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    counts[key] += value
        policies = [told[worker]["policy"] for worker in self._crew.serving if worker in told]
        return {
            "version": __version__,
            "python": platform.python_version(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "ready": self.ready(),
            "draining": self.is_draining,
            "h3": str(serving.h3_address),
            "https": None if serving.https_address is None else str(serving.https_address),
            "admin": serving.admin_url,
            **counts,
            "policy": policies[0] if policies else None,
            "audit_records_lost": counts["audit_records_lost"] + self._audit.lost_count,
            "restart_needed": list(self._restart_needed),
            "generation": self._crew.generation,
            "handover": self._crew.routes.is_handover,
            "restarts": {result: count for (result,), count in self.restarts.items()},
            "worker_ends": {result: count for (result,), count in self._crew.ends.items()},
            "workers": [
                {
                    "slot": worker.slot,
                    "pid": worker.pid,
                    "generation": worker.generation,
                    "state": worker.state.value,
                    **{key: told.get(worker, {}).get(key) for key in _WORKER_COUNTS},
                }
                for worker in sorted(self._crew.workers.values(), key=lambda worker: worker.slot)
            ],
        }

    async def tunnels(self) -> Sequence[TunnelSnapshot]:
        """The live tunnels of all workers, oldest first."""
        answers = await self._crew.ask(self._crew.live, "tunnels")
        tunnels = [
            TunnelSnapshot(**fields)
            for answer in answers.values()
            for fields in cast("list[dict[str, Any]]", answer)
        ]
        return sorted(tunnels, key=lambda tunnel: -tunnel.age_s)

    async def kick(self, lease_id: str) -> bool:
        """End one tunnel, whichever worker has it."""
        fields: dict[str, object] = {"lease_id": lease_id}
        holders = await self._crew.ask(self._crew.live, "holds", fields)
        # Nobody: one of them writes the record all the same, as a relay of one process does.
        holding = [worker for worker, holds in holders.items() if holds] or self._crew.serving[:1]
        return any((await self._crew.ask(holding, "kick", fields)).values())

    async def revoke(self, *, subject: str | None, token_id: str | None) -> int:
        """Refuse a subject or a token id everywhere from now on; return how many tunnels ended.

        Raises:
            ApiError: the tunnels have ended, but the revocation can't be kept, or a worker did
                not answer.
        """
        # The list first: a worker that starts in between is given it.
        trouble = self._remember(subject, token_id, 0.0)
        workers, fields = self._crew.live, {"subject": subject, "token_id": token_id}
        for worker in self._crew.workers.values():
            if worker not in workers:
                worker.tell("revoke", dict(fields))
        answers = await self._crew.ask(workers, "revoke", dict(fields))
        told = [cast("dict[str, object]", answer) for answer in answers.values()]
        until_s = max((cast("float", answer["until_s"]) for answer in told), default=0.0)
        trouble = self._remember(subject, token_id, until_s) or trouble
        trouble = next((str(a["trouble"]) for a in told if a["trouble"]), None) or trouble
        missing = [worker.slot for worker in workers if worker not in answers]
        if trouble is not None or missing:
            raise ApiError(
                507,
                "revocation_not_kept",
                f"the tunnels were ended, but: {trouble or f'workers {missing} did not answer'}",
                hint="free space, or raise gate.limits.revocations; then revoke again",
            )
        return sum(cast("int", answer["ended"]) for answer in told)

    async def reload(self) -> ReloadReport:
        """Let every worker read everything again; all of them change or none."""
        async with self._lock:
            notify_reloading()
            try:
                report = await self._reload()
            except Exception as error:  # noqa: BLE001 (a reload never ends a relay that runs)
                _log.exception("reload failed")
                report = ReloadReport(problems=(f"internal error: {error!r}",), changed=())
            finally:
                notify("READY=1")
        self.reloads["refused" if report.problems else "done",] += 1
        if report.problems:
            _log.error("reload refused, nothing was changed", problems=report.problems)
        else:
            _log.info("reloaded", changed=report.changed)
        return report

    def drain(self, *, deadline_s: float | None) -> None:
        """Begin the graceful end; returns at once. The first deadline counts."""
        if not self.is_draining:
            self.is_draining = True
            self._on_drain(deadline_s)

    async def restart(self) -> None:
        """Replace the relay's processes by new ones.

        Raises:
            OperationRefused: it can't be, and nothing was changed.
        """
        async with self._lock:
            self._refuse_restart()
            try:
                await rehearse()
            except OperationRefused as error:
                self.restarts["refused",] += 1
                _log.error("restart refused, nothing was changed", problems=error.problems)
                raise
            self._refuse_restart()
            self.restarts["begun",] += 1
            self.is_restarting = True
            self._on_restart()

    def _refuse_restart(self) -> None:
        if self.is_draining or self.is_restarting:
            raise OperationRefused("draining", "the relay is ending or being replaced already")
        if self._crew.routes.is_handover:
            raise OperationRefused(
                "still_draining",
                "tunnels of the replacement before this one are still open",
                hint="wait for drain.restart_deadline_s, or kick them; relay status shows them",
            )
        if len(self._crew.serving) < self._crew.routes.worker_count:
            raise OperationRefused(
                "worker_missing",
                "not all workers serve",
                hint="wait until they do; relay status and the log show why they don't",
            )

    async def metrics(self) -> bytes:
        """The Prometheus text exposition: counters and gauges of all workers, added up."""
        answers = await self._crew.ask(self._crew.live, "pulse")
        for worker, answer in answers.items():
            worker.metrics = cast("Dump", answer)
        return exposition(
            build_sum(
                [worker.metrics for worker in self._crew.live],
                self._crew.retired_metrics(),
                {
                    "workers": self._crew.states().items,
                    "worker_ends": self._crew.ends.items,
                    "restarts": self.restarts.items,
                    "ready": lambda: [((), int(self.ready()))],
                    "reloads": self.reloads.items,
                },
            )
        )

    # -- inside ---------------------------------------------------------------------------------

    async def _ask(self, op: str) -> dict[WorkerProcess, dict[str, object]]:
        answers = await self._crew.ask(self._crew.live, op)
        return {worker: cast("dict[str, object]", answer) for worker, answer in answers.items()}

    def _remember(self, subject: str | None, token_id: str | None, until_s: float) -> str | None:
        """Keep a revocation for workers to come; return what is in the way."""
        now_s = time.time()
        keep_s = now_s + self._start_config.gate.limits.revocation_keep_s
        try:
            self._revocations.revoke(
                subject=subject or None,
                token_id=token_id or None,
                until_s=until_s or keep_s,
                now_s=now_s,
            )
        except RevocationError as error:
            return str(error)
        return None

    async def _reload(self) -> ReloadReport:
        try:
            config = await asyncio.to_thread(self._source.load)
        except ConfigError as error:
            return ReloadReport(problems=tuple(map(str, error.problems)), changed=())
        serving = self._crew.serving
        prepared = await self._crew.ask(serving, "prepare", timeout_s=PREPARE_TIMEOUT_S)
        problems = {p: None for answer in prepared.values() for p in cast("list[str]", answer)}
        if len(prepared) < len(serving):
            problems["a worker did not answer"] = None
        if problems:
            await self._crew.ask(prepared, "abort")
            return ReloadReport(problems=tuple(problems), changed=())
        committed = await self._crew.ask(prepared, "commit")
        # Old workers that drain keep their tunnels by the new policy too, where they can read it.
        draining = [worker for worker in self._crew.live if worker not in prepared]
        willing = [
            w
            for w, found in (
                await self._crew.ask(draining, "prepare", timeout_s=PREPARE_TIMEOUT_S)
            ).items()
            if not found
        ]
        await self._crew.ask(willing, "commit")
        configure_logging(config.log.level, config.log.format)
        self._restart_needed = needs_restart(self._start_config, config)
        if self._restart_needed:
            _log.warning("changed, but read at start only", sections=self._restart_needed)
        changed = {w: None for answer in committed.values() for w in cast("list[str]", answer)}
        return ReloadReport(problems=(), changed=tuple(changed))
