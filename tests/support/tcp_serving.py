"""TCP servers in the test's own loop that leave no socket behind."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from tests.support.h3_client import WAIT_S

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving_tcp(serve: Serve, *, port: int = 0) -> AsyncGenerator[int]:
    """Yield the port of a server on 127.0.0.1; wait for all its connections at the end.

    ``serve`` need not close its writer. Peers may break off: that ends their connection alone.
    """
    running: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with suppress(OSError):
                await serve(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            running.discard(task)

    async with await asyncio.start_server(serve_one, "127.0.0.1", port) as server:
        yield server.sockets[0].getsockname()[1]
        server.close()
        if running:
            _, late = await asyncio.wait(running, timeout=WAIT_S)
            assert not late, "connections are still open"


async def echo_then_bye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echo until the end of the input, then say bye."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")
