"""A page in headless Chromium is a peer of the mesh, by nothing but docs/protocol/ghostwire.md."""

import asyncio
import base64
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from masque_relay.client.mesh.identity import PeerIdentity
from masque_relay.client.mesh.way import WayKind
from tests.support.chromium import browsing, needs_chromium
from tests.support.managed_relay import managed_relay
from tests.support.mesh_arrival import WAIT_S, arriving, eventually, token_of

SAID = b"hello from a page"
PAGE = """<!doctype html><title>peer</title><script type="module">
const told = TOLD;
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const ascii = (text) => new TextEncoder().encode(text);
const report = (what) => fetch("/report", { method: "POST", body: JSON.stringify(what) });

const varint = (n) => n < 64 ? [n] : n < 16384 ? [0x40 | n >> 8, n & 255]
  : [0x80 | n >>> 24, n >>> 16 & 255, n >>> 8 & 255, n & 255];
const frame = (type, value) =>
  Uint8Array.from([...varint(type), ...varint(value.length), ...value]);
const readVarint = (data, at) => {
  const size = 1 << (data[at] >> 6);
  let value = data[at] & 63;
  for (let i = 1; i < size; i++) value = value * 256 + data[at + i];
  return [value, at + size];
};

const MESH = 0x475700, DATAGRAM = 0;
const HELLO = MESH, CHALLENGE = MESH + 1, AUTH = MESH + 2, WELCOME = MESH + 3, ERROR = MESH + 4;
const OPEN = MESH + 0x10, OPENED = MESH + 0x11;
const key = await crypto.subtle.importKey(
  "pkcs8", bytes(told.key), { name: "Ed25519" }, false, ["sign"]);
const own = bytes(told.own), nonce = crypto.getRandomValues(new Uint8Array(16));

const ws = new WebSocket(told.url, ["ghostwire.v1"]);
ws.binaryType = "arraybuffer";
ws.onopen = () => ws.send(frame(HELLO, [1, 1, 0, 0, 0, 0, ...nonce, ...new Uint8Array(8)]));
ws.onclose = (event) => report({ closed: [event.code, event.reason] });

const prove = async (relayNonce) => {
  const name = ascii(told.name);
  const bound = await crypto.subtle.digest("SHA-256", Uint8Array.from(
    [...relayNonce, ...nonce, ...own, name.length, ...name]));
  const signed = Uint8Array.from([
    ...new Uint8Array(64).fill(0x20), ...ascii("Ghostwire peer authentication"), 0, 1, 2,
    ...new Uint8Array(bound)]);
  const signature = new Uint8Array(await crypto.subtle.sign("Ed25519", key, signed));
  const token = ascii(told.token);
  ws.send(frame(AUTH, [
    ...own, 2, ...signature, token.length >> 8, token.length & 255, ...token]));
};

const take = async (type, value) => {
  if (type === CHALLENGE) await prove(value.slice(5, 37));
  else if (type === WELCOME)
    ws.send(frame(OPEN, [0, 0, 0, 0, ...bytes(told.peer), 4, ...ascii("page")]));
  else if (type === OPENED) ws.send(frame(DATAGRAM, [0, ...ascii(told.say)]));
  else if (type === DATAGRAM) report({ heard: new TextDecoder().decode(value.slice(1)) });
  else if (type === ERROR) report({ error: value[0] * 256 + value[1] });
};
ws.onmessage = async (event) => {
  const data = new Uint8Array(event.data);
  for (let at = 0; at < data.length;) {
    let type, size;
    [type, at] = readVarint(data, at);
    [size, at] = readVarint(data, at);
    await take(type, data.slice(at, at + size));
    at += size;
  }
};
</script>"""


class Site(ThreadingHTTPServer):
    """Serves one page on localhost (a secure context for Web Cryptography), takes its reports."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.page = ""
        self.reports: list[dict[str, object]] = []

    @property
    def origin(self) -> str:
        return f"http://localhost:{self.server_port}"


class Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        """Send the page, whatever is asked for."""
        body = self.server.page.encode()
        self.send_response(200)
        self.send_header("content-type", "text/html; charset=utf-8")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        """Take a report."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.reports.append(json.loads(body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@contextmanager
def site() -> Generator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.interop("Chromium", "Ghostwire", "1.1")
@pytest.mark.timeout(180)
@needs_chromium
async def test_page_talks_to_a_peer(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    page = PeerIdentity(key)
    with site() as served:
        origins = f'\n[http.websocket]\nallowed_origins = ["{served.origin}"]\n'
        with managed_relay(tmp_path, config=origins) as relay:
            async with arriving(relay, WayKind.H3) as bob:
                told = {
                    "url": f"wss://localhost:{relay.port}/.well-known/ghostwire/",
                    "name": "localhost",
                    "key": base64.b64encode(pkcs8).decode(),
                    "own": base64.b64encode(page.peer_id).decode(),
                    "peer": base64.b64encode(bob.peer.identity.peer_id).decode(),
                    "token": token_of(relay, identity=page),
                    "say": SAID.decode(),
                }
                served.page = PAGE.replace("TOLD", json.dumps(told))
                async with (
                    browsing(f"{served.origin}/", tmp_path / "profile"),
                    asyncio.timeout(3 * WAIT_S),
                ):
                    await eventually(lambda: bob.peer.calls or served.reports)
                    assert not served.reports
                    call = bob.peer.calls[0]
                    await eventually(lambda: call.datagrams)
                    assert call.datagrams == [SAID]
                    call.channel.send_datagrams([SAID[::-1]])
                    await eventually(lambda: served.reports)
    assert served.reports == [{"heard": SAID[::-1].decode()}]
