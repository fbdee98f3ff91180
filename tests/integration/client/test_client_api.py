"""Owns the tests of the Python API against a real relay process."""

import asyncio
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from masque_relay.client import (
    Bearer,
    ClientLimits,
    ForwardSpec,
    RelayAddress,
    RelayClient,
    RelayLink,
    RelayOptions,
    RelayUntrusted,
    TunnelRefused,
    UdpForward,
    make_target,
)
from masque_relay.client.h3 import H3ClientTransport
from tests.integration.client.commands import TIMESCALE
from tests.support.managed_relay import ManagedRelay
from tests.support.udp_echo import UdpEcho, run_udp_echo

WAIT_S = 20.0 * TIMESCALE


def options(relay: ManagedRelay, limits: ClientLimits | None = None) -> RelayOptions:
    return RelayOptions(
        ca_file=relay.ca_file,
        credential=Bearer(file=relay.token_file),
        limits=limits or ClientLimits(),
    )


@pytest.fixture
def echo() -> Iterator[UdpEcho]:
    with run_udp_echo() as running:
        yield running


async def test_batches_come_back_in_order(relay: ManagedRelay, echo: UdpEcho) -> None:
    payloads = [struct.pack("!I", number) + bytes(900) for number in range(200)]
    async with (
        RelayClient(RelayAddress.parse(relay.url), options(relay)) as client,
        client.open_udp("127.0.0.1", echo.port) as tunnel,
    ):
        assert tunnel.next_hop == f"127.0.0.1:{echo.port}"
        received: list[bytes] = []
        async with asyncio.timeout(WAIT_S):
            for start in range(0, 200, 20):
                assert tunnel.send_batch(payloads[start : start + 20]) == 20
                while len(received) < start + 20:
                    received.append(await tunnel.receive())
        assert received == payloads
        assert tunnel.sent_count == tunnel.received_count == 200


async def test_one_connection_drives_many_tunnels(relay: ManagedRelay, echo: UdpEcho) -> None:
    async with RelayClient(RelayAddress.parse(relay.url), options(relay)) as client:
        answers: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()

        def keep(number: int, batch: Sequence[bytes]) -> None:
            for payload in batch:
                answers.put_nowait((number, payload))

        target = make_target("127.0.0.1", echo.port)
        tunnels = [
            await client.start_udp(target, on_batch=lambda batch, n=number: keep(n, batch))
            for number in range(30)
        ]
        for number, tunnel in enumerate(tunnels):
            tunnel.send_batch([b"tunnel %d" % number])
        async with asyncio.timeout(WAIT_S):
            got = [await answers.get() for _ in tunnels]
        assert sorted(got) == [(number, b"tunnel %d" % number) for number in range(30)]
        assert len(echo.sources) == 30


async def test_a_refused_tunnel_leaves_its_neighbour_alone(
    relay: ManagedRelay, echo: UdpEcho
) -> None:
    async with (
        RelayClient(RelayAddress.parse(relay.url), options(relay)) as client,
        client.open_udp("127.0.0.1", echo.port) as tunnel,
    ):
        with pytest.raises(TunnelRefused) as refused:
            await client.start_udp(make_target("169.254.169.254", 80))
        assert refused.value.status == 403
        assert refused.value.error == "destination_ip_prohibited"
        tunnel.send(b"still here")
        async with asyncio.timeout(WAIT_S):
            assert await tunnel.receive() == b"still here"


async def test_an_oversize_datagram_leaves_the_tunnel_alone(
    relay: ManagedRelay, echo: UdpEcho
) -> None:
    async with (
        RelayClient(RelayAddress.parse(relay.url), options(relay)) as client,
        client.open_udp("127.0.0.1", echo.port) as tunnel,
    ):
        assert tunnel.send_batch([bytes(2_000), b"fits"]) == 1
        assert tunnel.oversize_count == 1
        async with asyncio.timeout(WAIT_S):
            assert await tunnel.receive() == b"fits"


async def test_a_custom_template_that_the_relay_lacks_is_a_404_with_a_hint(
    relay: ManagedRelay,
) -> None:
    address = RelayAddress.parse(relay.url + "/custom/{target_host}/{target_port}/")
    async with RelayClient(address, options(relay)) as client:
        with pytest.raises(TunnelRefused) as refused:
            await client.start_udp(make_target("127.0.0.1", 9))
        assert refused.value.status in {404, 501}
        assert refused.value.hint is not None


async def test_the_public_roots_do_not_trust_a_development_relay(relay: ManagedRelay) -> None:
    with pytest.raises(RelayUntrusted):
        await RelayClient(RelayAddress.parse(relay.url), RelayOptions()).connect()


async def test_a_token_that_was_renewed_is_used_by_the_next_connection(
    relay: ManagedRelay, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("expired")
    client_options = RelayOptions(ca_file=relay.ca_file, credential=Bearer(file=token_file))
    address, target = RelayAddress.parse(relay.url), make_target("127.0.0.1", 9)
    async with RelayClient(address, client_options) as client:
        with pytest.raises(TunnelRefused) as refused:
            await client.start_udp(target)
        assert refused.value.status == 401
        token_file.write_text(relay.token)
    async with RelayClient(address, client_options) as client:
        assert (await client.start_udp(target)).is_open


async def test_capsules_carry_payloads_where_datagrams_cannot(
    relay: ManagedRelay, echo: UdpEcho, monkeypatch: pytest.MonkeyPatch
) -> None:
    # as with a relay that takes no QUIC datagrams
    monkeypatch.setattr(H3ClientTransport, "datagrams_negotiated", False)
    async with (
        RelayClient(RelayAddress.parse(relay.url), options(relay)) as client,
        client.open_udp("127.0.0.1", echo.port) as tunnel,
    ):
        assert tunnel.reliable
        payloads = [b"small", bytes(1_400), bytes(1_452)]
        assert tunnel.send_batch(payloads) == 3
        async with asyncio.timeout(WAIT_S):
            assert [await tunnel.receive(), await tunnel.receive()] == payloads[:2]


async def test_a_forward_may_be_closed_while_it_runs(relay: ManagedRelay, echo: UdpEcho) -> None:
    async def connect() -> RelayClient:
        client = RelayClient(RelayAddress.parse(relay.url), options(relay))
        await client.connect()
        return client

    link = RelayLink(connect)
    await link.start()
    forward = UdpForward(ForwardSpec.parse(f":0=127.0.0.1:{echo.port}"), link)
    await forward.start()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(forward.run())
        await asyncio.sleep(0)
        forward.close()
        running.cancel()
    again = UdpForward(forward.spec, link)
    await again.start()
    again.close()
    await link.close()
