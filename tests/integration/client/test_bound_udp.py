"""Bound UDP as a user has it: the Python API and `ghostctl tunnel udp --bind`, on a real relay."""

import asyncio
import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from masque_relay.client import (
    Bearer,
    RelayAddress,
    RelayClient,
    RelayOptions,
    TunnelRefused,
    open_bound_udp,
)
from masque_relay.client.http_version import HttpChoice
from tests.integration.client.commands import TIMESCALE, WAIT_S, RunningTunnel, ghostctl, way_to
from tests.support.bind_rig import udp_peer
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.processes import GHOSTCTL, start_process
from tests.support.udp_echo import UdpEcho, run_udp_echo


@pytest.fixture
def echo() -> Generator[UdpEcho]:
    with run_udp_echo() as running:
        yield running


def client_of(relay: ManagedRelay, http: HttpChoice = HttpChoice.H3) -> RelayClient:
    credential = Bearer(file=relay.token_file)
    options = RelayOptions(ca_file=relay.ca_file, credential=credential, http=http)
    return RelayClient(RelayAddress.parse(relay.url), options)


@contextmanager
def bound_command(
    relay: ManagedRelay, directory: Path, *binds: str, idle_timeout_s: float = 120.0
) -> Generator[RunningTunnel]:
    """Run the command while the block runs; it must end with 0."""
    ready_file, output = directory / "bind.json", directory / "bind.out"
    command = [*GHOSTCTL, "tunnel", "udp", *way_to(relay), "--json"]
    command += ["--ready-file", str(ready_file), "--idle-timeout", str(idle_timeout_s)]
    for bind in binds:
        command += ["--bind", bind]
    with start_process(
        command,
        log=output,
        ready=lambda: json.loads(ready_file.read_text()) if ready_file.exists() else None,
    ) as (process, ready):
        tunnel = RunningTunnel(process=process, ready=ready, output=output)
        yield tunnel
        if process.poll() is None:
            assert tunnel.end() == 0, output.read_text()


def public_of(described: dict[str, Any]) -> tuple[str, int]:
    host, _, port = described["public"][0].rpartition(":")
    return host, int(port)


def ask(public: tuple[str, int], payload: bytes) -> bytes:
    """Send from a new port until an answer comes."""
    deadline = time.monotonic() + WAIT_S
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(1.0 * TIMESCALE)
        while time.monotonic() < deadline:
            try:
                peer.sendto(payload, public)
                answer, source = peer.recvfrom(65_536)
            except (TimeoutError, ConnectionRefusedError):
                continue
            assert source == public
            return answer
    raise AssertionError("no answer from the public port")


class TestApi:
    @pytest.mark.parametrize("http", [HttpChoice.H3, HttpChoice.H2, HttpChoice.H1])
    async def test_peers_reach_the_port_and_are_answered(
        self, relay: ManagedRelay, http: HttpChoice
    ) -> None:
        async with client_of(relay, http) as client, udp_peer() as one, udp_peer() as two:
            bound = await open_bound_udp(client.start_tunnel, client.address.bind_path)
            (public,) = bound.public
            for number in range(20):
                for peer in (one, two):
                    peer.send(b"to %d" % number, (str(public.address), public.port))
                    async with asyncio.timeout(WAIT_S):
                        payload, source = await bound.receive()
                    assert (payload, source) == (b"to %d" % number, peer.endpoint)
                    assert bound.send(b"re %d" % number, source)
                    assert await peer.until(b"re %d" % number) == (str(public.address), public.port)
            assert bound.received_count == bound.sent_count == 40
            assert bound.malformed_count == 0
            bound.close()
        await asyncio.sleep(0.05)  # TLS sockets that were cut close in the loop's next turns

    async def test_two_clients_reach_each_other(self, relay: ManagedRelay) -> None:
        async with client_of(relay) as first, client_of(relay) as second:
            one = await open_bound_udp(first.start_tunnel, first.address.bind_path)
            two = await open_bound_udp(second.start_tunnel, second.address.bind_path)
            one.send(b"hello", two.public[0])
            async with asyncio.timeout(WAIT_S):
                assert await two.receive() == (b"hello", one.public[0])
                two.send(b"hello yourself", one.public[0])
                assert await one.receive() == (b"hello yourself", two.public[0])

    async def test_caller_that_does_not_listen_hears_only_whom_it_called(
        self, relay: ManagedRelay
    ) -> None:
        async with client_of(relay) as client, udp_peer() as called, udp_peer() as stranger:
            path = client.address.bind_path
            bound = await open_bound_udp(client.start_tunnel, path, listen=False)
            public = (str(bound.public[0].address), bound.public[0].port)
            async with asyncio.timeout(WAIT_S):
                while not called.received:  # the first ones may overtake their registration
                    bound.send(b"call", called.endpoint)
                    await asyncio.sleep(0.02)
                stranger.send(b"knock", public)
                called.send(b"answer", public)
                assert await bound.receive() == (b"answer", called.endpoint)

    async def test_refusal_says_why(self, tmp_path: Path) -> None:
        policy = """
[[rule]]
name = "plain"
action = "allow"
who = ["dev"]
methods = ["connect-udp"]
targets = ["*:*"]
"""
        with managed_relay(tmp_path, policy=policy) as relay:
            async with client_of(relay) as client:
                with pytest.raises(TunnelRefused) as caught:
                    await open_bound_udp(client.start_tunnel, client.address.bind_path)
                assert caught.value.status == 403


class TestCommand:
    def test_remote_peers_reach_a_local_program_and_are_told_apart(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with bound_command(relay, tmp_path, f":{echo.port}") as tunnel:
            (bind,) = tunnel.ready["binds"]
            assert bind["target"] == f"127.0.0.1:{echo.port}"
            for number in range(10):
                assert ask(public_of(bind), b"peer %d" % number) == b"peer %d" % number
            assert len(echo.sources) == 10
            assert tunnel.end() == 0
            (status,) = tunnel.events("status")
            assert status["peers"] == 10
            assert status["received"] >= 10
            assert status["sent"] >= 10

    def test_several_programs_have_ports_of_their_own(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with (
            run_udp_echo() as other,
            bound_command(relay, tmp_path, f":{echo.port}", f"127.0.0.1:{other.port}") as tunnel,
        ):
            first, second = tunnel.ready["binds"]
            assert first["public"] != second["public"]
            assert ask(public_of(first), b"one") == b"one"
            assert ask(public_of(second), b"two") == b"two"
            assert (len(echo.sources), len(other.sources)) == (1, 1)

    def test_kicked_port_is_replaced_and_told(
        self, relay: ManagedRelay, tmp_path: Path, echo: UdpEcho
    ) -> None:
        with bound_command(relay, tmp_path, f":{echo.port}") as tunnel:
            with relay.admin() as admin:
                (lease,) = [t for t in admin.tunnels() if t["method"] == "bind-udp"]
                assert admin.kick(lease["lease_id"])
            assert tunnel.wait_for("port_lost")
            again = tunnel.wait_for("bound", 2)[-1]
            assert ask(public_of(again), b"found again") == b"found again"

    def test_refusal_ends_the_command(self, tmp_path: Path) -> None:
        config = "\n"
        environ = {"GHOSTWIRE__CONNECT_UDP__BIND__ENABLED": "false"}
        with managed_relay(tmp_path, config=config, environ=environ) as relay:
            ended = ghostctl("tunnel", "udp", *way_to(relay), "--bind", ":9")
        assert ended.returncode == 3
        assert "ghostctl:" in ended.stderr
