"""Several workers behind one port: whose a packet is, what they share, what a death costs."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from masque_relay.admin.client import AdminClient, AdminRefusedError
from masque_relay.config.dev_state import DEV_AUDIENCE, DEV_ISSUER, prepare_dev_state
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, QuicCounters
from masque_relay.control.auth.keys import load_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.server.clock import SystemClock
from tests.integration.quic.harness import Nat
from tests.integration.server.conftest import connect_udp, open_tunnel
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, start_process, wait_until
from tests.support.relay_process import read_ready_file

POLICY = """
[[rule]]
name = "few"
action = "allow"
who = ["greedy"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
limits = { tunnels_per_subject = 40, bytes_per_subject_per_day = 3000 }

[[rule]]
name = "echo"
action = "allow"
who = ["*"]
methods = ["connect-udp"]
targets = ["127.0.0.1/32:*"]
"""

WORKERS = ("--workers", "2")
NO_MESH = {"GHOSTWIRE__GHOSTWIRE__ENABLED": "false"}
"""The mesh, which a development relay has, meets in one process."""

Status = dict[str, object]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Generator[ManagedRelay]:
    with managed_relay(
        tmp_path_factory.mktemp("relay"), policy=POLICY, arguments=WORKERS, environ=NO_MESH
    ) as relay:
        yield relay


class Clients:
    """Opens connections that end with the test, each through a NAT of its own if wanted."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def open(self, relay: ManagedRelay, *, nat: Nat | None = None) -> H3Client:
        endpoint = QuicEndpoint(
            EndpointSettings(),
            socket_factory=socket_factory(SocketLimits(), FlowCounters()),
            clock=SystemClock(),
            counters=QuicCounters(),
        )
        self._stack.push_async_callback(endpoint.close, timeout_s=0)
        client = H3Client()
        there = Endpoint(address=ip_address(relay.host), port=relay.port)
        await endpoint.connect(
            there if nat is None else nat.address,
            server_name="localhost",
            alpn="h3",
            application=client.attach,
            tls=ClientTls(ca_pem=relay.ca_file.read_bytes()),
            timeout_s=3 * WAIT_S,
        )
        await client.until(lambda: client.settings is not None)
        return client

    def nat(self, relay: ManagedRelay) -> Nat:
        nat = Nat(Endpoint(address=ip_address(relay.host), port=relay.port))
        self._stack.callback(nat.close)
        # The last words of its client pass first.
        self._stack.push_async_callback(asyncio.sleep, 0.02)
        return nat


@pytest.fixture
async def clients() -> AsyncGenerator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


async def status_of(relay: ManagedRelay) -> Status:
    """Ask in a thread: the clients live in this loop."""

    def ask() -> Status:
        with relay.admin() as admin:
            return admin.status()

    return await asyncio.to_thread(ask)


async def until_status(relay: ManagedRelay, holds: Callable[[Status], object]) -> Status:
    """Return the status once something holds for it."""
    async with asyncio.timeout(6 * WAIT_S):
        while not holds(status := await status_of(relay)):  # noqa: ASYNC110 - a relay has no event
            await asyncio.sleep(0.1)
    return status


def workers(status: Status) -> list[dict[str, object]]:
    found = status["workers"]
    assert isinstance(found, list)
    return found


def token_for(relay: ManagedRelay, subject: str) -> str:
    return issue_token(
        load_signing_key(relay.state.signing_key_file),
        subject=subject,
        audience=DEV_AUDIENCE,
        issuer=DEV_ISSUER,
        lifetime_s=600,
        now_s=time.time(),
    )


async def tunnel_of(client: H3Client, relay: ManagedRelay, port: int, subject: str) -> int | None:
    """Open a tunnel of a subject; return the answer's status."""
    _, answer = await client.request(connect_udp(relay, port, token=token_for(relay, subject)))
    return answer.status


async def test_thirty_of_thirty_connections_survive_a_new_address_and_a_new_connection_id(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    await until_status(relay, lambda s: not s["tunnels"])
    before = relay.metrics()
    nats = [clients.nat(relay) for _ in range(30)]
    survivors = 0
    opened = [await clients.open(relay, nat=nat) for nat in nats]
    streams = [await open_tunnel(client, relay, echo_port) for client in opened]
    busy = workers(await status_of(relay))
    assert sum(int(str(worker["tunnels"])) for worker in busy) == 30
    assert all(worker["tunnels"] for worker in busy), busy
    for nat, client, stream_id in zip(nats, opened, streams, strict=True):
        nat.rebind()
        await client.echo(stream_id, b"from another port")
        client.session.quic._connection.change_connection_id()  # type: ignore[attr-defined] # aioquic's own
        nat.rebind()
        await client.echo(stream_id, b"to another connection ID")
        survivors += 1
    assert survivors == 30
    after = relay.metrics()
    for name in ("packets_handed_over", "stateless_resets_sent"):
        metric = f"ghostwire_relay_quic_{name}_total"
        assert after[metric] == before[metric]
    metric = "ghostwire_relay_quic_migrations_total"
    assert after[metric] - before[metric] >= 30


async def test_a_quota_holds_over_all_workers(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    opened = [await clients.open(relay) for _ in range(16)]
    answers = [
        await tunnel_of(client, relay, echo_port, "greedy") for client in opened for _ in range(3)
    ]
    assert answers.count(200) == 40
    assert {answer for answer in answers if answer != 200} == {429}
    spread = [worker["tunnels"] for worker in workers(await status_of(relay))]
    assert all(spread), spread


async def test_a_revocation_reaches_every_worker_and_every_worker_to_come(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    opened = [await clients.open(relay) for _ in range(8)]
    for client in opened:
        assert await tunnel_of(client, relay, echo_port, "mallory") == 200

    def revoke() -> object:
        with relay.admin() as admin:
            return admin.revoke(subject="mallory", token_id=None)

    assert await asyncio.to_thread(revoke) == {"ended_tunnels": 8}
    victim = workers(await status_of(relay))[0]
    os.kill(int(str(victim["pid"])), signal.SIGKILL)
    await until_status(
        relay,
        lambda s: (
            all(w["state"] == "serving" and w["pid"] != victim["pid"] for w in workers(s))
            and len(workers(s)) == 2
        ),
    )
    for client in [await clients.open(relay) for _ in range(8)]:
        assert await tunnel_of(client, relay, echo_port, "mallory") in {401, 403, 407}


async def test_one_tunnel_is_found_and_kicked_wherever_it_is(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    for _ in range(4):
        client = await clients.open(relay)
        stream_id, _ = await client.request(
            connect_udp(relay, echo_port, token=token_for(relay, "kicked"))
        )

        def kick() -> dict[str, object]:
            with relay.admin() as admin:
                (lease,) = [t["lease_id"] for t in admin.tunnels() if t["subject"] == "kicked"]
                return admin.kick(str(lease))

        assert "kicked" in await asyncio.to_thread(kick)
        await client.finished(stream_id)


async def test_a_worker_that_is_killed_is_followed_and_its_neighbour_goes_on(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    await until_status(relay, lambda s: not s["tunnels"])
    before = relay.metrics()
    opened = [await clients.open(relay) for _ in range(12)]
    streams = [await open_tunnel(client, relay, echo_port) for client in opened]
    status = await status_of(relay)
    victim, neighbour = workers(status)
    assert victim["tunnels"]
    assert neighbour["tunnels"]
    os.kill(int(str(victim["pid"])), signal.SIGKILL)
    alive = 0
    for client, stream_id in zip(opened, streams, strict=True):
        try:
            await client.echo(stream_id, b"are you there?")
        except AssertionError:
            # A stateless reset of the follower, who knows the key: the client need not wait.
            assert client.lost is not None
        else:
            alive += 1
    assert alive == neighbour["tunnels"]
    status = await until_status(relay, lambda s: len(workers(s)) == 2 and s["tunnels"] == alive)
    follower, same = workers(status)
    assert same["pid"] == neighbour["pid"]
    assert (follower["slot"], follower["state"]) == (victim["slot"], "serving")
    assert follower["pid"] != victim["pid"]
    for _ in range(16):
        await open_tunnel(await clients.open(relay), relay, echo_port)
    assert all(worker["tunnels"] for worker in workers(await status_of(relay)))
    ends = 'ghostwire_relay_worker_ends_total{result="crashed"}'
    after = relay.metrics()
    assert after[ends] == before.get(ends, 0) + 1
    # What the dead worker had counted is not taken back.
    opened_count = "ghostwire_relay_quic_connections_opened_total"
    assert after[opened_count] >= before[opened_count]
    assert any(
        record["worker_pid"] == victim["pid"] and record["exit_code"] == -signal.SIGKILL
        for record in relay.records("worker ended")
    )


async def test_the_trail_of_all_workers_is_whole_lines(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    opened = [await clients.open(relay) for _ in range(6)]
    async with asyncio.TaskGroup() as group:
        for client in opened:
            for _ in range(20):
                group.create_task(tunnel_of(client, relay, echo_port, "writer"))
    trail = relay.state.directory / "audit.jsonl"

    def decisions() -> int:
        records = [json.loads(line) for line in trail.read_text().splitlines()]
        return sum(r["event"] == "decision" and r.get("subject") == "writer" for r in records)

    async with asyncio.timeout(WAIT_S):
        while decisions() < 120:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.05)
    assert decisions() == 120


async def test_workers_share_the_tcp_port(relay: ManagedRelay) -> None:
    context = ssl.create_default_context(cafile=relay.ca_file)
    async with AsyncExitStack() as stack:
        for _ in range(8):
            _, writer = await asyncio.open_connection(
                relay.host, relay.port, ssl=context, server_hostname="localhost"
            )
            stack.push_async_callback(writer.wait_closed)
            stack.callback(writer.close)
        assert (await status_of(relay))["tcp_connections"] == 8
    status = await until_status(relay, lambda s: s["tcp_connections"] == 0)
    assert status["https"] == f"{relay.host}:{relay.port}"


async def test_all_workers_reload_or_none(
    relay: ManagedRelay, clients: Clients, echo_port: int
) -> None:
    opened = [await clients.open(relay) for _ in range(6)]
    streams = [await open_tunnel(client, relay, echo_port) for client in opened]
    before = (await status_of(relay))["policy"]

    def reload() -> object:
        with relay.admin() as admin:
            return admin.reload()

    try:
        relay.state.policy_file.write_text("nonsense")
        with pytest.raises(AdminRefusedError, match="nothing was changed"):
            await asyncio.to_thread(reload)
        assert (await status_of(relay))["policy"] == before
        for client, stream_id in zip(opened, streams, strict=True):
            await client.echo(stream_id, b"still here")
        relay.state.policy_file.write_text(POLICY.replace('who = ["*"]', 'who = ["nobody"]'))
        assert await asyncio.to_thread(reload) == {"changed": ["policy"]}
        for client, stream_id in zip(opened, streams, strict=True):
            await client.finished(stream_id)
        assert (await status_of(relay))["policy"] != before
    finally:
        relay.state.policy_file.write_text(POLICY)
        await asyncio.to_thread(reload)


def test_a_port_that_is_taken_ends_the_start_with_its_name(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    state = prepare_dev_state(tmp_path / "state")
    taken = f"{relay.host}:{relay.port}"
    start = [*GHOSTCTL, "relay", "run", "--dev", "--state-dir", str(state.directory), *WORKERS]
    second = subprocess.run(
        [*start, "--listen", taken, "--admin", "127.0.0.1:0"],
        env={**os.environ, **NO_MESH},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert second.returncode == 2
    assert f"listen.h3: {taken}: bind {taken}: Address already in use" in second.stderr
    assert "Traceback" not in second.stderr


IMPATIENT = """
import asyncio, sys
from pathlib import Path
from masque_relay.server import ConfigSource, RelayFiles, configure_logging
from masque_relay.server.crew import CrewLimits
from masque_relay.server.supervisor import Supervisor
source = ConfigSource(
    path=Path(sys.argv[1]),
    overrides={("listen", "h3"): "127.0.0.1:0", ("admin", "listen"): "127.0.0.1:0"},
)
config = source.load()
configure_logging(config.log.level, config.log.format)
limits = CrewLimits(pulse_s=0.2, hang_timeout_s=2.0)
files = RelayFiles(ready_file=Path(sys.argv[2]))
asyncio.run(Supervisor(source, config, files, worker_count=2, limits=limits).run())
"""


def test_a_worker_that_stands_still_is_followed(tmp_path: Path) -> None:
    state, ready_file = prepare_dev_state(tmp_path / "state"), tmp_path / "ready.json"
    command = [sys.executable, "-c", IMPATIENT, str(state.config_file), str(ready_file)]
    with (
        start_process(
            command,
            log=tmp_path / "relay.log",
            ready=lambda: read_ready_file(ready_file),
            environment=NO_MESH,
        ) as (_, ready),
        AdminClient(ready["admin"], state.admin_token_file.read_text().strip()) as admin,
    ):
        stopped = int(str(workers(admin.status())[1]["pid"]))
        os.kill(stopped, signal.SIGSTOP)

        def followed() -> Status | None:
            status = admin.status()
            pids = [int(str(worker["pid"])) for worker in workers(status)]
            return status if len(pids) == 2 and stopped not in pids else None

        status = wait_until(followed, deadline_s=6 * WAIT_S, what="a follower")
        assert status["worker_ends"] == {"crashed": 1}
