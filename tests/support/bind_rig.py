"""Owns a bare client of bound UDP on any HTTP version: it sends whatever it is told."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import cast

from masque_relay.contract.address import Endpoint
from masque_relay.dataplane.udp_bind import BindSettings
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_udp_bind import (
    BindCapsule,
    encode_assign,
    encode_peer,
    parse_public_addresses,
)
from masque_relay.wire.varint import encode_varint
from tests.support.h3_client import WAIT_S, Exchange, H3Client
from tests.support.relay import ECHO_HOST, InProcessRelay
from tests.support.tcp_clients import H1Client, H2Client, upgrade_request

ASSIGN, ACK, CLOSE = BindCapsule
BIND_PATH = b"/.well-known/masque/udp/%2A/%2A/"
BIND_FIELD = (b"connect-udp-bind", b"?1")
VERSIONS = ["h3", "h2", "h1"]

LOOPBACK_BIND = BindSettings(addresses=(ip_address("127.0.0.1"), ip_address("::1")))

BIND_POLICY = f"""
[[rule]]
name = "bind"
action = "allow"
who = ["alice"]
methods = ["bind-udp"]
targets = ["127.0.0.1/32:*", "[::1/128]:*", "{ECHO_HOST}/32:*"]

[[rule]]
name = "plain"
action = "allow"
who = ["alice", "carol"]
methods = ["connect-udp"]
targets = ["{ECHO_HOST}/32:*"]
"""
"""``alice`` may bind and have loopback peers; ``carol`` has plain CONNECT-UDP only."""


@dataclass
class BindClient:
    """One bound UDP stream: what it was answered, and what came since."""

    status: int
    fields: dict[str, str]
    send_stream: Callable[[bytes], None]
    """Raw stream bytes to the relay."""
    send_datagrams: Callable[[list[bytes]], None]
    """HTTP Datagram payloads, in the form that the version has."""
    stream_bytes: Callable[[], bytes]
    """Everything that came on the stream so far."""
    quic_datagrams: Callable[[], list[bytes]]
    until: Callable[[Callable[[], object]], object]
    is_aborted: Callable[[], bool]
    close: Callable[[], None]
    _decoder: CapsuleDecoder = field(
        default_factory=lambda: CapsuleDecoder(
            max_capsule_bytes=70_000, known_types={0, ASSIGN, ACK, CLOSE}
        )
    )
    _fed_bytes: int = 0
    _capsules: list[Capsule] = field(default_factory=list)

    @property
    def public(self) -> list[tuple[str, int]]:
        """Where peers reach us."""
        found = parse_public_addresses(self.fields["proxy-public-address"])
        return [(str(address), port) for address, port in found]

    def _all_capsules(self) -> list[Capsule]:
        received = self.stream_bytes()
        self._capsules += self._decoder.feed(received[self._fed_bytes :])
        self._fed_bytes = len(received)
        return self._capsules

    @property
    def capsules(self) -> list[tuple[int, bytes]]:
        """Those that are not DATAGRAM."""
        return [(capsule.type, capsule.value) for capsule in self._all_capsules() if capsule.type]

    @property
    def datagrams(self) -> list[bytes]:
        """HTTP Datagram payloads, however they came."""
        carried = [capsule.value for capsule in self._all_capsules() if capsule.type == 0]
        return carried + self.quic_datagrams()

    def capsule(self, capsule_type: int, value: bytes) -> None:
        self.send_stream(encode_capsule(capsule_type, value))

    async def assign(self, context_id: int, peer: tuple[str, int] | None = None) -> int:
        """Register a context; return the type of the answer, ACK or CLOSE."""
        self.capsule(ASSIGN, encode_assign(context_id, None if peer is None else wire(peer)))
        return await self.answer_to(context_id)

    async def answer_to(self, context_id: int) -> int:
        value = encode_varint(context_id)

        def answers() -> list[int]:
            return [kind for kind, answer in self.capsules if answer == value and kind != ASSIGN]

        await self.until_true(answers)
        return answers()[0]

    async def until_true(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.until(condition)  # type: ignore[misc]

    async def until_datagram(self, datagram: bytes) -> None:
        await self.until_true(lambda: datagram in self.datagrams)

    async def aborted(self) -> None:
        """Wait until the relay reset the stream (or, in HTTP/1.1, closed the connection)."""
        await self.until_true(self.is_aborted)


def wire(peer: tuple[str, int]) -> bytes:
    """A peer in wire form."""
    return encode_peer(ip_address(peer[0]), peer[1])


def plain(context_id: int, peer: tuple[str, int], payload: bytes) -> bytes:
    """An HTTP Datagram of the uncompressed context."""
    return encode_varint(context_id) + wire(peer) + payload


async def open_bind(
    relay: InProcessRelay,
    version: str,
    *,
    token: str | None = None,
    path: bytes = BIND_PATH,
    fields: tuple[tuple[bytes, bytes], ...] = (BIND_FIELD,),
) -> BindClient:
    """Ask for a bound tunnel; the answer may be a refusal."""
    if version == "h3":
        return await _open_h3(relay, token, path, fields)
    if version == "h2":
        return await _open_h2(relay, token, path, fields)
    return await _open_h1(relay, token, path, fields)


def _head(
    relay: InProcessRelay, token: str | None, path: bytes, fields: tuple[tuple[bytes, bytes], ...]
) -> list[tuple[bytes, bytes]]:
    return relay.connect_udp("", "", path=path, token=token, extra=list(fields))


async def _open_h3(
    relay: InProcessRelay, token: str | None, path: bytes, fields: tuple[tuple[bytes, bytes], ...]
) -> BindClient:
    client: H3Client = await relay.connect()
    stream_id, answer = await client.request(_head(relay, token, path, fields))

    def send_datagrams(payloads: list[bytes]) -> None:
        for payload in payloads:
            client.session.send_datagrams(stream_id, b"", [payload])

    return BindClient(
        status=answer.status or 0,
        fields=answer.fields if answer.status else {},
        send_stream=lambda data: client.session.send_data(stream_id, data, end_stream=False),
        send_datagrams=send_datagrams,
        stream_bytes=lambda: bytes(answer.data),
        quic_datagrams=lambda: answer.datagrams,
        until=client.until,
        is_aborted=lambda: answer.reset is not None,
        close=lambda: client.session.send_data(stream_id, b"", end_stream=True),
    )


async def _open_h2(
    relay: InProcessRelay, token: str | None, path: bytes, fields: tuple[tuple[bytes, bytes], ...]
) -> BindClient:
    client = await H2Client.connect(relay.https_address, relay.ca_pem)
    stream_id = client.send(_head(relay, token, path, fields))
    answer: Exchange = await client.answer(stream_id)
    return BindClient(
        status=answer.status or 0,
        fields=answer.fields if answer.status else {},
        send_stream=lambda data: client.send_data(stream_id, data),
        send_datagrams=lambda payloads: client.send_data(
            stream_id, b"".join(encode_capsule(0, payload) for payload in payloads)
        ),
        stream_bytes=lambda: bytes(answer.data),
        quic_datagrams=list,
        until=client.until,
        is_aborted=lambda: answer.reset is not None,
        close=lambda: client.send_data(stream_id, b"", end=True),
    )


async def _open_h1(
    relay: InProcessRelay, token: str | None, path: bytes, fields: tuple[tuple[bytes, bytes], ...]
) -> BindClient:
    client = await H1Client.connect(relay.https_address, relay.ca_pem)
    token = relay.token() if token is None else token
    lines = [f"{name.decode()}: {value.decode()}" for name, value in fields]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    head = await client.request(upgrade_request(path.decode(), *lines))
    received = bytearray()
    over: list[bool] = []

    async def until(condition: Callable[[], object]) -> None:
        while not condition():
            assert not over, "the connection ended"
            try:
                data = await client.reader.read(65_536)
            except ConnectionResetError:
                data = b""
            received.extend(data)
            if not data:
                over.append(True)

    return BindClient(
        status=200 if head.status == 101 else head.status,
        fields=head.fields,
        send_stream=client.send,
        send_datagrams=lambda payloads: client.send(
            b"".join(encode_capsule(0, payload) for payload in payloads)
        ),
        stream_bytes=lambda: bytes(received),
        quic_datagrams=list,
        until=until,
        is_aborted=lambda: bool(over),
        close=client.writer.close,
    )


class Peer(asyncio.DatagramProtocol):
    """A real UDP peer on loopback that records, and can answer."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, tuple[str, int]]] = []
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.append((data, addr[:2]))
        self._arrived.set()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.transport.get_extra_info("sockname")[:2]
        return host, port

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(address=ip_address(self.address[0]), port=self.address[1])

    def send(self, payload: bytes, to: tuple[str, int]) -> None:
        self.transport.sendto(payload, to)

    async def until(self, payload: bytes) -> tuple[str, int]:
        """Wait for a payload; return who sent it."""
        async with asyncio.timeout(WAIT_S):
            while payload not in (found := dict(self.received)):
                self._arrived.clear()
                await self._arrived.wait()
        return found[payload]


@asynccontextmanager
async def udp_peer(host: str = "127.0.0.1") -> AsyncGenerator[Peer]:
    """Run a peer while the block runs."""
    transport, peer = await asyncio.get_running_loop().create_datagram_endpoint(
        Peer, local_addr=(host, 0)
    )
    try:
        yield peer
    finally:
        transport.close()
