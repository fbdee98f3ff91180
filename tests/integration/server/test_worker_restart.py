"""The whole relay is replaced by new processes while it runs, and nobody notices."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import pytest

from masque_relay.admin.client import AdminRefusedError
from tests.integration.server.conftest import connect_udp, open_tunnel
from tests.integration.server.test_workers import (
    NO_MESH,
    POLICY,
    WORKERS,
    Clients,
    status_of,
    token_for,
    tunnel_of,
    until_status,
    workers,
)
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, wait_until

PACE_S = 0.02


@pytest.fixture
async def clients() -> AsyncGenerator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


class Stream:
    """Sends numbered datagrams through a tunnel to an echo, at a steady pace, until stopped."""

    def __init__(self, client: H3Client, stream_id: int) -> None:
        self._client = client
        self._stream_id = stream_id
        self.sent: set[bytes] = set()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        number = 0
        while not self.stopped.is_set():
            payload = b"number %d" % number
            self._client.session.send_datagrams(self._stream_id, b"\0", [payload])
            self.sent.add(payload)
            number += 1
            await asyncio.sleep(PACE_S)

    async def complete(self) -> None:
        """Wait until all that was sent has come back."""
        await self._client.until(lambda: not self.missing)

    @property
    def missing(self) -> set[bytes]:
        echoed = self._client.exchanges[self._stream_id].datagrams
        return self.sent - {payload[1:] for payload in echoed}

    @property
    def surplus_count(self) -> int:
        echoed = self._client.exchanges[self._stream_id].datagrams
        numbered = [payload for payload in echoed if payload.startswith(b"\0number ")]
        return len(numbered) - len(set(numbered))


class Visitors:
    """Opens a TLS connection to the TCP port again and again, and counts those that fail."""

    def __init__(self, relay: ManagedRelay) -> None:
        self._relay = relay
        self._context = ssl.create_default_context(cafile=relay.ca_file)
        self.count = 0
        self.failures: list[OSError] = []
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        while not self.stopped.is_set():
            self.count += 1
            try:
                _, writer = await asyncio.open_connection(
                    *self._relay.address, ssl=self._context, server_hostname="localhost"
                )
            except OSError as error:
                self.failures.append(error)
                continue
            writer.close()
            with suppress(OSError):  # a reset of a connection that we have left
                await writer.wait_closed()
            await asyncio.sleep(0.2)


class ServiceManager:
    """Hears what a service tells systemd, until the end of a block."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> list[str]:
        """Return the first line of each message so far."""
        lines: list[str] = []
        with suppress(BlockingIOError):
            while True:
                lines.append(self._socket.recv(4096).decode().splitlines()[0])
        return lines


@pytest.fixture
def manager(tmp_path: Path) -> Generator[ServiceManager]:
    with ServiceManager(tmp_path) as manager:
        yield manager


async def restart(relay: ManagedRelay) -> dict[str, object]:
    """Run `ghostctl relay restart` and return its answer."""
    options = ["--json", "--admin", relay.admin_url]
    options += ["--admin-token-file", str(relay.state.admin_token_file)]
    process = await asyncio.create_subprocess_exec(
        *GHOSTCTL, "relay", "restart", *options, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, relay.log()
    answer: dict[str, object] = json.loads(output)
    return answer


async def test_no_datagram_is_lost_and_newcomers_meet_the_new_generation(
    tmp_path: Path, clients: Clients, echo_port: int, manager: ServiceManager
) -> None:
    environ = {**NO_MESH, "NOTIFY_SOCKET": str(manager.path)}
    with managed_relay(tmp_path, policy=POLICY, arguments=WORKERS, environ=environ) as relay:
        old = [await clients.open(relay) for _ in range(4)]
        streams = [Stream(client, await open_tunnel(client, relay, echo_port)) for client in old]
        visitors = Visitors(relay)
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.run())
            group.create_task(visitors.run())
            assert await restart(relay) == {"generation": 2, "old_tunnels": 4}
            # Half of their first packets meet an old worker, who hands them on.
            young = [await clients.open(relay) for _ in range(16)]
            young_streams = [await open_tunnel(client, relay, echo_port) for client in young]
            status = await status_of(relay)
            for stream in streams:
                stream.stopped.set()
            visitors.stopped.set()
        for client, stream in zip(old, streams, strict=True):
            await stream.complete()
            assert len(stream.sent) > 30
            assert stream.surplus_count == 0
            assert client.goaway is not None
        assert visitors.count > 5
        assert visitors.failures == []
        assert_handover(status, old_tunnels=4, new_tunnels=16)
        metrics = relay.metrics()
        assert metrics["ghostwire_relay_quic_packets_handed_over_total"] > 0
        assert metrics["ghostwire_relay_quic_stateless_resets_sent_total"] == 0
        assert metrics['ghostwire_relay_restarts_total{result="done"}'] == 1
        # There is no room for a third generation while two have tunnels.
        assert "still open" in (await refused_restart(relay)).message
        for client in old:
            client.session.close(0x100, "done")
        status = await until_status(relay, lambda s: not s["handover"])
        assert [worker["generation"] for worker in workers(status)] == [2, 2]
        for client, stream_id in zip(young, young_streams, strict=True):
            await client.echo(stream_id, b"after the handover")
        await _use_up_the_day(relay, clients, echo_port)
        with relay.admin() as admin:
            await asyncio.to_thread(lambda: admin.revoke(subject="mallory", token_id=None))
        # Back into the first half of the slots, by signal; the process is the same one.
        os.kill(relay.process.pid, signal.SIGUSR2)
        await until_status(relay, lambda s: s["generation"] == 3)
        for client, stream_id in zip(young, young_streams, strict=True):
            await client.echo(stream_id, b"after two")
        for subject, answers in (("greedy", {429}), ("mallory", {401, 403, 407}), ("eve", {200})):
            client = await clients.open(relay)
            assert await tunnel_of(client, relay, echo_port, subject) in answers, subject
    restarted = ["RELOADING=1", "READY=1"]
    assert manager.heard() == ["READY=1", *restarted, *restarted, "STOPPING=1"]


def assert_handover(status: dict[str, object], *, old_tunnels: int, new_tunnels: int) -> None:
    assert status["handover"] is True
    assert status["tunnels"] == old_tunnels + new_tunnels
    tunnels = {1: 0, 2: 0}
    for worker in workers(status):
        generation, state = int(str(worker["generation"])), worker["state"]
        assert state == ("draining" if generation == 1 else "serving")
        tunnels[generation] += int(str(worker["tunnels"]))
    assert tunnels == {1: old_tunnels, 2: new_tunnels}


async def refused_restart(relay: ManagedRelay) -> AdminRefusedError:
    with relay.admin() as admin, pytest.raises(AdminRefusedError) as refused:
        await asyncio.to_thread(admin.restart)
    assert refused.value.status == 409
    return refused.value


async def _use_up_the_day(relay: ManagedRelay, clients: Clients, echo_port: int) -> None:
    client = await clients.open(relay)
    stream_id, answer = await client.request(
        connect_udp(relay, echo_port, token=token_for(relay, "greedy"))
    )
    assert answer.status == 200
    client.session.send_datagrams(stream_id, b"\0", [bytes(1000)] * 3)
    await client.finished(stream_id)


async def test_a_restart_that_can_not_succeed_changes_nothing(
    tmp_path: Path, clients: Clients, echo_port: int
) -> None:
    with managed_relay(tmp_path, policy=POLICY, arguments=WORKERS, environ=NO_MESH) as relay:
        client = await clients.open(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        relay.state.policy_file.write_text("nonsense")
        refused = await refused_restart(relay)
        assert any("policy.toml" in problem for problem in refused.problems)
        await client.echo(stream_id, b"still here")
        assert (await status_of(relay))["generation"] == 1


async def test_workers_end_when_their_supervisor_is_killed(
    tmp_path: Path, clients: Clients, echo_port: int
) -> None:
    with managed_relay(
        tmp_path, policy=POLICY, arguments=WORKERS, environ=NO_MESH, expect_exit=None
    ) as relay:
        client = await clients.open(relay)
        stream_id = await open_tunnel(client, relay, echo_port)
        pids = [int(str(worker["pid"])) for worker in workers(await status_of(relay))]
        relay.process.kill()
        # As after SIGTERM: the tunnels may finish, until the deadline.
        exchange = client.exchanges[stream_id]
        await client.until(lambda: exchange.ended or exchange.reset is not None or client.lost)
        await asyncio.to_thread(
            wait_until,
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids) or None,
            deadline_s=3 * WAIT_S,
            what="the end of the workers",
        )
