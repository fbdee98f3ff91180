"""Owns the ways to the echo: through a tunnel, or straight; both hand over what comes back."""

import asyncio
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address
from typing import Protocol

from masque_relay.client.errors import RelayLeaving, TunnelClosed
from masque_relay.client.relay import RelayClient
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.counters import FlowCounters
from masque_relay.contract.flow import FlowError
from masque_relay.dataplane.limits import FlowLimits
from masque_relay.dataplane.udp_flow import ConnectedUdpFlow

Receive = Callable[[Sequence[bytes]], None]


class EchoPath(Protocol):
    """Where a measurement sends, and hears what comes back."""

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send; return how many of them, from the first on, were taken. Never blocks or raises."""
        ...

    def receiving(self, receive: Receive) -> AbstractContextManager[None]:
        """Hand what comes to ``receive`` while a ``with`` block runs; at other times drop it."""
        ...

    def check(self) -> None:
        """Make sure that the path still leads there.

        Raises:
            ClientError: it is over.
        """
        ...


class _Inbox:
    """Who hears what comes back."""

    def __init__(self) -> None:
        self._receive: Receive | None = None

    def on_batch(self, payloads: Sequence[bytes]) -> None:
        """Take what came."""
        if self._receive is not None:
            self._receive(payloads)

    @contextmanager
    def receiving(self, receive: Receive) -> Generator[None]:
        """Hand what comes to ``receive`` while the block runs."""
        self._receive = receive
        try:
            yield
        finally:
            self._receive = None


class TunnelPath(_Inbox):
    """A CONNECT-UDP tunnel to the echo."""

    def __init__(self, relay: RelayClient) -> None:
        super().__init__()
        self._relay = relay
        self._tunnel: UdpTunnel | None = None
        self._closed: TunnelClosed | None = None

    async def open(self, target: Target) -> UdpTunnel:
        """Ask the relay for the tunnel, and return it.

        Raises:
            ClientError: as :meth:`RelayClient.start_udp`.
        """
        self._tunnel = await self._relay.start_udp(
            target, on_batch=self.on_batch, on_closed=self._on_closed
        )
        return self._tunnel

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send through the tunnel; an EchoPath."""
        return 0 if self._tunnel is None else self._tunnel.send_batch(payloads)

    def check(self) -> None:
        """Make sure that tunnel and connection live; an EchoPath."""
        connection = self._relay.connection
        if connection.lost is not None:
            raise connection.lost
        if self._closed is not None:
            if connection.is_leaving:
                raise RelayLeaving(
                    "the relay is going away, and ended the tunnel",
                    hint="measure again when it is back",
                )
            raise self._closed

    def close(self) -> None:
        """End the tunnel; idempotent."""
        if self._tunnel is not None:
            self._tunnel.close()

    def _on_closed(self, closed: TunnelClosed) -> None:
        self._closed = closed


class DirectPath(_Inbox):
    """A UDP socket of this machine that is connected to the echo; a DatagramSink.

    Raises:
        FlowError: there is no way there at all.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._flow = ConnectedUdpFlow.open(
            endpoint,
            self,
            loop=asyncio.get_running_loop(),
            limits=FlowLimits(),
            counters=FlowCounters(),
        )

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send at once; an EchoPath."""
        return self._flow.send_batch(payloads)

    def check(self) -> None:
        """A socket is never over; an EchoPath."""

    def on_flow_error(self, error: FlowError) -> None:
        """What the network refuses stays unanswered, and is counted as that."""

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._flow.close()


async def endpoint_of(target: Target, *, timeout_s: float) -> Endpoint | None:
    """Look the target up on this machine; None where it has no address here, or not in time."""
    if not isinstance(target.host, str):
        return Endpoint(address=target.host, port=target.port)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except (OSError, TimeoutError):
        return None
    return Endpoint(address=ip_address(str(found[0][4][0]).partition("%")[0]), port=target.port)
