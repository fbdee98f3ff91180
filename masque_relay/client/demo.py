"""Owns the demo: one DNS exchange and one HTTP/3 page through a relay, with figures."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from secrets import randbits

from masque_relay.client.address import ForwardSpec, RelayAddress
from masque_relay.client.clock import SystemClock
from masque_relay.client.connection import RelayConnection
from masque_relay.client.demo_targets import (
    DEMO_ADDRESS,
    DEMO_NAME,
    INNER_QUIC_LIMITS,
    LOOPBACK,
    PAGE,
    DemoSite,
    answered_address,
    dns_query,
    dns_target,
    site_target,
)
from masque_relay.client.errors import ClientError, ConnectionLost, RelayTimeout
from masque_relay.client.exchange import Response
from masque_relay.client.forward import UdpForward
from masque_relay.client.h3 import h3_application
from masque_relay.client.limits import ClientLimits
from masque_relay.client.link import RelayLink
from masque_relay.client.relay import RelayClient
from masque_relay.client.settle import settled_payload_bytes
from masque_relay.client.sockets import bind_client_udp
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import QuicCounters
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, ConnectFailed, EndpointSettings

ANSWER_TIMEOUT_S = 2.0  # per try; a datagram may be lost, so there are some
TRIES = 5


class DemoFailed(ClientError):  # noqa: N818 - says what happened
    """Something came through, but not what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What went through the relay for one step."""

    elapsed_ms: float
    sent_datagrams: int
    """Towards the target."""
    sent_bytes: int
    received_datagrams: int
    received_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The figures of a demo in which both steps worked."""

    relay: str
    connect_ms: float
    max_payload_bytes: int
    dns: Carried
    dns_answer: str
    page: Carried
    page_status: int
    page_bytes: int


async def run_demo(address: RelayAddress, options: RelayOptions) -> DemoResult:
    """Start two targets and two forwards here, and send traffic through the relay.

    Raises:
        DemoFailed: an answer was wrong.
        ClientError: the relay refused, or something did not answer.
    """
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        dns = stack.enter_context(dns_target())
        site = await stack.enter_async_context(site_target(clock))
        link = RelayLink(partial(_connect, address, options))
        stack.push_async_callback(link.close)
        begin_s = time.monotonic()
        await link.start()
        connect_ms = _ms_since(begin_s)
        dns_forward, site_forward = _forward(dns, link), _forward(site.endpoint, link)
        for forward in (dns_forward, site_forward):
            stack.callback(forward.close)
            await forward.start()
        payload_bytes = await settled_payload_bytes(lambda: link.max_payload_bytes)
        await stack.enter_async_context(_running(link, dns_forward, site_forward))
        begin_s = time.monotonic()
        await _resolve(dns_forward.spec.listen)
        dns_carried = _carried(dns_forward, begin_s)
        begin_s = time.monotonic()
        page = await _fetch(site_forward.spec.listen, site)
        page_carried = _carried(site_forward, begin_s)
    return DemoResult(
        relay=str(address),
        connect_ms=connect_ms,
        max_payload_bytes=payload_bytes,
        dns=dns_carried,
        dns_answer=str(DEMO_ADDRESS),
        page=page_carried,
        page_status=page.status,
        page_bytes=len(page.body),
    )


@asynccontextmanager
async def _running(link: RelayLink, *forwards: UdpForward) -> AsyncGenerator[None]:
    """Run link and forwards while the block does; its exceptions come out as they are."""
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(link.run())]
        tasks += [group.create_task(forward.run()) for forward in forwards]
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised below, outside of the group
            failure = error
        finally:
            for task in tasks:
                task.cancel()
    if failure is not None:
        raise failure


def _forward(target: Endpoint, link: RelayLink) -> UdpForward:
    spec = ForwardSpec(listen=LOOPBACK, target=Target(host=target.address, port=target.port))
    return UdpForward(spec, link)


async def _connect(address: RelayAddress, options: RelayOptions) -> RelayClient:
    client = RelayClient(address, options)
    await client.connect()
    return client


async def _resolve(server: Endpoint) -> None:
    """Ask for the demo's name; repeat as every resolver does, since datagrams may be lost."""
    loop = asyncio.get_running_loop()
    socket = bind_client_udp(LOOPBACK)
    query = dns_query(DEMO_NAME, randbits(16))
    answered: asyncio.Future[bytes] = loop.create_future()

    def receive() -> None:
        for batch in socket.receive_batches(64):
            if not answered.done():
                answered.set_result(batch.payloads[0])

    loop.add_reader(socket.fileno(), receive)
    try:
        for _ in range(TRIES):
            socket.send_batch([query], (str(server.address), server.port))
            done, _ = await asyncio.wait({answered}, timeout=ANSWER_TIMEOUT_S)
            if done:
                break
        else:
            raise RelayTimeout("no DNS answer came back through the tunnel")
    finally:
        loop.remove_reader(socket.fileno())
        socket.close()
    if answered_address(query, answered.result()) != DEMO_ADDRESS:
        raise DemoFailed("the DNS answer that came back is not the one that was sent")


async def _fetch(door: Endpoint, site: DemoSite) -> Response:
    """Fetch the page with a QUIC connection whose every packet goes through the tunnel."""
    connection = RelayConnection(ClientLimits())
    endpoint = QuicEndpoint(
        EndpointSettings(limits=INNER_QUIC_LIMITS),
        socket_factory=bind_client_udp,
        clock=SystemClock(),
        counters=QuicCounters(),
    )
    try:
        await endpoint.connect(
            door,
            server_name=DEMO_NAME,
            alpn="h3",
            application=h3_application(connection),
            tls=ClientTls(ca_pem=site.ca_pem),
        )
        await connection.wait_settings()
        page = await connection.request("GET", authority=DEMO_NAME)
    except ConnectFailed as error:
        raise ConnectionLost(f"no QUIC connection through the tunnel: {error.reason}") from error
    finally:
        connection.close()
        await endpoint.close()
    if page.status != 200 or page.body != PAGE:
        raise DemoFailed(f"the page came back with status {page.status}, or changed")
    return page


def _carried(forward: UdpForward, begin_s: float) -> Carried:
    totals = forward.totals()
    return Carried(
        elapsed_ms=_ms_since(begin_s),
        sent_datagrams=totals.sent,
        sent_bytes=totals.sent_bytes,
        received_datagrams=totals.received,
        received_bytes=totals.received_bytes,
    )


def _ms_since(begin_s: float) -> float:
    return round((time.monotonic() - begin_s) * 1_000, 2)
