"""Owns the soak: tunnels that come and go under faults for a long time, and what must not grow.

``python -m tests.soak --seconds 1800`` starts a relay process and a target here, then rounds of

- tunnels that echo and close, tunnels that are abandoned without a word,
- refused requests (no token, a prohibited target), reloads, metric scrapes,
- a client that never reads,

and says every few seconds how it goes. It fails if an echo is wrong, if the relay logs a bug, if
tunnels or connections are left over, or if file descriptors or memory grow.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from masque_relay.client import (
    Bearer,
    RelayAddress,
    RelayClient,
    RelayOptions,
    TunnelRefused,
    make_target,
)
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.udp_echo import UdpEcho, run_udp_echo

TUNNELS_PER_ROUND = 16
DATAGRAMS_PER_TUNNEL = 32
ECHO_DEADLINE_S = 10.0
WARM_UP_ROUNDS = 8  # caches and the allocator's arenas fill; growth is counted from here
MAX_RSS_GROWTH_BYTES = 24 << 20
"""Far below what one leaked buffer a tunnel would make over a long run; above the allocator's
noise, which a short run sees as well."""
SETTLE_S = 20.0  # longer than the admin plane keeps a connection that its client has closed


@dataclass
class Totals:
    """What has happened so far."""

    rounds: int = 0
    tunnels: int = 0
    echoes: int = 0
    lost: int = 0
    refusals: int = 0
    problems: list[str] = field(default_factory=list)


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def fd_count(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


async def echo_through(client: RelayClient, port: int, totals: Totals, number: int) -> None:
    """Open a tunnel, echo, and close it; every answer must be one of the questions."""
    async with client.open_udp("127.0.0.1", port) as tunnel:
        totals.tunnels += 1
        questions = {
            f"{number}/{i}".encode().ljust(1 + (i * 37) % 1_100, b".")
            for i in range(DATAGRAMS_PER_TUNNEL)
        }
        tunnel.send_batch(sorted(questions))
        waiting = set(questions)
        try:
            async with asyncio.timeout(ECHO_DEADLINE_S):
                while waiting:
                    answer = await tunnel.receive()
                    if answer not in questions:
                        totals.problems.append(f"tunnel {number}: an answer nobody asked for")
                        return
                    waiting.discard(answer)
        except TimeoutError:
            totals.lost += len(waiting)
        totals.echoes += len(questions) - len(waiting)


async def expect_refusal(client: RelayClient, host: str, totals: Totals) -> None:
    try:
        async with client.open_udp(host, 53):
            totals.problems.append(f"a tunnel to {host} was not refused")
    except TunnelRefused:
        totals.refusals += 1


async def one_round(relay: ManagedRelay, echo: UdpEcho, totals: Totals) -> None:
    """Run one round of good, bad and abandoned use."""
    address = RelayAddress.parse(relay.url)
    good = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=relay.token_file))
    nobody = RelayOptions(ca_file=relay.ca_file)
    async with RelayClient(address, good) as client:
        async with asyncio.TaskGroup() as group:
            for number in range(TUNNELS_PER_ROUND):
                group.create_task(echo_through(client, echo.port, totals, number))
            group.create_task(expect_refusal(client, "169.254.169.254", totals))
        deaf = await client.start_udp(make_target("127.0.0.1", echo.port))
        deaf.send_batch([echo.ask_for(1_100)] * 64)  # and nobody ever calls receive()
        await asyncio.sleep(0.05)
    async with RelayClient(address, nobody) as stranger:
        await expect_refusal(stranger, "127.0.0.1", totals)
    totals.rounds += 1


async def check_growth(totals: Totals, pid: int, rss_before_bytes: int, fds_before: int) -> None:
    """Compare with what was there after the warm-up, once idle connections have timed out."""
    problems = totals.problems
    deadline = time.monotonic() + SETTLE_S
    while fd_count(pid) > fds_before and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    grown_bytes = rss_bytes(pid) - rss_before_bytes
    if grown_bytes > MAX_RSS_GROWTH_BYTES:
        problems.append(f"memory grew by {grown_bytes:,} bytes over {totals.rounds} rounds")
    if fd_count(pid) > fds_before:
        problems.append(f"descriptors grew from {fds_before} to {fd_count(pid)}")


async def nothing_left(relay: ManagedRelay, problems: list[str]) -> None:
    """Wait until the relay holds no tunnel; abandoned ones end with their connection."""
    deadline = time.monotonic() + SETTLE_S
    with relay.admin() as admin:
        while tunnels := await asyncio.to_thread(admin.tunnels):
            if time.monotonic() > deadline:
                problems.append(f"{len(tunnels)} tunnels are left over")
                return
            await asyncio.sleep(0.2)


async def soak(seconds: float, directory: Path) -> Totals:
    """Run rounds until the time is over; return what happened, problems included."""
    totals = Totals()
    rss_before_bytes = fds_before = 0
    end = time.monotonic() + seconds
    told_at = 0.0
    with managed_relay(directory) as relay, run_udp_echo() as echo:
        pid = relay.process.pid
        while time.monotonic() < end or totals.rounds <= WARM_UP_ROUNDS:
            await one_round(relay, echo, totals)
            if totals.rounds == WARM_UP_ROUNDS:
                rss_before_bytes, fds_before = rss_bytes(pid), fd_count(pid)
            if totals.rounds % 5 == 0:
                with relay.admin() as admin:
                    await asyncio.to_thread(admin.reload)
            if time.monotonic() > told_at + 5:
                told_at = time.monotonic()
                print(
                    f"{totals.rounds:6} rounds {totals.tunnels:8} tunnels {totals.echoes:10} echoes"
                    f" {totals.lost:6} lost {totals.refusals:6} refused"
                    f" {rss_bytes(pid) / 1e6:7.1f} MB {fd_count(pid):4} fds",
                    flush=True,
                )
        await nothing_left(relay, totals.problems)
        await check_growth(totals, pid, rss_before_bytes, fds_before)
        if "Traceback" in relay.log():
            totals.problems.append(f"the relay logged a bug:\n{relay.log()[-4000:]}")
    if totals.lost > totals.echoes // 100:
        totals.problems.append(f"{totals.lost} echoes lost on loopback, more than 1 %")
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        totals = asyncio.run(soak(seconds, Path(directory)))
    for problem in totals.problems:
        print(f"PROBLEM: {problem}")
    print(f"{totals.rounds} rounds, {totals.tunnels} tunnels, {len(totals.problems)} problems")
    return 1 if totals.problems else 0


if __name__ == "__main__":
    sys.exit(main())
