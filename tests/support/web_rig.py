"""Owns the rig for applications that are not ours: one front end over QUIC and over TLS on TCP."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, HttpCounters, QuicCounters, TcpCounters
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.http.tcp_front import TcpFront
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore
from masque_relay.server.clock import SystemClock
from tests.support.h3_client import H3Client
from tests.support.relay import LOOPBACK, server_context
from tests.support.site_certificate import SiteCertificate, write_site_certificate
from tests.support.tcp_clients import H1Client, H2Client


@dataclass(frozen=True, kw_only=True)
class WebRig:
    """A server of any application."""

    address: Endpoint
    """Of HTTP/3."""
    https_address: Endpoint
    site: SiteCertificate
    front_end: HttpFrontEnd
    http: HttpCounters
    tcp: TcpCounters
    outgoing: QuicEndpoint

    @property
    def ca_pem(self) -> bytes:
        return self.site.ca_file.read_bytes()

    async def h3(self) -> H3Client:
        """Open an HTTP/3 connection and wait for SETTINGS both ways."""
        client = H3Client()
        await self.outgoing.connect(
            self.address,
            server_name="localhost",
            alpn="h3",
            application=client.attach,
            tls=ClientTls(ca_pem=self.ca_pem),
        )
        await client.until(lambda: client.settings is not None)
        return client

    async def h2(self) -> H2Client:
        """Open an HTTP/2 connection."""
        return await H2Client.connect(self.https_address, self.ca_pem)

    async def h1(self) -> H1Client:
        """Open an HTTP/1.1 connection."""
        return await H1Client.connect(self.https_address, self.ca_pem, "http/1.1")


@asynccontextmanager
async def serving_web(
    directory: Path,
    app: ASGIApp,
    *,
    limits: HttpLimits | None = None,
    tcp_limits: TcpLimits | None = None,
) -> AsyncGenerator[WebRig]:
    """Serve an application on loopback while the block runs."""
    site = write_site_certificate(directory)
    identity = CertificateIdentity.from_pem(
        site.certificate_file.read_bytes(), site.key_file.read_bytes()
    )
    clock, sockets = SystemClock(), socket_factory(SocketLimits(), FlowCounters())
    http, tcp = HttpCounters(), TcpCounters()
    front_end = HttpFrontEnd(app, limits=limits or HttpLimits(), counters=http, clock=clock)
    async with AsyncExitStack() as stack:
        server = QuicEndpoint(
            EndpointSettings(
                applications={"h3": front_end.application_factory},
                certificates=CertificateStore(identity),
            ),
            socket_factory=sockets,
            clock=clock,
            counters=QuicCounters(),
        )
        stack.push_async_callback(server.close)
        tcp_front = await stack.enter_async_context(
            TcpFront(
                front_end,
                server_context(site),
                limits=tcp_limits or TcpLimits(),
                counters=tcp,
                clock=clock,
            )
        )
        await stack.enter_async_context(front_end)
        outgoing = QuicEndpoint(
            EndpointSettings(), socket_factory=sockets, clock=clock, counters=QuicCounters()
        )
        stack.push_async_callback(outgoing.close)
        yield WebRig(
            address=server.listen(LOOPBACK),
            https_address=tcp_front.listen(LOOPBACK),
            site=site,
            front_end=front_end,
            http=http,
            tcp=tcp,
            outgoing=outgoing,
        )
