"""Owns the benchmark of the MASQUE methods over every HTTP version. ``make bench-masque`` runs it.

Cases are a table: each is a coroutine that takes the rig and returns its samples. To add one, write
the coroutine and put it into CASES.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

from masque_relay.client import (
    Bearer,
    HttpChoice,
    RelayAddress,
    RelayClient,
    RelayOptions,
    make_target,
)
from tests.bench.report import Report, machine
from tests.bench.vpn import measure_vpn
from tests.support.managed_relay import ManagedRelay, managed_relay

VERSIONS = {"H1": HttpChoice.H1, "H2": HttpChoice.H2, "H3": HttpChoice.H3}
PLAIN = "plain TCP"
TUNNELS_PER_CONNECTION = 100
TIMEOUT_S = 300.0
RELAY_SETTINGS = {
    "GHOSTWIRE__GATE__LIMITS__OPENS_PER_S": "100000",
    "GHOSTWIRE__GATE__LIMITS__OPEN_BURST": "100000",
    "GHOSTWIRE__GATE__LIMITS__TUNNELS_PER_SUBJECT": "20000",
    "GHOSTWIRE__TCP__MAX_CONNECTIONS_PER_SOURCE": "10000",
    "GHOSTWIRE__WORKERS": "1",
}
"""One client opens everything at once: the limits that keep such a client off are lifted."""

Read = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a run is."""

    repetitions: int = 3
    payload_bytes: int = 64 << 20
    """Down from the target, by all streams of a measurement together."""
    streams: tuple[int, ...] = (1, 100)
    idle_tunnels: int = 1_000
    vpn_versions: tuple[str, ...] = ("1.1", "2", "3")
    vpn_seconds: int = 5
    """Of each iperf3 run."""


SMOKE = Plan(
    repetitions=1,
    payload_bytes=1 << 20,
    streams=(1, 4),
    idle_tunnels=10,
    vpn_versions=("3",),
    vpn_seconds=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A relay process, a target process, and where the figures go."""

    relay: ManagedRelay
    source_port: int
    plan: Plan
    report: Report

    def client(self, http: HttpChoice) -> RelayClient:
        """Return a client that is not connected yet."""
        options = RelayOptions(
            ca_file=self.relay.ca_file, credential=Bearer(file=self.relay.token_file), http=http
        )
        return RelayClient(RelayAddress.parse(self.relay.url), options)

    @property
    def relay_bytes(self) -> int:
        """What the relay holds in memory."""
        status = Path(f"/proc/{self.relay.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1_024


async def tcp_throughput(rig: Rig) -> None:
    """Bytes from a target: plain loopback TCP, and classic CONNECT on each HTTP version."""
    target = make_target("127.0.0.1", rig.source_port)
    for count in rig.plan.streams:
        figure = f"TCP down, {count} streams, Mbit/s"
        share_bytes = rig.plan.payload_bytes // count
        ask = share_bytes.to_bytes(8, "big")
        async with AsyncExitStack() as stack:
            reads: list[Read] = []
            for _ in range(count):
                reader, writer = await asyncio.open_connection("127.0.0.1", rig.source_port)
                stack.callback(writer.close)
                writer.write(ask)
                reads.append(partial(reader.read, 65_536))
            rig.report.add(figure, PLAIN, await _read_all(reads, share_bytes))
        for name, http in VERSIONS.items():
            async with rig.client(http) as client:
                tunnels = [await client.start_tcp(target) for _ in range(count)]
                for tunnel in tunnels:
                    await tunnel.write(ask)
                rate = await _read_all([tunnel.read for tunnel in tunnels], share_bytes)
                rig.report.add(figure, f"CONNECT {name}", rate)
                for tunnel in tunnels:
                    tunnel.abort()


async def idle_memory(rig: Rig, version: str) -> None:
    """What the relay's memory grows by for each idle CONNECT-UDP tunnel.

    A case for each version: what one leaves behind in the allocator would be the next one's gain.
    """
    figure = f"memory per idle tunnel, {rig.plan.idle_tunnels} tunnels, KiB"
    target = make_target("127.0.0.1", 9)
    async with AsyncExitStack() as stack:
        before_bytes = rig.relay_bytes
        left = rig.plan.idle_tunnels
        while left > 0:
            client = await stack.enter_async_context(rig.client(VERSIONS[version]))
            for _ in range(min(left, TUNNELS_PER_CONNECTION)):
                await client.start_udp(target)
            left -= TUNNELS_PER_CONNECTION
        grown_bytes = rig.relay_bytes - before_bytes
    rig.report.add(figure, f"CONNECT {version}", grown_bytes / rig.plan.idle_tunnels / 1_024)


async def vpn_throughput(rig: Rig) -> None:
    """One TCP connection through CONNECT-IP, each way, by each egress; relays of its own."""
    measure = partial(
        measure_vpn,
        rig.report,
        versions=rig.plan.vpn_versions,
        seconds=rig.plan.vpn_seconds,
    )
    await asyncio.to_thread(measure)


CASES: dict[str, Callable[[Rig], Awaitable[None]]] = {
    "tcp-throughput": tcp_throughput,
    "idle-memory-h1": partial(idle_memory, version="H1"),
    "idle-memory-h2": partial(idle_memory, version="H2"),
    "idle-memory-h3": partial(idle_memory, version="H3"),
    "vpn-throughput": vpn_throughput,
}


async def _read_all(reads: list[Read], share_bytes: int) -> float:
    """Read every stream to its share at once; return Mbit/s."""

    async def drain(read: Read) -> None:
        left = share_bytes
        while left > 0:
            data = await read()
            if not data:
                raise EOFError(f"{left} bytes are missing")
            left -= len(data)

    begin_s = perf_counter()
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        for read in reads:
            group.create_task(drain(read))
    elapsed_s = perf_counter() - begin_s
    return share_bytes * len(reads) * 8 / elapsed_s / 1e6


async def _serve_source() -> None:
    """Be the target process: send as many zeros as the first eight bytes ask for."""
    block = bytes(1 << 16)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            left = int.from_bytes(await reader.readexactly(8), "big")
            while left > 0:
                writer.write(block[:left])
                left -= len(block)
                await writer.drain()
            await reader.read()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other end is done
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _run(plan: Plan, cases: list[str]) -> Report:
    report = Report()
    source = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.masque", "--source",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert source.stdout is not None
        port = int(await source.stdout.readline())
        with tempfile.TemporaryDirectory() as directory:
            for _ in range(plan.repetitions):
                for name in cases:
                    where = Path(tempfile.mkdtemp(dir=directory))
                    # a relay of its own for each: what one case leaves in memory is not the next's
                    with managed_relay(where, environ=RELAY_SETTINGS) as relay:
                        rig = Rig(relay=relay, source_port=port, plan=plan, report=report)
                        await CASES[name](rig)
    finally:
        if source.returncode is None:
            source.kill()
        await source.wait()
    return report


def main(arguments: list[str] | None = None) -> None:
    """Run the cases and tell what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="show that it works, quote nothing")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument(
        "--case", action="append", choices=list(CASES), help="only this; repeatable"
    )
    parser.add_argument("--json", type=Path, help="write every sample there")
    parser.add_argument("--source", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.source:
        asyncio.run(_serve_source())
        return
    plan = SMOKE if given.smoke else Plan()
    if given.repetitions:
        plan = replace(plan, repetitions=given.repetitions)
    report = asyncio.run(_run(plan, given.case or list(CASES)))
    sys.stdout.write(f"{machine()}\n\n{report.table()}\n")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
