"""Owns the admin plane's routes: what each reads, which Operator method it calls, its answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from masque_relay.admin.errors import ApiError, json_response
from masque_relay.admin.limits import AdminLimits
from masque_relay.contract.errors import OperationRefused
from masque_relay.contract.ports import Operator

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The Prometheus text exposition format that prometheus_client.generate_latest writes."""


class AdminApi:
    """The handlers, bound to one operator."""

    def __init__(self, operator: Operator, limits: AdminLimits) -> None:
        self._operator = operator
        self._limits = limits

    def routes(self) -> list[Route]:
        """Return every route of the admin plane."""
        return [
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/api/v1/status", self.status, methods=["GET"]),
            Route("/api/v1/tunnels", self.tunnels, methods=["GET"]),
            Route("/api/v1/tunnels/{lease_id}", self.kick, methods=["DELETE"]),
            Route("/api/v1/revoke", self.revoke, methods=["POST"]),
            Route("/api/v1/reload", self.reload, methods=["POST"]),
            Route("/api/v1/drain", self.drain, methods=["POST"]),
            Route("/api/v1/restart", self.restart, methods=["POST"]),
        ]

    async def healthz(self, _: Request) -> Response:
        """200 while the process should be left alone, 503 when a restart would help."""
        alive = self._operator.alive()
        return PlainTextResponse("ok\n" if alive else "not alive\n", 200 if alive else 503)

    async def readyz(self, _: Request) -> Response:
        """200 while new tunnels are welcome, 503 while starting and draining."""
        ready = self._operator.ready()
        return PlainTextResponse("ready\n" if ready else "not ready\n", 200 if ready else 503)

    async def metrics(self, _: Request) -> Response:
        """The Prometheus text exposition."""
        return Response(
            await self._operator.metrics(), headers={"content-type": METRICS_MEDIA_TYPE}
        )

    async def status(self, _: Request) -> Response:
        """Versions, listeners, uptime, counts."""
        return json_response(dict(await self._operator.status()))

    async def tunnels(self, _: Request) -> Response:
        """The live tunnels, oldest first."""
        tunnels = await self._operator.tunnels()
        return json_response({"tunnels": [asdict(tunnel) for tunnel in tunnels]})

    async def kick(self, request: Request) -> Response:
        """End one tunnel."""
        lease_id = request.path_params["lease_id"]
        if not await self._operator.kick(lease_id):
            raise ApiError(
                404,
                "no_such_tunnel",
                "no live tunnel has this id",
                hint="list them with GET /api/v1/tunnels; it may have ended meanwhile",
            )
        return json_response({"kicked": lease_id})

    async def revoke(self, request: Request) -> Response:
        """Refuse a subject or a token id from now on, and end its tunnels."""
        body = await self._read_object(request, allowed={"subject", "token_id"})
        subject = _string(body, "subject")
        token_id = _string(body, "token_id")
        if subject is None and token_id is None:
            raise ApiError(
                400,
                "nothing_to_revoke",
                "neither a subject nor a token id was given",
                hint='send {"subject": "alice"} or {"token_id": "…"}',
            )
        ended_count = await self._operator.revoke(subject=subject, token_id=token_id)
        return json_response({"ended_tunnels": ended_count})

    async def reload(self, request: Request) -> Response:
        """Read config, policy, keys and certificates again; all or nothing."""
        await self._read_object(request, allowed=set())
        report = await self._operator.reload()
        if report.problems:
            raise ApiError(
                422,
                "reload_refused",
                "nothing was changed: the new configuration has problems",
                hint="mend them and reload again; what ran before is still in force",
                problems=report.problems,
            )
        return json_response({"changed": report.changed})

    async def drain(self, request: Request) -> Response:
        """Begin the graceful end."""
        body = await self._read_object(request, allowed={"deadline_s"})
        deadline_s = body.get("deadline_s")
        if deadline_s is not None and (
            isinstance(deadline_s, bool)
            or not isinstance(deadline_s, int | float)
            or not 0 <= deadline_s < 1e9
        ):
            raise ApiError(
                400,
                "bad_field",
                "deadline_s must be a number of seconds, zero or more",
                hint='send {"deadline_s": 30}, or nothing for the configured one',
            )
        self._operator.drain(deadline_s=None if deadline_s is None else float(deadline_s))
        return json_response({"draining": True}, status=202)

    async def restart(self, request: Request) -> Response:
        """Replace the relay's processes by new ones."""
        await self._read_object(request, allowed=set())
        try:
            await self._operator.restart()
        except OperationRefused as error:
            raise ApiError(
                409, error.code, str(error), hint=error.hint, problems=error.problems
            ) from error
        return json_response({"restarting": True}, status=202)

    async def _read_object(self, request: Request, *, allowed: set[str]) -> Mapping[str, object]:
        body = await self._read_body(request)
        if not body.strip():
            return {}
        try:
            value: object = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, "bad_json", f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ApiError(400, "bad_json", "the body must be one JSON object")
        value = cast("dict[str, object]", value)
        unknown = sorted(set(value) - allowed)
        if unknown:
            raise ApiError(
                400,
                "unknown_field",
                f"unknown field: {', '.join(unknown)[:200]}",
                hint=f"known here: {', '.join(sorted(allowed)) or 'none'}",
            )
        return value

    async def _read_body(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        raise ApiError(
                            413,
                            "body_too_large",
                            f"the body is larger than {self._limits.body_bytes} bytes",
                        )
        except TimeoutError as error:
            raise ApiError(
                408, "body_timeout", "the body did not arrive within the deadline"
            ) from error
        return bytes(body)


def _string(body: Mapping[str, object], key: str) -> str | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > 1024:
        raise ApiError(400, "bad_field", f"{key} must be a string of 1 to 1024 characters")
    return value
