"""Owns a real relay inside the test's own process and loop: QUIC, HTTP/3, gate and sockets.

Nothing is faked but the audit trail, which is a list. The policy gives ``alice`` the Internet and
the one loopback address ECHO_HOST, so that every other loopback or private address is refused as
it is in production.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from starlette.routing import BaseRoute

from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import (
    BindCounters,
    FlowCounters,
    HttpCounters,
    QuicCounters,
    TcpCounters,
    TunnelCounters,
)
from masque_relay.control.auth.keys import SigningKey, generate_signing_key, write_signing_key
from masque_relay.control.auth.tokens import issue_token
from masque_relay.control.gate import RelayGate
from masque_relay.control.gate_build import build_gate
from masque_relay.control.settings import (
    BearerSettings,
    GateLimits,
    GateSettings,
    IssuerSettings,
)
from masque_relay.dataplane.batch_io import socket_factory
from masque_relay.dataplane.inproc import InprocDataplane
from masque_relay.dataplane.limits import SocketLimits
from masque_relay.dataplane.udp_bind import BindSettings
from masque_relay.http.connect_tcp import ConnectTcpServices, connect_tcp_kinds
from masque_relay.http.connect_udp import ConnectUdpServices, connect_udp_kind
from masque_relay.http.connect_udp_bind import BindServices, bound_udp_kind
from masque_relay.http.denials import DEFAULT_PROXY_NAME
from masque_relay.http.front_end import HttpFrontEnd
from masque_relay.http.limits import HttpLimits
from masque_relay.http.routes import build_app
from masque_relay.http.tcp_front import TcpFront
from masque_relay.http.tcp_limits import TcpLimits
from masque_relay.http.tcp_tls import CertificateFiles, build_server_context
from masque_relay.http.tunnel import TunnelKind
from masque_relay.http.wrap_up import WrapUpRule
from masque_relay.quic.application import Headers
from masque_relay.quic.endpoint import QuicEndpoint
from masque_relay.quic.limits import QuicLimits
from masque_relay.quic.settings import ClientTls, EndpointSettings
from masque_relay.quic.tls import CertificateIdentity, CertificateStore
from masque_relay.server.clock import SystemClock
from masque_relay.tunnels.connect_udp_bind import BindLimits, Inbound
from masque_relay.tunnels.peer_policy import PeerPolicyLimits
from masque_relay.wire.connect_udp import DEFAULT_TEMPLATE
from tests.support.h3_client import WAIT_S, H3Client
from tests.support.site_certificate import SiteCertificate, write_site_certificate

ISSUER = "test-issuer"
AUDIENCE = "test-relay"
ECHO_HOST = "127.0.0.9"
TICK_S = 0.05
LOOPBACK = Endpoint(address=ip_address("127.0.0.1"), port=0)

POLICY = f"""
[[rule]]
name = "echo"
action = "allow"
who = ["alice"]
methods = ["connect-udp"]
targets = ["{ECHO_HOST}/32:*"]

[[rule]]
name = "names"
action = "allow"
who = ["alice"]
methods = ["connect-udp"]
targets = ["*:*"]
"""

LIMITED_POLICY = POLICY.replace(
    f'targets = ["{ECHO_HOST}/32:*"]',
    f'targets = ["{ECHO_HOST}/32:*"]\nlimits = {{ %s }}',
)
"""POLICY with limits for tunnels to ECHO_HOST, to be filled in: ``% "idle_timeout_s = 1"``."""

NAMES: Mapping[str, Sequence[str]] = {
    "echo.test": [ECHO_HOST],
    "metadata.test": ["169.254.169.254"],
    "loopback.test": ["127.0.0.1"],
    "mapped.test": ["10.0.0.1"],
    "private.test": ["10.0.0.1"],
    "unspecified.test": ["0.0.0.0"],
    "mixed.test": ["127.0.0.1", ECHO_HOST],
}


@dataclass
class ListAudit:
    """An audit trail that a test can read."""

    records: list[Mapping[str, object]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, record: Mapping[str, object]) -> None:
        self.records.append(record)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; looked at with every record."""
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def ends(self) -> list[Mapping[str, object]]:
        """The records of tunnels that ended."""
        return [record for record in self.records if record["event"] == "tunnel_end"]


@dataclass(frozen=True, kw_only=True)
class KindServices:
    """What further kinds of tunnel are made of."""

    gate: RelayGate
    dataplane: InprocDataplane
    clock: SystemClock
    counters: TunnelCounters


@dataclass(kw_only=True)
class InProcessRelay:
    """A relay that listens on a loopback port."""

    address: Endpoint
    ca_pem: bytes
    signing_key: SigningKey
    gate: RelayGate
    gate_settings: GateSettings
    """To prepare a reload with, after the policy file was written anew."""
    dataplane: InprocDataplane
    front_end: HttpFrontEnd
    audit: ListAudit
    http: HttpCounters
    tunnels: TunnelCounters
    bind: BindCounters
    quic: QuicCounters
    https_address: Endpoint
    """Of HTTP/2 and HTTP/1.1 over TCP."""
    tcp: TcpCounters
    tcp_front: TcpFront
    site: SiteCertificate
    client_endpoint: QuicEndpoint

    def token(
        self,
        subject: str = "alice",
        *,
        audience: str = AUDIENCE,
        lifetime_s: float = 600.0,
        issued_before_s: float = 0.0,
        key: SigningKey | None = None,
    ) -> str:
        """Return a token, good or bad."""
        return issue_token(
            key or self.signing_key,
            subject=subject,
            audience=audience,
            issuer=ISSUER,
            lifetime_s=lifetime_s,
            now_s=time.time() - issued_before_s,
        )

    async def connect(self) -> H3Client:
        """Open an HTTP/3 connection and wait for SETTINGS both ways."""
        client = H3Client()
        await self.client_endpoint.connect(
            self.address,
            server_name="localhost",
            alpn="h3",
            application=client.attach,
            tls=ClientTls(ca_pem=self.ca_pem),
        )
        await client.until(lambda: client.settings is not None)
        return client

    def connect_udp(
        self,
        host: str,
        port: int | str,
        *,
        token: str | None = None,
        path: bytes | None = None,
        extra: Headers | None = None,
    ) -> Headers:
        """Return a CONNECT-UDP head; ``token=""`` sends no credential."""
        if path is None:
            path = f"/.well-known/masque/udp/{host}/{port}/".encode()
        head: Headers = [
            (b":method", b"CONNECT"),
            (b":protocol", b"connect-udp"),
            (b":scheme", b"https"),
            (b":authority", b"localhost"),
            (b":path", path),
            (b"capsule-protocol", b"?1"),
        ]
        token = self.token() if token is None else token
        if token:
            head.append((b"authorization", f"Bearer {token}".encode()))
        return head + (extra or [])


@asynccontextmanager
async def running_relay(
    directory: Path,
    *,
    policy: str = POLICY,
    http_limits: HttpLimits | None = None,
    quic_limits: QuicLimits | None = None,
    gate_limits: GateLimits | None = None,
    names: Mapping[str, Sequence[str]] = NAMES,
    nameservers: Sequence[str] = (),
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    tcp_limits: TcpLimits | None = None,
    make_site: Callable[[RelayGate], Sequence[BaseRoute]] = lambda _: (),
    wrap_up: WrapUpRule | None = None,
    bind: BindSettings | None = None,
    bind_limits: BindLimits | None = None,
    inbound: Inbound = Inbound.POLICY,
    more_kinds: Callable[[KindServices], Sequence[TunnelKind]] = lambda _: (),
) -> AsyncGenerator[InProcessRelay]:
    """Run a relay while the block runs."""
    clock, audit = SystemClock(), ListAudit()
    http, tunnels, quic, flows = HttpCounters(), TunnelCounters(), QuicCounters(), FlowCounters()
    http_limits = http_limits or HttpLimits()
    quic_limits = quic_limits or QuicLimits()
    signing_key = generate_signing_key()
    _, public_file = write_signing_key(signing_key, directory)
    (directory / "policy.toml").write_text(policy)
    site = write_site_certificate(directory)
    identity = CertificateIdentity.from_pem(
        site.certificate_file.read_bytes(), site.key_file.read_bytes()
    )
    async with AsyncExitStack() as stack:
        gate_settings = GateSettings(
            policy_file=directory / "policy.toml",
            bearer=BearerSettings(
                issuers=(IssuerSettings(issuer=ISSUER, key_files=(public_file,)),),
                audiences=(AUDIENCE,),
            ),
            limits=gate_limits or GateLimits(),
        )
        gate = build_gate(gate_settings, clock=clock, audit=audit)
        stack.callback(gate.close)
        timers: list[asyncio.TimerHandle] = []
        stack.callback(lambda: [timer.cancel() for timer in timers])
        _tick(gate, timers)
        dataplane = InprocDataplane(
            counters=flows,
            nameservers=nameservers,
            pins={name: [ip_address(text) for text in texts] for name, texts in names.items()},
            bind=bind,
        )
        stack.push_async_callback(dataplane.close)
        udp = ConnectUdpServices(
            gate=gate,
            dataplane=dataplane,
            clock=clock,
            counters=tunnels,
            limits=http_limits,
            proxy_name=DEFAULT_PROXY_NAME,
        )
        tcp_services = ConnectTcpServices(
            gate=gate,
            dataplane=dataplane,
            counters=tunnels,
            limits=http_limits,
            proxy_name=DEFAULT_PROXY_NAME,
        )
        udp_kind, bind_counters = connect_udp_kind(udp, templates), BindCounters()
        if bind is not None:
            bound_udp = BindServices(
                udp=udp,
                counters=bind_counters,
                limits=bind_limits or BindLimits(),
                policy_limits=PeerPolicyLimits(),
                inbound=inbound,
            )
            udp_kind = bound_udp_kind(udp_kind, bound_udp)
        front_end = HttpFrontEnd(
            build_app(
                [
                    udp_kind,
                    *connect_tcp_kinds(tcp_services),
                    *more_kinds(
                        KindServices(gate=gate, dataplane=dataplane, clock=clock, counters=tunnels)
                    ),
                ],
                gate=gate,
                proxy_name=DEFAULT_PROXY_NAME,
                site=make_site(gate),
                wrap_up=wrap_up,
            ),
            limits=http_limits,
            counters=http,
            clock=clock,
        )
        sockets = socket_factory(SocketLimits(), flows)
        server = QuicEndpoint(
            EndpointSettings(
                applications={"h3": front_end.application_factory},
                certificates=CertificateStore(identity),
                limits=quic_limits,
            ),
            socket_factory=sockets,
            clock=clock,
            counters=quic,
        )
        stack.push_async_callback(server.close)
        tcp = TcpCounters()
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
        client = QuicEndpoint(
            EndpointSettings(limits=quic_limits),
            socket_factory=sockets,
            clock=clock,
            counters=QuicCounters(),
        )
        stack.push_async_callback(client.close)
        address = server.listen(LOOPBACK)
        yield InProcessRelay(
            address=address,
            https_address=tcp_front.listen(LOOPBACK, h3_port=address.port),
            tcp=tcp,
            tcp_front=tcp_front,
            site=site,
            ca_pem=site.ca_file.read_bytes(),
            signing_key=signing_key,
            gate=gate,
            gate_settings=gate_settings,
            dataplane=dataplane,
            front_end=front_end,
            audit=audit,
            http=http,
            tunnels=tunnels,
            bind=bind_counters,
            quic=quic,
            client_endpoint=client,
        )


def server_context(site: SiteCertificate) -> ssl.SSLContext:
    """Return TLS for TCP with a site's certificate."""
    files = CertificateFiles(
        certificate_file=site.certificate_file,
        key_file=site.key_file,
        names=frozenset({"localhost"}),
    )
    return build_server_context([files])


async def audit_end(relay: InProcessRelay) -> Mapping[str, object]:
    """Wait for the record of the one tunnel that ended."""
    await relay.audit.until(relay.audit.ends)
    (record,) = relay.audit.ends()
    return record


@asynccontextmanager
async def udp_echo(host: str = ECHO_HOST) -> AsyncGenerator[int]:
    """Echo UDP on a loopback address while the block runs; yield the port."""
    # Not an asyncio endpoint: that one swallows empty datagrams.
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as target:
        target.setblocking(False)
        target.bind((host, 0))

        def answer() -> None:
            try:
                while True:
                    data, source = target.recvfrom(65_536)
                    target.sendto(data, source)
            except BlockingIOError:
                pass

        loop.add_reader(target.fileno(), answer)
        try:
            yield target.getsockname()[1]
        finally:
            loop.remove_reader(target.fileno())


def _tick(gate: RelayGate, timers: list[asyncio.TimerHandle]) -> None:
    """Let the gate look at its deadlines, again and again, as the server does every second."""
    gate.tick()
    timers[:] = [asyncio.get_running_loop().call_later(TICK_S, _tick, gate, timers)]
