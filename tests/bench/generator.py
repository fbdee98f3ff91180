"""Owns the load generator process: one measurement of one subject, told as JSON on its output."""

import argparse
import asyncio
import json
import os
import socket
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.messages import (
    ACK,
    ECHO,
    HEAD_BYTES,
    START,
    STOP,
    UPLINK,
    Message,
    decode_message,
)
from tests.bench.tunnels import Access, PlainTunnel, Tunnel, Ways

BURST = 64
WARM_UP = 0.25
"""Part of the measuring time that is spent before it."""
STALL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, kernel time included."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Return the anonymous memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("no RssAnon")


class Upload:
    """One tunnel that is kept full towards the target."""

    def __init__(self, tunnel: Tunnel, flow: int, size_bytes: int, window: int) -> None:
        self._tunnel = tunnel
        self._flow = flow
        self._padding = bytes(size_bytes - HEAD_BYTES)
        self._window = window
        self.ack_port = 0
        self.sent = 0
        self.acked = 0
        self._acked_before = 0
        self.received = 0

    def fill(self) -> None:
        """Send what the window allows."""
        while (count := min(BURST, self._window - (self.sent - self.acked))) > 0:
            first = self.sent
            self.sent += count
            self._tunnel.send(
                [
                    Message(UPLINK, self._flow, number, self.ack_port).encode() + self._padding
                    for number in range(first, self.sent)
                ]
            )

    def forgive(self) -> None:
        """Count everything as lost if nothing moved."""
        if self.acked == self._acked_before:
            self.acked = self.sent
        self._acked_before = self.acked
        self.fill()


class Download:
    """One tunnel that the target keeps full."""

    def __init__(self, tunnel: Tunnel, flow: int, side: socket.socket, target_port: int) -> None:
        self.received = 0
        self.sent = 0
        self._flow = flow
        self._side = side
        self._target = ("127.0.0.1", target_port)
        self._tunnel = tunnel
        tunnel.receiver = self._on_batch

    def start(self, size_bytes: int, window: int) -> None:
        """Ask the target to begin."""
        self._tunnel.send([Message(START, self._flow, 0, 0, size_bytes, window).encode()])

    def stop(self) -> None:
        """Ask the target to end."""
        self._side.sendto(Message(STOP, self._flow).encode(), self._target)

    def _on_batch(self, payloads: Sequence[bytes]) -> None:
        self.received += len(payloads)
        self.sent = decode_message(payloads[-1]).sequence + 1
        self._side.sendto(Message(ACK, self._flow, self.sent).encode(), self._target)


class Run:
    """The measurements of one generator process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._ways = Ways(
            Access(
                port=options.port,
                ca_file=options.ca_file,
                token=options.token_file.read_text().strip() if options.token_file else "",
            ),
            offload=not options.no_offload,
        )
        self._side = socket.socket(type=socket.SOCK_DGRAM)
        self._side.bind(("127.0.0.1", 0))
        self._side.setblocking(False)

    async def measure(self) -> dict[str, float]:
        """Run the measurement that the command line asks for."""
        match self._options.what:
            case "uplink" | "downlink":
                result = await self._throughput()
            case "latency":
                result = await self._latency()
            case "memory-steps":
                result = await self._memory_steps()
            case _:
                result = await self._memory()
        await self._ways.close()
        return result

    async def _open(self) -> list[Tunnel]:
        options = self._options
        await self._ways.open_connections(options.connections)
        return [
            await self._ways.open_tunnel(index, options.target_port)
            for index in range(options.connections * options.tunnels_per_connection)
        ]

    async def _throughput(self) -> dict[str, float]:
        options = self._options
        flows: list[Upload] | list[Download]
        tunnels = await self._open()
        for index in range(options.idle_tunnels):
            await self._ways.open_tunnel(index, options.target_port)
        # Flow numbers must differ between generators that use one target at the same time.
        base = os.getpid() % 600 * 100
        if options.what == "uplink":
            uploads = [
                Upload(tunnel, base + index, options.size_bytes, options.window)
                for index, tunnel in enumerate(tunnels)
            ]
            self._serve_acks(uploads)
            flows = uploads
        else:
            flows = [
                Download(tunnel, base + index, self._side, options.target_port)
                for index, tunnel in enumerate(tunnels)
            ]
            for flow in flows:
                flow.start(options.size_bytes, options.window)
        await asyncio.sleep(options.seconds * WARM_UP)
        before = self._snapshot(flows)
        await asyncio.sleep(options.seconds)
        after = self._snapshot(flows)
        if options.what == "downlink":
            for flow in flows:
                assert isinstance(flow, Download)
                flow.stop()
        wall_s, cpu, received, sent = (
            late - early for early, late in zip(before, after, strict=True)
        )
        if not received:
            raise ConnectionError("nothing came through")
        return {
            "datagrams": received,
            "wall_s": wall_s,
            "cpu_s": cpu,
            "lost_part": max(0.0, 1 - received / sent) if sent else 0.0,
            "datagrams_per_s": received / wall_s,
            "datagrams_per_cpu_s": received / cpu if cpu else 0.0,
        }

    def _snapshot(self, flows: list[Upload] | list[Download]) -> tuple[float, float, int, int]:
        return (
            time.monotonic(),
            cpu_s(self._options.pid),
            sum(flow.received for flow in flows),
            sum(flow.sent for flow in flows),
        )

    def _serve_acks(self, uploads: list[Upload]) -> None:
        loop = asyncio.get_running_loop()
        by_flow = {upload._flow: upload for upload in uploads}

        def on_ack() -> None:
            while True:
                try:
                    data = self._side.recv(100)
                except BlockingIOError:
                    return
                message = decode_message(data)
                upload = by_flow.get(message.flow)
                if upload is not None and message.kind == ACK:
                    upload.acked = max(upload.acked, message.sequence)
                    upload.received = int.from_bytes(data[HEAD_BYTES : HEAD_BYTES + 8], "big")
                    upload.fill()

        def forgive() -> None:
            for upload in uploads:
                upload.forgive()
            loop.call_later(STALL_S, forgive)

        loop.add_reader(self._side.fileno(), on_ack)
        for upload in uploads:
            upload.ack_port = self._side.getsockname()[1]
            upload.fill()
        loop.call_later(STALL_S, forgive)

    async def _latency(self) -> dict[str, float]:
        options = self._options
        through, *others = await self._open()
        beside = PlainTunnel(options.target_port)
        rounds: dict[str, list[float]] = {"through": [], "beside": []}
        if options.background_per_s:
            self._send_in_background(others)
        end_s = time.monotonic() + options.seconds
        while time.monotonic() < end_s:
            for name, tunnel in (("through", through), ("beside", beside)):
                took_s = await self._ping(tunnel, options.size_bytes)
                if took_s is not None:
                    rounds[name].append(took_s * 1e6)
                await asyncio.sleep(0.0025)
        result: dict[str, float] = {"count": len(rounds["through"])}
        for name, took_us in rounds.items():
            percentiles = statistics.quantiles(took_us, n=100, method="inclusive")
            result |= {f"{name}_p50_us": percentiles[49], f"{name}_p99_us": percentiles[98]}
        for share in ("p50_us", "p99_us"):
            result[f"added_{share}"] = result[f"through_{share}"] - result[f"beside_{share}"]
        return result

    def _send_in_background(self, tunnels: Sequence[Tunnel]) -> None:
        """Send at a steady rate from now on, in turn over the tunnels, whatever becomes of it."""
        loop = asyncio.get_running_loop()
        options = self._options
        port = self._side.getsockname()[1]
        padding = bytes(options.size_bytes - HEAD_BYTES)
        began_s = time.monotonic()
        sent = 0

        def tick() -> None:
            nonlocal sent
            due = int((time.monotonic() - began_s) * options.background_per_s) - sent
            sent += due
            for index, tunnel in enumerate(tunnels):
                share = (due + index) // len(tunnels)
                if share:
                    message = Message(UPLINK, os.getpid() % 600 * 100 + index, 0, port)
                    tunnel.send([message.encode() + padding] * share)
            loop.call_later(0.001, tick)

        tick()

    async def _ping(self, tunnel: Tunnel, size_bytes: int) -> float | None:
        back = asyncio.get_running_loop().create_future()
        started_s = time.perf_counter()

        def on_batch(_payloads: Sequence[bytes]) -> None:
            if not back.done():
                back.set_result(time.perf_counter() - started_s)

        tunnel.receiver = on_batch
        tunnel.send([Message(ECHO, 0).encode() + bytes(size_bytes - HEAD_BYTES)])
        try:
            return await asyncio.wait_for(back, 1.0)
        except TimeoutError:
            return None

    async def _memory(self) -> dict[str, float]:
        options = self._options
        pid = options.pid
        # What the first ones allocate once for all is not theirs.
        await self._ways.open_connections(4)
        await self._ways.open_tunnel(0, options.target_port)
        await asyncio.sleep(0.5)
        at_first = resident_bytes(pid)
        await self._ways.open_connections(options.connections)
        await asyncio.sleep(1.0)
        with_connections = resident_bytes(pid)
        for index in range(options.tunnels):
            await self._ways.open_tunnel(index, options.target_port)
        await asyncio.sleep(0.5)
        with_tunnels = resident_bytes(pid)
        return {
            "connection_bytes": (with_connections - at_first) / options.connections,
            "tunnel_bytes": (with_tunnels - with_connections) / options.tunnels,
        }

    async def _memory_steps(self) -> dict[str, float]:
        """Bytes per tunnel with as many tunnels as each step says, connections not included."""
        options = self._options
        steps = [int(step) for step in options.steps.split(",")]
        await self._ways.open_connections(options.connections)
        await asyncio.sleep(0.5)
        at_first = resident_bytes(options.pid)
        result: dict[str, float] = {}
        opened = 0
        for step in steps:
            for index in range(opened, step):
                await self._ways.open_tunnel(index, options.target_port)
            opened = step
            await asyncio.sleep(0.5)
            result[str(step)] = (resident_bytes(options.pid) - at_first) / step
        return result


def main() -> None:
    """Measure once and print the result as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["uplink", "downlink", "latency", "memory", "memory-steps"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="whose CPU and memory to measure")
    parser.add_argument("--target-port", type=int, required=True)
    parser.add_argument("--ca-file", type=Path)
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--size-bytes", type=int, default=1200)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--tunnels", type=int, default=400)
    parser.add_argument("--idle-tunnels", type=int, default=0, help="open beside the busy ones")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--tunnels-per-connection", type=int, default=1)
    parser.add_argument("--no-offload", action="store_true", help="neither GSO nor GRO here")
    parser.add_argument(
        "--background-per-s",
        type=float,
        default=0.0,
        help="datagrams beside the pings, over all connections but the first",
    )
    parser.add_argument("--steps", default="1,100,1000", help="of memory-steps: tunnels open")
    print(json.dumps(asyncio.run(Run(parser.parse_args()).measure())))  # noqa: T201 - its output


if __name__ == "__main__":
    main()
