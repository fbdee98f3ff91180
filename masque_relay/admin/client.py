"""Owns the client of the admin API: what `ghostctl relay …` asks a running relay."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import httpx
import orjson

JsonObject = dict[str, object]

UNIX_PREFIX = "unix:"
RESTART_TIMEOUT_S = 75.0
"""The relay first lets the new code read everything, which may take it a minute."""


class AdminUnreachableError(Exception):
    """Nothing that speaks the admin API answered there."""


class AdminRefusedError(Exception):
    """The relay answered, and said no.

    Attributes:
        status: the HTTP status.
        message: what is wrong.
        hint: the next step, where the relay named one.
        problems: one line each.
    """

    def __init__(self, status: int, error: Mapping[str, object]) -> None:
        self.status = status
        self.message = str(error.get("message", f"HTTP status {status}"))
        hint = error.get("hint")
        self.hint = None if hint is None else str(hint)
        problems = error.get("problems")
        self.problems = tuple(map(str, cast("list[object]", problems))) if problems else ()
        super().__init__(self.message)


class AdminClient:
    """A synchronous client; a context manager."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Take ``http://ADDR:PORT`` or ``unix:PATH``, and the admin token.

        ``transport`` replaces the connection, for tests.
        """
        is_unix = url.startswith(UNIX_PREFIX)
        if transport is None:
            uds = url.removeprefix(UNIX_PREFIX) if is_unix else None
            transport = httpx.HTTPTransport(uds=uds)
        self.url = url
        self._http = httpx.Client(
            transport=transport,
            base_url="http://localhost" if is_unix else url,
            timeout=timeout_s,
            headers={"authorization": f"Bearer {token}"},
            # An operator's proxy settings must never carry the admin token away.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._http.close()

    def status(self) -> JsonObject:
        """Return versions, listeners, uptime, counts."""
        return self._ask("GET", "/api/v1/status")

    def tunnels(self) -> list[JsonObject]:
        """Return the live tunnels, oldest first."""
        return cast("list[JsonObject]", self._ask("GET", "/api/v1/tunnels")["tunnels"])

    def kick(self, lease_id: str) -> JsonObject:
        """End one tunnel."""
        return self._ask("DELETE", f"/api/v1/tunnels/{quote(lease_id, safe='')}")

    def revoke(self, *, subject: str | None, token_id: str | None) -> JsonObject:
        """Refuse a subject or a token id from now on; end its tunnels."""
        body = {"subject": subject, "token_id": token_id}
        return self._ask(
            "POST", "/api/v1/revoke", {key: value for key, value in body.items() if value}
        )

    def reload(self) -> JsonObject:
        """Read config, policy, keys and certificates again."""
        return self._ask("POST", "/api/v1/reload")

    def drain(self, *, deadline_s: float | None) -> JsonObject:
        """Begin the graceful end."""
        return self._ask(
            "POST", "/api/v1/drain", {} if deadline_s is None else {"deadline_s": deadline_s}
        )

    def restart(self) -> JsonObject:
        """Replace the relay's processes by new ones; returns when that is certain to happen."""
        return self._ask("POST", "/api/v1/restart", timeout_s=RESTART_TIMEOUT_S)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> JsonObject:
        """Return the JSON object that the relay answers.

        Raises:
            AdminUnreachableError: nothing answered, or not this API.
            AdminRefusedError: the relay said no.
        """
        try:
            request = self._http.build_request(
                method,
                path,
                content=None if body is None else orjson.dumps(body),
                headers={"content-type": "application/json"},
                timeout=httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s,
            )
            response = self._send(request)
            answer: object = orjson.loads(response.content)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise AdminUnreachableError(str(error) or type(error).__name__) from error
        except orjson.JSONDecodeError as error:
            raise AdminUnreachableError("what answered is not the admin API") from error
        if not isinstance(answer, dict):
            raise AdminUnreachableError("what answered is not the admin API")
        answer = cast("JsonObject", answer)
        if response.is_success:
            return answer
        problem = answer.get("error")
        raise AdminRefusedError(
            response.status_code,
            cast("JsonObject", problem) if isinstance(problem, dict) else {},
        )

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Send a request; a question, which changes nothing, once more where it was cut off.

        A relay that replaces itself closes the connections of those who have not asked yet, just
        when we ask; who follows it listens already (RFC 9110 section 9.2.2).
        """
        try:
            return self._http.send(request)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if request.method != "GET":
                raise
            return self._http.send(request)
