"""aioice and aiortc against our TURN: their client, and peer connections through it."""

import asyncio
import ssl
from typing import cast

import pytest

from tests.support.turn_client import Credentials
from tests.support.turn_relay import PASSWORD, USER, TurnRelay

aioice_turn = pytest.importorskip("aioice.turn", reason="aioice is not installed (extra interop)")
aiortc = pytest.importorskip("aiortc", reason="aiortc is not installed (extra interop)")

DEADLINE_S = 40.0
pytestmark = pytest.mark.timeout(120)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(b"echo " + data, addr)


class Receiver(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.received.done():
            self.received.set_result(data)


@pytest.mark.interop("aioice", "TURN", "{kind}")
@pytest.mark.parametrize("kind", ["udp", "tcp", "tls"])
async def test_aioice_reaches_a_peer(turn: TurnRelay, kind: str) -> None:
    loop = asyncio.get_running_loop()
    echo, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    context: ssl.SSLContext | bool = False
    if kind == "tls":
        context = turn.tls_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # aioice gives no server name
    async with asyncio.timeout(DEADLINE_S):
        transport, receiver = await aioice_turn.create_turn_endpoint(
            Receiver,
            server_addr=turn.address(kind),
            username=USER,
            password=PASSWORD,
            ssl=context,
            transport="udp" if kind == "udp" else "tcp",
        )
        transport.sendto(b"hello", echo.get_extra_info("sockname"))
        assert await receiver.received == b"echo hello"
    transport.close()
    echo.close()
    await asyncio.sleep(0.1)


@pytest.mark.interop("aiortc", "TURN", "udp")
async def test_aiortc_opens_a_data_channel_through_relayed_addresses(turn: TurnRelay) -> None:
    host, port = turn.address("udp")
    credentials: Credentials = turn.credentials()
    server = aiortc.RTCIceServer(
        urls=f"turn:{host}:{port}",
        username=credentials.username,
        credential=credentials.password,
    )
    configuration = aiortc.RTCConfiguration(iceServers=[server])
    one = aiortc.RTCPeerConnection(configuration)
    other = aiortc.RTCPeerConnection(configuration)
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @other.on("datachannel")
    def _(channel: object) -> None:
        @channel.on("message")  # type: ignore[attr-defined]  # aiortc is untyped here
        def _(message: str) -> None:
            channel.send("echo " + message)  # type: ignore[attr-defined]  # the same

    channel = one.createDataChannel("test")
    channel.on("open", lambda: channel.send("hello"))
    channel.on("message", lambda message: received.done() or received.set_result(message))
    async with asyncio.timeout(DEADLINE_S):
        await one.setLocalDescription(await one.createOffer())
        await other.setRemoteDescription(_relay_only(one.localDescription))
        await other.setLocalDescription(await other.createAnswer())
        await one.setRemoteDescription(_relay_only(other.localDescription))
        assert await received == "echo hello"
    await one.close()
    await other.close()


def _relay_only(description: object) -> object:
    """Return a description without candidates that need no relay."""
    lines = [
        line
        for line in description.sdp.splitlines(keepends=True)  # type: ignore[attr-defined]  # the same
        if not line.startswith("a=candidate") or " typ relay" in line
    ]
    assert any("typ relay" in line for line in lines)
    return aiortc.RTCSessionDescription(sdp="".join(lines), type=description.type)  # type: ignore[attr-defined]  # the same
