"""Owns the shape in which packets leave a connection: runs that go to one destination."""

from collections.abc import Sequence

Address = tuple[str, int]
Run = tuple[list[bytes], Address]
"""Packets in order, and where they go."""


def by_destination(packets: Sequence[tuple[bytes, Address]]) -> list[Run]:
    """Return packets in order, neighbours with the same destination together."""
    runs: list[Run] = []
    last: Address | None = None
    run: list[bytes] = []
    for packet, address in packets:
        if address != last:
            run = []
            runs.append((run, address))
            last = address
        run.append(packet)
    return runs
