"""Owns LocalPeer: one local sender of a forward, its tunnel, and what waits while that opens."""

from collections import deque
from collections.abc import Sequence

from masque_relay.client.errors import TunnelClosed
from masque_relay.client.limits import ForwardLimits
from masque_relay.client.totals import ForwardTotals
from masque_relay.client.udp_tunnel import UdpTunnel
from masque_relay.contract.ports import Clock, DatagramSocket

Source = tuple[str, int]


class LocalPeer:
    """One local address and port, and its way to the target.

    Per-datagram state: plain slots, no task, no queue but the one that the tunnel's opening needs.

    Attributes:
        source: who it is; None while it is a spare whose tunnel waits for the first local peer.
        tunnel: open or None.
        is_opening: its tunnel is being asked for.
        last_active_s: when something went either way, by the clock.
    """

    __slots__ = (
        "_clock",
        "_limits",
        "_pending",
        "_socket",
        "_totals",
        "is_opening",
        "last_active_s",
        "source",
        "tunnel",
    )

    def __init__(
        self, socket: DatagramSocket, *, clock: Clock, limits: ForwardLimits, totals: ForwardTotals
    ) -> None:
        self.source: Source | None = None
        self.tunnel: UdpTunnel | None = None
        self.is_opening = False
        self.last_active_s = clock.monotonic_s()
        self._socket = socket
        self._clock = clock
        self._limits = limits
        self._totals = totals
        self._pending: deque[tuple[float, bytes]] = deque()

    def wait(self, payloads: Sequence[bytes], now_s: float) -> None:
        """Keep payloads until the tunnel is open; the oldest is dropped and counted when full."""
        pending = self._pending
        pending.extend((now_s, payload) for payload in payloads)
        while len(pending) > self._limits.pending_datagrams:
            pending.popleft()
            self._totals.pending_dropped += 1

    def opened(self, tunnel: UdpTunnel, now_s: float) -> None:
        """Use a tunnel, and send what waited and is not too old."""
        self.tunnel = tunnel
        oldest_s = now_s - self._limits.pending_lifetime_s
        fresh = [payload for since_s, payload in self._pending if since_s >= oldest_s]
        self._totals.pending_dropped += len(self._pending) - len(fresh)
        self._pending.clear()
        if fresh:
            tunnel.send_batch(fresh)

    def give_up(self) -> None:
        """Drop what waits: there will be no tunnel for it."""
        self._totals.pending_dropped += len(self._pending)
        self._pending.clear()

    def deliver(self, payloads: Sequence[bytes]) -> None:
        """Take payloads from the target; the tunnel's on_batch."""
        if self.source is None:
            return  # a spare has asked for nothing; what comes is for nobody
        self.last_active_s = self._clock.monotonic_s()
        taken_count = self._socket.send_batch(payloads, self.source)
        self._totals.receive_dropped += len(payloads) - taken_count

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """The tunnel is over; the next local datagram asks for another. The tunnel's on_closed."""
        del closed
        tunnel, self.tunnel = self.tunnel, None
        if tunnel is not None:
            self._totals.add(tunnel)
