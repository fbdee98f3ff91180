"""Owns sessions over plain requests, for networks that break everything else.

Uplink POSTs and a downlink that is streamed where the network lets it, and polled where somebody
on the way holds responses back (docs/protocol/ghostwire.md, "HTTPS requests").
"""

import asyncio
import ssl
from contextlib import suppress
from http import HTTPStatus

import httpx

from masque_relay.client.address import RelayAddress
from masque_relay.client.client_tls import tcp_tls
from masque_relay.client.credentials import authorization_of
from masque_relay.client.errors import (
    ClientError,
    RelayIncapable,
    RelayUnreachable,
    RelayUntrusted,
)
from masque_relay.client.mesh.proxy_choice import PROXY_REFUSALS, proxy_refuses
from masque_relay.client.mesh.way import OpenWay, SessionMaker, WayKind
from masque_relay.client.refusal import refusal_from
from masque_relay.client.uplink import RelayOptions
from masque_relay.contract.ghostwire import FrameSession
from masque_relay.contract.verdict import EndReason
from masque_relay.tunnels.frame_stream import FrameStream
from masque_relay.tunnels.outbox_carrier import OutboxCarrier
from masque_relay.tunnels.resumable import pad
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_names import (
    DEFAULT_PATH,
    MODE_FIELD,
    OFFSET_FIELD,
    POLL_MODE,
    SESSION_FIELD,
)

BODY_BYTES = 229_376
"""Of one uplink request; with padding below 256 KiB, so that the window has left at once."""
BACKLOG_BYTES = 262_144
FIRST_BYTES_S = 3.0
"""A stream whose first bytes take longer is held back by somebody: poll instead."""
SILENCE_S = 40.0
"""One answer: the relay ends streams after 25 s, and polls after 20 s."""
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 3.0, 3.0)
"""Between attempts at one request; in all within the 30 s after which the relay gives us up."""
LINGER_S = 1.0
"""For what is queued when a way is closed, and as long for saying so."""

_REFUSED = frozenset({401, 403, 407, 429, 503})


class _SessionOverError(Exception):
    """The relay does not know the session any more, or never will answer."""


async def open_https_way(
    address: RelayAddress,
    options: RelayOptions,
    make_session: SessionMaker,
    *,
    path: str = DEFAULT_PATH,
    proxy: str | None = None,
) -> OpenWay:
    """Ask for a session and begin it.

    Args:
        address: the relay.
        options: what to trust and show.
        make_session: makes the session.
        path: where the relay takes sessions.
        proxy: ``http://user:password@host:port`` or ``socks5h://…``; None goes straight.

    Raises:
        ClientError: this way is blocked, or the relay refuses.
    """
    is_pinned = bool(address.addresses) and proxy is None
    host = str(address.addresses[0]) if is_pinned else address.host
    authority = f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    authorization = authorization_of(options.credential)
    client = httpx.AsyncClient(
        base_url=f"https://{authority}{path}https/",
        verify=tcp_tls(options.ca_file, options.credential, ("http/1.1",)),
        proxy=proxy,
        trust_env=False,  # the caller has looked there
        headers={"Host": address.authority, "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(SILENCE_S, connect=options.limits.connect_timeout_s),
        limits=httpx.Limits(max_connections=4),
    )
    del client.headers["User-Agent"]
    extensions = {"sni_hostname": address.host} if is_pinned else {}
    fields = {} if authorization is None else {"Authorization": authorization.decode("ascii")}
    try:
        async with asyncio.timeout(options.limits.connect_timeout_s):
            response = await client.post("open", headers=fields, extensions=extensions)
        secret = _secret_of(response, address, sent=authorization is not None)
    except BaseException as error:
        await client.aclose()
        if isinstance(error, httpx.HTTPError | TimeoutError | OSError):
            raise _failure(error, address) from error
        raise
    client.headers[SESSION_FIELD] = secret
    way = _HttpsWay(client, make_session(None), extensions)
    return OpenWay(
        kind=WayKind.HTTPS,
        session=way.session,
        remote="" if proxy else _remote_of(response),
        close=way.close,
        run=way.run,
    )


class _HttpsWay:
    """Two loops: frames out by POST, one at a time, and bytes in by GET."""

    def __init__(
        self, client: httpx.AsyncClient, session: FrameSession, extensions: dict[str, str]
    ) -> None:
        self.session = session
        self._client = client
        self._extensions = extensions
        self._something_to_send = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._outbox = OutboxCarrier(wake=self._something_to_send.set, backlog_bytes=BACKLOG_BYTES)
        self._sent_bytes = 0
        self._received_bytes = 0
        self._may_stream = True

    async def close(self) -> None:
        """End the session when what is queued has left, or soon; idempotent."""
        self._outbox.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * LINGER_S):
                await self._has_ended.wait()
        self._outbox.abort(EndReason.PEER_CLOSED)
        await self._client.aclose()

    async def run(self) -> None:
        """Begin the session and move its bytes until either side ends."""
        self.session.attach(self._outbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read())
                await self._write()
                reading.cancel()
            with suppress(httpx.HTTPError, OSError, RuntimeError, TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._client.post("close", extensions=self._extensions)
        finally:
            self.session.ended(EndReason.CONNECTION_LOST)
            await self._client.aclose()
            self._has_ended.set()

    async def _write(self) -> None:
        outbox = self._outbox
        try:
            while not outbox.is_aborted:
                frames = outbox.take(BODY_BYTES)
                if frames:
                    await self._post(pad(frames))
                    self.session.on_writable()
                elif outbox.end_reason is not None:
                    return
                else:
                    self._something_to_send.clear()
                    await self._something_to_send.wait()
        except _SessionOverError:
            self._lost(EndReason.CONNECTION_LOST)

    async def _post(self, data: bytes) -> None:
        """Send bytes until the relay has them all; what it has already is not sent again.

        Raises:
            _SessionOverError: it will not take them.
        """
        start, end = self._sent_bytes, self._sent_bytes + len(data)
        attempt = 0
        while self._sent_bytes < end:
            if attempt:
                await _pause(attempt)
            attempt += 1
            try:
                response = await self._client.post(
                    "up",
                    content=data[self._sent_bytes - start :],
                    headers={OFFSET_FIELD: str(self._sent_bytes)},
                    extensions=self._extensions,
                )
            except (httpx.HTTPError, OSError, RuntimeError):
                continue
            if response.status_code in {HTTPStatus.OK, HTTPStatus.CONFLICT}:
                wanted = response.headers.get(OFFSET_FIELD, "")
                if not wanted.isdigit() or not start <= int(wanted) <= end:
                    raise _SessionOverError
                self._sent_bytes = int(wanted)
            elif response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise _SessionOverError

    async def _read(self) -> None:
        frames = FrameStream(self.session)
        attempt = 0
        reason = EndReason.CONNECTION_LOST
        try:
            while True:
                before_bytes = self._received_bytes
                with suppress(httpx.HTTPError, OSError, RuntimeError, TimeoutError):
                    await self._get(frames)
                    attempt = 0
                attempt = 1 if self._received_bytes > before_bytes else attempt + 1
                if attempt > 1:
                    await _pause(attempt - 1)
        except _SessionOverError:
            pass
        except WireError:
            reason = EndReason.PROTOCOL_ERROR
        self._lost(reason)

    async def _get(self, frames: FrameStream) -> None:
        """Read one answer, however much of it arrives.

        Raises:
            _SessionOverError: the relay does not know the session.
            WireError: the bytes are no frames.
            httpx.HTTPError: it broke off.
            TimeoutError: the network holds streams back, or is silent.
        """
        loop = asyncio.get_running_loop()
        headers = {OFFSET_FIELD: str(self._received_bytes)}
        if not self._may_stream:
            headers[MODE_FIELD] = POLL_MODE
        is_first = self._may_stream
        try:
            async with asyncio.timeout(FIRST_BYTES_S if is_first else SILENCE_S) as deadline:
                request = self._client.stream(
                    "GET", "down", headers=headers, extensions=self._extensions
                )
                async with request as response:
                    if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        raise httpx.RemoteProtocolError("the way is broken for now")
                    if response.status_code != HTTPStatus.OK:
                        raise _SessionOverError
                    async for chunk in response.aiter_raw():
                        is_first = False
                        deadline.reschedule(loop.time() + SILENCE_S)
                        self._received_bytes += len(chunk)
                        frames.feed(chunk)
        except TimeoutError:
            self._may_stream = self._may_stream and not is_first
            raise

    def _lost(self, reason: EndReason) -> None:
        self.session.ended(reason)
        self._outbox.abort(reason)
        self._something_to_send.set()


async def _pause(attempt: int) -> None:
    """Wait before another attempt.

    Raises:
        _SessionOverError: there were enough.
    """
    if attempt > len(RETRY_S):
        raise _SessionOverError
    await asyncio.sleep(RETRY_S[attempt - 1])


def _secret_of(response: httpx.Response, address: RelayAddress, *, sent: bool) -> str:
    """Return the session's secret; ``sent``: a credential went along.

    Raises:
        ClientError: the relay refuses, or knows nothing of it.
    """
    status = response.status_code
    secret: str = response.headers.get(SESSION_FIELD, "")
    if status == HTTPStatus.CREATED and secret:
        return secret
    if status in _REFUSED:
        headers = [(name.lower(), value) for name, value in response.headers.raw]
        raise refusal_from(status, headers, "the mesh", credential_sent=sent)
    raise RelayIncapable(f"{address} takes no session over plain requests: HTTP {status}")


def _remote_of(response: httpx.Response) -> str:
    stream = response.extensions.get("network_stream")
    found = None if stream is None else stream.get_extra_info("server_addr")
    if not found:
        return ""
    host = f"[{found[0]}]" if ":" in found[0] else found[0]
    return f"{host}:{found[1]}"


def _failure(error: BaseException, address: RelayAddress) -> ClientError:
    """Return what a failed request means to a person; it never has the proxy's URL in it."""
    if isinstance(error, httpx.ProxyError):
        if str(error).startswith(tuple(str(status) for status in PROXY_REFUSALS)):
            return proxy_refuses()
        return RelayUnreachable(f"the proxy did not let us through: {error}")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return RelayUntrusted(f"TLS with {address} failed: {cause.reason or cause}")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return RelayUnreachable(f"no answer from {address} to plain requests in time")
    return RelayUnreachable(f"no plain requests to {address}: {error}")
