"""Owns the replacement of a supervisor by its own new code, in the same process.

The process executes itself anew: its pid, its parent and its children stay, so that service
managers, containers and terminals notice nothing. Descriptors stay open across that; what they are
is written to a file in memory. Before it, the new code is asked in a process of its own whether it
can read the configuration, because after it there is no way back.
"""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from typing import cast

import orjson

from masque_relay.contract.errors import OperationRefused
from masque_relay.server.signals import HELD_SIGNALS
from masque_relay.server.worker_start import Json

HANDOVER_VARIABLE = "GHOSTWIRE_HANDOVER"
"""Names the descriptor of the state that was left for us."""
REHEARSAL_VARIABLE = "GHOSTWIRE_REHEARSAL"
"""Set: read everything, say what is wrong, and end."""
STATE_VERSION = 1
"""Raised when the state changes its meaning: then a relay must be stopped and started."""
REHEARSAL_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What one supervisor leaves to the next."""

    state: Json

    @classmethod
    def take(cls) -> "Handover | None":
        """Return what was left for this process, once; None when it was started afresh."""
        descriptor = os.environ.pop(HANDOVER_VARIABLE, None)
        if descriptor is None:
            return None
        with os.fdopen(int(descriptor), "rb") as file:
            state = cast("Json", orjson.loads(file.read()))
        return cls(state=state)


def is_rehearsal() -> bool:
    """Whether we are asked for no more than whether we could start."""
    return REHEARSAL_VARIABLE in os.environ


def rehearsed_version() -> int:
    """Return the version of the state that the running supervisor would leave."""
    return int(os.environ.get(REHEARSAL_VARIABLE, "0"))


async def rehearse() -> None:
    """Let the code that is installed now read the configuration in a process of its own.

    Raises:
        OperationRefused: it can't, and said why.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *sys.orig_argv[1:],
        env={**os.environ, REHEARSAL_VARIABLE: str(STATE_VERSION)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(REHEARSAL_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        output = b"it did not end within a minute"
    if process.returncode != 0:
        lines = output.decode(errors="replace").strip().splitlines()
        raise OperationRefused(
            "restart_refused",
            "the new code or configuration can't be used; nothing was changed",
            hint="mend it and restart again",
            problems=lines[-20:],
        )


def execute_anew(state: Json) -> None:
    """Replace this process by its own command line, with the state; never returns.

    Raises:
        OSError: the interpreter can't be executed.
    """
    descriptor = os.memfd_create("handover", 0)
    os.write(descriptor, orjson.dumps({**state, "version": STATE_VERSION}))
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.set_inheritable(descriptor, True)  # noqa: FBT003 (the system call's own form)
    # What comes before the new code has its handlers waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    environment = {**os.environ, HANDOVER_VARIABLE: str(descriptor)}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606 (our own command line)
