"""Owns bulk: tunnels that are kept full, with so many datagrams under way in each."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from secrets import token_bytes

from masque_relay.client.bench.figures import BulkFigures
from masque_relay.client.bench.path import EchoPath
from masque_relay.client.bench.probe import NONCE_BYTES, Probes
from masque_relay.client.bench.round_trips import LOST_AFTER_S, drained
from masque_relay.contract.ports import Clock

BURST_COUNT = 64
"""Datagrams handed over in one call, as few as the data plane of a relay moves at a time."""
WARM_UP = 0.2
"""Part of the time in which answers are not counted yet."""
RECENT_COUNT = 65_536
"""Of the datagrams sent last it is known whether they came back: sixteen times the largest load,
and the same memory however long it takes. What comes back later than that is lost."""
_TICK_S = 0.05


class BulkFlow:
    """One path that is kept full.

    Under way is what was sent after the newest datagram that came back: whatever is older is there
    or lost, so that a lost datagram takes no room.

    Attributes:
        sent_count: datagrams that the path took.
        answered_count: of them, those that came back; one that comes twice counts once.
    """

    def __init__(self, path: EchoPath, probes: Probes, under_way_count: int) -> None:
        self._path = path
        self._probes = probes
        self._under_way_count = under_way_count
        self._is_seen = bytearray(RECENT_COUNT)
        self._settled_count = 0
        self._is_filling = True
        self.sent_count = 0
        self.answered_count = 0

    def fill(self) -> None:
        """Send what there is room for."""
        while self._is_filling:
            room_count = self._under_way_count - (self.sent_count - self._settled_count)
            count = min(BURST_COUNT, room_count)
            if count <= 0:
                return
            first = self.sent_count
            questions = [self._probes.question(first + index) for index in range(count)]
            taken_count = self._path.send_batch(questions)
            self.sent_count += taken_count
            for sequence in range(first, self.sent_count):
                self._is_seen[sequence % RECENT_COUNT] = 0
            if taken_count < count:
                return  # our own queue is full; what comes back, or a tick, goes on

    def receive(self, payloads: Sequence[bytes]) -> None:
        """Take what came back, and fill up."""
        for sequence in self._probes.answered(payloads):
            is_recent = self.sent_count - RECENT_COUNT <= sequence < self.sent_count
            if is_recent and not self._is_seen[sequence % RECENT_COUNT]:
                self._is_seen[sequence % RECENT_COUNT] = 1
                self.answered_count += 1
                self._settled_count = max(self._settled_count, sequence + 1)
        self.fill()

    def give_up(self) -> None:
        """Take everything under way for lost, and fill up."""
        self._settled_count = self.sent_count
        self.fill()

    def stop(self) -> None:
        """Send nothing more."""
        self._is_filling = False


class _Silence:
    """Notices that a flow came to a standstill: all that was under way is lost."""

    def __init__(self, flow: BulkFlow, now_s: float) -> None:
        self._flow = flow
        self._answered_count = 0
        self._since_s = now_s

    def look(self, now_s: float) -> None:
        """Start a silent flow again."""
        if self._flow.answered_count != self._answered_count:
            self._answered_count = self._flow.answered_count
            self._since_s = now_s
        elif now_s - self._since_s >= LOST_AFTER_S:
            self._since_s = now_s
            self._flow.give_up()
        else:
            self._flow.fill()


async def measure_bulk(
    paths: Sequence[EchoPath],
    *,
    size_bytes: int,
    under_way_count: int,
    seconds: float,
    is_held: bool,
    clock: Clock,
    tick: Callable[[], None],
) -> BulkFigures:
    """Keep paths full and return what came back.

    Args:
        paths: tunnels, all at once.
        size_bytes: of every datagram.
        under_way_count: on each path.
        seconds: for how long, WARM_UP of it included; then answers are waited for.
        is_held: for the figures: the measurement itself, or a step on the way.
        clock: time.
        tick: called some times a second.

    Raises:
        ClientError: a path is over.
    """
    flows = [
        BulkFlow(path, Probes(size_bytes, token_bytes(NONCE_BYTES)), under_way_count)
        for path in paths
    ]
    begin_s = clock.monotonic_s()
    silences = [_Silence(flow, begin_s) for flow in flows]

    def answered_count() -> int:
        return sum(flow.answered_count for flow in flows)

    async def run_until(end_s: float) -> None:
        while (now_s := clock.monotonic_s()) < end_s:
            await asyncio.sleep(min(_TICK_S, end_s - now_s))
            tick()
            for path, silence in zip(paths, silences, strict=True):
                path.check()
                silence.look(clock.monotonic_s())

    with ExitStack() as stack:
        for path, flow in zip(paths, flows, strict=True):
            stack.enter_context(path.receiving(flow.receive))
            flow.fill()
        await run_until(begin_s + seconds * WARM_UP)
        counted_from_s, before_count = clock.monotonic_s(), answered_count()
        await run_until(begin_s + seconds)
        counted_s, counted = clock.monotonic_s() - counted_from_s, answered_count() - before_count
        for flow in flows:
            flow.stop()
        await drained(lambda: all(flow.answered_count == flow.sent_count for flow in flows))
    return BulkFigures.of(
        size_bytes=size_bytes,
        under_way_count=under_way_count * len(flows),
        is_held=is_held,
        seconds=counted_s,
        counted=counted,
        sent_count=sum(flow.sent_count for flow in flows),
        answered_count=answered_count(),
    )
