"""Owns the count of Python's work per relayed datagram: ``python -m tests.bench.work_count``.

A clock on a busy machine cannot see a regression of ten per cent; the number of bytecode
instructions that the interpreter executes can, and is the same in every run. It does not see time
inside of C: ciphers and system calls.
"""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from masque_relay.quic.accelerator import is_compiled
from masque_relay.quic.limits import FastPath, QuicLimits, RetryMode
from tests.bench.memory_rig import MemoryRig, memory_rig

WARM_UP_PACKETS = 300
"""Slow start, path MTU discovery and quick acknowledgements are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is counted."""

    name: str
    way: str
    connections: int
    burst: int
    """Datagrams of each connection in a turn."""
    rounds: int
    """Each of 2 ms."""


LOADS = (
    Load(name="thin up", way="upload", connections=10, burst=1, rounds=50),
    Load(name="thin down", way="download", connections=10, burst=1, rounds=50),
    Load(name="bulk up", way="upload", connections=1, burst=50, rounds=20),
    Load(name="bulk down", way="download", connections=1, burst=50, rounds=20),
)


class Counter:
    """Counts bytecode instructions while a function runs."""

    def __init__(self) -> None:
        self.instruction_count = 0

    def measure(self, call: Callable[[], object]) -> None:
        """Call it and add what it took."""
        sys.settrace(self._on_call)
        try:
            call()
        finally:
            sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._on_instruction

    def _on_instruction(self, frame: FrameType, event: str, argument: object) -> Any:
        del frame, argument
        if event == "opcode":
            self.instruction_count += 1
        return self._on_instruction


async def count(load: Load, *, accelerator: bool = False) -> float:
    """Return the bytecode instructions of the relay per relayed datagram."""
    counter = Counter()
    limits = QuicLimits(retry_mode=RetryMode.NEVER, fast_path=FastPath.ON, accelerator=accelerator)
    async with memory_rig(load.connections, limits=limits) as rig:
        run = _runner(rig, load.way)
        run(WARM_UP_PACKETS // load.burst + 1, load.burst, bytes(1200), lambda call: call())
        run(load.rounds, load.burst, bytes(1200), counter.measure)
    return counter.instruction_count / (load.connections * load.burst * load.rounds)


def _runner(rig: MemoryRig, way: str) -> Callable[..., None]:
    return rig.upload if way == "upload" else rig.download


def main() -> None:
    """Print the counts, in pure Python and with the accelerator if it is compiled."""
    for accelerator in (False, True)[: 1 + is_compiled()]:
        for load in LOADS:
            found = asyncio.run(count(load, accelerator=accelerator))
            suffix = ", accelerator" * accelerator
            print(f"{load.name}{suffix}: {found:.0f}")  # noqa: T201 - its output


if __name__ == "__main__":
    main()
