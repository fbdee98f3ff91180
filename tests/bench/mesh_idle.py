"""Owns many peers of the mesh that come in by QUIC and then do nothing but keep alive.

    python -m tests.bench.mesh_idle --port 4433 --signing-key state/signing.pem --peers 5000

is one process of them; it prints how many are in, and stays until it is killed.
"""

import argparse
import asyncio
import contextlib
import gc
import resource
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from masque_relay.client.clock import SystemClock
from masque_relay.config.dev_state import DEV_AUDIENCE, DEV_ISSUER
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.control.auth.keys import load_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.quic.application import QuicApplication, QuicTransport
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, ConnectFailed, EndpointSettings
from masque_relay.tunnels.ghostwire_quic import ALPN, GhostwireConnection
from tests.bench.mesh_calls import cpu_s, resident_bytes
from tests.support.managed_relay import ManagedRelay
from tests.support.mesh_peer import MeshPeer

PROCESSES = 2
"""Of clients; one socket for each peer in them."""
ARRIVALS_PER_S = 45
"""Of one process: slow enough that those who are in are still kept alive on a busy machine."""
AT_ONCE = 8
"""Handshakes of one process: fewer than the relay answers with Retry."""
FIRST = 10
SETTLE_S = 2.0
SPARE_FILES = 100
COME_IN_S = 30.0
"""For one of them; who has not come in by then stays away."""
ARRIVAL_S = 330.0
"""For all of them."""
HOST = "127.0.0.1"


def come_in_and_stay(port: int, signing_key_file: Path, count: int) -> None:
    """Be one process of peers; returns only when something goes wrong."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, count + SPARE_FILES), most))
    # Nothing here goes away before the end, and a collection among so many objects takes seconds.
    gc.disable()
    asyncio.run(_come_in_and_stay(port, signing_key_file, count))


async def _come_in_and_stay(port: int, signing_key_file: Path, count: int) -> None:
    # One endpoint for all: its timer is one for all.
    endpoint = QuicEndpoint(
        EndpointSettings(),
        socket_factory=socket_factory(SocketLimits(), FlowCounters()),
        clock=SystemClock(),
        counters=QuicCounters(),
    )
    key = load_signing_key(signing_key_file)
    peers: list[MeshPeer] = []
    room = asyncio.Semaphore(AT_ONCE)

    def begin(peer: MeshPeer, token: str, transport: QuicTransport) -> QuicApplication:
        session = peer.make(transport.export_keying_material, token=token, name=HOST)
        return GhostwireConnection(transport, session)

    async def come_in() -> None:
        async with room:
            peer = MeshPeer()
            token = issue_token(
                key,
                subject="dev",
                audience=DEV_AUDIENCE,
                issuer=DEV_ISSUER,
                lifetime_s=3_600,
                now_s=time.time(),
                peer_id=peer.identity.peer_id,
            )
            with contextlib.suppress(ConnectFailed, TimeoutError):
                await endpoint.connect(
                    Endpoint(address=ip_address(HOST), port=port),
                    server_name=HOST,
                    alpn=ALPN,
                    application=partial(begin, peer, token),
                    # The relay's work is measured; to check its certificate is the client's.
                    tls=ClientTls(insecure_skip_verify=True),
                    timeout_s=COME_IN_S,
                )
                async with asyncio.timeout(COME_IN_S):
                    await peer.opened.wait()
                if peer.closed is None:
                    peers.append(peer)

    async def keep_alive() -> None:
        while True:
            await asyncio.sleep(1)
            for peer in peers:
                assert peer.session is not None
                peer.session.on_tick()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_alive())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_S), asyncio.TaskGroup() as arriving:
                for _ in range(count):
                    arriving.create_task(come_in())
                    await asyncio.sleep(1 / ARRIVALS_PER_S)
        sys.stdout.write(f"{len(peers)}\n")
        sys.stdout.flush()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleFigures:
    """What idle peers cost the relay."""

    asked: int
    peers: int
    """Who came in."""
    bytes_per_peer: float
    """Of the relay's resident memory."""
    arrival_s: float
    """Until the last was in."""
    arrival_cpu_ms: float
    """The relay's, for each: QUIC, TLS, proof and token, and the keepalive of those who are in."""
    cpu_share: float
    """Of a core, while they do nothing but keep alive."""
    lost: int
    """Sessions of those who had come in that were over before the end."""


def measure_idle(relay: ManagedRelay, count: int, hold_s: float) -> IdleFigures:
    """Let so many peers come in and be idle; measure what the relay's process grows by."""
    pid = relay.process.pid
    with idle_peers(relay, FIRST):  # what is made once is not counted
        before_bytes, cpu_before_s, began_s = resident_bytes(pid), cpu_s(pid), time.monotonic()
        with idle_peers(relay, count) as came_in:
            arrival_s, arrival_cpu_s = time.monotonic() - began_s, cpu_s(pid) - cpu_before_s
            time.sleep(SETTLE_S)
            cpu_before_s, began_s = cpu_s(pid), time.monotonic()
            time.sleep(hold_s)
            share = (cpu_s(pid) - cpu_before_s) / (time.monotonic() - began_s)
            still_here = int(relay.metrics()["ghostwire_relay_mesh_sessions"]) - FIRST
            return IdleFigures(
                asked=count,
                peers=came_in,
                bytes_per_peer=(resident_bytes(pid) - before_bytes) / max(1, came_in),
                arrival_s=arrival_s,
                arrival_cpu_ms=arrival_cpu_s / max(1, came_in) * 1_000,
                cpu_share=share,
                lost=came_in - still_here,
            )


@contextmanager
def idle_peers(relay: ManagedRelay, count: int) -> Generator[int]:
    """Let so many peers come in; yields how many did, once all have or have given up."""
    with ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []
        for index in range(PROCESSES):
            share = count // PROCESSES + (index < count % PROCESSES)
            command = [sys.executable, "-m", "tests.bench.mesh_idle", "--port", str(relay.port)]
            command += ["--signing-key", str(relay.state.signing_key_file), "--peers", str(share)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            running.append(process)
        came_in = 0
        for process in running:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert said, "a process of idle peers ended"
            came_in += int(said)
        yield came_in


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def main() -> None:
    """Be one process of idle peers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--signing-key", type=Path, required=True)
    parser.add_argument("--peers", type=int, required=True)
    chosen: Any = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        come_in_and_stay(chosen.port, chosen.signing_key, chosen.peers)


if __name__ == "__main__":
    main()
