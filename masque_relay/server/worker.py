"""Owns a worker process: a relay without an admin plane, which does what its supervisor asks.

Started as ``python -m masque_relay.server.worker DESCRIPTOR``, the descriptor being its end of the
channel. When the supervisor is gone it drains and ends: nobody would replace it or count for it.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import cast

import structlog

from masque_relay.contract.errors import ConfigError, leaves
from masque_relay.control.revocation import RevocationError, RevocationList
from masque_relay.control.shared_book import SharedBook
from masque_relay.quic.slots import connection_ids
from masque_relay.server.broker import BrokeredListeners
from masque_relay.server.channel import Channel, ChannelError, Fields, Question
from masque_relay.server.log import configure_logging
from masque_relay.server.neighbours import MailboxNeighbours
from masque_relay.server.relay import Relay
from masque_relay.server.reload import Prepared
from masque_relay.server.serving import Serving
from masque_relay.server.surroundings import Surroundings, WorkerShare
from masque_relay.server.worker_audit import AuditPipe
from masque_relay.server.worker_start import WorkerStart, decode_routes

BAD_CONFIGURATION_EXIT = 2

_log = structlog.get_logger(__name__)


class Worker:
    """One worker. :meth:`run` is its whole life."""

    def __init__(self) -> None:
        self._channel = Channel(self._on_question, self._on_lost)
        self._started: asyncio.Future[WorkerStart] = asyncio.get_running_loop().create_future()
        self._questions: asyncio.Queue[Question] = asyncio.Queue()  # bounded by the channel's asker
        self._relay: Relay | None = None
        self._neighbours: MailboxNeighbours | None = None
        self._listeners: BrokeredListeners | None = None
        self._prepared: Prepared | None = None

    async def run(self, end: socket.socket) -> int:
        """Serve until drained; return the exit code."""
        await self._channel.open(end)
        try:
            start = await self._started
        except asyncio.CancelledError:
            return 0  # the supervisor ended before we began
        structlog.contextvars.bind_contextvars(worker=start.slot)
        problems: list[str] = []
        try:
            await self._serve(start)
        except* ConfigError as errors:
            problems = [str(problem) for error in leaves(errors) for problem in error.problems]
        if problems:
            self._tell("failed", {"problems": problems})
        elif self._relay is not None:
            self._tell("bye", {"metrics": self._relay.dump_metrics()})
        await self._channel.release()
        return BAD_CONFIGURATION_EXIT if problems else 0

    async def _serve(self, start: WorkerStart) -> None:
        config = await asyncio.to_thread(start.source.load)
        configure_logging(config.log.level, config.log.format)
        surroundings = self._surroundings(start, config.gate.limits.revocations)
        relay = self._relay = Relay(
            start.source, config, on_serving=self._on_serving, surroundings=surroundings
        )
        async with asyncio.TaskGroup() as group:
            answering = group.create_task(self._answer_questions(), name="questions")
            await relay.run()
            answering.cancel()

    def _surroundings(self, start: WorkerStart, max_revocations: int) -> Surroundings:
        for descriptor in start.descriptors():
            os.set_inheritable(descriptor, False)  # noqa: FBT003 (the system call's own form)
        self._neighbours = MailboxNeighbours(
            start.slot,
            start.routes,
            reader=socket.socket(fileno=start.mailbox),
            writers=[socket.socket(fileno=writer) for writer in start.mailbox_writers],
        )
        self._listeners = BrokeredListeners(socket.socket(fileno=start.broker))
        return Surroundings(
            listeners=self._listeners,
            share=WorkerShare(
                slot=start.slot,
                new_connection_id=connection_ids(start.slot, start.routes.slot_count),
                neighbours=self._neighbours,
                secrets=start.secrets,
                audit=AuditPipe(socket.socket(fileno=start.audit)),
                book=SharedBook(start.book, start.book_shape, segment=start.slot),
                revocations=RevocationList.from_document(
                    start.revocations, max_entries=max_revocations
                ),
            ),
        )

    def _on_serving(self, serving: Serving) -> None:
        relay = self._required()
        if self._neighbours is not None:
            self._neighbours.open(relay.take_handed_over)
        if self._listeners is not None:
            self._listeners.close()
        self._tell(
            "ready",
            {
                "h3": str(serving.h3_address),
                "https": None if serving.https_address is None else str(serving.https_address),
            },
        )

    # -- the channel ----------------------------------------------------------------------------

    def _on_question(self, question: Question) -> None:
        if question.op == "start":
            self._started.set_result(WorkerStart.decode(question.fields))
        else:
            self._questions.put_nowait(question)

    def _on_lost(self) -> None:
        if not self._started.done():
            self._started.cancel()
        elif self._relay is not None:
            self._relay.drain(deadline_s=None)

    async def _answer_questions(self) -> None:
        """One after another: what came first is in force first."""
        while True:
            question = await self._questions.get()
            try:
                self._channel.answer(question, await self._answers[question.op](self, question))
            except Exception as error:  # noqa: BLE001 (whoever asked learns of it)
                _log.exception("a question of the supervisor failed", op=question.op)
                self._channel.answer_failed(question, repr(error))

    def _tell(self, op: str, fields: Fields) -> None:
        try:
            self._channel.tell(op, fields)
        except ChannelError:
            _log.warning("the supervisor is gone")

    def _required(self) -> Relay:
        if self._relay is None:
            raise RuntimeError("asked before start")
        return self._relay

    # -- answers --------------------------------------------------------------------------------

    async def _pulse(self, _: Question) -> object:
        return self._required().dump_metrics()

    async def _status(self, _: Question) -> object:
        return dict(await self._required().status())

    async def _tunnels(self, _: Question) -> object:
        return [asdict(tunnel) for tunnel in await self._required().tunnels()]

    async def _holds(self, question: Question) -> object:
        return self._required().holds(cast("str", question.fields["lease_id"]))

    async def _kick(self, question: Question) -> object:
        return await self._required().kick(cast("str", question.fields["lease_id"]))

    async def _revoke(self, question: Question) -> object:
        subject = cast("str | None", question.fields["subject"])
        token_id = cast("str | None", question.fields["token_id"])
        try:
            ended, until_s = self._required().revoke_here(subject=subject, token_id=token_id)
        except RevocationError as error:
            return {"ended": 0, "until_s": 0.0, "trouble": str(error)}
        return {"ended": ended, "until_s": until_s, "trouble": None}

    async def _prepare(self, _: Question) -> object:
        try:
            self._prepared = await self._required().prepare_reload()
        except ConfigError as error:
            self._prepared = None
            return [str(problem) for problem in error.problems]
        return []

    async def _commit(self, _: Question) -> object:
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            raise RuntimeError("nothing is prepared")
        return self._required().commit_reload(prepared).changed

    async def _abort(self, _: Question) -> object:
        self._prepared = None
        return None

    async def _route(self, question: Question) -> object:
        if self._neighbours is not None:
            self._neighbours.routes = decode_routes(question.fields["routes"])
        return None

    async def _drain(self, question: Question) -> object:
        self._required().drain(deadline_s=cast("float | None", question.fields["deadline_s"]))
        return None

    async def _end(self, _: Question) -> object:
        self._required().on_termination()
        self._required().on_termination()
        return None

    _answers: "dict[str, Callable[[Worker, Question], Awaitable[object]]]" = {  # noqa: RUF012 (never changed)
        "pulse": _pulse,
        "status": _status,
        "tunnels": _tunnels,
        "holds": _holds,
        "kick": _kick,
        "revoke": _revoke,
        "prepare": _prepare,
        "commit": _commit,
        "abort": _abort,
        "route": _route,
        "drain": _drain,
        "end": _end,
    }


async def _main() -> int:
    return await Worker().run(socket.socket(fileno=int(sys.argv[1])))


def main() -> None:
    """Run a worker until it has drained."""
    # What the service manager asks is the supervisor's to answer.
    os.environ.pop("NOTIFY_SOCKET", None)
    sys.exit(asyncio.run(_main()))


if __name__ == "__main__":
    main()
