"""Owns channels between two peers of a benchmark, and what their relay's process uses."""

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from masque_relay.wire.ghostwire import ChannelKind
from tests.support.ghostwire_world import Recorder
from tests.support.mesh_arrival import Arrival, eventually

PAYLOAD_BYTES = 1_000
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Counting(Recorder):
    """Counts instead of keeping."""

    count = 0

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        self.count += len(payloads)

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        if self.channel is not None:
            self.channel.consume(len(data))


@asynccontextmanager
async def call(
    one: Arrival, other: Arrival, kind: ChannelKind
) -> AsyncGenerator[tuple[Counting, Counting]]:
    """Open a channel; yields both ends."""
    mine = Counting()
    mine.channel = one.session.open_channel(kind, mine, peer_id=other.peer.identity.peer_id)
    await eventually(lambda: mine.is_open)
    theirs = Counting()
    accepted = other.peer.calls[-1].channel
    assert accepted is not None
    theirs.channel = accepted
    accepted._handler = theirs
    yield mine, theirs
    mine.channel.close()


def cpu_s(pid: int) -> float:
    """Return the user and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def resident_bytes(pid: int) -> int:
    """Return what a process has in memory."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
