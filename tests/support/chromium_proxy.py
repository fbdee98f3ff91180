"""Owns Chromium behind a proxy that asks for a password: it reads one page by remote control.

A headless browser asks nobody for passwords, so DevTools gives it (the Fetch domain).
"""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.chromium import browsing
from tests.support.processes import TIMESCALE

DEADLINE_S = 45.0 * TIMESCALE
MAX_MESSAGE_BYTES = 1 << 26
"""A page's text comes in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the browser saw."""

    text: str
    """Of the page."""
    protocol: str
    """Of the page's own connection: ``h2``, ``http/1.1``."""
    asked_by: tuple[str, ...]
    """Who asked for a password, each time."""


@dataclass(kw_only=True)
class _Control:
    """One DevTools connection to one tab."""

    socket: ClientConnection
    credentials: tuple[str, str] | None
    asked_by: list[str] = field(default_factory=list)
    ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask for something; answer what the browser asks meanwhile."""
        own_id = await self._send(method, parameters)
        while True:
            message = json.loads(await self.socket.recv())
            if message.get("id") == own_id:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            await self._react(message)

    async def _send(self, method: str, parameters: object) -> int:
        own_id = next(self.ids)
        await self.socket.send(json.dumps({"id": own_id, "method": method, "params": parameters}))
        return own_id

    async def _react(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        request = {"requestId": parameters.get("requestId")}
        match message.get("method"):
            case "Fetch.requestPaused":
                await self._send("Fetch.continueRequest", request)
            case "Fetch.authRequired":
                challenge = parameters["authChallenge"]
                asked_before = bool(self.asked_by)
                self.asked_by.append(f"{challenge['source']} {challenge['scheme']}")
                if self.credentials is None or asked_before:
                    answer = {"response": "CancelAuth"}
                else:
                    name, password = self.credentials
                    answer = {"response": "ProvideCredentials"}
                    answer |= {"username": name, "password": password}
                await self._send(
                    "Fetch.continueWithAuth", {**request, "authChallengeResponse": answer}
                )
            case _:
                pass


async def read_page(
    url: str,
    profile: Path,
    *,
    proxy: str,
    credentials: tuple[str, str] | None = None,
    flags: tuple[str, ...] = (),
    is_enough: Callable[[str], bool] = bool,
) -> Seen:
    """Return what Chromium shows for a URL that it fetches through a proxy, loopback included.

    Args:
        url: of the page.
        profile: a directory that does not exist yet.
        proxy: as ``--proxy-server`` takes it.
        credentials: name and password for the proxy.
        flags: further flags.
        is_enough: whether the page's text is the one that is waited for.
    """
    async with asyncio.timeout(DEADLINE_S), _controlled(profile, proxy, flags) as socket:
        control = _Control(socket=socket, credentials=credentials)
        await control.call("Fetch.enable", handleAuthRequests=True)
        navigated = await control.call("Page.navigate", url=url)
        if error := navigated.get("errorText"):
            return Seen(text=error, protocol="", asked_by=tuple(control.asked_by))
        while True:
            text = await _value_of(control, "document.body ? document.body.innerText : ''")
            if is_enough(text):
                break
            await asyncio.sleep(0.05)
        protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
        return Seen(
            text=text,
            protocol=await _value_of(control, protocol),
            asked_by=tuple(control.asked_by),
        )


async def _value_of(control: _Control, expression: str) -> str:
    evaluated = await control.call("Runtime.evaluate", expression=expression)
    return str(evaluated["result"].get("value", ""))


@asynccontextmanager
async def _controlled(
    profile: Path, proxy: str, flags: tuple[str, ...]
) -> AsyncGenerator[ClientConnection]:
    async with browsing(
        "about:blank",
        profile,
        "--remote-debugging-port=0",
        f"--proxy-server={proxy}",
        "--proxy-bypass-list=<-loopback>",  # Chromium itself would leave loopback out
        *flags,
    ):
        port_file = profile / "DevToolsActivePort"
        while len(told := _lines_of(port_file)) < 2:  # noqa: ASYNC110  (another process writes it)
            await asyncio.sleep(0.05)
        port, path = told
        async with connect(
            f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=MAX_MESSAGE_BYTES
        ) as browser:
            control = _Control(socket=browser, credentials=None)
            targets = await control.call("Target.getTargets")
            (tab,) = [one for one in targets["targetInfos"] if one["type"] == "page"]
        async with connect(
            f"ws://127.0.0.1:{port}/devtools/page/{tab['targetId']}",
            proxy=None,
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            yield socket


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split() if path.exists() else []
