"""Owns the course of a benchmark: tunnels, then round trips and bulk for each size."""

from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial

from masque_relay.client.address import RelayAddress
from masque_relay.client.bench.bulk import measure_bulk
from masque_relay.client.bench.figures import OpenFigures
from masque_relay.client.bench.own_echo import own_echo
from masque_relay.client.bench.path import DirectPath, EchoPath, TunnelPath, endpoint_of
from masque_relay.client.bench.ramp import Ramp
from masque_relay.client.bench.report import BenchPlan, BenchReport, SizeReport
from masque_relay.client.bench.round_trips import echoes, measure_round_trips
from masque_relay.client.clock import SystemClock
from masque_relay.client.errors import EchoSilent, TunnelClosed, TunnelRefused
from masque_relay.client.relay import RelayClient
from masque_relay.client.settle import settled_payload_bytes
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.address import Target
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock

OPEN_COUNT = 100
"""Tunnels opened one after the other, if the time is enough: the 99th percentile of fewer is their
longest."""
ECHO_WAIT_S = 3.0
DIRECT_WAIT_S = 2.0
RESOLVE_TIMEOUT_S = 5.0
STEP_PART = 0.25  # of the seconds: one step of the search
_PLANNED_STEPS = 6  # for the progress that is told; there may be fewer
_TARGET_STATUSES = frozenset({403, 502, 504})  # another target may help; with others it is no use
_TELL_INTERVAL_S = 0.1  # telling takes time that round trips would show

OnProgress = Callable[[str, float], None]
"""What is measured now, and which part of everything is done, 0 to 1."""


class Benchmark:
    """One run, through one connection to a relay.

    Attributes:
        report: what was found; also after an error, or a cancellation, as far as it got.
    """

    def __init__(
        self,
        address: RelayAddress,
        options: RelayOptions,
        plan: BenchPlan,
        *,
        on_progress: OnProgress = lambda _what, _part: None,
        clock: Clock | None = None,
    ) -> None:
        self.report = BenchReport(
            relay=str(address),
            target=None if plan.target is None else str(plan.target),
            has_own_echo=plan.target is None,
            tunnels=plan.tunnels,
            seconds=plan.seconds,
        )
        self._address = address
        self._options = options
        self._plan = plan
        self._clock = clock or SystemClock()
        steps_s = plan.seconds * STEP_PART * _PLANNED_STEPS
        self._progress = _Progress(
            plan.seconds + len(plan.sizes_bytes) * (2 * plan.seconds + steps_s),
            self._clock,
            on_progress,
        )

    async def run(self) -> None:
        """Measure everything that was planned.

        Raises:
            TunnelRefused: the relay does not lead to the echo.
            EchoSilent: it does, but no answer comes back.
            ClientError: the relay can't be reached, refuses us, or went away.
        """
        async with AsyncExitStack() as stack:
            relay = RelayClient(self._address, self._options)
            stack.push_async_callback(relay.close)
            with self._progress.phase("connecting", 0.0):
                begin_s = self._clock.monotonic_s()
                await relay.connect()
            self.report.connect_ms = (self._clock.monotonic_s() - begin_s) * 1_000
            self.report.http_version = relay.connection.http_version
            target = self._plan.target
            if target is None:
                target = await stack.enter_async_context(own_echo())
            self.report.target = str(target)
            paths = await self._open_tunnels(relay, target, stack)
            await self._wait_for_echo(paths[0], target)
            direct = await self._direct_path(target, stack)
            for size_bytes in self._plan.sizes_bytes:
                await self._measure_size(size_bytes, paths, direct)
        self.report.is_complete = True

    async def _open_tunnels(
        self, relay: RelayClient, target: Target, stack: AsyncExitStack
    ) -> list[TunnelPath]:
        """Open the tunnels to measure with; then open and close others, to time it."""
        times_s: list[float] = []

        async def open_one() -> TunnelPath:
            path = TunnelPath(relay)
            begin_s = self._clock.monotonic_s()
            tunnel = await path.open(target)
            times_s.append(self._clock.monotonic_s() - begin_s)
            self.report.opening = OpenFigures.of(times_s)
            self.report.next_hop = tunnel.next_hop
            self.report.is_reliable = tunnel.reliable
            return path

        paths: list[TunnelPath] = []
        with self._progress.phase("opening tunnels", self._plan.seconds) as tick:
            try:
                while len(paths) < self._plan.tunnels:
                    path = await open_one()
                    stack.callback(path.close)
                    paths.append(path)
                    tick()
            except TunnelRefused as error:
                raise self._explained(error) from None
            end_s = self._clock.monotonic_s() + self._plan.seconds
            try:
                while len(times_s) < OPEN_COUNT and self._clock.monotonic_s() < end_s:
                    (await open_one()).close()
                    tick()
            except TunnelRefused:
                pass  # a limit on how often, or how many; the count that is told is what it left
            self.report.max_payload_bytes = await settled_payload_bytes(
                lambda: relay.connection.max_udp_payload_bytes
            )
        return paths

    def _explained(self, error: TunnelRefused) -> TunnelRefused:
        """Say what helps where the relay does not lead to the echo that we chose."""
        if self._plan.target is None and error.status in _TARGET_STATUSES:
            error.hint = _OWN_ECHO_HINT
        return error

    async def _wait_for_echo(self, path: EchoPath, target: Target) -> None:
        reason = f"within {ECHO_WAIT_S:g} s"
        try:
            with self._progress.phase("waiting for the echo", 0.0):
                is_there = await echoes(path, within_s=ECHO_WAIT_S, clock=self._clock)
        except TunnelClosed as closed:
            is_there, reason = False, closed.message
        if not is_there:
            raise EchoSilent(
                f"no echo comes back from {target} through the relay: {reason}",
                hint=_OWN_ECHO_HINT if self._plan.target is None else _ECHO_HINT,
            )

    async def _direct_path(self, target: Target, stack: AsyncExitStack) -> DirectPath | None:
        """Return the way around the relay, where answers come on it."""
        endpoint = await endpoint_of(target, timeout_s=RESOLVE_TIMEOUT_S)
        if endpoint is None:
            return None
        with ExitStack() as unless_answered:
            try:
                path = DirectPath(endpoint)
            except FlowError:
                return None
            unless_answered.callback(path.close)
            with self._progress.phase("trying the direct way", 0.0):
                if not await echoes(path, within_s=DIRECT_WAIT_S, clock=self._clock):
                    return None
            stack.push(unless_answered.pop_all())
        return path

    async def _measure_size(
        self, size_bytes: int, paths: list[TunnelPath], direct: DirectPath | None
    ) -> None:
        plan, largest_bytes = self._plan, self.report.max_payload_bytes or 0
        found = SizeReport(size_bytes=size_bytes, fits=size_bytes <= largest_bytes)
        self.report.sizes.append(found)
        if not found.fits:
            return
        with self._progress.phase(f"{size_bytes} B, round trips", plan.seconds) as tick:
            both: list[EchoPath] = [paths[0]] if direct is None else [paths[0], direct]
            figures = await measure_round_trips(
                both,
                size_bytes=size_bytes,
                seconds=plan.seconds,
                clock=self._clock,
                tick=tick,
            )
            found.relay = figures[0]
            found.direct = figures[1] if len(figures) > 1 else None
        bulk = partial(measure_bulk, paths, size_bytes=size_bytes, clock=self._clock)
        step_s, ramp = plan.seconds * STEP_PART, Ramp()
        with self._progress.phase(f"{size_bytes} B, bulk", step_s * _PLANNED_STEPS) as tick:
            while (count := ramp.next_count) is not None:
                load = await bulk(under_way_count=count, seconds=step_s, is_held=False, tick=tick)
                found.loads.append(load)
                ramp.record(load)
        with self._progress.phase(f"{size_bytes} B, bulk", plan.seconds) as tick:
            for count in ramp.clean_counts():
                load = await bulk(
                    under_way_count=count, seconds=plan.seconds, is_held=True, tick=tick
                )
                found.loads.append(load)
                if load.is_clean:
                    break


class _Progress:
    """How far a run is, by the seconds that its phases are planned to take."""

    def __init__(self, planned_s: float, clock: Clock, on_progress: OnProgress) -> None:
        self._planned_s = planned_s
        self._done_s = 0.0
        self._told_s = 0.0
        self._clock = clock
        self._on_progress = on_progress

    @contextmanager
    def phase(self, what: str, length_s: float) -> Generator[Callable[[], None]]:
        """Yield what to call while the phase goes on; when it ends, all of it is done."""
        begin_s = self._clock.monotonic_s()

        def tick() -> None:
            now_s = self._clock.monotonic_s()
            if now_s - self._told_s >= _TELL_INTERVAL_S:
                self._told_s = now_s
                elapsed_s = min(length_s, now_s - begin_s)
                self._on_progress(what, (self._done_s + elapsed_s) / self._planned_s)

        self._told_s = begin_s
        self._on_progress(what, self._done_s / self._planned_s)
        yield tick
        self._done_s += length_s


_ECHO_HINT = (
    "run `ghostctl bench --serve-echo ADDRESS:PORT` on that machine, and let UDP through to it"
)
_OWN_ECHO_HINT = (
    "without --target the echo is on loopback of this machine, where only a relay on it gets, and "
    "only if its policy allows that; run `ghostctl bench --serve-echo ADDRESS:PORT` on a machine "
    "that the relay leads to, and name it here with --target HOST:PORT"
)
