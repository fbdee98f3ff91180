"""Owns BoundForward: a public UDP port at a relay that leads to one local program.

Every remote peer gets a local socket of its own: the program tells its peers apart by their port,
and answers as it would without a relay. That suits game servers, WireGuard and DNS servers alike;
what the program can't see is the peers' real addresses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from secrets import SystemRandom
from typing import Protocol

from masque_relay.client.backoff import Backoff
from masque_relay.client.bound_udp import BoundUdp, OnPeerBatch
from masque_relay.client.clock import SystemClock
from masque_relay.client.datagram_tunnel import OnClosed
from masque_relay.client.errors import ClientError, ConnectionLost, TunnelClosed
from masque_relay.client.events import BindEvent, PortBound, PortLost
from masque_relay.client.limits import BoundForwardLimits, ReconnectLimits
from masque_relay.client.sockets import bind_client_udp
from masque_relay.contract.address import Endpoint
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock, DatagramSocket, DatagramSocketFactory


class BoundOpener(Protocol):
    """Asks a relay for a public port, or raises ClientError."""

    def __call__(self, *, on_batch: OnPeerBatch, on_closed: OnClosed) -> Awaitable[BoundUdp]:
        """Open; the callbacks are those of :func:`open_bound_udp`."""
        ...


class _RemotePeer:
    """One remote peer and the local socket that stands for it."""

    __slots__ = ("last_active_s", "socket")

    def __init__(self, socket: DatagramSocket, now_s: float) -> None:
        self.socket = socket
        self.last_active_s = now_s


class BoundForward:
    """Passes datagrams between a public port and a local program.

    Call :meth:`start`, then :meth:`run` until the end. A port that is lost with the connection is
    asked for again; the new one is another port, which ``on_event`` tells.

    Attributes:
        target: the local program.
        received_count: datagrams of remote peers handed to the program.
        sent_count: its answers, handed to the relay.
        dropped_count: datagrams either way that found no room, or no port.
        expired_count: remote peers that were silent for too long.
        evicted_count: remote peers that made room for others.
    """

    def __init__(
        self,
        target: Endpoint,
        open_bound: BoundOpener,
        *,
        limits: BoundForwardLimits | None = None,
        on_event: Callable[[BindEvent], None] | None = None,
        socket_factory: DatagramSocketFactory = bind_client_udp,
        clock: Clock | None = None,
    ) -> None:
        self.target = target
        self.received_count = 0
        self.sent_count = 0
        self.dropped_count = 0
        self.expired_count = 0
        self.evicted_count = 0
        self._source = (str(target.address), target.port)
        self._local = _local_address(target)
        self._open_bound = open_bound
        self._limits = limits or BoundForwardLimits()
        self._on_event = on_event or _ignore
        self._socket_factory = socket_factory
        self._clock = clock or SystemClock()
        self._bound: BoundUdp | None = None
        self._lost = asyncio.Event()
        self._peers: dict[Endpoint, _RemotePeer] = {}

    @property
    def public(self) -> Sequence[Endpoint]:
        """Where remote peers reach the program now; empty while there is no port."""
        return () if self._bound is None else self._bound.public

    @property
    def peer_count(self) -> int:
        """Remote peers that are not idle yet."""
        return len(self._peers)

    async def start(self) -> None:
        """Ask for the port.

        Raises:
            ClientError: the relay said no, or could not be asked.
        """
        self._lost.clear()
        bound = await self._open_bound(on_batch=self._on_remote, on_closed=self._on_closed)
        if bound.closed is not None:
            raise bound.closed
        self._bound = bound

    async def run(self) -> None:
        """Keep a port until cancelled; then give it up."""
        backoff = Backoff(
            ReconnectLimits(
                first_delay_s=self._limits.retry_delay_s,
                longest_delay_s=self._limits.longest_retry_delay_s,
            ),
            SystemRandom().random,
        )
        try:
            while True:
                await self._hold()
                error: ClientError = ConnectionLost("the public port is gone")
                while self._bound is None:
                    delay_s = backoff.failed()
                    self._on_event(PortLost(target=self.target, error=error, retry_in_s=delay_s))
                    await asyncio.sleep(delay_s)
                    try:
                        await self.start()
                    except ClientError as failure:
                        error = failure
                backoff.succeeded()
                self._on_event(PortBound(target=self.target, public=tuple(self.public)))
        finally:
            self.close()

    def close(self) -> None:
        """Give up the port and close the local sockets; idempotent."""
        bound, self._bound = self._bound, None
        if bound is not None:
            bound.close()
        for peer in list(self._peers):
            self._drop(peer)

    def sweep(self) -> None:
        """Close the local sockets of remote peers that have been silent for too long."""
        oldest_s = self._clock.monotonic_s() - self._limits.idle_timeout_s
        for peer in [peer for peer, it in self._peers.items() if it.last_active_s < oldest_s]:
            self._drop(peer)
            self.expired_count += 1

    def status(self) -> Mapping[str, object]:
        """Return addresses and counts; JSON-ready."""
        return {
            "target": str(self.target),
            "public": [str(endpoint) for endpoint in self.public],
            "peers": len(self._peers),
            "received": self.received_count,
            "sent": self.sent_count,
            "dropped": self.dropped_count,
            "peers_expired": self.expired_count,
            "peers_evicted": self.evicted_count,
        }

    # -- packet path -----------------------------------------------------------------------------

    def _on_remote(self, payloads: Sequence[bytes], peer: Endpoint) -> None:
        """Hand datagrams of a remote peer to the program."""
        known = self._peers.get(peer) or self._admit(peer)
        if known is None:
            self.dropped_count += len(payloads)
            return
        known.last_active_s = self._clock.monotonic_s()
        taken_count = known.socket.send_batch(payloads, self._source)
        self.received_count += taken_count
        self.dropped_count += len(payloads) - taken_count

    def _on_local(self, peer: Endpoint) -> None:
        """Send what the program answered to the remote peer."""
        known, bound = self._peers.get(peer), self._bound
        if known is None:
            return
        for batch in known.socket.receive_batches(self._limits.receive_batch_datagrams):
            if batch.source != self._source:
                continue  # some other program of this host found the port
            known.last_active_s = self._clock.monotonic_s()
            sent_count = 0 if bound is None else bound.send_batch(batch.payloads, peer)
            self.sent_count += sent_count
            self.dropped_count += len(batch.payloads) - sent_count

    # -- parts -----------------------------------------------------------------------------------

    async def _hold(self) -> None:
        while self._bound is not None:
            try:
                async with asyncio.timeout(self._limits.sweep_interval_s):
                    await self._lost.wait()
            except TimeoutError:
                self.sweep()

    def _on_closed(self, closed: TunnelClosed) -> None:
        del closed
        self._bound = None
        self._lost.set()

    def _admit(self, peer: Endpoint) -> _RemotePeer | None:
        if len(self._peers) >= self._limits.peers:
            oldest = min(self._peers, key=lambda known: self._peers[known].last_active_s)
            self._drop(oldest)
            self.evicted_count += 1
        try:
            socket = self._socket_factory(self._local)
        except FlowError:
            return None
        if (descriptor := socket.fileno()) >= 0:
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, partial(self._on_local, peer))
        known = self._peers[peer] = _RemotePeer(socket, self._clock.monotonic_s())
        return known

    def _drop(self, peer: Endpoint) -> None:
        known = self._peers.pop(peer)
        if (descriptor := known.socket.fileno()) >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
        known.socket.close()
        if self._bound is not None:
            self._bound.forget(peer)


def _local_address(target: Endpoint) -> Endpoint:
    """Return where the local sockets are bound: loopback is reached from loopback only."""
    if target.address.is_loopback:
        return Endpoint(address=target.address, port=0)
    return Endpoint(address=ip_address("::" if target.address.version == 6 else "0.0.0.0"), port=0)  # noqa: S104  (a target elsewhere is reached by whatever address routes there)


def _ignore(event: BindEvent) -> None:
    del event
