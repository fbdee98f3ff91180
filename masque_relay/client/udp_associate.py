"""Owns UdpAssociation: the UDP port of one SOCKS5 program, with a tunnel per target (RFC 1928)."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from masque_relay.client.errors import ClientError, TunnelClosed
from masque_relay.client.forward import TunnelOpener
from masque_relay.client.limits import ProxyLimits
from masque_relay.client.socks import decode_udp_datagram, encode_udp_header
from masque_relay.client.split import SplitRules, Traffic, Way
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.address import Endpoint, Target
from masque_relay.contract.ports import Clock, DatagramSocket
from masque_relay.wire.errors import WireError

logger = logging.getLogger(__name__)

_REFUSED_DELAY_S = 5.0
"""A target that the relay refused is asked for again after so long; meanwhile drops are counted."""


@dataclass(slots=True, kw_only=True)
class UdpTotals:
    """What all associations carried and dropped; for people and for tests."""

    sent: int = 0
    received: int = 0
    malformed: int = 0
    """No SOCKS header, a fragment, or a bad target."""
    foreign: int = 0
    """From somebody else than the program that the association belongs to."""
    blocked: int = 0
    """By a split rule; also those that a rule sends directly, which UDP cannot."""
    refused: int = 0
    """The relay allows no tunnel, or was away."""
    pending_dropped: int = 0
    queue_dropped: int = 0
    """A tunnel's queue was full, or the payload too large for it."""
    local_dropped: int = 0
    """The program's socket was full."""
    targets_expired: int = 0
    targets_evicted: int = 0


class _Peer:
    """One target of an association, and its tunnel."""

    __slots__ = ("header", "is_opening", "last_active_s", "pending", "refused_until_s", "tunnel")

    def __init__(self, target: Target, now_s: float) -> None:
        self.header = encode_udp_header(target)
        self.tunnel: UdpTunnel | None = None
        self.is_opening = False
        self.last_active_s = now_s
        self.refused_until_s = 0.0
        self.pending: deque[bytes] = deque()


class UdpAssociation:
    """A UDP port for one program, for as long as its TCP connection lives.

    Datagrams are taken from the address of that connection only, and from the first port there
    that sends one. Each target has a tunnel of its own, so that answers come from whom was asked;
    names go to the relay as names, and answers carry the name.

    Args:
        opener: opens tunnels; RelayLink is one.
        socket: bound, taken over; :meth:`close` closes it.
        program: the address of the program's TCP connection; its port does not matter.
        rules: a target that is not to go through the relay is dropped and counted.
        limits: bounds.
        clock: time.
        totals: where everything is counted.
    """

    def __init__(
        self,
        opener: TunnelOpener,
        socket: DatagramSocket,
        *,
        program: Endpoint,
        rules: SplitRules,
        limits: ProxyLimits,
        clock: Clock,
        totals: UdpTotals,
    ) -> None:
        self._opener = opener
        self._socket = socket
        self._program_host = str(program.address)
        self._rules = rules
        self._limits = limits
        self._clock = clock
        self._totals = totals
        self._source: tuple[str, int] | None = None
        self._peers: dict[Target, _Peer] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def bound(self) -> Endpoint:
        """Where the program sends its datagrams."""
        return self._socket.local

    @property
    def target_count(self) -> int:
        """Targets in use."""
        return len(self._peers)

    async def run(self) -> None:
        """Carry datagrams until cancelled; then close the port and all tunnels."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                loop.add_reader(self._socket.fileno(), self.on_readable)
                while True:
                    await asyncio.sleep(self._limits.sweep_interval_s)
                    self.sweep()
        finally:
            self._group = None
            self.close()

    def close(self) -> None:
        """Close the port and all tunnels; idempotent."""
        if (descriptor := self._socket.fileno()) >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
        self._socket.close()
        for target in list(self._peers):
            self._drop(target)

    def on_readable(self) -> None:
        """Take what the program has sent."""
        now_s = self._clock.monotonic_s()
        for batch in self._socket.receive_batches(self._limits.receive_batch_datagrams):
            if not self._is_the_program(batch.source):
                self._totals.foreign += len(batch.payloads)
                continue
            for target, payloads in self._by_target(batch.payloads).items():
                self._send(target, payloads, now_s)

    def sweep(self) -> None:
        """Close the tunnels of targets that were idle for long."""
        expired_s = self._clock.monotonic_s() - self._limits.association_idle_timeout_s
        for target, peer in list(self._peers.items()):
            if peer.last_active_s <= expired_s and not peer.is_opening:
                self._totals.targets_expired += 1
                self._drop(target)

    # -- parts -----------------------------------------------------------------------------------

    def _is_the_program(self, source: tuple[str, int]) -> bool:
        if self._source is None and source[0] == self._program_host:
            self._source = source
        return source == self._source

    def _by_target(self, datagrams: Sequence[bytes]) -> dict[Target, list[bytes]]:
        groups: dict[Target, list[bytes]] = {}
        for datagram in datagrams:
            try:
                target, payload = decode_udp_datagram(datagram)
            except WireError:
                self._totals.malformed += 1
                continue
            groups.setdefault(target, []).append(payload)
        return groups

    def _send(self, target: Target, payloads: list[bytes], now_s: float) -> None:
        if self._rules.way_of(target, Traffic.UDP) is not Way.PROXY:
            self._totals.blocked += len(payloads)
            return
        peer = self._peers.get(target) or self._admit(target, now_s)
        peer.last_active_s = now_s
        tunnel = peer.tunnel
        if tunnel is not None and tunnel.is_open:
            self._forward(tunnel, payloads)
        elif now_s < peer.refused_until_s:
            self._totals.refused += len(payloads)
        else:
            self._wait(target, peer, payloads)

    def _admit(self, target: Target, now_s: float) -> _Peer:
        if len(self._peers) >= self._limits.association_targets:
            self._totals.targets_evicted += 1
            self._drop(min(self._peers, key=lambda known: self._peers[known].last_active_s))
        peer = self._peers[target] = _Peer(target, now_s)
        return peer

    def _wait(self, target: Target, peer: _Peer, payloads: list[bytes]) -> None:
        peer.pending.extend(payloads)
        while len(peer.pending) > self._limits.pending_datagrams:
            peer.pending.popleft()
            self._totals.pending_dropped += 1
        if not peer.is_opening and self._group is not None:
            peer.is_opening = True
            self._group.create_task(self._open(target, peer), name=f"udp {target}")

    async def _open(self, target: Target, peer: _Peer) -> None:
        def deliver(payloads: Sequence[bytes]) -> None:
            self._deliver(peer, payloads)

        def closed(_: TunnelClosed) -> None:
            peer.tunnel = None

        try:
            tunnel = await self._opener.open_udp(target, on_batch=deliver, on_closed=closed)
        except ClientError:
            # refused, or the relay is away; UDP has no way to tell the program
            peer.refused_until_s = self._clock.monotonic_s() + _REFUSED_DELAY_S
            self._totals.refused += len(peer.pending)
        except Exception:
            logger.exception("bug: a tunnel of a UDP association could not be opened")
        else:
            if self._peers.get(target) is not peer:
                tunnel.close()  # evicted while it waited
            elif tunnel.is_open:
                peer.tunnel = tunnel
                self._forward(tunnel, list(peer.pending))
        finally:
            peer.pending.clear()
            peer.is_opening = False

    def _forward(self, tunnel: UdpTunnel, payloads: Sequence[bytes]) -> None:
        sent_count = tunnel.send_batch(payloads)
        self._totals.sent += sent_count
        self._totals.queue_dropped += len(payloads) - sent_count

    def _deliver(self, peer: _Peer, payloads: Sequence[bytes]) -> None:
        if self._source is None:
            return
        peer.last_active_s = self._clock.monotonic_s()
        taken_count = self._socket.send_batch(
            [peer.header + payload for payload in payloads], self._source
        )
        self._totals.received += taken_count
        self._totals.local_dropped += len(payloads) - taken_count

    def _drop(self, target: Target) -> None:
        peer = self._peers.pop(target)
        self._totals.pending_dropped += len(peer.pending)
        peer.pending.clear()
        tunnel, peer.tunnel = peer.tunnel, None
        if tunnel is not None:
            tunnel.close()
