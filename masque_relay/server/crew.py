"""Owns the workers of a relay: their generations, who follows whom, and where packets go meanwhile.

The slots have two halves. One half serves; when the relay is replaced, a new generation starts in
the other half, takes the newcomers once all of it serves, and the old one drains.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import cast

import structlog

from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.control.audit import AuditWriter
from masque_relay.control.revocation import RevocationList
from masque_relay.control.shared_book import BookShape, SharedBook
from masque_relay.control.worker_metrics import Dump, MetricSum
from masque_relay.quic.retry import EndpointSecrets
from masque_relay.quic.slots import SlotRoutes
from masque_relay.server.broker import SocketPool
from masque_relay.server.channel import ChannelError, Fields
from masque_relay.server.neighbours import Mailboxes
from masque_relay.server.source import ConfigSource
from masque_relay.server.worker_process import WorkerProcess, WorkerState, spawn
from masque_relay.server.worker_start import Json, WorkerStart

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewLimits:
    """Deadlines and delays of the supervision of workers."""

    start_timeout_s: float = 60.0
    """A worker loads in a second; a loaded machine with many of them takes longer."""
    answer_timeout_s: float = 5.0
    """A worker answers between two batches of packets; a GC pause is milliseconds."""
    pulse_s: float = 5.0
    """How often counters are fetched: what a crash loses of them."""
    hang_timeout_s: float = 30.0
    """A worker whose event loop stands still for so long is killed and started anew."""
    respawn_delay_s: float = 0.2
    """Before the first new try in a slot; doubled by every further failure …"""
    respawn_delay_max_s: float = 30.0
    """… up to this: a worker that can't start must not keep a core busy."""
    steady_s: float = 60.0
    """A worker that has lived so long was well: the delay begins anew."""
    stop_grace_s: float = 10.0
    """Beyond the drain deadline, for closing; then workers are killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewShare:
    """What all workers are given alike."""

    source: ConfigSource
    secrets: EndpointSecrets
    pool: SocketPool
    mailboxes: Mailboxes
    book: SharedBook
    book_descriptor: int
    book_shape: BookShape
    revocations: RevocationList
    audit: AuditWriter


class Crew:
    """All workers, by slot."""

    def __init__(
        self,
        share: CrewShare,
        routes: SlotRoutes,
        *,
        generation: int,
        limits: CrewLimits,
        group: asyncio.TaskGroup,
    ) -> None:
        """Take the task group in which workers are started anew."""
        self.routes = routes
        self.generation = generation
        """Of the half that serves; counts replacements of the whole relay."""
        self.ends: Counter[tuple[str, ...]] = Counter()
        self.workers: dict[int, WorkerProcess] = {}
        self.is_stopping = False
        """Nobody is started any more."""
        self._share = share
        self._limits = limits
        self._group = group
        self._retired = MetricSum()
        self._failures: Counter[int] = Counter()
        self._changed = asyncio.Event()

    # -- generations ----------------------------------------------------------------------------

    async def start(self) -> WorkerProcess:
        """Start the first generation; return one of it once all serve.

        Raises:
            ConfigError: a worker said why it can't, or ended or hung while it started.
        """
        self.generation += 1
        return await self._start_half(self.routes.serving_half, self.generation)

    async def replace(self) -> WorkerProcess:
        """Start a new generation in the other half, then let the old one drain.

        Raises:
            ConfigError: as :meth:`start`; the old generation goes on as before.
        """
        old_half = self.routes.serving_half
        one = await self._start_half(1 - old_half, self.generation + 1)
        # First everybody knows, then the kernel, then the old ones let go: at each moment whoever
        # gets a packet takes it or knows to whom to give it.
        await self._route(replace(self.routes, serving_half=1 - old_half, is_handover=True))
        self.generation += 1
        count = self.routes.worker_count
        for slot in range((1 - old_half) * count, (2 - old_half) * count):
            if slot not in self.workers:  # it crashed before it was anybody's to start anew
                await self._spawn(slot, self.generation)
        return one

    def retire(self, *, deadline_s: float) -> None:
        """Drain the workers of the half that does not serve."""
        for worker in self.of_half(1 - self.routes.serving_half):
            worker.state = WorkerState.DRAINING
            worker.tell("drain", {"deadline_s": deadline_s})
        self._when_half_is_empty()

    async def adopt(self, known: Iterable[Json]) -> None:
        """Take over the workers of another supervisor process, as :meth:`release` gave them."""
        for item in known:
            pid, slot = cast("int", item["pid"]), cast("int", item["slot"])
            worker = self._process(
                slot, pid, cast("int", item["generation"]), _socket(item["audit"])
            )
            worker.state = WorkerState(cast("str", item["state"]))
            worker.addresses = cast("Fields", item["addresses"])
            worker.metrics = cast("Dump", item["metrics"])
            self.workers[slot] = worker
            await worker.watch(
                _socket(item["control"]), unread=bytes.fromhex(cast("str", item["unread"]))
            )

    async def release(self) -> list[Json]:
        """Let go of all workers, for another supervisor process."""
        self.is_stopping = True
        return [await worker.release() for worker in self.workers.values()]

    # -- all of them ----------------------------------------------------------------------------

    def of_half(self, half: int) -> list[WorkerProcess]:
        """Return the workers of one half."""
        count = self.routes.worker_count
        return [worker for slot, worker in self.workers.items() if slot // count == half]

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that take newcomers."""
        return [
            worker
            for worker in self.of_half(self.routes.serving_half)
            if worker.state is WorkerState.SERVING
        ]

    @property
    def live(self) -> list[WorkerProcess]:
        """Those that can be asked."""
        return [w for w in self.workers.values() if w.state is not WorkerState.STARTING]

    async def ask(
        self,
        workers: Iterable[WorkerProcess],
        op: str,
        fields: Fields | None = None,
        *,
        timeout_s: float | None = None,
    ) -> dict[WorkerProcess, object]:
        """Ask several at once; who does not answer in time is left out."""
        answers: dict[WorkerProcess, object] = {}
        patience_s = self._limits.answer_timeout_s if timeout_s is None else timeout_s

        async def ask_one(worker: WorkerProcess) -> None:
            try:
                answers[worker] = await worker.ask(op, fields, timeout_s=patience_s)
            except ChannelError as error:
                is_well = worker.state is WorkerState.SERVING  # else it may just have ended
                log = _log.warning if is_well else _log.debug
                log("a worker does not answer", slot=worker.slot, op=op, error=str(error))

        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(ask_one(worker))
        return answers

    def tell(self, op: str, fields: Fields | None = None) -> None:
        """Tell all, those that start too: they hear it once they can."""
        for worker in self.workers.values():
            worker.tell(op, fields)

    def states(self) -> Counter[tuple[str, ...]]:
        """Return how many are in which state; for metrics."""
        states = Counter[tuple[str, ...]]({(state.value,): 0 for state in WorkerState})
        states.update((worker.state.value,) for worker in self.workers.values())
        return states

    def retired_metrics(self) -> Dump:
        """Return what workers counted that have ended."""
        return self._retired.dump()

    def add_retired(self, dump: Dump) -> None:
        """Count what ended workers of another supervisor process had counted."""
        self._retired.add(dump, lasting_only=True)

    async def watch_pulses(self) -> None:
        """Fetch counters now and then; kill a worker that stands still. Never returns."""
        while True:
            await asyncio.sleep(self._limits.pulse_s)
            async with asyncio.TaskGroup() as group:
                for worker in self.live:
                    group.create_task(self._pulse(worker))

    async def until_empty(self) -> None:
        """Wait until no worker is left."""
        while self.workers:
            self._changed.clear()
            await self._changed.wait()

    def kill(self) -> None:
        """End all at once."""
        for worker in self.workers.values():
            worker.kill()

    # -- inside ---------------------------------------------------------------------------------

    async def _start_half(self, half: int, generation: int) -> WorkerProcess:
        count = self.routes.worker_count
        slots = range(half * count, (half + 1) * count)
        for slot in slots:
            await self._spawn(slot, generation)
        started = [self.workers[slot] for slot in slots]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.start_timeout_s):
                while not (self._all_serve(started) or self._one_ended(started)):
                    self._changed.clear()
                    await self._changed.wait()
        if self._all_serve(started):
            return started[0]
        if half == self.routes.serving_half:
            self.is_stopping = True  # nobody has been served yet: the relay gives up
        for worker in started:
            worker.kill()
        while any(map(self._is_here, started)):
            self._changed.clear()
            await self._changed.wait()
        problems = next((worker.problems for worker in started if worker.problems), ())
        raise ConfigError(
            [Problem(detail=problem) for problem in problems]
            or [Problem(detail="the workers did not start", hint="the log says why")]
        )

    def _all_serve(self, started: list[WorkerProcess]) -> bool:
        return not self._one_ended(started) and all(
            worker.state is WorkerState.SERVING for worker in started
        )

    def _one_ended(self, started: list[WorkerProcess]) -> bool:
        return not all(map(self._is_here, started))

    def _is_here(self, worker: WorkerProcess) -> bool:
        return self.workers.get(worker.slot) is worker

    async def _spawn(self, slot: int, generation: int) -> None:
        share = self._share
        with share.book.exclusive():
            share.book.clear_segment(slot)
        control, control_end = socket.socketpair()
        broker, broker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        audit, audit_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        start = WorkerStart(
            source=share.source,
            slot=slot,
            routes=self.routes,
            secrets=share.secrets,
            revocations=share.revocations.document(),
            book_shape=share.book_shape,
            book=share.book_descriptor,
            audit=audit_end.fileno(),
            broker=broker_end.fileno(),
            mailbox=share.mailboxes.pairs[slot][0].fileno(),
            mailbox_writers=tuple(writer.fileno() for _, writer in share.mailboxes.pairs),
        )
        with control_end, broker_end, audit_end:
            pid = spawn((str(control_end.fileno()),), (control_end.fileno(), *start.descriptors()))
        worker = self._process(slot, pid, generation, audit)
        self.workers[slot] = worker
        await worker.watch(control, broker=broker)
        worker.serve_broker(share.pool)
        worker.tell("start", start.encode())
        _log.info("worker started", slot=slot, worker_pid=pid, generation=generation)

    def _process(self, slot: int, pid: int, generation: int, audit: socket.socket) -> WorkerProcess:
        return WorkerProcess(
            slot=slot,
            pid=pid,
            generation=generation,
            audit=audit,
            pass_on_audit=self._share.audit.pass_on,
            on_ready=self._on_ready,
            on_end=self._on_end,
        )

    def _on_ready(self, worker: WorkerProcess) -> None:
        # The routes may have changed while it started.
        worker.tell("route", {"routes": asdict(self.routes)})
        self._changed.set()

    def _on_end(self, worker: WorkerProcess, exit_code: int) -> None:
        slot = worker.slot
        if not self._is_here(worker):
            return
        del self.workers[slot]
        self._changed.set()
        self._retired.add(worker.metrics, lasting_only=True)
        book = self._share.book
        with book.exclusive():
            book.clear_segment(slot)
        result = "drained" if exit_code == 0 else "crashed"
        if worker.state is WorkerState.STARTING:
            result = "failed_to_start"
        self.ends[result,] += 1
        is_serving_half = slot // self.routes.worker_count == self.routes.serving_half
        is_replaced = is_serving_half and not self.is_stopping
        log = _log.info if exit_code == 0 else _log.error
        log(
            "worker ended",
            slot=slot,
            worker_pid=worker.pid,
            exit_code=exit_code,
            result=result,
            problems=worker.problems,
            follows=is_replaced,
        )
        if is_replaced:
            self._group.create_task(self._respawn(worker), name=f"respawn {slot}")
        elif not is_serving_half:
            self._when_half_is_empty()

    async def _respawn(self, worker: WorkerProcess) -> None:
        slot, limits = worker.slot, self._limits
        if asyncio.get_running_loop().time() - worker.since_s > limits.steady_s:
            self._failures[slot] = 0
        delay_s = limits.respawn_delay_s * 2.0 ** self._failures[slot]
        self._failures[slot] = min(self._failures[slot] + 1, 16)
        await asyncio.sleep(min(delay_s, limits.respawn_delay_max_s))
        if not self.is_stopping and slot not in self.workers:
            await self._spawn(slot, worker.generation)

    def _when_half_is_empty(self) -> None:
        if self.routes.is_handover and not self.of_half(1 - self.routes.serving_half):
            _log.info("the old workers have ended", generation=self.generation)
            self._group.create_task(
                self._route(replace(self.routes, is_handover=False)), name="end of handover"
            )

    async def _route(self, routes: SlotRoutes) -> None:
        self.routes = routes
        await self.ask(self.live, "route", {"routes": asdict(routes)})
        self._share.pool.route(routes)
        if not routes.is_handover:
            self._share.pool.close_unused()

    async def _pulse(self, worker: WorkerProcess) -> None:
        try:
            answer = await worker.ask("pulse", timeout_s=self._limits.hang_timeout_s)
        except ChannelError as error:
            if self._is_here(worker):
                _log.error("a worker stands still: it is killed", slot=worker.slot, why=str(error))
                worker.kill()
        else:
            worker.metrics = cast("Dump", answer)


def _socket(descriptor: object) -> socket.socket:
    return socket.socket(fileno=cast("int", descriptor))
