"""Owns the wiring of DERP: keys from files, the server, and the routes that lead to it."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from starlette.routing import BaseRoute, Route, WebSocketRoute

from fallbacks.derp.probes import BootstrapDns, challenge, probe
from fallbacks.derp.server import DerpServer, DerpSettings
from fallbacks.derp.upgrade import PROTOCOL, DerpUpgrade
from fallbacks.derp.websocket import DerpWebSocket
from masque_relay.config import RelayConfig
from masque_relay.config.derp import DerpSection
from masque_relay.contract.counters import DerpCounters, DerpMeshCounters
from masque_relay.contract.ghostwire import Switchboard
from masque_relay.contract.ports import Clock, Gate
from masque_relay.http.routes import TunnelHintRoute, TunnelRoute
from masque_relay.server.derp_keys import DerpKeys
from masque_relay.server.derp_mesh import DerpMesh, MeshSettings, mesh_tls
from masque_relay.wire.uri_template import UriTemplate

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Derp:
    """What serves DERP, and what passes packets on to the other servers of the region."""

    server: DerpServer
    mesh: DerpMesh | None
    """None where no other server is named."""

    def restarting(self) -> None:
        """Tell every client that the relay will go."""
        self.server.restarting()
        if self.mesh is not None:
            self.mesh.restarting()

    def status(self) -> dict[str, object]:
        """What an operator sees; JSON-ready, without identities."""
        return {**self.server.status(), "mesh": [] if self.mesh is None else self.mesh.status()}


@dataclass(frozen=True, slots=True, kw_only=True)
class DerpRoutes:
    """What the application mounts for DERP."""

    tunnels: Sequence[TunnelRoute] = ()
    """They ask the gate themselves, once the key is proved."""
    site: Sequence[BaseRoute] = ()


async def open_derp(
    stack: AsyncExitStack,
    config: RelayConfig,
    *,
    gate: Gate,
    switchboard: Switchboard,
    clock: Clock,
    counters: DerpCounters,
    keys: DerpKeys | None,
) -> DerpServer | None:
    """Open the DERP server; None where it is off."""
    if keys is None:
        return None
    if config.gate.node_keys is None:
        _log.warning("DERP is on, but no node key is accepted", hint="set gate.node_keys")
    server = DerpServer(
        DerpSettings(
            private_key=keys.private_key, mesh_key=keys.mesh_key, limits=config.derp.limits
        ),
        gate=gate,
        switchboard=switchboard,
        clock=clock,
        counters=counters,
    )
    return await stack.enter_async_context(server)


async def open_derp_mesh(
    stack: AsyncExitStack,
    section: DerpSection,
    server: DerpServer | None,
    *,
    clock: Clock,
    counters: DerpMeshCounters,
    keys: DerpKeys | None,
) -> Derp | None:
    """Begin to dial the other servers of the region, if there are any; None where DERP is off.

    To be called when we listen: one of them may be this relay.
    """
    if server is None or keys is None:
        return None
    mesh: DerpMesh | None = None
    if section.mesh_with and keys.mesh_key is not None:
        mesh = await stack.enter_async_context(
            DerpMesh(
                MeshSettings(
                    servers=section.mesh_with,
                    tls=mesh_tls(section),
                    mesh_key=keys.mesh_key,
                ),
                section,
                box=server.box,
                elsewhere=server.elsewhere,
                clock=clock,
                counters=counters,
            )
        )
    return Derp(server=server, mesh=mesh)


def derp_routes(server: DerpServer | None, section: DerpSection, *, proxy_name: str) -> DerpRoutes:
    """Return the ways to the server; none where it is off."""
    if server is None:
        return DerpRoutes()
    template = UriTemplate.parse(section.path)
    site: list[BaseRoute] = [
        Route(f"{section.path}/probe", probe, methods=["GET"]),
        Route(f"{section.path}/latency-check", probe, methods=["GET"]),
        Route("/generate_204", challenge, methods=["GET"]),
        Route("/bootstrap-dns", BootstrapDns(section.bootstrap_dns).answer, methods=["GET"]),
    ]
    if section.websocket:
        site.append(WebSocketRoute(section.path, DerpWebSocket(server)))
    site.append(TunnelHintRoute(template, PROTOCOL))
    return DerpRoutes(
        tunnels=[TunnelRoute(template, PROTOCOL, DerpUpgrade(server), proxy_name=proxy_name)],
        site=site,
    )
