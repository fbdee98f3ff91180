"""Owns TcpTunnel: one TCP connection through a relay, by classic CONNECT or by connect-tcp."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from masque_relay.client.byte_stream import READ_BYTES
from masque_relay.client.errors import ClientError, RelayTimeout, TunnelClosed
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers, next_hop_of, refusal_from, status_of
from masque_relay.client.tunnel_stream import breaks_capsules
from masque_relay.contract.address import Target
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.wire.connect_tcp import TcpFraming
from masque_relay.wire.errors import WireError

_NO_TCP_STATUSES = frozenset({404, 405, 501})
_NO_TCP_HINT = "what answered proxies no TCP by CONNECT: an older relay, or none; check --relay"


class TcpTunnel:
    """Bytes to and from one target, through a relay; a ByteStream and a StreamHandler.

    Made by :meth:`RelayClient.start_tcp`. Back-pressure goes both ways: the relay gets credit for
    what :meth:`read` returned and nothing else, so that one stream window waits here at most; and
    :meth:`write` waits while ``limits.stream_buffer_bytes`` are not acknowledged. Each direction
    ends on its own.

    Attributes:
        target: what the tunnel leads to.
        response: the head of the 2xx, names in lower case.
        sent_bytes: handed to the connection.
        received_bytes: read by our user.
    """

    def __init__(  # noqa: PLR0913 - all but three by keyword, from one place
        self,
        transport: HttpTransport,
        stream_id: int,
        target: Target,
        *,
        framing: TcpFraming,
        limits: ClientLimits,
        credential_sent: bool,
        blocked: "set[TcpTunnel]",
        forget: Callable[[int], None],
    ) -> None:
        """Take over a stream whose request has been sent.

        Args:
            transport: what the stream is on.
            stream_id: of the request.
            target: for messages.
            framing: what the stream carries: payload (classic CONNECT, RFC 9114 section 4.4), or
                capsules (draft-ietf-httpbis-connect-tcp).
            limits: deadlines and the buffer.
            credential_sent: decides the hint of a refusal.
            blocked: where a tunnel stands while it waits for room; the connection calls
                :meth:`writable` of those.
            forget: called once, when the stream is over both ways.
        """
        self.target = target
        self.response: Headers = []
        self.sent_bytes = 0
        self.received_bytes = 0
        self._transport = transport
        self._stream_id = stream_id
        self._framing = framing
        self._limits = limits
        self._credential_sent = credential_sent
        self._blocked = blocked
        self._forget = forget
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_sent_end = False
        self._has_received_end = False
        self._broken: ClientError | None = None
        self._queue: deque[bytes] = deque()
        """What has arrived and was not read: at most one stream window, by the credit."""
        self._readable = asyncio.Event()
        self._changed: Callable[[], None] | None = None
        self._room = asyncio.Event()

    # -- for the user ----------------------------------------------------------------------------

    @property
    def next_hop(self) -> str | None:
        """The address that the relay connected to, if it said so (RFC 9209)."""
        return next_hop_of(self.response)

    @property
    def waiting_bytes(self) -> int:
        """What has arrived and waits for :meth:`read`."""
        return sum(map(len, self._queue))

    async def read(self) -> bytes:
        """Return what has arrived, waiting for something; empty once the target has ended.

        Raises:
            ClientError: the stream broke off; what had arrived before was returned first.
        """
        while not self._queue:
            if self._has_received_end:
                return b""
            if self._broken is not None:
                raise self._broken
            self._readable.clear()
            await self._readable.wait()
        return self._take_queued()

    def _take_queued(self) -> bytes:
        taken = [self._queue.popleft()]
        size = len(taken[0])
        while self._queue and size + len(self._queue[0]) <= READ_BYTES:
            size += len(self._queue[0])
            taken.append(self._queue.popleft())
        self.received_bytes += size
        self._transport.consume(self._stream_id, size)
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def write(self, data: bytes) -> None:
        """Send bytes; waits first while too many are not acknowledged.

        Raises:
            ClientError: the stream broke off, or our side of it is over.
        """
        while True:
            if self._broken is not None:
                raise self._broken
            if self._has_sent_end:
                raise TunnelClosed(EndReason.PEER_CLOSED, "our side of the tunnel is over")
            if self._has_room():
                break
            self._blocked.add(self)
            self._room.clear()
            await self._room.wait()
        if data:
            self.sent_bytes += len(data)
            self._transport.send_data(self._stream_id, self._framing.encode(data), end_stream=False)

    def write_eof(self) -> None:
        """End our direction; the target sees the end of its input. Idempotent."""
        if self._broken is None and not self._has_sent_end:
            self._has_sent_end = True
            framing = self._framing
            self._transport.send_data(
                self._stream_id, framing.encode_end(), end_stream=framing.ends_with_stream
            )
            self._end_if_over()

    def abort(self) -> None:
        """Give both directions up, so that the relay resets its connection to the target."""
        if self._broken is None and not self._is_over:
            self._transport.reset(self._stream_id, H3Error.REQUEST_CANCELLED)
        self._break(TunnelClosed(EndReason.PEER_CLOSED, "the tunnel was closed by its user"))

    # -- for a user without tasks ----------------------------------------------------------------

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` when bytes or an end have come, when room was made, or at a break."""
        self._changed = changed

    @property
    def has_ended(self) -> bool:
        """Whether the target has ended its side, and all that it sent was taken."""
        return self._has_received_end and not self._queue

    @property
    def broken(self) -> ClientError | None:
        """Why both directions are over; None while they are not."""
        return self._broken

    @property
    def unsent_bytes(self) -> int:
        """Written, and not yet gone (or acknowledged)."""
        return self._transport.unsent_bytes(self._stream_id)

    def take(self) -> bytes:
        """Return what has arrived, or nothing; grants the relay credit for it."""
        return self._take_queued() if self._queue else b""

    def write_now(self, data: bytes) -> None:
        """Send bytes without a wait: the caller keeps :attr:`unsent_bytes` bounded."""
        if self._broken is None and not self._has_sent_end and data:
            self._blocked.add(self)
            self.sent_bytes += len(data)
            self._transport.send_data(self._stream_id, self._framing.encode(data), end_stream=False)

    # -- for RelayConnection: how a tunnel opens -------------------------------------------------

    async def wait_open(self) -> None:
        """Wait for the relay's answer.

        Raises:
            TunnelRefused: the answer was not 2xx.
            RelayTimeout: no answer within ``limits.open_timeout_s``.
            ClientError: the connection or the stream ended before.
        """
        try:
            async with asyncio.timeout(self._limits.open_timeout_s):
                await asyncio.shield(self._opened)
        except TimeoutError:
            self.abort()
            raise RelayTimeout(
                f"the relay did not answer the request for {self.target} within "
                f"{self._limits.open_timeout_s:g} s",
                hint="the relay or its resolver may be overloaded; try again",
            ) from None
        except asyncio.CancelledError:
            self.abort()
            raise

    def writable(self) -> None:
        """Acknowledgements arrived: go on writing if that made room."""
        if self._has_room():
            self._blocked.discard(self)
            self._room.set()
        if self._changed is not None:
            self._changed()
            if self.unsent_bytes:
                self._blocked.add(self)

    # -- StreamHandler ---------------------------------------------------------------------------

    def headers_received(self, headers: Headers, *, end_stream: bool) -> None:
        """Take the response; what comes after it means nothing here."""
        if not self._opened.done():
            self._answered(headers)
        if end_stream:
            self._receive_end()

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Keep bytes until they are read."""
        if self._broken is not None or not self._opened.done():
            self._transport.consume(self._stream_id, len(data))
        elif data:
            self._take(data)
        if end_stream and self._broken is None:
            self._receive_end()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """RFC 9297 section 2: classic CONNECT knows no datagrams; they mean nothing here."""

    def reset_received(self, detail: str) -> None:
        """The target, or the relay, broke the stream off."""
        if self._broken is None and not self._has_sent_end:
            self._transport.reset(self._stream_id, H3Error.NO_ERROR)
        self._break(TunnelClosed(EndReason.PEER_RESET, f"the relay ended the connection: {detail}"))

    def connection_lost(self, error: ClientError) -> None:
        """The connection to the relay is over, and the tunnel with it."""
        self._break(error)

    # -- parts -----------------------------------------------------------------------------------

    @property
    def _is_over(self) -> bool:
        return self._has_sent_end and self._has_received_end

    def _has_room(self) -> bool:
        unsent_bytes = self._transport.unsent_bytes(self._stream_id)
        return unsent_bytes < self._limits.stream_buffer_bytes

    def _take(self, data: bytes) -> None:
        """Keep the payload in stream bytes; what frames it is done with at once."""
        try:
            pieces = self._framing.feed(data)
        except WireError as error:
            self._malformed(error)
            return
        framing_bytes = len(data) - sum(map(len, pieces))
        if framing_bytes:
            self._transport.consume(self._stream_id, framing_bytes)
        self._queue.extend(pieces)
        if self._framing.has_ended and not self._has_received_end:
            self._has_received_end = True
            self._end_if_over()
        self._wake_reader()

    def _wake_reader(self) -> None:
        self._readable.set()
        if self._changed is not None:
            self._changed()

    def _malformed(self, error: WireError) -> None:
        self._transport.reset(self._stream_id, H3Error.MESSAGE_ERROR)
        self._break(TunnelClosed(EndReason.PROTOCOL_ERROR, f"the relay sent {error}"))

    def _answered(self, headers: Headers) -> None:
        status = status_of(headers)
        if status is not None and 100 <= status < 200:
            return  # RFC 9110 section 15.2: interim
        is_ok = status is not None and 200 <= status < 300
        if is_ok and (self._framing.ends_with_stream or not breaks_capsules(status, headers)):
            self.response = headers
            self._opened.set_result(None)
            return
        refusal = refusal_from(
            status or 0, headers, self.target, credential_sent=self._credential_sent
        )
        if status in _NO_TCP_STATUSES:
            refusal.hint = _NO_TCP_HINT
        self._transport.reset(self._stream_id, H3Error.NO_ERROR)
        self._break(refusal)

    def _receive_end(self) -> None:
        if not self._opened.done():
            self._transport.reset(self._stream_id, H3Error.NO_ERROR)
            self._break(TunnelClosed(EndReason.PROTOCOL_ERROR, "the relay ended without an answer"))
            return
        try:
            has_ended = self._framing.finish()
        except WireError as error:
            self._malformed(error)
            return
        if not has_ended:
            # connect-tcp, "Closing Connections": no FINAL_DATA came, so something may be missing
            self.reset_received("its stream ended in the middle")
            return
        self._has_received_end = True
        self._wake_reader()
        self._end_if_over()

    def _end_if_over(self) -> None:
        if not self._is_over:
            return
        if not self._framing.ends_with_stream:
            self._transport.send_data(self._stream_id, b"", end_stream=True)
        self._blocked.discard(self)
        self._forget(self._stream_id)

    def _break(self, error: ClientError) -> None:
        """End both directions, and tell whoever waits; the first reason counts."""
        if self._broken is not None:
            return
        self._broken = error
        if not self._opened.done():
            self._opened.set_exception(error)
            self._opened.exception()  # nobody may be waiting any more; that is no error
        self._blocked.discard(self)
        self._room.set()
        self._wake_reader()
        self._forget(self._stream_id)
