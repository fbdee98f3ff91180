"""Owns a slow link in front of one client of a relay: a UDP forwarder with a rate, a short queue.

Only what comes down to the client is slow. The queue is the link's own, first come first served:
who gets through is up to whoever sends into it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

HOST = "127.0.0.1"
QUEUE_S = 0.1
"""As long as a home router's: enough for congestion control, too little to hide behind."""
TURN_S = 0.002
CATCH_UP_S = 0.02
"""What the link may send at once after a turn that came late."""


class SlowLink:
    """Forwards between one client and one relay.

    Attributes:
        port: where the client finds the relay.
        dropped_count: packets to the client for which the queue had no room.
    """

    def __init__(self, rate_bytes_per_s: float) -> None:
        self._rate_bytes_per_s = rate_bytes_per_s
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._client: tuple[str, int] | None = None
        self._near: asyncio.DatagramTransport | None = None
        self._far: asyncio.DatagramTransport | None = None
        self.port = 0
        self.dropped_count = 0

    async def run(self) -> None:
        """Let the queue's packets go, at the link's rate; until cancelled."""
        loop = asyncio.get_running_loop()
        free_at_s = 0.0
        while True:
            await asyncio.sleep(TURN_S)
            now_s = loop.time()
            free_at_s = max(free_at_s, now_s - CATCH_UP_S)
            while self._queue and free_at_s <= now_s:
                packet = self._queue.popleft()
                self._queue_bytes -= len(packet)
                free_at_s += len(packet) / self._rate_bytes_per_s
                if self._near is not None:
                    self._near.sendto(packet, self._client)

    def from_client(self, packet: bytes, source: tuple[str, int]) -> None:
        """Pass a packet up, at once."""
        self._client = source
        if self._far is not None:
            self._far.sendto(packet)

    def from_relay(self, packet: bytes) -> None:
        """Queue a packet on its way down."""
        if self._queue_bytes + len(packet) > self._rate_bytes_per_s * QUEUE_S:
            self.dropped_count += 1
            return
        self._queue.append(packet)
        self._queue_bytes += len(packet)


class _Near(asyncio.DatagramProtocol):
    def __init__(self, link: SlowLink) -> None:
        self._link = link

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._link.from_client(data, addr)


class _Far(asyncio.DatagramProtocol):
    def __init__(self, link: SlowLink) -> None:
        self._link = link

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._link.from_relay(data)


@asynccontextmanager
async def slow_link(relay_port: int, rate_bytes_per_s: float) -> AsyncGenerator[SlowLink]:
    """Run a link to a relay on this machine while the block runs."""
    loop = asyncio.get_running_loop()
    link = SlowLink(rate_bytes_per_s)
    near, _ = await loop.create_datagram_endpoint(lambda: _Near(link), local_addr=(HOST, 0))
    far, _ = await loop.create_datagram_endpoint(lambda: _Far(link), remote_addr=(HOST, relay_port))
    link._near, link._far = near, far
    link.port = int(near.get_extra_info("sockname")[1])
    running = asyncio.ensure_future(link.run())
    try:
        yield link
    finally:
        running.cancel()
        near.close()
        far.close()
        await asyncio.sleep(0)  # closing takes a turn
