"""Owns what two peers get through a relay by one carrier: datagrams, a stream, the round trip."""

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from masque_relay.client.mesh.way import WayKind
from masque_relay.wire.ghostwire import ChannelKind
from tests.bench.mesh_calls import PAYLOAD_BYTES, Counting, call, cpu_s
from tests.support.managed_relay import ManagedRelay
from tests.support.mesh_arrival import arriving

WINDOW_DATAGRAMS = 256
BURST_DATAGRAMS = 32
PING_BYTES = 100
LOST_AFTER_S = 1.0


@dataclass(kw_only=True)
class CarrierFigures:
    """One carrier, both peers on it."""

    carrier: str
    datagrams_per_s: float = 0
    relay_us_per_datagram: float = 0
    """CPU, user and system."""
    stream_mbit_per_s: float = 0
    rtt_p50_ms: float = 0
    """Peer to peer and back, through the relay."""
    rtt_p99_ms: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Straight:
    """The same round trip over two sockets without a relay: what is beyond it, is added."""

    rtt_p50_ms: float
    rtt_p99_ms: float


async def measure_carrier(relay: ManagedRelay, kind: WayKind, duration_s: float) -> CarrierFigures:
    """Measure datagrams, a stream and the round trip over one carrier."""
    figures = CarrierFigures(carrier=str(kind))
    pid = relay.process.pid
    async with arriving(relay, kind) as one, arriving(relay, kind) as other:
        async with call(one, other, ChannelKind.DATAGRAMS) as (mine, theirs):
            figures.rtt_p50_ms, figures.rtt_p99_ms = await _relayed_round_trips(
                mine, theirs, _trip_count(duration_s)
            )
            began_s, cpu_before_s, before = time.monotonic(), cpu_s(pid), theirs.count
            await _flood(mine, theirs, duration_s)
            elapsed_s, passed = time.monotonic() - began_s, theirs.count - before
            figures.datagrams_per_s = passed / elapsed_s
            figures.relay_us_per_datagram = (cpu_s(pid) - cpu_before_s) / max(1, passed) * 1e6
        async with call(one, other, ChannelKind.STREAM) as (mine, theirs):
            assert mine.channel is not None
            began_s = time.monotonic()
            chunk = bytes(65_536)
            while time.monotonic() - began_s < duration_s:
                mine.channel.send(chunk)
                await asyncio.sleep(0)
            elapsed_s = time.monotonic() - began_s
            figures.stream_mbit_per_s = theirs.count * 8 / elapsed_s / 1e6
    return figures


async def measure_straight(duration_s: float) -> Straight:
    """Measure the round trip between two UDP sockets of this process."""
    loop = asyncio.get_running_loop()
    mine, near = await loop.create_datagram_endpoint(_Arrivals, local_addr=("127.0.0.1", 0))
    theirs, far = await loop.create_datagram_endpoint(_Arrivals, local_addr=("127.0.0.1", 0))
    try:
        p50_ms, p99_ms = await _round_trips(
            near,
            far,
            there=lambda: mine.sendto(bytes(PING_BYTES), theirs.get_extra_info("sockname")),
            back=lambda: theirs.sendto(bytes(PING_BYTES), mine.get_extra_info("sockname")),
            count=_trip_count(duration_s),
        )
    finally:
        mine.close()
        theirs.close()
    return Straight(rtt_p50_ms=p50_ms, rtt_p99_ms=p99_ms)


class _Arrivals(asyncio.DatagramProtocol):
    count = 0

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.count += 1


def _trip_count(duration_s: float) -> int:
    return max(50, int(500 * duration_s))


async def _flood(mine: Counting, theirs: Counting, duration_s: float) -> None:
    """Keep a window of datagrams under way, so that relaying is measured and not dropping."""
    assert mine.channel is not None
    burst = [bytes(PAYLOAD_BYTES)] * BURST_DATAGRAMS
    sent, start = 0, theirs.count
    last_progress_s, last_count = time.monotonic(), start
    end_s = time.monotonic() + duration_s
    while (now_s := time.monotonic()) < end_s:
        if theirs.count != last_count:
            last_progress_s, last_count = now_s, theirs.count
        elif now_s - last_progress_s > 0.05:
            sent = theirs.count - start  # what was under way is lost
        if sent - (theirs.count - start) < WINDOW_DATAGRAMS:
            mine.channel.send_datagrams(burst)
            sent += BURST_DATAGRAMS
        await asyncio.sleep(0)


async def _relayed_round_trips(mine: Counting, theirs: Counting, count: int) -> tuple[float, float]:
    one, other = mine.channel, theirs.channel
    assert one is not None
    assert other is not None
    ping = [bytes(PING_BYTES)]
    return await _round_trips(
        mine,
        theirs,
        there=lambda: one.send_datagrams(ping),
        back=lambda: other.send_datagrams(ping),
        count=count,
    )


async def _round_trips(
    near: Counting | _Arrivals,
    far: Counting | _Arrivals,
    *,
    there: Callable[[], object],
    back: Callable[[], object],
    count: int,
) -> tuple[float, float]:
    """Return the median and the 99th percentile in milliseconds."""
    samples: list[float] = []
    for _ in range(count):
        began_s, far_goal, near_goal = time.monotonic(), far.count + 1, near.count + 1
        there()
        await _until(far, far_goal)
        back()
        await _until(near, near_goal)
        samples.append((time.monotonic() - began_s) * 1_000)
    return statistics.median(samples), statistics.quantiles(samples, n=100)[98]


async def _until(end: Counting | _Arrivals, count: int) -> None:
    """Wait until so many have come, or one was lost."""
    end_s = time.monotonic() + LOST_AFTER_S
    while end.count < count and time.monotonic() < end_s:  # noqa: ASYNC110  (an event costs a turn)
        await asyncio.sleep(0)
