"""Owns RelayLink: connections to one relay that are kept up, and shared by all who want tunnels."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from secrets import SystemRandom
from typing import Protocol, Self

from masque_relay.client.address import RelayAddress
from masque_relay.client.backoff import Backoff
from masque_relay.client.clock import SystemClock
from masque_relay.client.connection import RelayConnection
from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.errors import ClientError, ConnectionLost, RelayLeaving
from masque_relay.client.events import OnEvent, RelayAway, RelayConnected, ignore_event
from masque_relay.client.limits import ClientLimits, ReconnectLimits
from masque_relay.client.relay import RelayClient
from masque_relay.client.tcp_tunnel import TcpTunnel
from masque_relay.client.tunnel_stream import TunnelRequest, TunnelStream, TunnelUser
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.ports import Clock


class LinkedRelay(Protocol):
    """A connection as the link sees it; RelayClient is one."""

    @property
    def connection(self) -> RelayConnection:
        """Its HTTP connection."""
        ...

    @property
    def peer(self) -> Endpoint | None:
        """The relay's address that answered."""
        ...

    async def start_udp(
        self,
        target: Target,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        """Open a tunnel."""
        ...

    async def start_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        """Open any extended CONNECT tunnel."""
        ...

    async def start_tcp(
        self, target: Target, *, fields: Sequence[tuple[bytes, bytes]] = ()
    ) -> TcpTunnel:
        """Open a TCP connection."""
        ...

    async def close(self) -> None:
        """Close the connection and its tunnels."""
        ...


class RelayLink:
    """Keeps at least one connection to a relay while :meth:`run` runs.

    A connection that is lost, or whose relay says that it is going away, is replaced after a delay
    that doubles with every failure, with jitter. When a connection has as many tunnels as it may, a
    further one is opened, up to ``reconnect.connections``. Tunnels that are open when a relay
    announces that it goes away live on until it really goes.

    Args:
        connect: opens one connection and returns it, or raises ClientError.
        limits: of each connection.
        reconnect: delays and the number of connections.
        on_event: told of ups and downs.
        clock: time.
        random_fraction: draws from [0, 1), for the jitter.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[LinkedRelay]],
        *,
        limits: ClientLimits | None = None,
        reconnect: ReconnectLimits | None = None,
        on_event: OnEvent = ignore_event,
        clock: Clock | None = None,
        random_fraction: Callable[[], float] | None = None,
    ) -> None:
        self._connect = connect
        self._limits = limits or ClientLimits()
        self._reconnect = reconnect or ReconnectLimits()
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._backoff = Backoff(self._reconnect, random_fraction or SystemRandom().random)
        self._relays: list[LinkedRelay] = []
        self._since_s = 0.0
        self._not_before_s = 0.0
        """When the next attempt to connect may be made."""
        self._changed = asyncio.Event()
        """Something for run() to look at."""
        self._up: asyncio.Event = asyncio.Event()
        """There is a connection that takes another tunnel."""

    @classmethod
    def to(
        cls,
        address: RelayAddress,
        options: RelayOptions,
        *,
        reconnect: ReconnectLimits | None = None,
        on_event: OnEvent = ignore_event,
    ) -> Self:
        """Return a link to the relay at ``address``."""

        async def connect() -> RelayClient:
            client = RelayClient(address, options)
            await client.connect()
            return client

        return cls(connect, limits=options.limits, reconnect=reconnect, on_event=on_event)

    @property
    def is_up(self) -> bool:
        """Whether there is a live connection."""
        return any(relay.connection.lost is None for relay in self._relays)

    @property
    def http_version(self) -> str:
        """Of the newest live connection: ``"3"``, ``"2"`` or ``"1.1"``; empty without any."""
        live = [relay.connection for relay in self._relays if relay.connection.lost is None]
        return live[-1].http_version if live else ""

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits on every live connection now; 0 without any."""
        sizes = [relay.connection.max_udp_payload_bytes for relay in self._relays]
        return min((size for size in sizes if size), default=0)

    @property
    def reliable(self) -> bool:
        """Capsules carry the payloads, because the relay takes no QUIC datagrams."""
        live = [relay.connection for relay in self._relays if relay.connection.lost is None]
        return bool(live) and not all(connection.datagrams_negotiated for connection in live)

    async def start(self) -> None:
        """Open the first connection.

        Raises:
            ClientError: it failed; nothing is tried again, because a person is watching.
        """
        self._add(await self._connect())

    async def run(self) -> None:
        """Keep the link up until cancelled; then close all connections."""
        try:
            while True:
                await self._drop_the_lost()
                if self._wants_another():
                    await self._add_one()
                else:
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close all connections; idempotent."""
        relays, self._relays = self._relays, []
        self._up.clear()
        for relay in relays:
            await relay.close()

    async def open_udp(
        self,
        target: Target,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        """Open a tunnel, after a wait of up to ``limits.open_timeout_s`` for a connection.

        Raises:
            TunnelRefused: the relay said no.
            RelayTimeout: it said nothing in time.
            ConnectionLost: there is no connection, or it was lost in the middle.
        """
        relay = await self._wait_for_room()
        try:
            return await relay.start_udp(target, on_batch=on_batch, on_closed=on_closed)
        except RelayLeaving as error:
            raise ConnectionLost(error.message, hint=error.hint) from error

    async def open_tunnel(self, request: TunnelRequest, user: TunnelUser) -> TunnelStream:
        """Open any extended CONNECT tunnel, after a wait as for :meth:`open_udp`.

        Raises:
            TunnelRefused: the relay said no.
            RelayTimeout: it said nothing in time.
            ConnectionLost: there is no connection, or it was lost in the middle.
        """
        relay = await self._wait_for_room()
        try:
            return await relay.start_tunnel(request, user)
        except RelayLeaving as error:
            raise ConnectionLost(error.message, hint=error.hint) from error

    async def open_tcp(
        self, target: Target, *, fields: Sequence[tuple[bytes, bytes]] = ()
    ) -> TcpTunnel:
        """Open a TCP connection, after a wait as for :meth:`open_udp`.

        Raises:
            TunnelRefused: the relay said no, or could not reach the target.
            RelayTimeout: it said nothing in time.
            ConnectionLost: there is no connection, or it was lost in the middle.
        """
        relay = await self._wait_for_room()
        try:
            return await relay.start_tcp(target, fields=fields)
        except RelayLeaving as error:
            raise ConnectionLost(error.message, hint=error.hint) from error

    # -- parts -----------------------------------------------------------------------------------

    async def _wait_for_room(self) -> LinkedRelay:
        try:
            async with asyncio.timeout(self._limits.open_timeout_s):
                while (relay := self._roomiest()) is None:
                    self._up.clear()
                    self._changed.set()
                    await self._up.wait()
        except TimeoutError:
            raise ConnectionLost("there is no connection to the relay now") from None
        return relay

    def _roomiest(self) -> LinkedRelay | None:
        return next((relay for relay in self._relays if relay.connection.has_room), None)

    def _wants_another(self) -> bool:
        usable = [relay for relay in self._relays if not relay.connection.is_leaving]
        if not usable:
            return True
        waiting = not self._up.is_set() and self._roomiest() is None
        return waiting and len(usable) < self._reconnect.connections

    async def _add_one(self) -> None:
        """Connect; after a failure, wait."""
        delay_s = self._not_before_s - self._clock.monotonic_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        try:
            relay = await self._connect()
        except ClientError as error:
            self._away(error)
            return
        self._add(relay)

    def _add(self, relay: LinkedRelay) -> None:
        self._since_s = self._clock.monotonic_s()
        self._relays.append(relay)
        relay.connection.watch(self._on_change)
        self._up.set()
        self._on_event(RelayConnected(peer=relay.peer))

    async def _drop_the_lost(self) -> None:
        lost = [relay for relay in self._relays if relay.connection.lost is not None]
        for relay in lost:
            self._relays.remove(relay)
            await relay.close()
        error = lost[-1].connection.lost if lost else None
        if error is not None and not self.is_up:
            lived_s = self._clock.monotonic_s() - self._since_s
            if lived_s >= self._reconnect.stable_after_s:
                self._backoff.succeeded()
            self._away(error)

    def _away(self, error: ClientError) -> None:
        delay_s = self._backoff.failed()
        self._not_before_s = self._clock.monotonic_s() + delay_s
        self._on_event(RelayAway(error=error, retry_in_s=delay_s))

    def _on_change(self) -> None:
        self._changed.set()
        if self._roomiest() is not None:
            self._up.set()
