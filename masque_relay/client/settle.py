"""Owns the short wait for path MTU discovery, so that the first size reported is the final one."""

import asyncio
from collections.abc import Callable

STEP_S = 0.05
STABLE_STEPS = 4  # a size that is found stays for this long; a probe takes one round trip
LONGEST_STEPS = 20


async def settled_payload_bytes(payload_bytes: Callable[[], int]) -> int:
    """Return the payload size once it has stopped to grow, or after a second at the latest."""
    last_bytes, stable_steps = payload_bytes(), 0
    for _ in range(LONGEST_STEPS):
        await asyncio.sleep(STEP_S)
        now_bytes = payload_bytes()
        stable_steps = stable_steps + 1 if now_bytes == last_bytes else 0
        last_bytes = now_bytes
        if stable_steps >= STABLE_STEPS:
            break
    return last_bytes
