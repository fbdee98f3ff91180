"""Owns which signal does what while a relay runs."""

import asyncio
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

HELD_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})
"""Those that wait while a supervisor is replaced by its own new code."""


@contextmanager
def signals_handled(handlers: Mapping[signal.Signals, Callable[[], None]]) -> Generator[None]:
    """Call the handlers in the running loop. Afterwards the process ends: they are ignored."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    # They are blocked when we follow a supervisor in its own process.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)
    try:
        yield
    finally:
        # Blocked, because in between the default action would kill us with another exit code.
        signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
        for number in handlers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
