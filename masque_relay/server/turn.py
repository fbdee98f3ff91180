"""Owns the wiring of STUN and TURN: from the configuration to listeners, and through its life."""

import asyncio
import ssl
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

from fallbacks.turn.path import RelayAddress, TurnServices, TurnSettings
from fallbacks.turn.server import PendingRequests, Readers, TurnServer
from fallbacks.turn.shared_socket import SharedSocket
from fallbacks.turn.stream import TurnStream
from masque_relay.config import RelayConfig
from masque_relay.config.turn import TurnSection
from masque_relay.contract.address import Endpoint, IPAddress
from masque_relay.contract.counters import FlowCounters, TunnelCounters, TurnCounters
from masque_relay.contract.errors import ConfigError, Problem
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock, DatagramSocket, DatagramSocketFactory
from masque_relay.control.gate import RelayGate
from masque_relay.dataplane.offload import RECEIVE_BYTES
from masque_relay.dataplane.own_address import is_own_public
from masque_relay.dataplane.relay_socket import relay_socket_factory
from masque_relay.dataplane.tcp_relay import relay_tcp_factory
from masque_relay.dataplane.udp_bind import BoundFlowTable
from masque_relay.http.tcp_connection import TcpConnection, TcpLink
from masque_relay.http.tcp_front import TcpFront
from masque_relay.server.material import ALPN_TURN
from masque_relay.server.surroundings import Listeners


class SharingFactory:
    """A DatagramSocketFactory for the QUIC endpoint whose sockets TURN may share.

    Attributes:
        shared: those that were bound, where sharing is switched on.
    """

    def __init__(self, bind: DatagramSocketFactory, *, shares: bool) -> None:
        self.shared: list[SharedSocket] = []
        self._bind = bind
        self._shares = shares

    def __call__(self, endpoint: Endpoint) -> DatagramSocket:
        """Bind a socket.

        Raises:
            FlowError: the address is taken or not ours.
        """
        bound = self._bind(endpoint)
        if not self._shares:
            return bound
        self.shared.append(SharedSocket(bound))
        return self.shared[-1]


async def open_turn(  # noqa: PLR0913 (all by keyword, from one place)
    stack: AsyncExitStack,
    config: RelayConfig,
    *,
    tls: ssl.SSLContext | None,
    tcp_front: TcpFront | None,
    shared: Sequence[SharedSocket],
    gate: RelayGate,
    clock: Clock,
    counters: TurnCounters,
    tunnels: TunnelCounters,
    flows: FlowCounters,
    listeners: Listeners,
    bound_flows: BoundFlowTable,
    h3_address: Endpoint,
) -> TurnServer | None:
    """Listen as `[turn]` says, None where it names no listener; the stack closes it.

    Raises:
        ConfigError: an address can't be used.
    """
    section = config.turn
    if not section.is_on:
        return None
    settings = turn_settings(section)
    pending = PendingRequests(settings.limits.pending_requests)
    readers = Readers()
    own = _nothing_is_own if config.egress.allow_own_addresses else is_own_public
    services = TurnServices(
        settings=settings,
        gate=gate,
        clock=clock,
        counters=counters,
        tunnels=tunnels,
        bind_relay=relay_socket_factory(config.egress.limits, flows, bytearray(RECEIVE_BYTES)),
        bind_tcp_relay=relay_tcp_factory(flows),
        call_later=readers.call_later,
        spawn=pending.spawn,
        watch=readers.watch,
        unwatch=readers.unwatch,
        is_own_address=own,
        is_relayed_elsewhere=bound_flows.holds,
        is_own_listener=partial(_listens_at, h3_address),
    )
    server = TurnServer(services, pending)
    # A client with a bound UDP tunnel and one of TURN reach each other's public addresses.
    bound_flows.is_relayed_elsewhere = server.session.ports.is_relayed
    await stack.enter_async_context(server)
    for index, address in enumerate(section.udp):
        name = f"turn.udp[{index}]"
        try:
            server.serve_udp(listeners.datagram(name, address, config.listen.socket, flows))
        except FlowError as error:
            raise _cannot_listen(name, address, error.detail) from error
    _open_discovery(server, section, listeners, flows, config)
    for key, addresses, context in (("tcp", section.tcp, None), ("tls", section.tls, tls)):
        for index, address in enumerate(addresses):
            name = f"turn.{key}[{index}]"
            try:
                server.serve_stream(listeners.stream(name, address), context)
            except OSError as error:
                detail = error.strerror or str(error)
                raise _cannot_listen(name, address, detail) from error
    for socket in shared:
        server.share_udp(socket)
    if section.on_https_port and tcp_front is not None:
        tcp_front.serve_alpn(ALPN_TURN, partial(_begin_on_https, server))
    return server


def _open_discovery(
    server: TurnServer,
    section: TurnSection,
    listeners: Listeners,
    flows: FlowCounters,
    config: RelayConfig,
) -> None:
    """Open the three further sockets of RFC 5780, where a second address is configured.

    Raises:
        ConfigError: an address can't be used.
    """
    other = section.other_address
    if other is None:
        return
    first = section.udp[0]
    opened: list[DatagramSocket] = []
    for index, address in enumerate(
        (
            Endpoint(address=first.address, port=other.port),
            Endpoint(address=other.address, port=first.port),
            other,
        )
    ):
        name = f"turn.other_address[{index}]"
        try:
            opened.append(listeners.datagram(name, address, config.listen.socket, flows))
        except FlowError as error:
            raise _cannot_listen("turn.other_address", address, error.detail) from error
    server.serve_discovery(opened)


def apply_turn(server: TurnServer, section: TurnSection, tls: ssl.SSLContext | None) -> None:
    """Put in force what a reload may change; addresses and listeners stay as they are."""
    running = server.session.services.settings
    wanted = turn_settings(section)
    server.session.apply(replace(wanted, relay_addresses=running.relay_addresses))
    if tls is not None:
        server.replace_tls(tls)


async def drain_turn(server: TurnServer, deadline_s: float) -> None:
    """Wait until the last allocation has ended, or the deadline passes."""
    with suppress(TimeoutError):
        await asyncio.wait_for(server.drain(), deadline_s)


def _begin_on_https(server: TurnServer, connection: TcpConnection, link: TcpLink) -> TurnStream:
    """Return the session of a connection of the HTTPS port that agreed on TURN's ALPN."""
    return server.serve_connection(connection, client=link.peer)


def turn_settings(section: TurnSection) -> TurnSettings:
    """Return what the core is told of the configuration.

    Raises:
        ConfigError: there is no address on which peers could reach clients.
    """
    return TurnSettings(
        realm=section.realm,
        relay_addresses=tuple(_relay_addresses(section)),
        first_port=section.first_port,
        last_port=section.last_port,
        alternate_servers=section.alternate_servers,
        server_name=section.server_name,
        software=section.software,
        limits=section.limits,
    )


def _relay_addresses(section: TurnSection) -> Iterable[RelayAddress]:
    local: dict[int, IPAddress] = {address.version: address for address in section.relay_addresses}
    if not local:
        for listener in (*section.udp, *section.tcp, *section.tls):
            if not listener.address.is_unspecified:
                local.setdefault(listener.address.version, listener.address)
    if not local:
        raise ConfigError(
            [
                Problem(
                    key_path="turn.relay_addresses",
                    detail="is empty, and every listener is a wildcard",
                    hint="name the addresses on which peers reach this host",
                )
            ]
        )
    public: dict[int, IPAddress] = {
        address.version: address for address in section.external_addresses
    }
    for version, address in sorted(local.items()):
        yield RelayAddress(local=address, public=public.get(version, address))


def _nothing_is_own(address: IPAddress) -> bool:
    del address
    return False


def _listens_at(h3_address: Endpoint, endpoint: Endpoint) -> bool:
    """Whether an endpoint of this host is where HTTP/3 listens."""
    if endpoint.port != h3_address.port:
        return False
    return h3_address.address.is_unspecified or endpoint.address == h3_address.address


def _cannot_listen(key_path: str, address: Endpoint, detail: str) -> ConfigError:
    return ConfigError(
        [
            Problem(
                key_path=key_path,
                detail=f"{address}: {detail}",
                hint="choose another address; ports below 1024 need root",
            )
        ]
    )
