"""RFC 9298 through a whole relay; clauses of one component are marked on that component's tests."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from masque_relay.contract.lease import TunnelLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.relay import ECHO_HOST, InProcessRelay, running_relay, udp_echo

IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3  # linux/in.h; the socket module has no names for them
IP_RECVTOS, IP_TOS = 13, 1
ECN_BITS = 0b11


@asynccontextmanager
async def watched_target(*, marks: int = 0) -> AsyncGenerator[tuple[int, socket.socket]]:
    """Bind a target that says nothing by itself; what it sends carries the TOS byte ``marks``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target:
        target.setblocking(False)
        target.bind((ECHO_HOST, 0))
        target.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        target.setsockopt(socket.IPPROTO_IP, IP_TOS, marks)
        yield target.getsockname()[1], target


async def receive(target: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
    """Return the next datagram with its TOS byte and source."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(target.fileno(), readable.set_result, None)
    try:
        async with asyncio.timeout(WAIT_S):
            await readable
    finally:
        loop.remove_reader(target.fileno())
    data, ancillary, _, source = target.recvmsg(65_536, 64)
    (tos,) = [value[0] for _, kind, value in ancillary if kind == IP_TOS]
    return data, tos, source


def spy_on_flows(monkeypatch: pytest.MonkeyPatch) -> list[ConnectedUdpFlow]:
    """Collect the flows that the relay opens."""
    flows: list[ConnectedUdpFlow] = []
    original = ConnectedUdpFlow.__init__

    def remember(self: ConnectedUdpFlow, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]  # handed through as it came
        flows.append(self)

    monkeypatch.setattr(ConnectedUdpFlow, "__init__", remember)
    return flows


async def open_tunnel(relay: InProcessRelay, port: int) -> tuple[H3Client, int]:
    client = await relay.connect()
    stream_id, answer = await client.request(relay.connect_udp(ECHO_HOST, port))
    assert answer.status == 200
    return client, stream_id


@pytest.mark.clause(
    "RFC 9298", "3.1", "MUST", "answer without waiting for a packet from the target"
)
async def test_section_3_1_a_target_that_says_nothing_gets_a_tunnel(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, watched_target() as (port, target):
        client, stream_id = await open_tunnel(relay, port)
        client.session.send_datagrams(stream_id, b"\0", [b"first"])
        assert (await receive(target))[0] == b"first"


@pytest.mark.clause("RFC 9298", "3.1", "MUST NOT", "introduce fragmentation at the IP layer")
@pytest.mark.clause("RFC 9298", "3.1", "MUST", "set Don't Fragment on IPv4 packets")
async def test_section_3_1_the_socket_of_a_tunnel_never_fragments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = spy_on_flows(monkeypatch)
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        await open_tunnel(relay, port)
        (flow,) = flows
        option = flow._socket.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER)
        assert option == IP_PMTUDISC_PROBE


@pytest.mark.clause("RFC 9298", "3.1", "MUST", "keep the socket while the request stream is open")
async def test_section_3_1_one_socket_lives_as_long_as_the_stream(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, watched_target() as (port, target):
        client, stream_id = await open_tunnel(relay, port)
        sources = set()
        for payload in (b"1", b"2", b"3"):
            client.session.send_datagrams(stream_id, b"\0", [payload])
            sources.add((await receive(target))[2])
        assert len(sources) == 1
        client.session.send_data(stream_id, b"", end_stream=True)
        assert (await client.finished(stream_id)).ended
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as same_port:
            same_port.bind(sources.pop())  # the relay has let go of it


@pytest.mark.clause("RFC 9298", "3.1", "SHOULD NOT", "call a socket idle within two minutes")
def test_section_3_1_a_tunnel_is_not_idle_within_two_minutes() -> None:
    assert TunnelLimits().idle_timeout_s >= 120


@pytest.mark.clause("RFC 9298", "5", "MUST", "carry UDP payloads of zero bytes")
@pytest.mark.clause("RFC 9298", "4", "MUST", "use context ID 0 for UDP payloads")
async def test_section_5_an_empty_payload_goes_both_ways(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as relay, udp_echo() as port:
        client, stream_id = await open_tunnel(relay, port)
        await client.echo(stream_id, b"")
        assert set(client.exchanges[stream_id].datagrams) == {b"\0"}


@pytest.mark.clause("RFC 9298", "6.2", "MUST", "send Not-ECT to the target")
@pytest.mark.clause("RFC 9298", "6.2", "MUST", "ignore the ECN bits of what the target sends")
@pytest.mark.parametrize("marks", [0b00, 0b01, 0b10, 0b11])
async def test_section_6_2_ecn_bits_end_at_the_relay(tmp_path: Path, marks: int) -> None:
    async with running_relay(tmp_path) as relay, watched_target(marks=marks) as (port, target):
        client, stream_id = await open_tunnel(relay, port)
        for payload in (b"before", b"after a marked one"):
            client.session.send_datagrams(stream_id, b"\0", [payload])
            data, tos, source = await receive(target)
            assert (data, tos & ECN_BITS) == (payload, 0)
            target.sendto(payload, source)
            exchange = client.exchanges[stream_id]
            expected = b"\0" + payload
            await client.until(lambda: expected in exchange.datagrams)  # noqa: B023 - awaited here
