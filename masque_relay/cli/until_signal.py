"""Owns the life of a client command: until SIGINT or SIGTERM, with a status line on SIGUSR1."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

_ENDS = (signal.SIGINT, signal.SIGTERM)


@asynccontextmanager
async def until_signal(ended: Callable[[], None]) -> AsyncGenerator[None]:
    """Run a block until a signal asks for its end; then leave it without an error.

    Args:
        ended: called when the signal comes, before the block is cancelled: what is to be said about
            its work is still there.
    """
    loop = asyncio.get_running_loop()
    life = asyncio.timeout(None)

    def end() -> None:
        ended()
        life.reschedule(loop.time())

    for number in _ENDS:
        loop.add_signal_handler(number, end)
    try:
        async with life:
            yield
    except TimeoutError:
        if not life.expired():
            raise
    finally:
        for number in (*_ENDS, signal.SIGUSR1):
            loop.remove_signal_handler(number)


def on_status_signal(say: Callable[[], None]) -> None:
    """Call ``say`` on every SIGUSR1, as long as the block of :func:`until_signal` runs."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say)
