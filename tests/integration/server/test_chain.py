"""Owns the tests of two and three hops: real relays, one upstream of another, or in a circle."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from masque_relay.client import (
    Bearer,
    HttpChoice,
    RelayAddress,
    RelayClient,
    RelayOptions,
    TunnelClosed,
    TunnelRefused,
    make_target,
)
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.config.dev_state import prepare_dev_state
from masque_relay.contract.verdict import EndReason
from tests.support.h3_client import WAIT_S
from tests.support.managed_relay import ManagedRelay, managed_relay
from tests.support.relay import udp_echo
from tests.support.tcp_serving import echo_then_bye, serving_tcp

ONLY_BY_ADDRESS = """
[[rule]]
name = "loopback"
action = "allow"
who = ["dev"]
methods = ["connect-udp", "connect-tcp"]
targets = ["127.0.0.0/8:*"]
"""


def upstream(relay: ManagedRelay | None, **values: str) -> str:
    """Return the section ``[upstream]`` that leads to a relay."""
    lines = ["", "[upstream]"]
    if relay is not None:
        lines += [
            f'url = "{relay.url}"',
            f'ca_file = "{relay.ca_file}"',
            f'token_file = "{relay.token_file}"',
        ]
    lines += [f"{key} = {value}" for key, value in values.items()]
    return "\n".join([*lines, ""])


def metric(relay: ManagedRelay, name: str) -> float:
    """Return a counter of a relay."""
    scraped = httpx.get(f"{relay.admin_url}/metrics", timeout=WAIT_S, trust_env=False).text
    for line in scraped.splitlines():
        if line.startswith(f"ghostwire_relay_{name}_total "):
            return float(line.split()[1])
    raise AssertionError(name)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedRelay]:
    """The relay at the end of the chain."""
    with managed_relay(tmp_path_factory.mktemp("far")) as relay:
        yield relay


@pytest.fixture(scope="module")
def near(far: ManagedRelay, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedRelay]:
    """The relay that clients use; localhost goes direct, all else upstream."""
    with managed_relay(
        tmp_path_factory.mktemp("near"), config=upstream(far, rules='["direct:localhost"]')
    ) as relay:
        yield relay


@asynccontextmanager
async def client_of(
    relay: ManagedRelay, http: HttpChoice = HttpChoice.H3
) -> AsyncGenerator[RelayClient]:
    options = RelayOptions(
        ca_file=relay.ca_file, credential=Bearer(file=relay.token_file), http=http
    )
    async with RelayClient(RelayAddress.parse(relay.url), options) as client:
        yield client


async def all_of(tunnel: TcpTunnel) -> bytes:
    received = bytearray()
    async with asyncio.timeout(WAIT_S):
        while data := await tunnel.read():
            received += data
    return bytes(received)


class TestTwoHops:
    @pytest.mark.parametrize("http", [HttpChoice.H3, HttpChoice.H2, HttpChoice.H1])
    async def test_udp_takes_both_and_both_say_so(
        self, near: ManagedRelay, far: ManagedRelay, http: HttpChoice
    ) -> None:
        opened_before = metric(near, "upstream_tunnels_opened")
        async with (
            udp_echo("127.0.0.1") as port,
            client_of(near, http) as client,
            client.open_udp("127.0.0.1", port) as tunnel,
        ):
            # the member nearest to the target comes first
            assert tunnel.next_hop == f"127.0.0.1:{port}"
            (said,) = [value for name, value in tunnel.response if name == b"proxy-status"]
            assert said.count(b"next-hop") == 2
            assert tunnel.send_batch([b"one", bytes(1_000)]) == 2
            async with asyncio.timeout(WAIT_S):
                assert [await tunnel.receive(), await tunnel.receive()] == [b"one", bytes(1_000)]
            with far.admin() as admin:
                assert f"127.0.0.1:{port}" in [entry["target"] for entry in admin.tunnels()]
        assert metric(near, "upstream_tunnels_opened") == opened_before + 1
        assert metric(near, "upstream_connections_opened") >= 1

    @pytest.mark.parametrize("http", [HttpChoice.H3, HttpChoice.H2])
    async def test_tcp_arrives_whole_and_can_be_half_closed(
        self, near: ManagedRelay, http: HttpChoice
    ) -> None:
        payload = bytes(range(256)) * 8_192
        async with serving_tcp(echo_then_bye) as port, client_of(near, http) as client:
            tunnel = await client.start_tcp(make_target("127.0.0.1", port))

            async def send() -> None:
                await tunnel.write(payload)
                tunnel.write_eof()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                assert await all_of(tunnel) == payload + b"bye"

    async def test_what_a_rule_sends_around_the_upstream_goes_direct(
        self, near: ManagedRelay
    ) -> None:
        opened_before = metric(near, "upstream_tunnels_opened")
        async with (
            udp_echo("127.0.0.1") as port,
            client_of(near) as client,
            client.open_udp("localhost", port) as tunnel,
        ):
            tunnel.send(b"direct")
            async with asyncio.timeout(WAIT_S):
                assert await tunnel.receive() == b"direct"
        assert metric(near, "upstream_tunnels_opened") == opened_before

    async def test_a_refusal_at_the_far_end_is_told_with_its_reason(
        self, near: ManagedRelay
    ) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = closed.getsockname()[1]
            async with client_of(near) as client:
                with pytest.raises(TunnelRefused) as refused:
                    await client.start_tcp(make_target("127.0.0.1", port))
        assert (refused.value.status, refused.value.error) == (502, "connection_refused")

    async def test_the_near_gate_has_its_say_about_addresses(self, near: ManagedRelay) -> None:
        async with client_of(near) as client:
            with pytest.raises(TunnelRefused) as refused:
                await client.start_udp(make_target("169.254.169.254", 80))
        assert (refused.value.status, refused.value.error) == (403, "destination_ip_prohibited")


class TestNames:
    async def test_a_name_is_resolved_upstream_alone(
        self, tmp_path: Path, near: ManagedRelay
    ) -> None:
        """The far relay alone knows the name."""
        with ExitStack() as stack:
            (tmp_path / "far").mkdir()
            (tmp_path / "near").mkdir()
            policy = ONLY_BY_ADDRESS + ONLY_BY_ADDRESS.replace("loopback", "name").replace(
                "127.0.0.0/8:*", "db.internal:*"
            )
            hosts = '\n[dns.hosts]\n"db.internal" = ["127.0.0.1"]\n'
            far = stack.enter_context(managed_relay(tmp_path / "far", policy=policy, config=hosts))
            first = stack.enter_context(
                managed_relay(tmp_path / "near", policy=policy, config=upstream(far))
            )
            async with (
                udp_echo("127.0.0.1") as port,
                client_of(first) as client,
                client.open_udp("db.internal", port) as tunnel,
            ):
                tunnel.send(b"there")
                async with asyncio.timeout(WAIT_S):
                    assert await tunnel.receive() == b"there"

    async def test_a_name_that_only_an_address_rule_would_allow_is_refused(
        self, tmp_path: Path, far: ManagedRelay
    ) -> None:
        with managed_relay(tmp_path, policy=ONLY_BY_ADDRESS, config=upstream(far)) as relay:
            async with client_of(relay) as client:
                with pytest.raises(TunnelRefused) as refused:
                    await client.start_udp(make_target("localhost", 9))
                assert (refused.value.status, refused.value.error) == (403, "http_request_denied")

    async def test_names_resolved_here_are_judged_by_their_address(
        self, tmp_path: Path, far: ManagedRelay
    ) -> None:
        config = upstream(far, resolve='"local"')
        with managed_relay(tmp_path, policy=ONLY_BY_ADDRESS, config=config) as relay:
            async with (
                udp_echo("127.0.0.1") as port,
                client_of(relay) as client,
                client.open_udp("localhost", port) as tunnel,
            ):
                tunnel.send(b"judged")
                async with asyncio.timeout(WAIT_S):
                    assert await tunnel.receive() == b"judged"


class TestLoops:
    async def test_three_hops_are_no_loop_until_the_cap_says_so(
        self, tmp_path: Path, near: ManagedRelay
    ) -> None:
        with managed_relay(tmp_path, config=upstream(near)) as first:
            async with (
                udp_echo("127.0.0.1") as port,
                client_of(first) as client,
                client.open_udp("127.0.0.1", port) as tunnel,
            ):
                tunnel.send(b"far away")
                async with asyncio.timeout(WAIT_S):
                    assert await tunnel.receive() == b"far away"
                (said,) = [v for name, v in tunnel.response if name == b"proxy-status"]
                assert said.count(b"next-hop") == 3
            assert metric(first, "upstream_connections_opened") >= 1
            assert metric(first, "upstream_tunnels_opened") == 1

    async def test_a_chain_longer_than_the_cap_is_refused(
        self, tmp_path: Path, far: ManagedRelay
    ) -> None:
        (tmp_path / "capped").mkdir()
        (tmp_path / "first").mkdir()
        with (
            managed_relay(tmp_path / "capped", config=upstream(far, max_hops="1")) as capped,
            managed_relay(tmp_path / "first", config=upstream(capped)) as first,
        ):
            async with client_of(first) as client:
                with pytest.raises(TunnelRefused) as refused:
                    await client.start_udp(make_target("127.0.0.1", 9))
            assert (refused.value.status, refused.value.error) == (502, "proxy_loop_detected")
            assert metric(capped, "upstream_loops_refused") == 1

    async def test_two_relays_in_a_circle_refuse(self, tmp_path: Path) -> None:
        """Each is the other's upstream; the second learns the first's port from a forwarder."""
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
        two = prepare_dev_state(tmp_path / "two" / "state")
        to_two = "\n".join(
            [
                "",
                "[upstream]",
                f'url = "https://127.0.0.1:{port}"',
                f'ca_file = "{two.ca_file}"',
                f'token_file = "{two.token_file}"',
                "",
            ]
        )
        with (
            managed_relay(tmp_path / "one", config=to_two) as one,
            managed_relay(
                tmp_path / "two",
                config=upstream(one),
                arguments=["--listen", f"127.0.0.1:{port}"],
            ) as second,
        ):
            assert second.port == port
            async with client_of(one) as client:
                async with asyncio.timeout(WAIT_S):
                    while True:
                        with pytest.raises(TunnelRefused) as refused:
                            await client.start_udp(make_target("127.0.0.1", 9))
                        if refused.value.error != "destination_unavailable":
                            break
                        await asyncio.sleep(0.1)
                assert (refused.value.status, refused.value.error) == (502, "proxy_loop_detected")
                with pytest.raises(TunnelRefused) as refused:
                    await client.start_tcp(make_target("127.0.0.1", 9))
                assert refused.value.error == "proxy_loop_detected"
            assert metric(one, "upstream_loops_refused") == 2


class TestLoss:
    async def test_tunnels_end_with_the_upstream_and_new_ones_find_it_again(
        self, tmp_path: Path, far: ManagedRelay
    ) -> None:
        (tmp_path / "near").mkdir()
        (tmp_path / "far").mkdir()
        with managed_relay(tmp_path / "far", expect_exit=None) as lost:
            near = managed_relay(tmp_path / "near", config=upstream(lost, open_timeout_s="1.0"))
            with near as relay:
                async with udp_echo("127.0.0.1") as port, client_of(relay) as client:
                    tunnel = await client.start_udp(make_target("127.0.0.1", port))
                    lost.terminate()
                    async with asyncio.timeout(WAIT_S):
                        with pytest.raises(TunnelClosed) as ended:
                            await tunnel.receive()
                    assert ended.value.reason in {
                        EndReason.TARGET_FAILED,
                        EndReason.PEER_RESET,
                    }
                    with pytest.raises(TunnelRefused) as refused:
                        await client.start_udp(make_target("127.0.0.1", port))
                    assert (refused.value.status, refused.value.error) == (
                        502,
                        "destination_unavailable",
                    )
                assert metric(relay, "upstream_failures") >= 1
                assert metric(relay, "upstream_tunnels_refused") == 1
