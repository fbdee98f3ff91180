"""Owns the demo's two targets on loopback: a DNS server for one name, and an HTTP/3 web site."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from starlette.types import Receive, Scope, Send

from masque_relay.client.sockets import bind_client_udp
from masque_relay.config.dev_pki import certificate_pem, key_pem, make_ca, make_leaf, new_key
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import HttpCounters, QuicCounters
from masque_relay.contract.ports import Clock, DatagramSocketFactory
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore

DEMO_NAME = "site.demo.test"  # RFC 6761 section 6.2: never in the public DNS
DEMO_ADDRESS = IPv4Address("192.0.2.80")
LOOPBACK = Endpoint(address=IPv4Address("127.0.0.1"), port=0)
PAGE = b"<!doctype html><title>demo</title><p>Hello from inside QUIC inside QUIC.</p>\n" + bytes(
    ord("a") + index % 26 for index in range(200_000)
)

INNER_QUIC_LIMITS = QuicLimits(initial_datagram_bytes=1_200, max_datagram_bytes=1_350)
"""A QUIC connection inside a tunnel: fits every path that the outer one takes."""

_QUESTION_END = struct.Struct("!HH")
_HEAD = struct.Struct("!6H")
_TYPE_A, _CLASS_IN = 1, 1
_RESPONSE_FLAGS = 0x8580  # RFC 1035 section 4.1.1: QR, AA, RD, RA
_NAME_POINTER = 0xC00C  # section 4.1.4: the name of the question


def dns_query(name: str, query_id: int) -> bytes:
    """Return an A query (RFC 1035 section 4)."""
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    return (
        _HEAD.pack(query_id, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + _QUESTION_END.pack(_TYPE_A, _CLASS_IN)
    )


def dns_answer(query: bytes, address: IPv4Address) -> bytes | None:
    """Return the answer to a query of one question; None for anything else."""
    if len(query) < _HEAD.size + 5:
        return None
    query_id, flags, questions, *_ = _HEAD.unpack_from(query)
    if flags & 0x8000 or questions != 1:
        return None
    head = _HEAD.pack(query_id, _RESPONSE_FLAGS, 1, 1, 0, 0)
    record = struct.pack("!HHHIH", _NAME_POINTER, _TYPE_A, _CLASS_IN, 60, 4) + address.packed
    return head + query[_HEAD.size :] + record


def answered_address(query: bytes, answer: bytes) -> IPv4Address | None:
    """Return the address in the answer to our query; None if it is not that."""
    expected = dns_answer(query, IPv4Address(0))
    if expected is None or len(answer) != len(expected) or answer[:-4] != expected[:-4]:
        return None
    return IPv4Address(answer[-4:])


@contextmanager
def dns_target() -> Generator[Endpoint]:
    """Serve DNS on loopback while the block runs; yield where."""
    socket = bind_client_udp(LOOPBACK)

    def answer() -> None:
        for batch in socket.receive_batches(64):
            answers = [dns_answer(query, DEMO_ADDRESS) for query in batch.payloads]
            socket.send_batch([found for found in answers if found is not None], batch.source)

    loop = asyncio.get_running_loop()
    loop.add_reader(socket.fileno(), answer)
    try:
        yield socket.local
    finally:
        loop.remove_reader(socket.fileno())
        socket.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSite:
    """A running HTTP/3 web site."""

    endpoint: Endpoint
    ca_pem: bytes
    """Its certificate is for DEMO_NAME."""


@asynccontextmanager
async def site_target(
    clock: Clock, *, socket_factory: DatagramSocketFactory | None = None
) -> AsyncGenerator[DemoSite]:
    """Serve one page over HTTP/3 on loopback while the block runs."""
    ca_key, key = new_key(), new_key()
    ca = make_ca(ca_key)
    leaf = make_leaf(key, ca, ca_key, names=(DEMO_NAME,))
    identity = CertificateIdentity.from_pem(certificate_pem(leaf), key_pem(key))
    async with HttpFrontEnd(
        _page, limits=HttpLimits(), counters=HttpCounters(), clock=clock
    ) as front_end:
        endpoint = QuicEndpoint(
            EndpointSettings(
                applications={"h3": front_end.application_factory},
                certificates=CertificateStore(identity),
                limits=INNER_QUIC_LIMITS,
            ),
            socket_factory=socket_factory or bind_client_udp,
            clock=clock,
            counters=QuicCounters(),
        )
        try:
            yield DemoSite(endpoint=endpoint.listen(LOOPBACK), ca_pem=certificate_pem(ca))
        finally:
            await endpoint.close()


async def _page(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application with one page."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = [
        (b"content-type", b"text/html"),
        (b"content-length", str(len(PAGE)).encode("ascii")),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})
