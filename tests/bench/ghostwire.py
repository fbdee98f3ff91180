"""Measures the mesh peer to peer, for each carrier: `make bench-ghostwire`.

The peers are in this process, the relay in its own. Channels are used as they are, without the
end-to-end encryption above them, so that what is measured is the relay and the carrier.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from masque_relay.client.mesh.way import WayKind
from masque_relay.wire.ghostwire import ChannelKind
from tests.support.ghostwire_world import Recorder
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.mesh_arrival import CARRIERS, Arrival, arriving, eventually
from tests.support.mesh_lab import Nat, mesh_lab
from tests.support.mesh_traffic import CHAT_PORT, Conversation, talking, tcp_echo
from tests.support.processes import wait_until

PAYLOAD_BYTES = 1_000
WINDOW_DATAGRAMS = 256
BURST_DATAGRAMS = 32
SENDERS = 20
_CONFIG = """
[quic.limits]
max_connections = 20000
max_connections_per_source = 20000
idle_timeout_s = 600.0

[gate.limits]
tunnels_per_subject = 20000
opens_per_s = 10000.0
"""
"""All peers come from one address and are one subject here."""
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(kw_only=True)
class CarrierFigures:
    """One carrier, both peers on it."""

    carrier: str
    datagrams_per_s: float = 0
    relay_us_per_datagram: float = 0
    """CPU, user and system."""
    stream_mbit_per_s: float = 0
    rtt_p50_ms: float = 0
    """Peer to peer and back, through the relay; on loopback this is the latency that is added."""
    rtt_p99_ms: float = 0


@dataclass(kw_only=True)
class Figures:
    """What a run found."""

    carriers: list[CarrierFigures] = field(default_factory=list[CarrierFigures])
    fairness_index: float = 0
    """Jain's, over the delivered share of 19 polite senders beside one that floods."""
    fairness_least_share: float = 0
    idle_peers: int = 0
    bytes_per_idle_peer: float = 0
    recovery_s: dict[str, float] = field(default_factory=dict[str, float])
    """The longest gap in a conversation, by what happened; keepalive is 2 s there."""


class Counting(Recorder):
    """Counts instead of keeping."""

    count = 0

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        self.count += len(payloads)

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        if self.channel is not None:
            self.channel.consume(len(data))


@asynccontextmanager
async def call(
    one: Arrival, other: Arrival, kind: ChannelKind
) -> AsyncGenerator[tuple[Counting, Counting]]:
    """Open a channel; yields both ends."""
    mine = Counting()
    mine.channel = one.session.open_channel(kind, mine, peer_id=other.peer.identity.peer_id)
    await eventually(lambda: mine.is_open)
    theirs = Counting()
    accepted = other.peer.calls[-1].channel
    assert accepted is not None
    theirs.channel = accepted
    accepted._handler = theirs
    yield mine, theirs
    mine.channel.close()


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def resident_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def measure_carrier(relay: ManagedRelay, kind: WayKind, duration_s: float) -> CarrierFigures:
    """Measure datagrams, a stream and the round trip over one carrier."""
    figures = CarrierFigures(carrier=str(kind))
    pid = relay.process.pid
    async with arriving(relay, kind) as one, arriving(relay, kind) as other:
        async with call(one, other, ChannelKind.DATAGRAMS) as (mine, theirs):
            await _round_trips(mine, theirs, figures, count=max(50, int(200 * duration_s)))
            began_s, cpu_before_s, before = time.monotonic(), cpu_s(pid), theirs.count
            await _flood(mine, theirs, duration_s)
            elapsed_s, passed = time.monotonic() - began_s, theirs.count - before
            figures.datagrams_per_s = passed / elapsed_s
            figures.relay_us_per_datagram = (cpu_s(pid) - cpu_before_s) / max(1, passed) * 1e6
        async with call(one, other, ChannelKind.STREAM) as (mine, theirs):
            began_s = time.monotonic()
            chunk = bytes(65_536)
            while time.monotonic() - began_s < duration_s:
                assert mine.channel is not None
                mine.channel.send(chunk)
                await asyncio.sleep(0)
            elapsed_s = time.monotonic() - began_s
            figures.stream_mbit_per_s = theirs.count * 8 / elapsed_s / 1e6
    return figures


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


async def _round_trips(
    mine: Counting, theirs: Counting, figures: CarrierFigures, *, count: int
) -> None:
    assert mine.channel is not None
    assert theirs.channel is not None
    samples: list[float] = []
    for _ in range(count):
        began_s, goal, back = time.monotonic(), theirs.count + 1, mine.count + 1
        mine.channel.send_datagrams([bytes(100)])
        await _until(theirs, goal)
        theirs.channel.send_datagrams([bytes(100)])
        await _until(mine, back)
        samples.append((time.monotonic() - began_s) * 1_000)
    figures.rtt_p50_ms = statistics.median(samples)
    figures.rtt_p99_ms = statistics.quantiles(samples, n=100)[98]


async def _until(end: Counting, count: int) -> None:
    """Wait until so many have come, or one was lost."""
    end_s = time.monotonic() + 1
    while end.count < count and time.monotonic() < end_s:  # noqa: ASYNC110  (an event costs a turn)
        await asyncio.sleep(0)


async def measure_fairness(relay: ManagedRelay, figures: Figures, rounds: int) -> None:
    """Let one of 20 senders flood one receiver, and see what the other 19 get through."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(arriving(relay, WayKind.H3))
        ends: list[tuple[Counting, Counting]] = []
        for _ in range(SENDERS):
            sender = await stack.enter_async_context(arriving(relay, WayKind.H3))
            ends.append(
                await stack.enter_async_context(call(sender, target, ChannelKind.DATAGRAMS))
            )
        flood = [bytes(PAYLOAD_BYTES)] * 100
        for _ in range(rounds):
            for index, (mine, _) in enumerate(ends):
                assert mine.channel is not None
                mine.channel.send_datagrams(flood if index == 0 else flood[:1])
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)
        shares = [theirs.count / rounds for _, theirs in ends[1:]]
        squares = sum(share * share for share in shares) or 1
        figures.fairness_index = sum(shares) ** 2 / (len(shares) * squares)
        figures.fairness_least_share = min(shares)


async def measure_memory(relay: ManagedRelay, figures: Figures, peers: int) -> None:
    """Let many peers come in by QUIC and do nothing."""
    stacks: list[AsyncExitStack] = []

    async def come_in(count: int) -> None:
        for _ in range(count):
            stacks.append(AsyncExitStack())
            await stacks[-1].enter_async_context(arriving(relay, WayKind.QUIC))

    try:
        await come_in(10)  # what is made once is not counted
        before_bytes = resident_bytes(relay.process.pid)
        await come_in(peers)
        await asyncio.sleep(1)
        grown_bytes = resident_bytes(relay.process.pid) - before_bytes
        figures.idle_peers = peers
        figures.bytes_per_idle_peer = grown_bytes / peers
    finally:
        # All at once: each waits for the end of its connection's draining period.
        await asyncio.gather(*(stack.aclose() for stack in stacks))


def measure_recovery(figures: Figures, directory: Path) -> None:
    """See how long a conversation stops when the network changes; needs root."""
    for what in ("carrier blocked", "relay restarted", "address changed"):
        with ExitStack() as stack:
            place = directory / what.replace(" ", "-")
            place.mkdir()
            lab = stack.enter_context(mesh_lab(place, nats=(Nat.SYMMETRIC, Nat.SYMMETRIC)))
            stack.enter_context(tcp_echo(lab.bob.machine))
            bob = lab.listen(f"chat=127.0.0.1:{CHAT_PORT}")
            alice = lab.forward(bob.told["peer_id"], ["127.0.0.1:0=chat"])
            alice.wait_for_way("h3", "quic")
            address = str(alice.told["forwards"][0]["listen"])
            talk = stack.enter_context(talking(lab.alice.machine, address))
            _ten_lines(talk)
            talk.longest_wait_s = 0
            if what == "carrier blocked":
                lab.alice.block_udp()
            elif what == "relay restarted":
                lab.stop_relay(gently=False)
                lab.start_relay()
            else:
                lab.alice.move("198.51.100.77")
            _ten_lines(talk)
            figures.recovery_s[what] = talk.longest_wait_s


def _ten_lines(talk: Conversation) -> None:
    goal = talk.line_count + 10
    wait_until(lambda: talk.line_count >= goal or None, deadline_s=60, what="ten more lines")


def table(figures: Figures) -> str:
    """Return the figures for people, as Markdown."""
    head = "| carrier | datagrams/s | relay CPU, us | stream, Mbit/s | rtt p50, ms | rtt p99, ms |"
    lines = [head, "|---|---|---|---|---|---|"]
    lines += [
        f"| {one.carrier} | {one.datagrams_per_s:,.0f} | {one.relay_us_per_datagram:.1f} "
        f"| {one.stream_mbit_per_s:.0f} | {one.rtt_p50_ms:.2f} | {one.rtt_p99_ms:.2f} |"
        for one in figures.carriers
    ]
    lines += [
        "",
        f"fairness index (1 flooding sender among {SENDERS}): {figures.fairness_index:.3f}, "
        f"least share {figures.fairness_least_share:.2f}",
        f"memory per idle peer: {figures.bytes_per_idle_peer:,.0f} bytes, measured with "
        f"{figures.idle_peers:,}; 10,000 would take "
        f"{figures.bytes_per_idle_peer * 10_000 / 1e6:,.0f} MB by that",
    ]
    lines += [f"after {what}: {gap_s:.1f} s" for what, gap_s in figures.recovery_s.items()]
    return "\n".join(lines)


async def measure(directory: Path, *, duration_s: float, peers: int, rounds: int) -> Figures:
    """Measure everything that needs no root."""
    figures = Figures()
    with managed_relay(directory, config=_CONFIG, expect_exit=None) as relay:
        for kind in CARRIERS:
            figures.carriers.append(await measure_carrier(relay, kind, duration_s))
            sys.stderr.write(f"{figures.carriers[-1]}\n")
        await measure_fairness(relay, figures, rounds)
    with managed_relay(directory / "memory", config=_CONFIG, expect_exit=None) as relay:
        await measure_memory(relay, figures, peers)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="shows that it works")
    parser.add_argument("--peers", type=int, default=1_000, help="idle peers (10000: long)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    chosen: Any = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-ghostwire-") as name:
        directory = Path(name)
        (directory / "memory").mkdir()
        figures = asyncio.run(
            measure(
                directory,
                duration_s=0.2 if chosen.smoke else 2.0,
                peers=20 if chosen.smoke else chosen.peers,
                rounds=10 if chosen.smoke else 200,
            )
        )
        if os.geteuid() == 0 and not chosen.smoke:
            with contextlib.suppress(pytest.skip.Exception):
                measure_recovery(figures, directory)
    sys.stdout.write(table(figures) + "\n")
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_bytes(orjson.dumps(asdict(figures), option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
