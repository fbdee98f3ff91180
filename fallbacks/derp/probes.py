"""Owns what DERP clients ask without DERP: latency, captive portals, names before there is DNS."""

import re
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CHALLENGE = "x-tailscale-challenge"
RESPONSE = "x-tailscale-response"

_CHALLENGE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ANYWHERE = {"access-control-allow-origin": "*", "cache-control": "no-store"}


async def probe(_request: Request) -> Response:
    """Answer at once: how long that takes is what is asked. Web pages may ask too."""
    return Response(headers=_ANYWHERE)


async def challenge(request: Request) -> Response:
    """Answer 204, and the challenge: a captive portal that fakes a 204 does not know how."""
    headers = {"cache-control": "no-store"}
    asked = request.headers.get(CHALLENGE, "")
    if _CHALLENGE.fullmatch(asked):
        headers[RESPONSE] = f"response {asked}"
    return Response(status_code=204, headers=headers)


class BootstrapDns:
    """Answers with the addresses that the configuration has; mostly none."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self._names = {name: list(addresses) for name, addresses in names.items()}

    async def answer(self, request: Request) -> Response:
        """Answer with all names; ``q`` asks for one."""
        asked = request.query_params.get("q")
        names = self._names
        if asked is not None:
            names = {asked: names[asked]} if asked in names else {}
        return JSONResponse(names, headers=_ANYWHERE)
