"""Owns the life of a relay of several workers: start, serve, reload, drain, be replaced, end."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from ipaddress import ip_address
from typing import cast

import structlog

from masque_relay.admin.app import build_admin_app
from masque_relay.admin.listener import AdminListener
from masque_relay.config import RelayConfig
from masque_relay.contract.address import Endpoint
from masque_relay.contract.errors import ConfigError, OperationRefused, Problem, leaves
from masque_relay.control.audit import AuditWriter, open_audit_trail
from masque_relay.server.check import check_files
from masque_relay.server.crew import Crew, CrewLimits
from masque_relay.server.estate import (
    Estate,
    leave_estate,
    make_estate,
    take_admin,
    take_counts,
    take_estate,
)
from masque_relay.server.fleet import Fleet
from masque_relay.server.handover import Handover, execute_anew
from masque_relay.server.material import Material, load_material
from masque_relay.server.notify import notify, notify_reloading
from masque_relay.server.parts import bind_admin
from masque_relay.server.ready_file import remove_ready_files
from masque_relay.server.serving import Serving, announce
from masque_relay.server.signals import signals_handled
from masque_relay.server.source import ConfigSource, RelayFiles
from masque_relay.server.worker_process import WorkerProcess
from masque_relay.server.worker_start import Json

_log = structlog.get_logger(__name__)


class Supervisor:
    """The one process of a relay that starts and watches its workers; has the admin plane."""

    def __init__(
        self,
        source: ConfigSource,
        config: RelayConfig,
        files: RelayFiles | None = None,
        *,
        worker_count: int,
        on_serving: Callable[[Serving], None] | None = None,
        handover: Handover | None = None,
        limits: CrewLimits | None = None,
    ) -> None:
        """Take what to start with, or what another supervisor has left."""
        self._source = source
        self._config = config
        self._files = files or RelayFiles()
        self._worker_count = worker_count
        self._on_serving = on_serving
        self._state: Json | None = None if handover is None else handover.state
        self._limits = limits or CrewLimits()
        self._fleet: Fleet | None = None
        self._drain_wanted = asyncio.Event()
        self._drain_deadline_s: float | None = None
        self._end_wanted = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._restart_wanted = asyncio.Event()
        self._leave_wanted = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or a drain, or until we are replaced: then this does not return.

        Raises:
            ConfigError: a file or an address can't be used; nothing was served.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(
                signals_handled(
                    {
                        signal.SIGTERM: self._on_termination,
                        signal.SIGINT: self._on_termination,
                        signal.SIGHUP: self._reload_wanted.set,
                        signal.SIGUSR2: self._restart_wanted.set,
                    }
                )
            )
            if self._state is None:
                await asyncio.to_thread(check_files, self._config)
            material = load_material(self._config)
            admin = self._open_admin()
            stack.callback(admin.close)
            audit = open_audit_trail(self._config.audit)
            stack.callback(audit.close)
            estate = self._open_estate(material, audit)
            stack.callback(estate.close)
            problems: list[Problem] = []
            left: Json | None = None
            try:
                left = await self._serve(estate, material.admin_token, admin)
            except* ConfigError as errors:
                problems = [p for error in leaves(errors) for p in error.problems]
            if problems:
                raise ConfigError(dict.fromkeys(problems))
            if left is not None:
                audit.close()
                stack.pop_all()  # everything stays open for who follows
                execute_anew(left)
        _log.info("ended")

    async def _serve(self, estate: Estate, admin_token: str, admin: AdminListener) -> Json | None:
        """Run everything; return what to leave to who follows us, None at the end."""
        stop_admin = asyncio.Event()
        left: Json | None = None
        with admin.second_socket() as second_admin:
            async with asyncio.TaskGroup() as group:
                crew, fleet = await self._open_crew(estate, group)
                begin = group.create_task(self._begin(crew, fleet, admin), name="begin")
                if self._state is None:
                    await begin
                app = build_admin_app(
                    fleet,
                    token=admin_token,
                    limits=self._config.admin.limits,
                    over_unix_socket=admin.is_unix,
                )
                serving = group.create_task(
                    admin.serve(app, self._config.admin.limits, stop_admin), name="admin"
                )
                helpers = (
                    begin,
                    group.create_task(crew.watch_pulses(), name="pulses"),
                    group.create_task(self._reload_when_wanted(fleet), name="reload"),
                    group.create_task(self._restart_when_wanted(fleet), name="restart"),
                )
                await self._until_drain_or_leave(group)
                if self._leave_wanted.is_set():
                    admin.leaves_path = True
                    notify_reloading()
                else:
                    await self._drain_crew(crew, group)
                for helper in helpers:
                    helper.cancel()
                stop_admin.set()
                await serving
                if self._leave_wanted.is_set():
                    left = await leave_estate(estate, crew, fleet, admin.url, second_admin)
                    second_admin.detach()
                else:
                    fleet.serving = None
                    remove_ready_files(self._files)
        return left

    async def _open_crew(self, estate: Estate, group: asyncio.TaskGroup) -> tuple[Crew, Fleet]:
        crew = Crew(
            estate.share,
            estate.routes,
            generation=estate.generation,
            limits=self._limits,
            group=group,
        )
        fleet = self._fleet = Fleet(
            crew,
            source=self._source,
            config=self._config,
            audit=estate.share.audit,
            revocations=estate.share.revocations,
            on_drain=self._drain,
            on_restart=self._leave_wanted.set,
        )
        if self._state is not None:
            take_counts(self._state, crew, fleet)
            await crew.adopt(cast("list[Json]", self._state["workers"]))
        return crew, fleet

    async def _begin(self, crew: Crew, fleet: Fleet, admin: AdminListener) -> None:
        """Start the first generation, or the one that replaces the workers that we were left."""
        if self._state is None:
            fleet.serving = self._where(await crew.start(), admin)
            announce(fleet.serving, self._files, self._on_serving)
            return
        fleet.serving = self._where(crew.serving[0], admin)
        try:
            fleet.serving = self._where(await crew.replace(), admin)
        except ConfigError as error:
            fleet.restarts["failed",] += 1
            problems = [str(problem) for problem in error.problems]
            _log.error("the new workers did not start: the old ones go on", problems=problems)
        else:
            fleet.restarts["done",] += 1
            crew.retire(deadline_s=self._config.drain.restart_deadline_s)
        announce(fleet.serving, self._files, None)

    def _where(self, worker: WorkerProcess, admin: AdminListener) -> Serving:
        https = cast("str | None", worker.addresses["https"])
        return Serving(
            h3_address=_endpoint(cast("str", worker.addresses["h3"])),
            admin_url=admin.url,
            admin_token_file=str(self._config.admin.token_file),
            https_address=None if https is None else _endpoint(https),
            worker_count=self._worker_count,
        )

    # -- the end --------------------------------------------------------------------------------

    async def _until_drain_or_leave(self, group: asyncio.TaskGroup) -> None:
        waits = [
            group.create_task(self._drain_wanted.wait()),
            group.create_task(self._leave_wanted.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _drain_crew(self, crew: Crew, group: asyncio.TaskGroup) -> None:
        deadline_s = self._drain_deadline_s
        if deadline_s is None:
            deadline_s = self._config.drain.deadline_s
        notify("STOPPING=1", f"STATUS=draining for at most {deadline_s:.0f} s")
        _log.info("draining", deadline_s=deadline_s)
        crew.is_stopping = True
        crew.tell("drain", {"deadline_s": deadline_s})
        empty = group.create_task(crew.until_empty())
        ended = group.create_task(self._end_wanted.wait())
        patience_s = deadline_s + self._limits.stop_grace_s
        await asyncio.wait((empty, ended), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not empty.done():
            crew.tell("end")
            await asyncio.wait((empty,), timeout=self._limits.stop_grace_s)
        if not empty.done():
            _log.error("workers did not end: they are killed")
            crew.kill()
        await empty
        _log.info("drained")

    def _drain(self, deadline_s: float | None) -> None:
        self._drain_deadline_s = deadline_s
        self._drain_wanted.set()

    def _on_termination(self) -> None:
        if self._drain_wanted.is_set():
            _log.warning("a second signal: ending at once")
            self._end_wanted.set()
        if self._fleet is not None:
            self._fleet.drain(deadline_s=None)
        else:
            self._drain_wanted.set()

    async def _reload_when_wanted(self, fleet: Fleet) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            await fleet.reload()

    async def _restart_when_wanted(self, fleet: Fleet) -> None:
        while True:
            await self._restart_wanted.wait()
            self._restart_wanted.clear()
            try:
                await fleet.restart()
            except OperationRefused as error:
                _log.error("not restarted", reason=str(error), hint=error.hint)

    # -- from one supervisor to the next --------------------------------------------------------

    def _open_admin(self) -> AdminListener:
        if self._state is None:
            return bind_admin(self._config)
        return take_admin(self._state, self._config)

    def _open_estate(self, material: Material, audit: AuditWriter) -> Estate:
        if self._state is None:
            return make_estate(
                self._config, self._source, material, audit, worker_count=self._worker_count
            )
        estate = take_estate(self._state, self._config, self._source, material, audit)
        if estate.routes.worker_count != self._worker_count:
            _log.warning(
                "a restart keeps the number of workers",
                workers=estate.routes.worker_count,
                wanted=self._worker_count,
                hint="stop the relay and start it to change the number",
            )
            self._worker_count = estate.routes.worker_count
        return estate


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition(":")
    return Endpoint(address=ip_address(host.strip("[]")), port=int(port))
