"""Owns a network path that is bad on purpose: loss, reordering, duplication, delay, a small MTU.

The packets of two TUN devices (see netns.py) cross in a thread here, because not every kernel has
``tc netem`` and because a path that says what it did can be compared with what the relay counted.
"""

import errno
import heapq
import os
import random
import select
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

_MAX_PACKET_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What the path does to each direction. Probabilities are from 0 to 1."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """How many are held back, so that later ones overtake them."""
    reorder_delay_s: float = 0.02
    delay_s: float = 0.0
    mtu_bytes: int = 1500
    """IP packets above vanish without an ICMP message: the worst kind of path."""
    seed: int = 0


@dataclass(slots=True)
class PathCounts:
    """What happened to the IP packets of one direction."""

    offered: int = 0
    passed: int = 0
    """Includes second copies."""
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    too_large: int = 0
    largest_bytes: int = 0
    """Of those that passed."""


class Direction:
    """Decides the fate of each packet of one direction; seeded, no I/O, no clock of its own."""

    def __init__(self, impairment: Impairment, name: str) -> None:
        self.counts = PathCounts()
        self._impairment = impairment
        self._generator = random.Random(f"{impairment.seed}:{name}")

    def offer(self, packet: bytes, now_s: float) -> list[tuple[float, bytes]]:
        """Return when which copies are to arrive; nothing if the packet is lost."""
        plan, counts, chance = self._impairment, self.counts, self._generator.random
        counts.offered += 1
        if len(packet) > plan.mtu_bytes:
            counts.too_large += 1
            return []
        if chance() < plan.loss:
            counts.lost += 1
            return []
        due_s = now_s + plan.delay_s
        if chance() < plan.reorder:
            counts.reordered += 1
            due_s += plan.reorder_delay_s
        copies = [(due_s, packet)]
        if chance() < plan.duplicate:
            counts.duplicated += 1
            copies.append((due_s + plan.reorder_delay_s / 4, packet))
        counts.passed += len(copies)
        counts.largest_bytes = max(counts.largest_bytes, len(packet))
        return copies


@dataclass(order=True, slots=True)
class _Arrival:
    due_s: float
    number: int
    packet: bytes = field(compare=False)
    device: int = field(compare=False)


class ImpairedPath:
    """Carries packets between two TUN file descriptors until it is stopped.

    Attributes:
        forward: from the first device to the second.
        backward: the other way.
    """

    def __init__(self, first: int, second: int, impairment: Impairment) -> None:
        self.forward = Direction(impairment, "forward")
        self.backward = Direction(impairment, "backward")
        self._ways = {first: (self.forward, second), second: (self.backward, first)}
        self._arrivals: list[_Arrival] = []
        self._number = 0
        self._cut = False
        self._port_shift = 0
        self._first = first
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> None:
        """Carry until :meth:`stop`."""
        poll = select.poll()
        for descriptor in (*self._ways, self._wake_read):
            poll.register(descriptor, select.POLLIN)
        while True:
            wait_ms = None
            if self._arrivals:
                wait_ms = max(0.0, (self._arrivals[0].due_s - time.monotonic()) * 1000)
            for descriptor, _ in poll.poll(wait_ms):
                if descriptor == self._wake_read:
                    return
                self._take(descriptor)
            self._deliver(time.monotonic())

    def cut(self) -> None:
        """Lose everything from now on."""
        self._cut = True

    def mend(self) -> None:
        """Carry again."""
        self._cut = False

    def rebind(self) -> None:
        """Show the second side another UDP source port from now on, as a NAT does that forgot."""
        self._port_shift += 1

    def stop(self) -> None:
        """Let :meth:`run` return."""
        os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Close what this object opened; the devices are the caller's."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _take(self, descriptor: int) -> None:
        direction, other = self._ways[descriptor]
        packet = os.read(descriptor, _MAX_PACKET_BYTES)
        if self._cut:
            return
        if self._port_shift:
            packet = _shift_port(packet, self._port_shift, outward=descriptor == self._first)
        for due_s, copy in direction.offer(packet, time.monotonic()):
            self._number += 1
            heapq.heappush(self._arrivals, _Arrival(due_s, self._number, copy, other))

    def _deliver(self, now_s: float) -> None:
        while self._arrivals and self._arrivals[0].due_s <= now_s:
            arrival = heapq.heappop(self._arrivals)
            try:
                os.write(arrival.device, arrival.packet)
            except OSError as error:
                if error.errno not in {errno.EIO, errno.ENOBUFS, errno.EINVAL}:
                    raise  # EIO: the interface is down, as it is at the very end


def _shift_port(packet: bytes, shift: int, *, outward: bool) -> bytes:
    """Return an IPv4 UDP packet with its source port (or destination port, inward) moved."""
    if packet[0] != 0x45 or packet[9] != 17:
        return packet
    changed = bytearray(packet)
    field_at = slice(20, 22) if outward else slice(22, 24)
    port = int.from_bytes(changed[field_at], "big") + (shift if outward else -shift)
    changed[field_at] = port.to_bytes(2, "big")
    changed[26:28] = b"\0\0"  # IPv4 lets UDP go without a checksum
    return bytes(changed)


@contextmanager
def run_impaired_path(first: int, second: int, impairment: Impairment) -> Generator[ImpairedPath]:
    """Carry packets between two TUN devices while the block runs."""
    path = ImpairedPath(first, second, impairment)
    thread = threading.Thread(target=path.run, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        path.stop()
        thread.join(timeout=10)
        path.close()
