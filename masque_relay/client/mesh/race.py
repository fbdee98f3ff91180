"""Owns the race: several ways to one relay are tried, each a moment after the last; one wins."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from masque_relay.client.errors import ClientError, RelayUnreachable
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind, WayOpener

STAGGER_S = 0.25
"""RFC 8305 section 5 advises as much between attempts."""
WELCOME_S = 10.0
"""From an open carrier to WELCOME."""


@dataclass(slots=True)
class RaceReport:
    """What became of each way, for people: ``why`` a way is used is that better ones failed."""

    winner: WayKind | None = None
    failures: dict[WayKind, ClientError] = field(default_factory=dict[WayKind, ClientError])


async def race(
    ways: Sequence[tuple[WayKind, WayOpener]],
    make_session: SessionMaker,
    *,
    welcomed: Callable[[OpenWay], asyncio.Future[None]],
    stagger_s: float = STAGGER_S,
) -> tuple[OpenWay, RaceReport]:
    """Open ways in order, each when the former has failed or a moment has passed.

    Args:
        ways: the most wanted first, at least one.
        make_session: makes the session of each attempt.
        welcomed: done when the session of a way is open; an exception is that way's failure.
        stagger_s: the moment.

    Returns:
        The first way whose session was welcomed; all others have been closed.

    Raises:
        ClientError: none could be opened; the error of the most wanted way that says most.
    """
    report = RaceReport()
    winner: asyncio.Future[OpenWay] = asyncio.get_running_loop().create_future()
    failed = asyncio.Event()

    async def attempt(kind: WayKind, opener: WayOpener) -> None:
        way: OpenWay | None = None
        try:
            way = await opener(make_session)
            async with asyncio.timeout(WELCOME_S):
                await welcomed(way)
        except TimeoutError:
            report.failures[kind] = RelayUnreachable("the relay did not welcome us in time")
        except ClientError as error:
            report.failures[kind] = error
        else:
            if not winner.done():
                report.winner = kind
                winner.set_result(way)
                return
        finally:
            if way is not None and report.winner is not kind:
                await asyncio.shield(way.close())
            failed.set()

    async with asyncio.TaskGroup() as tasks:
        attempts = await _start_all(ways, attempt, tasks, winner, failed, stagger_s=stagger_s)
        pending = set(attempts)
        while pending and not winner.done():
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
    if winner.done():
        return winner.result(), report
    raise _most_telling(ways, report)


async def _start_all(
    ways: Sequence[tuple[WayKind, WayOpener]],
    attempt: Callable[[WayKind, WayOpener], Coroutine[object, object, None]],
    tasks: asyncio.TaskGroup,
    winner: asyncio.Future[OpenWay],
    failed: asyncio.Event,
    *,
    stagger_s: float,
) -> list["asyncio.Task[None]"]:
    started: list[asyncio.Task[None]] = []
    for kind, opener in ways:
        failed.clear()
        started.append(tasks.create_task(attempt(kind, opener)))
        waiting = tasks.create_task(_set_after(failed, stagger_s))
        await failed.wait()
        waiting.cancel()
        if winner.done():
            break
    return started


async def _set_after(event: asyncio.Event, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    event.set()


def _most_telling(ways: Sequence[tuple[WayKind, WayOpener]], report: RaceReport) -> ClientError:
    """A refusal or bad certificate says more than silence."""
    failures = [report.failures[kind] for kind, _ in ways if kind in report.failures]
    telling = [error for error in failures if not isinstance(error, RelayUnreachable)]
    return (telling or failures)[0]
