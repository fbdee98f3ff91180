"""Owns the copying between a program and its target: both directions, each with its own end."""

import asyncio
from dataclasses import dataclass

from masque_relay.client.byte_stream import ByteStream
from masque_relay.client.errors import ClientError
from masque_relay.contract.ports import Clock


@dataclass(slots=True)
class Meter:
    """What one connection has moved, and when it last did."""

    clock: Clock
    last_active_s: float
    sent_bytes: int = 0
    received_bytes: int = 0

    def sent(self, byte_count: int) -> None:
        """Count bytes towards the target."""
        self.sent_bytes += byte_count
        self.last_active_s = self.clock.monotonic_s()

    def received(self, byte_count: int) -> None:
        """Count bytes towards the program."""
        self.received_bytes += byte_count
        self.last_active_s = self.clock.monotonic_s()


async def splice(program: ByteStream, target: ByteStream, meter: Meter) -> bool:
    """Copy both ways until both have ended; return whether both ended well.

    A chunk is read only after the one before it was taken, so that a slow reader on either side
    holds the other side back. Where one side breaks off, the other is reset.
    """
    ended_well = True
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_to_target(program, target, meter))
            group.create_task(_to_program(target, program, meter))
    except* ClientError:
        ended_well = False
    finally:
        target.abort()
        program.abort()
    return ended_well


async def _to_target(program: ByteStream, target: ByteStream, meter: Meter) -> None:
    while data := await program.read():
        await target.write(data)
        meter.sent(len(data))
    target.write_eof()


async def _to_program(target: ByteStream, program: ByteStream, meter: Meter) -> None:
    while data := await target.read():
        await program.write(data)
        meter.received(len(data))
    program.write_eof()
