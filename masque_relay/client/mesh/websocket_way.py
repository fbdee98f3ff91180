"""Owns sessions over WebSocket (RFC 6455), through an HTTP or SOCKS proxy where there is one."""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidProxyStatus,
    InvalidStatus,
    ProxyError,
)
from websockets.typing import Subprotocol

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
from masque_relay.wire.errors import WireError
from masque_relay.wire.ghostwire_names import DEFAULT_PATH, MAX_MESSAGE_BYTES, SUBPROTOCOL

MAX_RECEIVED_BYTES = 1 << 18
"""Of one message: four times what our relay sends."""
BACKLOG_BYTES = 262_144
LINGER_S = 1.0
"""For what is queued when a way is closed."""


async def open_websocket_way(
    address: RelayAddress,
    options: RelayOptions,
    make_session: SessionMaker,
    *,
    path: str = DEFAULT_PATH,
    proxy: str | None = None,
) -> OpenWay:
    """Connect, upgrade, and begin a session.

    Args:
        address: the relay.
        options: what to trust and show.
        make_session: makes the session.
        path: where the relay takes sessions.
        proxy: ``http://user:password@host:port`` or ``socks5h://…``; None goes straight.

    Raises:
        ClientError: this way is blocked, or the relay refuses.
    """
    tls = tcp_tls(options.ca_file, options.credential, ("http/1.1",))
    authorization = authorization_of(options.credential)
    headers = {} if authorization is None else {"Authorization": authorization.decode("ascii")}
    where: dict[
        str, Any
    ] = {}  # not None: through a proxy, websockets takes no such argument at all
    if address.addresses and proxy is None:
        where["host"] = str(address.addresses[0])
    try:
        socket = await connect(
            f"wss://{address.authority}{path}",
            ssl=tls,
            **where,
            server_hostname=address.host,
            additional_headers=headers,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            proxy=proxy,
            open_timeout=options.limits.connect_timeout_s,
            ping_interval=None,  # the session keeps itself alive
            max_size=MAX_RECEIVED_BYTES,
            user_agent_header=None,
        )
    except (InvalidStatus, InvalidHandshake, ProxyError, TimeoutError, OSError) as error:
        raise _failure(error, address, sent=authorization is not None) from error
    way = _WebSocketWay(socket, make_session(None))
    remote = socket.remote_address
    return OpenWay(
        kind=WayKind.WEBSOCKET,
        session=way.session,
        remote=f"{remote[0]}:{remote[1]}" if remote else "",
        close=way.close,
        run=way.run,
    )


class _WebSocketWay:
    """Two loops in one task: messages in, frames out."""

    def __init__(self, socket: ClientConnection, session: FrameSession) -> None:
        self.session = session
        self._socket = socket
        self._something_to_send = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._outbox = OutboxCarrier(wake=self._something_to_send.set, backlog_bytes=BACKLOG_BYTES)

    async def close(self) -> None:
        """End the connection when what is queued has left, or soon; idempotent."""
        self._outbox.finish()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._has_ended.wait()
        except TimeoutError:
            pass
        finally:
            self._socket.transport.abort()  # nobody may be there any more to say goodbye to

    async def run(self) -> None:
        """Begin the session and move its bytes until either side ends."""
        self.session.attach(self._outbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                reading = tasks.create_task(self._read())
                await self._write()
                reading.cancel()
            await self._socket.close()
        finally:
            self._socket.transport.abort()
            self.session.ended(EndReason.CONNECTION_LOST)
            self._has_ended.set()

    async def _read(self) -> None:
        frames = FrameStream(self.session)
        try:
            async for message in self._socket:
                if isinstance(message, str):
                    raise WireError("a text message", section="ghostwire: Carriers")
                frames.feed(message)
                frames.finish()
            self.session.ended(EndReason.PEER_CLOSED)
        except WireError:
            self.session.ended(EndReason.PROTOCOL_ERROR)
        except ConnectionClosed:
            self.session.ended(EndReason.CONNECTION_LOST)
        self._outbox.abort(EndReason.CONNECTION_LOST)

    async def _write(self) -> None:
        outbox = self._outbox
        with suppress(ConnectionClosed):
            while not outbox.is_aborted:
                data = outbox.take(MAX_MESSAGE_BYTES)
                if data:
                    await self._socket.send(data)
                    self.session.on_writable()
                elif outbox.end_reason is not None:
                    return
                else:
                    self._something_to_send.clear()
                    await self._something_to_send.wait()


def _failure(error: Exception, address: RelayAddress, *, sent: bool) -> ClientError:
    """Return what a failed handshake means to a person; ``sent``: a credential went along."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        if status in {401, 403, 407, 429, 503}:
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1"))
                for name, value in error.response.headers.raw_items()
            ]
            return refusal_from(status, headers, "the mesh", credential_sent=sent)
        return RelayIncapable(f"{address} takes no WebSocket session: HTTP {status}")
    if isinstance(error, ssl.SSLError):
        return RelayUntrusted(f"TLS with {address} failed: {error.reason or error}")
    if isinstance(error, ProxyError):
        if isinstance(error, InvalidProxyStatus) and error.response.status_code in PROXY_REFUSALS:
            return proxy_refuses()
        return RelayUnreachable(f"the proxy did not let us through: {error}")
    why = "in time" if isinstance(error, TimeoutError) else f"({error})"
    return RelayUnreachable(f"no WebSocket with {address} {why}")
