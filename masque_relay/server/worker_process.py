"""Owns one worker as its supervisor sees it: started, spoken to, watched until it ends."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import cast

import structlog

from masque_relay.control.worker_metrics import Dump
from masque_relay.server.broker import SocketPool
from masque_relay.server.channel import Channel, ChannelError, Fields, Question
from masque_relay.server.worker_audit import AuditInlet
from masque_relay.server.worker_start import Json

_log = structlog.get_logger(__name__)

WORKER_COMMAND = (sys.executable, "-P", "-m", "masque_relay.server.worker")
"""``-P``: what lies in the working directory is not our code."""


class WorkerState(StrEnum):
    """Where in its life a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class WorkerProcess:
    """A running process. Its owner hears of its readiness, its failure to start and its end."""

    def __init__(
        self,
        *,
        slot: int,
        pid: int,
        generation: int,
        pass_on_audit: Callable[[bytes], None],
        audit: socket.socket,
        on_ready: Callable[["WorkerProcess"], None],
        on_end: Callable[["WorkerProcess", int], None],
    ) -> None:
        self.slot = slot
        self.pid = pid
        self.generation = generation
        self.state = WorkerState.STARTING
        self.metrics: Dump = []
        """As it last told."""
        self.addresses: Fields = {}
        """What it listens on, once it serves."""
        self.problems: tuple[str, ...] = ()
        """Why it could not start, where its configuration is at fault."""
        self.since_s = asyncio.get_running_loop().time()
        self._on_ready = on_ready
        self._on_end = on_end
        self._channel = Channel(self._on_message, lambda: None)
        self._control: socket.socket | None = None
        self._audit = AuditInlet(audit, pass_on_audit)
        self._broker: socket.socket | None = None
        self._pidfd = -1

    async def watch(
        self, control: socket.socket, *, unread: bytes = b"", broker: socket.socket | None = None
    ) -> None:
        """Begin to listen to it and to wait for its end."""
        loop = asyncio.get_running_loop()
        # A process that was adopted is no child of a subprocess module; this works for any child.
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._reap)
        self._control = control
        self._audit.open()
        # A copy: the transport closes its own when the other end is gone.
        await self._channel.open(control.dup(), unread=unread)
        self._broker = broker

    def serve_broker(self, pool: SocketPool) -> None:
        """Give it the sockets that it asks for, until it has all."""
        broker = self._broker
        if broker is None:
            return
        broker.settimeout(0)
        loop = asyncio.get_running_loop()

        def answer() -> None:
            with suppress(BlockingIOError):
                if not pool.answer(broker, self.slot):
                    self._close_broker()

        loop.add_reader(broker.fileno(), answer)

    async def ask(self, op: str, fields: Fields | None = None, *, timeout_s: float) -> object:
        """Return its answer.

        Raises:
            ChannelError: there is none.
        """
        return await self._channel.ask(op, fields, timeout_s=timeout_s)

    def tell(self, op: str, fields: Fields | None = None) -> None:
        """Tell it something; nothing if it is gone."""
        with suppress(ChannelError):
            self._channel.tell(op, fields)

    def kill(self) -> None:
        """End it at once; nothing if it has ended."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def release(self) -> Json:
        """Stop listening; return what who takes over must know."""
        unread = await self._channel.release()
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        self._audit.release()
        control = cast("socket.socket", self._control)
        return {
            "slot": self.slot,
            "pid": self.pid,
            "generation": self.generation,
            "state": self.state.value,
            "addresses": self.addresses,
            "metrics": self.metrics,
            "control": control.fileno(),
            "audit": self._audit.end.fileno(),
            "unread": unread.hex(),
        }

    # -- what it says ---------------------------------------------------------------------------

    def _on_message(self, message: Question) -> None:
        match message.op:
            case "ready":
                self.addresses = message.fields
                self.state = WorkerState.SERVING
                self._on_ready(self)
            case "failed":
                self.problems = tuple(cast("list[str]", message.fields["problems"]))
            case "bye":
                self.metrics = cast("Dump", message.fields["metrics"])
            case _:
                _log.error("bug: a worker said something unknown", op=message.op)

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        _, status = os.waitpid(self.pid, 0)
        os.close(self._pidfd)
        self._pidfd = -1
        # In a turn of its own: its last words may still be in the channel.
        loop.call_soon(self._ended, os.waitstatus_to_exitcode(status))

    def _ended(self, exit_code: int) -> None:
        self._audit.close()
        self._channel.close()
        self._close_broker()
        if self._control is not None:
            self._control.close()
        self._on_end(self, exit_code)

    def _close_broker(self) -> None:
        if self._broker is not None:
            asyncio.get_running_loop().remove_reader(self._broker.fileno())
            self._broker.close()
            self._broker = None


def spawn(arguments: tuple[str, ...], inherited: tuple[int, ...]) -> int:
    """Start a worker process that inherits these descriptors and no other; return its pid.

    A process of a session of its own: Ctrl-C in a terminal is for the supervisor.
    """
    for descriptor in inherited:
        os.set_inheritable(descriptor, True)  # noqa: FBT003 (the system call's own form)
    try:
        return os.posix_spawn(
            WORKER_COMMAND[0], [*WORKER_COMMAND, *arguments], os.environ, setsid=True
        )
    finally:
        for descriptor in inherited:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 (the system call's own form)
