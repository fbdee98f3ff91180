"""Owns the comparison of TURN with coturn: ``make bench-turn``, ``python -m tests.bench.turn``.

Both servers have the first CPU to themselves, generator and peer the others; within a round they
take turns. Packets are counted where they arrive. Clients send one packet per system call, as
WebRTC stacks do, or whole bursts (GSO), as a client with our data path does.
"""

import argparse
import base64
import hmac
import json
import os
import select
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.stun.channel_data import encode_channel_head
from tests.bench.report import Report, machine
from tests.bench.subjects import run_relay
from tests.support.turn_client import TurnClient, endpoint

OURS = "ghostwire relay"
COTURN = "coturn"
SECRET = "a secret for the benchmark"
SIZES_BYTES = (120, 1000)
WINDOW = 256
"""Packets under way in all: work for every server, without overflowing buffers."""
BURST = 16
THROUGHPUT = "packets per CPU second, {way}, {size_bytes} B, {sending}"
_UDP_SEGMENT = (17, 103)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running TURN server."""

    name: str
    pid: int
    port: int

    def cpu_s(self) -> float:
        """Return the CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(") ")[2]
        parts = fields.split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the memory that it holds."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How thorough a run is."""

    rounds: int = 6
    seconds: float = 2.0
    clients: int = 8
    memory_allocations: int = 400


SMOKE = Plan(rounds=1, seconds=0.3, clients=2, memory_allocations=20)


class Load:
    """Clients with a channel each to one peer socket each, and packets through them."""

    def __init__(self, server: Server, clients: int) -> None:
        self._stack = ExitStack()
        self.clients: list[TurnClient] = []
        self.peers: list[socket.socket] = []
        self.relayed: list[tuple[str, int]] = []
        for index in range(clients):
            peer = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            peer.bind(("127.0.0.1", 0))
            client = self._stack.enter_context(new_client(server, f"bench{index}"))
            relayed = client.allocate()
            assert client.bind_channel(0x4000, endpoint(peer.getsockname())).ok
            for one in (peer, client.socket):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                one.setblocking(False)
            self.peers.append(peer)
            self.clients.append(client)
            self.relayed.append((str(relayed.address), relayed.port))

    def close(self) -> None:
        """Give every allocation back and close every socket."""
        for client in self.clients:
            client.socket.setblocking(True)
            client.refresh(0)
        self._stack.close()

    def run(self, way: str, size_bytes: int, *, seconds: float, in_bursts: bool) -> int:
        """Keep WINDOW packets under way for so long; return how many arrived."""
        payload = bytes(size_bytes)
        if way == "uplink":
            payload = encode_channel_head(0x4000, size_bytes) + payload
            senders = [(client.socket, None) for client in self.clients]
            receivers = self.peers
        else:
            senders = list(zip(self.peers, self.relayed, strict=True))
            receivers = [client.socket for client in self.clients]
        share = max(1, WINDOW // len(senders))
        burst = min(BURST, share)
        under_way = 0
        arrived_count = 0
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            for sender, to in senders:
                if under_way + burst > WINDOW:
                    break
                _send(sender, payload, burst, to, in_bursts=in_bursts)
                under_way += burst
            before = arrived_count
            arrived_count += sum(map(_drain, receivers))
            under_way -= arrived_count - before
            if arrived_count == before and under_way + burst > WINDOW:
                select.select(receivers, (), (), 0.05)
                if time.monotonic() - now_s > 0.04:
                    under_way = 0  # what has not come by now is lost
        return arrived_count

    def round_trips_us(self, count: int) -> list[float]:
        """Return how long single packets take to a peer and back, one at a time."""
        client, peer = self.clients[0].socket, self.peers[0]
        message = encode_channel_head(0x4000, 120) + bytes(120)
        times: list[float] = []
        for _ in range(count):
            began_s = time.perf_counter()
            client.send(message)
            select.select([peer], (), ())
            data, source = peer.recvfrom(2048)
            peer.sendto(data, source)
            select.select([client], (), ())
            client.recv(2048)
            times.append((time.perf_counter() - began_s) * 1e6)
            time.sleep(0.002)
        return times


def plain_round_trips_us(count: int) -> list[float]:
    """Return the same for two sockets without a server between them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        times: list[float] = []
        for _ in range(count):
            began_s = time.perf_counter()
            one.sendto(bytes(124), other.getsockname())
            data, source = other.recvfrom(2048)
            other.sendto(data, source)
            one.recv(2048)
            times.append((time.perf_counter() - began_s) * 1e6)
            time.sleep(0.002)
        return times


def new_client(server: Server, subject: str) -> TurnClient:
    """Return a client with a time-limited credential."""
    username = f"{int(time.time()) + 3600}:{subject}"
    digest = hmac.digest(SECRET.encode(), username.encode(), "sha1")
    password = base64.b64encode(digest).decode("ascii")
    return TurnClient(("127.0.0.1", server.port), username=username, password=password)


def measure(servers: Sequence[Server], plan: Plan, report: Report) -> None:
    """Do one round."""
    for way in ("uplink", "downlink"):
        for size_bytes in SIZES_BYTES:
            for in_bursts in (False, True):
                sending = "GSO bursts" if in_bursts else "single sends"
                figure = THROUGHPUT.format(way=way, size_bytes=size_bytes, sending=sending)
                for server in servers:
                    report.add(
                        figure,
                        server.name,
                        _packets_per_cpu_s(server, plan, way, size_bytes, in_bursts=in_bursts),
                    )
    plain_us = statistics.median(plain_round_trips_us(100))
    for server in servers:
        load = Load(server, 1)
        try:
            times = sorted(load.round_trips_us(max(50, int(plan.seconds * 150))))
        finally:
            load.close()
        report.add("added round trip, p50, us", server.name, statistics.median(times) - plain_us)
        report.add(
            "added round trip, p99, us", server.name, times[int(len(times) * 0.99)] - plain_us
        )


def _packets_per_cpu_s(
    server: Server, plan: Plan, way: str, size_bytes: int, *, in_bursts: bool
) -> float:
    load = Load(server, plan.clients)
    try:
        load.run(way, size_bytes, seconds=plan.seconds / 8, in_bursts=in_bursts)
        before_s = server.cpu_s()
        arrived = load.run(way, size_bytes, seconds=plan.seconds, in_bursts=in_bursts)
        used_s = server.cpu_s() - before_s
    finally:
        load.close()
    return arrived / max(used_s, 0.01)


def measure_memory(servers: Sequence[Server], plan: Plan, report: Report) -> None:
    """Add what an idle allocation costs."""
    for server in servers:
        before = server.resident_bytes()
        with ExitStack() as stack:
            for index in range(plan.memory_allocations):
                client = stack.enter_context(new_client(server, f"memory{index}"))
                client.allocate()
                stack.callback(client.refresh, 0)
            more = server.resident_bytes() - before
        report.add("bytes per allocation", server.name, more / plan.memory_allocations)


def _send(
    sender: socket.socket,
    payload: bytes,
    count: int,
    to: tuple[str, int] | None,
    *,
    in_bursts: bool,
) -> None:
    if in_bursts:
        segment = [(*_UDP_SEGMENT, struct.pack("=H", len(payload)))]
        arguments = () if to is None else (0, to)
        sender.sendmsg([payload] * count, segment, *arguments)
    elif to is None:
        for _ in range(count):
            sender.send(payload)
    else:
        for _ in range(count):
            sender.sendto(payload, to)


def _drain(receiver: socket.socket) -> int:
    count = 0
    receive = receiver.recv
    try:
        while True:
            receive(2048)
            count += 1
    except BlockingIOError:
        return count


@contextmanager
def run_servers(directory: Path) -> Generator[tuple[Server, ...]]:
    """Start both servers on the first CPU; everything else runs on the others."""
    cpus = sorted(os.sched_getaffinity(0))
    first, others = frozenset(cpus[:1]), frozenset(cpus[1:]) or frozenset(cpus)
    with ExitStack() as stack:
        os.sched_setaffinity(0, others)
        stack.callback(os.sched_setaffinity, 0, frozenset(cpus))
        yield (
            stack.enter_context(_run_ours(directory, first)),
            stack.enter_context(_run_coturn(directory, first)),
        )


@contextmanager
def _run_ours(directory: Path, cpus: frozenset[int]) -> Iterator[Server]:
    state = prepare_dev_state(directory / "state")
    port = _free_port()
    (state.directory / "turn-secret").write_text(SECRET)
    state.config_file.write_text(
        state.config_file.read_text()
        + '\n[gate.stun]\nshared_secret_files = ["turn-secret"]\n'
        + f'[turn]\nudp = ["127.0.0.1:{port}"]\n'
    )
    state.policy_file.write_text(
        '[[rule]]\nname = "bench"\naction = "allow"\nwho = ["*"]\n'
        'methods = ["bind-udp"]\ntargets = ["127.0.0.0/8:*"]\n'
    )
    with run_relay(directory, state, cpus=cpus) as (pid, _):
        yield Server(name=OURS, pid=pid, port=port)


@contextmanager
def _run_coturn(directory: Path, cpus: frozenset[int]) -> Iterator[Server]:
    port = _free_port()
    command = ["turnserver", "-n", "-L", "127.0.0.1", "-E", "127.0.0.1", "-p", str(port)]
    command += ["--use-auth-secret", f"--static-auth-secret={SECRET}", "--realm=bench"]
    command += ["--allow-loopback-peers", "--no-tls", "--no-dtls", "--no-cli"]
    command += ["-m", "1", "--pidfile", str(directory / "coturn.pid")]
    command += ["--db", str(directory / "coturn.db"), "--log-file", "stdout"]
    with (directory / "coturn.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        os.sched_setaffinity(process.pid, cpus)
    server = Server(name=COTURN, pid=process.pid, port=port)
    with process:
        try:
            _wait_until_it_answers(server)
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                os.sched_setaffinity(int(task.name), cpus)
            yield server
        finally:
            process.terminate()


def _wait_until_it_answers(server: Server) -> None:
    deadline_s = time.monotonic() + 15
    while time.monotonic() < deadline_s:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            probe.connect(("127.0.0.1", server.port))
            try:
                probe.send(bytes.fromhex("000100002112a442") + bytes(12))
                probe.recv(1500)
            except OSError:
                time.sleep(0.1)
            else:
                return
    raise RuntimeError(f"{server.name} does not answer")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(prog="tests.bench.turn", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="show that it works, in seconds")
    parser.add_argument("--rounds", type=int, default=Plan().rounds)
    parser.add_argument("--seconds", type=float, default=Plan().seconds)
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    chosen = parser.parse_args(arguments)
    if shutil.which("turnserver") is None:
        print("SKIPPED: no turnserver on this machine (Debian: apt-get install coturn)")  # noqa: T201
        return 0
    plan = SMOKE if chosen.smoke else Plan(rounds=chosen.rounds, seconds=chosen.seconds)
    report = Report()
    with tempfile.TemporaryDirectory() as directory, run_servers(Path(directory)) as servers:
        for index in range(plan.rounds):
            print(f"round {index + 1} of {plan.rounds}", file=sys.stderr)  # noqa: T201
            measure(servers if index % 2 == 0 else servers[::-1], plan, report)
        measure_memory(servers, plan, report)
    lines = (machine(), report.table(), report.ratios(OURS, COTURN))
    print(*lines, sep="\n")  # noqa: T201 - its output
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(report.as_json(), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
