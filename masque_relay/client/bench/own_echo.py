"""Owns an echo of our own on loopback, in a process of its own: it takes no time from the client.

The process ends when its standard input does, so that it never outlives whoever started it.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from masque_relay.client.address import LOOPBACK
from masque_relay.client.bench.echo import serving_echo
from masque_relay.client.errors import ListenFailed
from masque_relay.contract.address import Endpoint, Target

START_TIMEOUT_S = 30.0  # a slow machine, importing
STOP_TIMEOUT_S = 10.0


@asynccontextmanager
async def own_echo() -> AsyncGenerator[Target]:
    """Run an echo on loopback while the block runs; yield where.

    Raises:
        ListenFailed: it did not start.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; it ends with us
    )
    try:
        yield Target(host=LOOPBACK, port=await _told_port(process))
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _told_port(process: asyncio.subprocess.Process) -> int:
    line = b""
    if process.stdout is not None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                line = await process.stdout.readline()
        except TimeoutError:
            pass
    if not line.strip().isdigit():
        raise ListenFailed(
            "the echo on this machine did not start",
            hint="name one that runs, with --target; `ghostctl bench --serve-echo` is one",
        )
    return int(line)


async def _serve() -> None:
    """Answer on a free port of loopback, told on standard output, until standard input ends."""
    loop = asyncio.get_running_loop()
    is_over = asyncio.Event()
    with serving_echo(Endpoint(address=LOOPBACK, port=0)) as (local, _):
        sys.stdout.write(f"{local.port}\n")
        sys.stdout.flush()
        loop.add_reader(sys.stdin.fileno(), is_over.set)
        try:
            await is_over.wait()
        finally:
            loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    asyncio.run(_serve())
