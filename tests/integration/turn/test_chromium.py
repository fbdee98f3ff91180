"""Headless Chromium: two RTCPeerConnections reach each other through relayed addresses only."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.chromium import browsing, needs_chromium
from tests.support.tcp_serving import serving_tcp
from tests.support.turn_relay import TurnRelay

DEADLINE_S = 60.0
PAGE = """<!doctype html><title>TURN</title><script>
const config = {iceServers: [%s], iceTransportPolicy: "relay"};
const tell = (what) => fetch("/result", {method: "POST", body: JSON.stringify(what)});
const errors = [];
async function run() {
  const one = new RTCPeerConnection(config), other = new RTCPeerConnection(config);
  const types = [];
  for (const [from, to] of [[one, other], [other, one]]) {
    from.onicecandidate = (event) => {
      if (!event.candidate) return;
      types.push(event.candidate.type);
      to.addIceCandidate(event.candidate);
    };
    from.onicecandidateerror = (event) => errors.push(event.errorCode + " " + event.errorText);
  }
  other.ondatachannel = (event) => {
    event.channel.onmessage = (message) => event.channel.send("echo " + message.data);
  };
  const channel = one.createDataChannel("test");
  let received = [];
  channel.onopen = () => { for (let i = 0; i < 20; i++) channel.send("hello " + i); };
  channel.onmessage = (message) => {
    received.push(message.data);
    if (received.length == 20) tell({received, types, errors});
  };
  await one.setLocalDescription(await one.createOffer());
  await other.setRemoteDescription(one.localDescription);
  await other.setLocalDescription(await other.createAnswer());
  await one.setRemoteDescription(other.localDescription);
  setTimeout(() => tell({received, types, errors, failed: true}), 45000);
}
run().catch((error) => tell({failed: String(error), errors}));
</script>"""

pytestmark = [needs_chromium, pytest.mark.timeout(150), pytest.mark.xdist_group("chromium")]


@asynccontextmanager
async def site(page: str) -> AsyncGenerator[tuple[str, asyncio.Future[dict[str, object]]]]:
    """Serve one page; yields its URL and what it tells us."""
    told: asyncio.Future[dict[str, object]] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        body = b""
        for line in head.splitlines():
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                body = await reader.readexactly(int(value))
        if head.startswith("POST /result") and not told.done():
            told.set_result(json.loads(body))
        content = page.encode() if head.startswith("GET / ") else b""
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(content)
        )
        writer.write(content)

    async with serving_tcp(answer) as port:
        yield f"http://127.0.0.1:{port}/", told


@pytest.mark.interop("Chromium", "TURN", "{kind}")
@pytest.mark.parametrize(
    ("kind", "scheme", "transport"),
    [("udp", "turn", "udp"), ("tcp", "turn", "tcp"), ("tls", "turns", "tcp")],
    ids=["turn:udp", "turn:tcp", "turns:"],
)
async def test_data_channels_open_through_the_relay(
    turn: TurnRelay, tmp_path: Path, kind: str, scheme: str, transport: str
) -> None:
    host, port = turn.address(kind)
    credentials = turn.credentials()
    server = {
        "urls": f"{scheme}:{host}:{port}?transport={transport}",
        "username": credentials.username,
        "credential": credentials.password,
    }
    flag = "--allow-loopback-in-peer-connection"
    async with (
        site(PAGE % json.dumps(server)) as (url, told),
        browsing(url, tmp_path / "profile", flag),
        asyncio.timeout(DEADLINE_S),
    ):
        result = await told
    assert "failed" not in result, result
    assert set(result["types"]) == {"relay"}
    assert result["received"] == [f"echo hello {index}" for index in range(20)]
