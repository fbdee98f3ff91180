"""Owns Exchange: one ordinary request whose response is kept in memory, up to a bound."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from masque_relay.client.errors import ClientError, RelayTimeout
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers, status_of
from masque_relay.http.codes import H3Error


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response."""

    status: int
    headers: Headers
    """Names in lower case, ``:status`` included."""
    body: bytes


class Exchange:
    """One request; a StreamHandler."""

    def __init__(self, transport: HttpTransport, stream_id: int, *, limits: ClientLimits) -> None:
        self._transport = transport
        self._stream_id = stream_id
        self._limits = limits
        self._headers: Headers | None = None
        self._body = bytearray()
        self._done: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Response:
        """Return the response once it is complete.

        Raises:
            RelayTimeout: not complete within ``limits.request_timeout_s``.
            ClientError: it was too large, broke off or was malformed.
        """
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                return await self._done
        except TimeoutError:
            self._transport.reset(self._stream_id, H3Error.REQUEST_CANCELLED)
            raise RelayTimeout(
                f"no complete response within {self._limits.request_timeout_s:g} s"
            ) from None

    def headers_received(self, headers: Headers, *, end_stream: bool) -> None:
        """Take the head; interim ones and trailers are skipped."""
        status = status_of(headers)
        if self._headers is None and (status is None or status >= 200):
            self._headers = headers
        if end_stream:
            self._complete()

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take body bytes."""
        self._transport.consume(self._stream_id, len(data))
        self._body += data
        if len(self._body) > self._limits.response_bytes:
            self._transport.reset(self._stream_id, H3Error.REQUEST_CANCELLED)
            self._fail(ClientError(f"response of more than {self._limits.response_bytes} bytes"))
        elif end_stream:
            self._complete()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Nobody asked for datagrams here."""

    def reset_received(self, detail: str) -> None:
        """The stream broke off."""
        self._fail(ClientError(f"the response broke off: {detail}"))

    def connection_lost(self, error: ClientError) -> None:
        """The connection is over."""
        self._fail(error)

    def _complete(self) -> None:
        status = status_of(self._headers or [])
        if status is None or self._headers is None:
            self._fail(ClientError("a response without a status"))
        elif not self._done.done():
            self._done.set_result(
                Response(status=status, headers=self._headers, body=bytes(self._body))
            )

    def _fail(self, error: ClientError) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # nobody may be waiting any more; that is no error
