"""Owns a TURN server with real sockets inside the test's own process and loop."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from fallbacks.turn.path import RelayAddress, TurnServices, TurnSettings
from fallbacks.turn.server import PendingRequests, Readers, TurnServer
from masque_relay.contract.address import Endpoint
from masque_relay.contract.counters import FlowCounters, TunnelCounters, TurnCounters
from masque_relay.contract.turn_limits import TurnLimits
from masque_relay.control.auth.turn import mint_time_limited
from masque_relay.control.settings import GateSettings, StunSettings
from masque_relay.dataplane.batch_io import bind_udp
from masque_relay.dataplane.limits import FlowLimits
from masque_relay.dataplane.offload import RECEIVE_BYTES
from masque_relay.dataplane.relay_socket import relay_socket_factory
from masque_relay.dataplane.tcp_relay import relay_tcp_factory
from masque_relay.http.tcp_front import open_listener
from masque_relay.server.clock import SystemClock
from tests.support.gates import GateBench
from tests.support.turn_client import Credentials

REALM = "relay.example"
SECRET = b"a shared secret of many bytes"
LOOPBACK = ip_address("127.0.0.1")
POLICY = """
[[rule]]
name = "loopback"
action = "allow"
who = ["alice"]
methods = ["bind-udp", "connect-tcp"]
targets = ["127.0.0.0/8:*"]
"""


@dataclass(kw_only=True)
class InProcessTurn:
    """The server and what a test wants to look at."""

    server: TurnServer
    bench: GateBench
    counters: TurnCounters
    udp: tuple[str, int]
    tcp: tuple[str, int]
    tls: tuple[str, int] | None

    def credentials(self, subject: str = "alice") -> Credentials:
        """Return a time-limited credential."""
        made = mint_time_limited(
            SECRET, subject=subject, expires_s=int(self.bench.clock.wall_s()) + 3600
        )
        return Credentials(username=made.username, password=made.password)

    async def until(self, condition: object, wait_s: float = 20.0) -> None:
        """Wait until a callable returns something true."""
        assert callable(condition)
        async with asyncio.timeout(wait_s):
            while not condition():  # noqa: ASYNC110 (counters have no event)
                await asyncio.sleep(0.02)


@asynccontextmanager
async def running_turn(
    directory: Path, *, limits: TurnLimits | None = None, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[InProcessTurn]:
    """Run a server while the block runs."""
    secret_file = directory / "turn-secret"
    secret_file.write_bytes(SECRET)

    def with_stun(gate: GateSettings) -> GateSettings:
        return replace(gate, stun=StunSettings(shared_secret_files=(secret_file,)))

    bench = GateBench(directory, policy=POLICY, change=with_stun)
    settings = TurnSettings(
        realm=REALM,
        relay_addresses=(RelayAddress(local=LOOPBACK, public=LOOPBACK),),
        limits=limits or TurnLimits(),
    )
    counters, flows, readers = TurnCounters(), FlowCounters(), Readers()
    pending = PendingRequests(settings.limits.pending_requests)
    services = TurnServices(
        settings=settings,
        gate=bench.gate,
        clock=SystemClock(),
        counters=counters,
        tunnels=TunnelCounters(),
        bind_relay=relay_socket_factory(FlowLimits(), flows, bytearray(RECEIVE_BYTES)),
        bind_tcp_relay=relay_tcp_factory(flows),
        spawn=pending.spawn,
        watch=readers.watch,
        unwatch=readers.unwatch,
        call_later=readers.call_later,
        is_own_address=lambda _: False,
        is_relayed_elsewhere=lambda _: False,
        is_own_listener=lambda _: False,
    )
    any_port = Endpoint(address=LOOPBACK, port=0)
    try:
        async with TurnServer(services, pending) as server:
            udp = server.serve_udp(bind_udp(any_port))
            tcp = server.serve_stream(open_listener(any_port), None)
            over_tls = None if tls is None else server.serve_stream(open_listener(any_port), tls)
            yield InProcessTurn(
                server=server,
                bench=bench,
                counters=counters,
                udp=(str(udp.address), udp.port),
                tcp=(str(tcp.address), tcp.port),
                tls=None if over_tls is None else (str(over_tls.address), over_tls.port),
            )
    finally:
        bench.gate.close()
