"""Owns UdpForward: a local UDP port whose senders each get a tunnel to one target."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from secrets import SystemRandom
from typing import Protocol

from masque_relay.client.address import ForwardSpec
from masque_relay.client.backoff import Backoff
from masque_relay.client.clock import SystemClock
from masque_relay.client.datagram_tunnel import OnBatch, OnClosed
from masque_relay.client.errors import ClientError, ListenFailed, TunnelRefused
from masque_relay.client.events import (
    OnEvent,
    OversizeDropped,
    PayloadSizeChanged,
    TunnelDenied,
    ignore_event,
)
from masque_relay.client.limits import ForwardLimits, ReconnectLimits
from masque_relay.client.local_peer import LocalPeer, Source
from masque_relay.client.sockets import bind_client_udp
from masque_relay.client.totals import ForwardTotals
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.flow import FlowError
from masque_relay.contract.ports import Clock, DatagramSocket, DatagramSocketFactory

logger = logging.getLogger(__name__)

_CONNECTION_LIMIT = "connection_limit_reached"  # RFC 9209 section 2.3.12
_JUST_ACTIVE_S = 1.0  # a local peer that is this young in use makes room for nobody


class TunnelOpener(Protocol):
    """What a forward needs of the relay; RelayLink is one."""

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits now; 0 while the relay is away."""
        ...

    @property
    def reliable(self) -> bool:
        """Capsules carry the payloads."""
        ...

    async def open_udp(
        self,
        target: Target,
        *,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
    ) -> UdpTunnel:
        """Open a tunnel, or raise ClientError."""
        ...


class UdpForward:
    """Forwards one local UDP port to one target, through a relay.

    Every local peer (address and port) has a tunnel of its own, so that answers find back and the
    target sees each of them as one client. Idle peers lose their tunnel; while the relay is away
    datagrams wait for a moment (``limits.pending_*``) and are then dropped and counted.

    Call :meth:`start`, then :meth:`run` until the end.

    Attributes:
        spec: LISTEN=TARGET; after :meth:`start` with the real port.
    """

    def __init__(
        self,
        spec: ForwardSpec,
        opener: TunnelOpener,
        *,
        limits: ForwardLimits | None = None,
        on_event: OnEvent = ignore_event,
        socket_factory: DatagramSocketFactory = bind_client_udp,
        clock: Clock | None = None,
    ) -> None:
        self.spec = spec
        self._opener = opener
        self._limits = limits or ForwardLimits()
        self._on_event = on_event
        self._socket_factory = socket_factory
        self._clock = clock or SystemClock()
        self._socket: DatagramSocket | None = None
        self._peers: dict[Source, LocalPeer] = {}
        self._spare: LocalPeer | None = None
        """The tunnel that start() opened to see whether the relay allows the target."""
        self._group: asyncio.TaskGroup | None = None
        self._opening = asyncio.Semaphore(self._limits.opening)
        self._told_payload_bytes = 0
        self._told_oversize_count = 0
        self._refused_until_s = 0.0
        self._refusals = Backoff(
            ReconnectLimits(
                first_delay_s=self._limits.refused_delay_s,
                longest_delay_s=self._limits.refused_longest_delay_s,
            ),
            SystemRandom().random,
        )
        self._totals = ForwardTotals()

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind the local port and open one tunnel, which the first local peer will use.

        Raises:
            ListenFailed: the local port is taken or not ours.
            TunnelRefused: the relay does not allow the target.
            ClientError: the relay could not be asked.
        """
        try:
            self._socket = self._socket_factory(self.spec.listen)
        except FlowError as error:
            raise ListenFailed(
                f"cannot listen on {self.spec.listen}: {error.detail}",
                hint="choose another port, or end what uses it",
            ) from error
        local = Endpoint(address=self.spec.listen.address, port=self._socket.local.port)
        self.spec = replace(self.spec, listen=local)
        spare = self._new_peer(self._socket)
        try:
            spare.tunnel = await self._opener.open_udp(
                self.spec.target, on_batch=spare.deliver, on_closed=spare.tunnel_closed
            )
        except BaseException:
            self._socket.close()
            raise
        self._spare = spare

    async def run(self) -> None:
        """Forward until cancelled; then close the port and all tunnels.

        Raises:
            RuntimeError: start() has not been called; a bug of the caller.
        """
        socket = self._socket
        if socket is None:
            message = "start() comes before run()"
            raise RuntimeError(message)
        loop = asyncio.get_running_loop()
        # what fits now is told by whoever started us; from here on, changes are
        self._told_payload_bytes = self._opener.max_payload_bytes
        try:
            async with self.opening_tunnels():
                loop.add_reader(socket.fileno(), self._on_readable)
                while True:
                    await asyncio.sleep(self._limits.sweep_interval_s)
                    self.sweep()
        finally:
            self.close()

    @asynccontextmanager
    async def opening_tunnels(self) -> AsyncGenerator[None]:
        """Own the tasks that open tunnels while the block runs. :meth:`run` uses it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None

    def close(self) -> None:
        """Close the port and all tunnels; idempotent, also while :meth:`run` runs."""
        if self._socket is not None:
            if (descriptor := self._socket.fileno()) >= 0:
                asyncio.get_running_loop().remove_reader(descriptor)
            self._socket.close()
        if self._spare is not None:
            self._close_peer(self._spare)
            self._spare = None
        for source in list(self._peers):
            self._close_peer(self._peers.pop(source))

    # -- packet path -----------------------------------------------------------------------------

    def _on_readable(self) -> None:
        socket = self._socket
        if socket is None:
            return
        now_s = self._clock.monotonic_s()
        for batch in socket.receive_batches(self._limits.receive_batch_datagrams):
            peer = self._peers.get(batch.source) or self._admit(batch.source, now_s)
            if peer is None:
                self._totals.refused_dropped += len(batch.payloads)
                continue
            peer.last_active_s = now_s
            tunnel = peer.tunnel
            if tunnel is not None and tunnel.is_open:
                tunnel.send_batch(batch.payloads)
            else:
                self._wait_for_tunnel(peer, batch.payloads, now_s)

    def _wait_for_tunnel(self, peer: LocalPeer, payloads: list[bytes], now_s: float) -> None:
        if now_s < self._refused_until_s and not peer.is_opening:
            self._totals.refused_dropped += len(payloads)
            return
        peer.wait(payloads, now_s)
        if not peer.is_opening and self._group is not None:
            peer.is_opening = True
            self._group.create_task(self._open(peer), name=f"open {self.spec}")

    # -- peers -----------------------------------------------------------------------------------

    def _admit(self, source: Source, now_s: float) -> LocalPeer | None:
        """Return a new peer; None when there is no room and nobody is idle."""
        if self._socket is None:
            return None
        if len(self._peers) >= self._limits.peers and not self._make_room(now_s):
            return None
        spare, self._spare = self._spare, None
        peer = spare or self._new_peer(self._socket)
        peer.source = source
        self._peers[source] = peer
        return peer

    def _new_peer(self, socket: DatagramSocket) -> LocalPeer:
        return LocalPeer(socket, clock=self._clock, limits=self._limits, totals=self._totals)

    def _make_room(self, now_s: float) -> bool:
        """Close the tunnel of the peer that was idle longest, unless it is in use right now."""
        source = min(self._peers, key=lambda key: self._peers[key].last_active_s, default=None)
        if source is None or now_s - self._peers[source].last_active_s < _JUST_ACTIVE_S:
            return False
        self._totals.evicted_peers += 1
        self._close_peer(self._peers.pop(source))
        return True

    async def _open(self, peer: LocalPeer) -> None:
        """Ask for a peer's tunnel; what it sent meanwhile waits, bounded."""
        try:
            async with self._opening:
                tunnel = await self._opener.open_udp(
                    self.spec.target, on_batch=peer.deliver, on_closed=peer.tunnel_closed
                )
        except TunnelRefused as error:
            peer.give_up()
            self._refused(error)
        except ClientError:
            # away, or gone in the middle; the link reports it
            peer.give_up()
        except Exception:
            logger.exception("bug: a tunnel of %s could not be opened", self.spec)
            peer.give_up()
        else:
            self._refusals.succeeded()
            if peer.source is None or self._peers.get(peer.source) is not peer:
                tunnel.close()  # expired or evicted while it waited
            elif tunnel.is_open:
                peer.opened(tunnel, self._clock.monotonic_s())
        finally:
            peer.is_opening = False

    def _refused(self, error: TunnelRefused) -> None:
        now_s = self._clock.monotonic_s()
        if error.error == _CONNECTION_LIMIT and self._make_room(now_s):
            return  # the next datagram asks again, in the room that was made
        if now_s < self._refused_until_s:
            return  # asked for before the first refusal came; one report is enough
        delay_s = max(self._refusals.failed(), float(error.retry_after_s or 0))
        delay_s = min(delay_s, self._limits.refused_longest_delay_s)
        self._refused_until_s = now_s + delay_s
        self._on_event(TunnelDenied(forward=self.spec, error=error, retry_in_s=delay_s))

    def _close_peer(self, peer: LocalPeer) -> None:
        peer.give_up()
        if peer.tunnel is not None:
            peer.tunnel.close()

    # -- once a second ---------------------------------------------------------------------------

    def sweep(self) -> None:
        """Close tunnels of idle peers, and report what has changed. :meth:`run` calls it."""
        expired_s = self._clock.monotonic_s() - self._limits.idle_timeout_s
        for source, peer in list(self._peers.items()):
            if peer.last_active_s <= expired_s and not peer.is_opening:
                self._totals.expired_peers += 1
                self._close_peer(self._peers.pop(source))
        self._report()

    def _report(self) -> None:
        payload_bytes = self._opener.max_payload_bytes
        if payload_bytes and payload_bytes != self._told_payload_bytes:
            self._told_payload_bytes = payload_bytes
            self._on_event(
                PayloadSizeChanged(
                    forward=self.spec,
                    max_payload_bytes=payload_bytes,
                    reliable=self._opener.reliable,
                )
            )
        totals = self.totals()
        dropped_count = totals.oversize - self._told_oversize_count
        if dropped_count > 0:
            self._told_oversize_count = totals.oversize
            self._on_event(
                OversizeDropped(
                    forward=self.spec,
                    dropped_count=dropped_count,
                    largest_bytes=totals.oversize_largest_bytes,
                    max_payload_bytes=payload_bytes,
                )
            )

    # -- status ----------------------------------------------------------------------------------

    @property
    def peer_count(self) -> int:
        """Local peers that have sent something and are not idle yet."""
        return len(self._peers)

    def status(self) -> Mapping[str, object]:
        """Return addresses, counts and sizes; JSON-ready."""
        totals = self.totals()
        return {
            "listen": str(self.spec.listen),
            "target": str(self.spec.target),
            "max_payload_bytes": self._opener.max_payload_bytes,
            "peers": len(self._peers),
            "sent": totals.sent,
            "sent_bytes": totals.sent_bytes,
            "received": totals.received,
            "received_bytes": totals.received_bytes,
            "dropped": {
                "oversize": totals.oversize,
                "tunnel_queue": totals.send_dropped,
                "relay_away": totals.pending_dropped,
                "refused": totals.refused_dropped,
                "local_socket": totals.receive_dropped,
            },
            "peers_expired": totals.expired_peers,
            "peers_evicted": totals.evicted_peers,
        }

    def totals(self) -> ForwardTotals:
        """Return what was carried and dropped so far."""
        tunnels = [peer.tunnel for peer in self._peers.values() if peer.tunnel is not None]
        return self._totals.with_tunnels(tunnels)
