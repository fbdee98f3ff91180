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


class Race:
    """One race; :meth:`run` it once.

    Attributes:
        report: what became of each way so far.
    """

    def __init__(
        self,
        make_session: SessionMaker,
        *,
        welcomed: Callable[[OpenWay], asyncio.Future[None]],
        spawn: Callable[[Coroutine[object, object, None]], object],
        stagger_s: float = STAGGER_S,
    ) -> None:
        """Prepare.

        Args:
            make_session: makes the session of each attempt.
            welcomed: done when the session of a way is open; an exception is that way's failure.
            spawn: starts what moves the bytes of a way; it lives longer than the race.
            stagger_s: the moment.
        """
        self.report = RaceReport()
        self._make_session = make_session
        self._welcomed = welcomed
        self._spawn = spawn
        self._stagger_s = stagger_s
        self._winner: OpenWay | None = None
        self._one_is_over = asyncio.Event()

    async def run(self, ways: Sequence[tuple[WayKind, WayOpener]]) -> OpenWay:
        """Open ways in order, each when the former has failed or a moment has passed.

        Args:
            ways: the most wanted first, at least one.

        Returns:
            The first way whose session was welcomed; all others have been closed.

        Raises:
            ClientError: none could be opened; of the errors the one that says most.
        """
        async with asyncio.TaskGroup() as tasks:
            pending: set[asyncio.Task[None]] = set()
            for kind, opener in ways:
                self._one_is_over.clear()
                pending.add(tasks.create_task(self._attempt(kind, opener)))
                await self._wait_a_moment()
                if self._winner is not None:
                    break
            while pending and self._winner is None:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for attempt in pending:
                attempt.cancel()
        if self._winner is None:
            raise self._most_telling(ways)
        return self._winner

    async def _attempt(self, kind: WayKind, opener: WayOpener) -> None:
        way: OpenWay | None = None
        try:
            way = await opener(self._make_session)
            if way.run is not None:
                self._spawn(way.run())
            async with asyncio.timeout(WELCOME_S):
                await self._welcomed(way)
            if self._winner is None:
                self._winner, self.report.winner = way, kind
        except TimeoutError:
            self.report.failures[kind] = RelayUnreachable("the relay did not welcome us in time")
        except ClientError as error:
            self.report.failures[kind] = error
        finally:
            if way is not None and self._winner is not way:
                await asyncio.shield(way.close())
            self._one_is_over.set()

    async def _wait_a_moment(self) -> None:
        try:
            async with asyncio.timeout(self._stagger_s):
                await self._one_is_over.wait()
        except TimeoutError:
            pass

    def _most_telling(self, ways: Sequence[tuple[WayKind, WayOpener]]) -> ClientError:
        """A refusal or a bad certificate says more than silence."""
        failures = [self.report.failures[kind] for kind, _ in ways if kind in self.report.failures]
        telling = [error for error in failures if not isinstance(error, RelayUnreachable)]
        return (telling or failures)[0]
