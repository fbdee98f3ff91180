"""Owns the measuring of round trips at a gentle rate, on one path or on two in the same seconds."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from secrets import token_bytes

from masque_relay.client.bench.figures import RoundTripFigures
from masque_relay.client.bench.path import EchoPath
from masque_relay.client.bench.probe import MIN_PROBE_BYTES, NONCE_BYTES, Probes
from masque_relay.contract.ports import Clock

RATE_PER_S = 200
"""A call or a game; nothing waits behind anything else."""
LOST_AFTER_S = 1.0
"""A question without an answer for so long has none."""
_DRAIN_STEPS = 50
_DRAIN_STEP_S = LOST_AFTER_S / _DRAIN_STEPS
_ASK_AGAIN_S = 0.2


class RoundTripLog:
    """When questions of one path left, and how long their answers took."""

    def __init__(self, path: EchoPath, probes: Probes, clock: Clock) -> None:
        self._path = path
        self._probes = probes
        self._clock = clock
        self._sent_s: dict[int, float] = {}
        self._times_s: list[float] = []
        self._sent_count = 0

    @property
    def is_answered(self) -> bool:
        """Whether nothing is under way."""
        return not self._sent_s

    def ask(self) -> None:
        """Send one question; what the path does not take is lost, as on any other hop."""
        self._sent_s[self._sent_count] = self._clock.monotonic_s()
        self._path.send_batch((self._probes.question(self._sent_count),))
        self._sent_count += 1

    def receive(self, payloads: Sequence[bytes]) -> None:
        """Take what came back; a second answer to one question is none."""
        now_s = self._clock.monotonic_s()
        for sequence in self._probes.answered(payloads):
            sent_s = self._sent_s.pop(sequence, None)
            if sent_s is not None:
                self._times_s.append(now_s - sent_s)

    def figures(self) -> RoundTripFigures:
        """Return what there is; questions under way count as lost."""
        return RoundTripFigures.of(self._sent_count, self._times_s)


async def measure_round_trips(
    paths: Sequence[EchoPath],
    *,
    size_bytes: int,
    seconds: float,
    clock: Clock,
    tick: Callable[[], None],
) -> list[RoundTripFigures]:
    """Ask RATE_PER_S times a second on each path, in turns, and return the figures of each.

    Args:
        paths: asked one after the other, so that both meet the same machine and network.
        size_bytes: of questions and answers.
        seconds: for how long; then answers are waited for, LOST_AFTER_S at most.
        clock: time.
        tick: called with every question.

    Raises:
        ClientError: a path is over.
    """
    logs = [
        RoundTripLog(path, Probes(size_bytes, token_bytes(NONCE_BYTES)), clock) for path in paths
    ]
    interval_s = 1 / (RATE_PER_S * len(paths))
    with ExitStack() as stack:
        for path, log in zip(paths, logs, strict=True):
            stack.enter_context(path.receiving(log.receive))
        next_s = clock.monotonic_s()
        end_s = next_s + seconds
        while next_s < end_s:
            for path, log in zip(paths, logs, strict=True):
                await asyncio.sleep(max(0.0, next_s - clock.monotonic_s()))
                path.check()
                log.ask()
                tick()
                # What is late makes no burst: the rate stays gentle.
                next_s = max(next_s + interval_s, clock.monotonic_s())
        await drained(lambda: all(log.is_answered for log in logs))
    return [log.figures() for log in logs]


async def drained(is_done: Callable[[], bool]) -> None:
    """Wait until all answers are there, or LOST_AFTER_S are over."""
    for _ in range(_DRAIN_STEPS):
        if is_done():
            break
        await asyncio.sleep(_DRAIN_STEP_S)


async def echoes(path: EchoPath, *, within_s: float, clock: Clock) -> bool:
    """Return whether an echo answers the smallest question on a path; asks until then.

    Raises:
        ClientError: the path is over.
    """
    log = RoundTripLog(path, Probes(MIN_PROBE_BYTES, token_bytes(NONCE_BYTES)), clock)
    end_s = clock.monotonic_s() + within_s
    with path.receiving(log.receive):
        while clock.monotonic_s() < end_s:
            log.ask()
            next_s = clock.monotonic_s() + _ASK_AGAIN_S
            while clock.monotonic_s() < next_s:
                await asyncio.sleep(_DRAIN_STEP_S)
                path.check()
                if log.figures().answered_count:
                    return True
    return False
