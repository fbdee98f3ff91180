"""Owns the fairness of the mesh: 20 senders, one of whom floods, and a receiver with a slow link.

The receiver's link is the bottleneck, so the relay's queue for that receiver fills, and its deficit
round robin decides whose datagrams leave and whose make room.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from masque_relay.client.mesh.way import WayKind
from masque_relay.wire.ghostwire import ChannelKind
from tests.bench.mesh_calls import PAYLOAD_BYTES, Counting, call
from tests.bench.slow_link import HOST, slow_link
from tests.support.managed_relay import ManagedRelay
from tests.support.mesh_arrival import arriving

SENDERS = 20
LINK_BYTES_PER_S = 1_000_000
FAIR_PER_S = LINK_BYTES_PER_S / 1_060 / SENDERS
"""Datagrams of one sender, with the headers of all layers, if all share the link alike."""
MODEST, GREEDY = 0.5, 2.0
"""What each of the 19 sends in the two parts, in shares."""
FLOOD = 60.0
"""What the one sends, in shares: three times the whole link."""
WARM_UP_S = 1.5
"""Until the queue is full and congestion control knows the link."""
TURN_S = 0.01

_DROPPED = 'ghostwire_relay_mesh_datagrams_dropped_total{cause="queue"}'


@dataclass(kw_only=True)
class Fairness:
    """One part: the first sender floods, the others send all the same."""

    asked_shares: float
    """What each of the others sends; 1 is a twentieth of the link."""
    index: float
    """Jain's, over what of each sender arrived, the flooding one's included."""
    index_of_others: float
    """The same without the flooding one."""
    least_arrived: float
    """Of what one of the others sent: the least of them."""
    flooder_sent: int
    flooder_arrived: int
    others_sent: int
    others_arrived: int
    queue_dropped: int
    """What the relay counted: datagrams that its queue for the receiver pushed out."""
    link_dropped: int
    """Packets that the link lost, whoever's they were."""


def jain(values: Sequence[float]) -> float:
    """Return 1 for equal values, 1/n where one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


async def measure_fairness(relay: ManagedRelay, asked_shares: float, duration_s: float) -> Fairness:
    """Let all of them send through the relay to one receiver behind a slow link."""
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(slow_link(relay.port, LINK_BYTES_PER_S))
        behind = replace(relay, ready={**relay.ready, "h3": f"{HOST}:{link.port}"})
        target = await stack.enter_async_context(arriving(behind, WayKind.H3))
        ends: list[tuple[Counting, Counting]] = []
        for _ in range(SENDERS):
            sender = await stack.enter_async_context(arriving(relay, WayKind.H3))
            ends.append(
                await stack.enter_async_context(call(sender, target, ChannelKind.DATAGRAMS))
            )
        rates = [FAIR_PER_S * (asked_shares if index else FLOOD) for index in range(SENDERS)]
        await _send([mine for mine, _ in ends], rates, WARM_UP_S)

        arrived_before = [theirs.count for _, theirs in ends]
        dropped_before = await asyncio.to_thread(_dropped, relay)
        lost_before = link.dropped_count
        sent = await _send([mine for mine, _ in ends], rates, duration_s)
        queue_dropped = await asyncio.to_thread(_dropped, relay) - dropped_before
        arrived = [
            theirs.count - before for (_, theirs), before in zip(ends, arrived_before, strict=True)
        ]
        return Fairness(
            asked_shares=asked_shares,
            index=jain(arrived),
            index_of_others=jain(arrived[1:]),
            least_arrived=min(
                min(1.0, got / max(1, gone))  # beyond 1: what was under way at the beginning
                for got, gone in zip(arrived[1:], sent[1:], strict=True)
            ),
            flooder_sent=sent[0],
            flooder_arrived=arrived[0],
            others_sent=sum(sent[1:]),
            others_arrived=sum(arrived[1:]),
            queue_dropped=queue_dropped,
            link_dropped=link.dropped_count - lost_before,
        )


async def _send(ends: Sequence[Counting], rates_per_s: Sequence[float], for_s: float) -> list[int]:
    """Let each end send at its rate; return how many each has sent."""
    sent = [0] * len(ends)
    payload = bytes(PAYLOAD_BYTES)
    began_s = time.monotonic()
    while (passed_s := time.monotonic() - began_s) < for_s:
        for index, (end, rate_per_s) in enumerate(zip(ends, rates_per_s, strict=True)):
            assert end.channel is not None
            due = int(rate_per_s * passed_s) - sent[index]
            if due:
                end.channel.send_datagrams([payload] * due)
                sent[index] += due
        await asyncio.sleep(TURN_S)
    return sent


def _dropped(relay: ManagedRelay) -> int:
    return int(relay.metrics()[_DROPPED])
