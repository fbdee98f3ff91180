"""Owns a relay with CONNECT-IP on the loop egress, and a bare client on any HTTP version."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from masque_relay.contract.counters import IpCounters
from masque_relay.contract.ip_scope import IpRange
from masque_relay.dataplane.ip_loop import LoopEgress
from masque_relay.dataplane.ip_pool import NetworkPool
from masque_relay.http.connect_ip import ConnectIpServices, connect_ip_kinds
from masque_relay.http.connect_ip_limits import ConnectIpLimits
from masque_relay.http.denials import DEFAULT_PROXY_NAME
from masque_relay.http.tunnel import TunnelKind
from masque_relay.quic.limits import QuicLimits
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, encode_capsule
from masque_relay.wire.connect_ip import (
    ADDRESS_ASSIGN,
    ADDRESS_REQUEST,
    DEFAULT_TEMPLATE,
    ROUTE_ADVERTISEMENT,
    AddressEntry,
    decode_address_assign,
    decode_routes,
    encode_addresses,
)
from masque_relay.wire.connect_ip_dns import DNS_ASSIGN, PREF64
from masque_relay.wire.proxy_status import ProxyStatus, parse_proxy_status
from tests.support.h3_client import WAIT_S, Exchange, H3Client
from tests.support.relay import POLICY, InProcessRelay, KindServices, running_relay
from tests.support.tcp_clients import H1Client, H2Client

VERSIONS = ["h3", "h2", "h1"]
ANY_SCOPE = "/.well-known/masque/ip/*/*/"
POOL4, POOL6 = "10.71.0.0/24", "fd71::/64"
GATEWAY4, GATEWAY6 = "10.71.0.1", "fd71::1"
NOBODY4, NOBODY6 = "10.71.0.200", "fd71::200"
"""Addresses of the loop that no tunnel has: they answer."""

IP_POLICY = f"""{POLICY}
[[rule]]
name = "no-secrets"
action = "deny"
who = ["*"]
methods = ["connect-ip"]
targets = ["10.71.0.66/32:*", "10.71.0.67/32:22"]

[[rule]]
name = "vpn"
action = "allow"
who = ["alice", "bob"]
methods = ["connect-ip"]
targets = ["{POOL4}:*", "[{POOL6}]:*", "*:443"]
"""

WIDE_PATH = QuicLimits(initial_datagram_bytes=1_400, max_datagram_bytes=1_472)
"""Takes the 1,280 bytes of IPv6 from the start, without path MTU discovery."""


@dataclass(kw_only=True)
class IpWorld:
    """What CONNECT-IP of one relay stands on."""

    relay: InProcessRelay
    pool: NetworkPool
    egress: LoopEgress
    counters: IpCounters


@asynccontextmanager
async def running_ip_relay(
    directory: Path,
    *,
    policy: str = IP_POLICY,
    pools: Sequence[str] = (POOL4, POOL6),
    routes: Sequence[IpRange] | None = None,
    mtu_bytes: int = 1_500,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    cloudflare: bool = False,
    limits: ConnectIpLimits | None = None,
    extra_capsules: Sequence[tuple[int, bytes]] = (),
    probe_ipv6: bool = False,
    quic_limits: QuicLimits = WIDE_PATH,
    nameservers: Sequence[str] = (),
) -> AsyncGenerator[IpWorld]:
    """Run a relay while the block runs."""
    pool = NetworkPool(ip_network(text) for text in pools)
    egress = LoopEgress(pool.ranges() if routes is None else routes, mtu_bytes=mtu_bytes)
    counters = IpCounters()

    def kinds(given: KindServices) -> list[TunnelKind]:
        services = ConnectIpServices(
            gate=given.gate,
            dataplane=given.dataplane,
            egress=egress,
            pool=pool,
            clock=given.clock,
            counters=given.counters,
            ip_counters=counters,
            limits=limits or ConnectIpLimits(),
            resolve_timeout_s=WAIT_S,
            proxy_name=DEFAULT_PROXY_NAME,
            extra_capsules=extra_capsules,
            probe_ipv6=probe_ipv6,
        )
        return connect_ip_kinds(services, templates, cloudflare=cloudflare)

    async with running_relay(
        directory,
        policy=policy,
        more_kinds=kinds,
        quic_limits=quic_limits,
        nameservers=nameservers,
        names=NAMES,
    ) as relay:
        yield IpWorld(relay=relay, pool=pool, egress=egress, counters=counters)


NAMES = {
    "host.test": ["10.71.0.200", "fd71::200"],
    "four.test": ["10.71.0.200"],
    "mixed.test": ["10.71.0.200", "192.168.1.1"],
    "private.test": ["192.168.1.1"],
}


@dataclass(kw_only=True)
class IpClient:
    """One CONNECT-IP stream: what it was answered, and what came since."""

    status: int
    fields: dict[str, str]
    send_stream: Callable[[bytes], None]
    send_payloads: Callable[[Sequence[bytes]], None]
    """HTTP Datagram payloads, in the form that the version has."""
    stream_bytes: Callable[[], bytes]
    quic_datagrams: Callable[[], list[bytes]]
    wait: Callable[[Callable[[], object]], object]
    is_aborted: Callable[[], bool]
    has_ended: Callable[[], bool]
    close: Callable[[], None]
    connection: H3Client | H2Client | H1Client
    _decoder: CapsuleDecoder = field(
        default_factory=lambda: CapsuleDecoder(
            max_capsule_bytes=70_000,
            known_types={
                0,
                ADDRESS_ASSIGN,
                ADDRESS_REQUEST,
                ROUTE_ADVERTISEMENT,
                DNS_ASSIGN,
                PREF64,
            },
        )
    )
    _fed_bytes: int = 0
    _capsules: list[Capsule] = field(default_factory=list)

    @property
    def proxy_status(self) -> ProxyStatus:
        """The relay's own entry."""
        return parse_proxy_status(self.fields["proxy-status"])[-1]

    @property
    def capsules(self) -> list[Capsule]:
        """All of them, in order."""
        received = self.stream_bytes()
        self._capsules += self._decoder.feed(received[self._fed_bytes :])
        self._fed_bytes = len(received)
        return self._capsules

    def of_type(self, capsule_type: int) -> list[bytes]:
        """The values of one type."""
        return [capsule.value for capsule in self.capsules if capsule.type == capsule_type]

    @property
    def packets(self) -> list[bytes]:
        """IP packets that came, however they were carried."""
        payloads = self.of_type(0) + self.quic_datagrams()
        assert all(payload[:1] == b"\0" for payload in payloads)
        return [payload[1:] for payload in payloads]

    @property
    def assigned(self) -> tuple[AddressEntry, ...]:
        """The last ADDRESS_ASSIGN."""
        return decode_address_assign(self.of_type(ADDRESS_ASSIGN)[-1])

    @property
    def routes(self) -> tuple[IpRange, ...]:
        """The last ROUTE_ADVERTISEMENT."""
        return decode_routes(self.of_type(ROUTE_ADVERTISEMENT)[-1])

    def address(self, version: int) -> str:
        """The first address of a version."""
        return next(
            str(entry.address) for entry in self.assigned if entry.address.version == version
        )

    @property
    def ipv4(self) -> str:
        return self.address(4)

    @property
    def ipv6(self) -> str:
        return self.address(6)

    def send(self, *packets: bytes) -> None:
        """Send IP packets."""
        self.send_payloads([b"\0" + packet for packet in packets])

    def capsule(self, capsule_type: int, value: bytes) -> None:
        self.send_stream(encode_capsule(capsule_type, value))

    async def ask(self, *requests: AddressEntry) -> tuple[AddressEntry, ...]:
        """Send an ADDRESS_REQUEST and return the next ADDRESS_ASSIGN."""
        before = len(self.of_type(ADDRESS_ASSIGN))
        self.capsule(ADDRESS_REQUEST, encode_addresses(requests))
        await self.until(lambda: len(self.of_type(ADDRESS_ASSIGN)) > before)
        return self.assigned

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; looked at whenever something arrives."""
        async with asyncio.timeout(WAIT_S):
            await self.wait(condition)  # type: ignore[misc]  # every client's until is a coroutine

    async def ready(self) -> "IpClient":
        """Wait for addresses and routes."""
        assert self.status == 200, (self.status, self.fields)
        await self.until(lambda: self.of_type(ROUTE_ADVERTISEMENT))
        return self

    async def exchange(self, packet: bytes, *, tries: int = 10) -> bytes:
        """Send a packet until another one comes (datagrams may be lost); return that."""
        before = len(self.packets)
        for _ in range(tries):
            self.send(packet)
            try:
                async with asyncio.timeout(WAIT_S / tries):
                    await self.wait(lambda: len(self.packets) > before)  # type: ignore[misc]  # as in until
            except TimeoutError:
                continue
            return self.packets[before]
        raise AssertionError("no packet came")

    async def aborted(self) -> None:
        """Wait until the relay reset the stream (or, in HTTP/1.1, closed the connection)."""
        await self.until(self.is_aborted)


async def open_ip(
    relay: InProcessRelay,
    version: str = "h3",
    *,
    path: str = ANY_SCOPE,
    token: str | None = None,
    protocol: str = "connect-ip",
    fields: Sequence[tuple[bytes, bytes]] = (),
    beside: IpClient | None = None,
    over: H3Client | None = None,
) -> IpClient:
    """Ask for an IP tunnel; the answer may be a refusal.

    ``beside`` uses the connection of another one (HTTP/3 and HTTP/2), ``over`` one that the test
    made.
    """
    token = relay.token() if token is None else token
    more = [*fields, *([(b"authorization", b"Bearer " + token.encode())] if token else [])]
    if version == "h1":
        return await _open_h1(relay, path, protocol, more)
    head = [
        (b":method", b"CONNECT"),
        (b":protocol", protocol.encode()),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path.encode()),
        (b"capsule-protocol", b"?1"),
        *more,
    ]
    if version == "h3":
        h3 = beside.connection if beside else over or await relay.connect()
        assert isinstance(h3, H3Client)
        return await _open_h3(h3, head)
    h2 = beside.connection if beside else await H2Client.connect(relay.https_address, relay.ca_pem)
    assert isinstance(h2, H2Client)
    return await _open_h2(h2, head)


async def _open_h3(client: H3Client, head: list[tuple[bytes, bytes]]) -> IpClient:
    stream_id, answer = await client.request(head)

    def send_payloads(payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            client.session.send_datagrams(stream_id, b"", [payload])

    return IpClient(
        status=answer.status or 0,
        fields=answer.fields if answer.status else {},
        send_stream=lambda data: client.session.send_data(stream_id, data, end_stream=False),
        send_payloads=send_payloads,
        stream_bytes=lambda: bytes(answer.data),
        quic_datagrams=lambda: answer.datagrams,
        wait=client.until,
        is_aborted=lambda: answer.reset is not None,
        has_ended=lambda: answer.ended,
        close=lambda: client.session.send_data(stream_id, b"", end_stream=True),
        connection=client,
    )


async def _open_h2(client: H2Client, head: list[tuple[bytes, bytes]]) -> IpClient:
    stream_id = client.send(head)
    answer: Exchange = await client.answer(stream_id)
    return IpClient(
        status=answer.status or 0,
        fields=answer.fields if answer.status else {},
        send_stream=lambda data: client.send_data(stream_id, data),
        send_payloads=lambda payloads: client.send_data(stream_id, _capsules(payloads)),
        stream_bytes=lambda: bytes(answer.data),
        quic_datagrams=list,
        wait=client.until,
        is_aborted=lambda: answer.reset is not None,
        has_ended=lambda: answer.ended,
        close=lambda: client.send_data(stream_id, b"", end=True),
        connection=client,
    )


async def _open_h1(
    relay: InProcessRelay, path: str, protocol: str, fields: Sequence[tuple[bytes, bytes]]
) -> IpClient:
    client = await H1Client.connect(relay.https_address, relay.ca_pem, "http/1.1")
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        f"Upgrade: {protocol}",
        "Capsule-Protocol: ?1",
        *(f"{name.decode()}: {value.decode()}" for name, value in fields),
    ]
    head = await client.request("\r\n".join([*lines, "", ""]).encode())
    received = bytearray()
    over: list[bool] = []

    async def wait(condition: Callable[[], object]) -> None:
        while not condition():
            assert not over, "the connection ended"
            try:
                data = await client.reader.read(65_536)
            except ConnectionResetError:
                data = b""
            received.extend(data)
            if not data:
                over.append(True)

    return IpClient(
        status=200 if head.status == 101 else head.status,
        fields=head.fields,
        send_stream=client.send,
        send_payloads=lambda payloads: client.send(_capsules(payloads)),
        stream_bytes=lambda: bytes(received),
        quic_datagrams=list,
        wait=wait,
        is_aborted=lambda: bool(over),
        has_ended=lambda: bool(over),
        close=client.writer.close,
        connection=client,
    )


def _capsules(payloads: Sequence[bytes]) -> bytes:
    return b"".join(encode_capsule(0, payload) for payload in payloads)


def wants(version: int, request_id: int, address: str | None = None) -> AddressEntry:
    """A Requested Address for one address; any unless told which."""
    whole = ip_network(address or ("0.0.0.0" if version == 4 else "::"))
    return AddressEntry(
        request_id=request_id,
        address=whole.network_address,
        prefix_length=whole.max_prefixlen,
    )
