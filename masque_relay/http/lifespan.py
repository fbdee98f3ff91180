"""Owns the ASGI lifespan of an application: start-up before the first request, shut-down last."""

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Scope


class LifespanFailedError(RuntimeError):
    """The application reported that it could not start or stop."""


class Lifespan:
    """Runs ``lifespan`` once. An application that does not know it is served without.

    Attributes:
        state: what the application stored at start-up; every request gets a copy.
    """

    def __init__(self, app: ASGIApp, *, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: str | None = None
        self._is_supported = True
        self.state: dict[str, Any] = {}

    async def run(self) -> None:
        """Be the application's lifespan task; returns when the application does."""
        scope: Scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self._app(scope, self._to_app.get, self._send)
        except Exception as error:  # noqa: BLE001  (ASGI: raising before start-up = unsupported)
            if self._started.is_set():
                self._failure = self._failure or repr(error)
            else:
                self._is_supported = False
        finally:
            self._started.set()
            self._stopped.set()

    async def startup(self) -> None:
        """Wait for the application's start-up.

        Raises:
            LifespanFailedError: it reported a failure.
            TimeoutError: it took too long.
        """
        self._to_app.put_nowait({"type": "lifespan.startup"})
        async with asyncio.timeout(self._timeout_s):
            await self._started.wait()
        self._check()

    async def shutdown(self) -> None:
        """Wait for the application's shut-down; nothing where it has no lifespan."""
        if not self._is_supported or self._stopped.is_set():
            return
        self._to_app.put_nowait({"type": "lifespan.shutdown"})
        async with asyncio.timeout(self._timeout_s):
            await self._stopped.wait()
        self._check()

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._started.set()
            case "lifespan.startup.failed" | "lifespan.shutdown.failed":
                self._failure = str(message.get("message", ""))
                self._started.set()
                self._stopped.set()
            case "lifespan.shutdown.complete":
                self._stopped.set()
            case kind:
                raise RuntimeError(f"unknown lifespan message {kind!r}")

    def _check(self) -> None:
        if self._failure is not None:
            raise LifespanFailedError(self._failure)
