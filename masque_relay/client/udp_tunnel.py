"""Owns UdpTunnel: one CONNECT-UDP tunnel, UDP payloads in batches both ways (RFC 9298)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from enum import Enum

from masque_relay.client.errors import ClientError, RelayTimeout, TunnelClosed
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers, next_hop_of, refusal_from, status_of
from masque_relay.contract.address import Target
from masque_relay.contract.verdict import EndReason
from masque_relay.quic.application import H3Transport
from masque_relay.wire.capsule import CapsuleDecoder, CapsuleType, encode_capsule
from masque_relay.wire.connect_udp import MAX_UDP_PAYLOAD_BYTES, UDP_PAYLOAD_CONTEXT
from masque_relay.wire.errors import WireError

OnBatch = Callable[[Sequence[bytes]], None]
OnClosed = Callable[[TunnelClosed], None]

H3_NO_ERROR = 0x100  # RFC 9114 section 8.1
H3_REQUEST_CANCELLED = 0x10C
H3_MESSAGE_ERROR = 0x10E

_CONTENT_STATUSES = frozenset({204, 205, 206})
_CONTENT_NAMES = frozenset({b"content-length", b"content-type", b"transfer-encoding"})
"""RFC 9297 section 3.2: what a response that begins capsules must not be or have."""
_CAPSULE_HEAD_BYTES = 9  # type, length of up to 2^30, context ID: what a datagram adds to a stream


class _State(Enum):
    OPENING = "opening"
    OPEN = "open"
    ENDING = "ending"
    """We are done and wait for the relay's end of the stream."""
    ENDED = "ended"


class UdpTunnel:
    """UDP payloads to and from one target, through a relay.

    Made by :meth:`RelayClient.open_udp`. Received payloads go to ``on_batch`` if one was given,
    else they wait for :meth:`receive` in a queue of ``limits.receive_datagrams``, whose oldest
    entry is dropped and counted when it is full. A datagram may be lost, doubled or reordered on
    the way, as on any UDP path.

    Attributes:
        target: what the tunnel leads to.
        next_hop: the address that the relay connected to, if it said so (RFC 9209).
        sent_count: payloads handed to the connection.
        sent_bytes: their bytes.
        received_count: payloads that came.
        received_bytes: their bytes.
        oversize_count: payloads not sent because they exceed :attr:`max_payload_bytes`.
        oversize_largest_bytes: the largest of them.
        send_dropped_count: payloads not sent because a queue was full or the tunnel was not open.
        receive_dropped_count: payloads pushed out of the receive() queue.
        unknown_context_count: datagrams with a context ID that is not 0.
    """

    def __init__(  # noqa: PLR0913 - all but three by keyword, from one place
        self,
        transport: H3Transport,
        stream_id: int,
        target: Target,
        *,
        limits: ClientLimits,
        credential_sent: bool,
        on_batch: OnBatch | None = None,
        on_closed: OnClosed | None = None,
        forget: Callable[[int], None],
    ) -> None:
        self.target = target
        self.next_hop: str | None = None
        self.sent_count = 0
        self.sent_bytes = 0
        self.received_count = 0
        self.received_bytes = 0
        self.oversize_count = 0
        self.oversize_largest_bytes = 0
        self.send_dropped_count = 0
        self.receive_dropped_count = 0
        self.unknown_context_count = 0
        self._transport = transport
        self._stream_id = stream_id
        self._limits = limits
        self._credential_sent = credential_sent
        self._on_batch = on_batch or self._enqueue
        self._on_closed = on_closed
        self._forget = forget
        self._state = _State.OPENING
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: TunnelClosed | None = None
        self._queue: deque[bytes] = deque(maxlen=limits.receive_datagrams)
        self._arrived = asyncio.Event()
        self._capsules = CapsuleDecoder(
            max_capsule_bytes=MAX_UDP_PAYLOAD_BYTES + len(UDP_PAYLOAD_CONTEXT),
            known_types=(CapsuleType.DATAGRAM,),
        )
        self._early: deque[bytes] = deque(maxlen=limits.receive_datagrams)
        """RFC 9298 section 5: datagrams may overtake the response on their way."""

    # -- for the user ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether payloads can be sent."""
        return self._state is _State.OPEN

    @property
    def reliable(self) -> bool:
        """The relay takes no QUIC datagrams, so that capsules on the stream carry the payloads."""
        return not self._transport.datagrams_negotiated

    @property
    def max_payload_bytes(self) -> int:
        """The largest UDP payload that fits now; 0 once the tunnel is over.

        Grows while the path's MTU is being discovered and may shrink with the path: ask per batch.
        """
        if self._state is not _State.OPEN:
            return 0
        if not self._transport.datagrams_negotiated:
            return MAX_UDP_PAYLOAD_BYTES
        room = self._transport.max_http_datagram_bytes(self._stream_id) - len(UDP_PAYLOAD_CONTEXT)
        return max(0, min(room, MAX_UDP_PAYLOAD_BYTES))

    def send_batch(self, payloads: Sequence[bytes]) -> int:
        """Send UDP payloads and return how many were queued; the others are counted drops.

        Never blocks and never raises. What is queued leaves at the end of the loop's turn.
        """
        if self._state is not _State.OPEN or not payloads:
            self.send_dropped_count += len(payloads)
            return 0
        largest_bytes = self.max_payload_bytes
        if (longest_bytes := max(map(len, payloads))) > largest_bytes:
            self.oversize_largest_bytes = max(self.oversize_largest_bytes, longest_bytes)
            fitting = [payload for payload in payloads if len(payload) <= largest_bytes]
            self.oversize_count += len(payloads) - len(fitting)
            payloads = fitting
        if self._transport.datagrams_negotiated:
            sent_count = self._transport.send_datagrams(
                self._stream_id, UDP_PAYLOAD_CONTEXT, payloads
            )
            self.sent_bytes += sum(map(len, payloads[:sent_count]))
        else:
            sent_count = self._send_capsules(payloads)
        self.sent_count += sent_count
        self.send_dropped_count += len(payloads) - sent_count
        return sent_count

    def send(self, payload: bytes) -> bool:
        """Send one UDP payload; return whether it was queued. Prefer :meth:`send_batch`."""
        return self.send_batch((payload,)) == 1

    async def receive(self) -> bytes:
        """Return the next UDP payload; wait for one as long as it takes.

        Raises:
            TunnelClosed: the tunnel is over and its queue is empty.
        """
        while not self._queue:
            if self._closed is not None:
                raise self._closed
            self._arrived.clear()
            await self._arrived.wait()
        return self._queue.popleft()

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """Yield all waiting payloads at a time, until the tunnel is over."""
        while True:
            try:
                first = await self.receive()
            except TunnelClosed:
                return
            batch = [first, *self._queue]
            self._queue.clear()
            yield batch

    def close(self) -> None:
        """End the tunnel; idempotent. The relay closes its socket towards the target."""
        if self._state is _State.OPEN:
            self._state = _State.ENDING
            # FIN, and not a reset: the relay's records then say that the client was done
            self._transport.send_data(self._stream_id, b"", end_stream=True)
            asyncio.get_running_loop().call_later(
                self._limits.linger_s, self._abort, H3_REQUEST_CANCELLED
            )
        elif self._state is _State.OPENING:
            self._abort(H3_REQUEST_CANCELLED)
        self._conclude(TunnelClosed(EndReason.PEER_CLOSED, "the tunnel was closed by its user"))

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
            self.close()
            raise RelayTimeout(
                f"the relay did not answer the request for {self.target} within "
                f"{self._limits.open_timeout_s:g} s",
                hint="the relay or its resolver may be overloaded; try again",
            ) from None
        except asyncio.CancelledError:
            self.close()
            raise

    # -- StreamHandler ---------------------------------------------------------------------------

    def headers_received(self, headers: Headers, *, end_stream: bool) -> None:
        """Take the response, or trailers, which mean nothing here."""
        if self._state is _State.OPENING:
            self._answered(headers)
        if end_stream:
            self._stream_ended()

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take capsules; the bytes are done with at once, because datagrams never wait."""
        self._transport.consume(self._stream_id, len(data))
        if self._state is _State.OPEN:
            try:
                datagrams = [capsule.value for capsule in self._capsules.feed(data)]
            except WireError as error:
                self._abort(H3_MESSAGE_ERROR)
                self._conclude(TunnelClosed(EndReason.PROTOCOL_ERROR, f"the relay sent {error}"))
                return
            if datagrams:
                self.datagrams_received(datagrams)
        if end_stream:
            self._stream_ended()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads, context ID included."""
        if self._state is not _State.OPEN:
            if self._state is _State.OPENING:
                self._early.extend(payloads)
            return
        udp_payloads = [payload[1:] for payload in payloads if payload[:1] == UDP_PAYLOAD_CONTEXT]
        self.unknown_context_count += len(payloads) - len(udp_payloads)
        if udp_payloads:
            self.received_count += len(udp_payloads)
            self.received_bytes += sum(map(len, udp_payloads))
            self._on_batch(udp_payloads)

    def reset_received(self, detail: str) -> None:
        """The stream broke off."""
        self._state_ended()
        self._conclude(TunnelClosed(EndReason.PEER_RESET, f"the relay ended the tunnel: {detail}"))

    def connection_lost(self, error: ClientError) -> None:
        """The connection is over, and the tunnel with it."""
        self._state_ended()
        self._conclude(
            TunnelClosed(EndReason.CONNECTION_LOST, error.message, hint=error.hint), cause=error
        )

    # -- parts -----------------------------------------------------------------------------------

    def _answered(self, headers: Headers) -> None:
        status = status_of(headers)
        if status is not None and 100 <= status < 200:
            return  # RFC 9110 section 15.2: interim
        breaks_capsules = _breaks_capsules(status, headers)
        if status is not None and 200 <= status < 300 and not breaks_capsules:
            self._state = _State.OPEN
            self.next_hop = next_hop_of(headers)
            if not self._opened.done():
                self._opened.set_result(None)
            early, self._early = list(self._early), deque()
            if early:
                self.datagrams_received(early)
            return
        refusal = refusal_from(
            status or 0, headers, self.target, credential_sent=self._credential_sent
        )
        self._abort(H3_MESSAGE_ERROR if breaks_capsules else H3_NO_ERROR)
        if not self._opened.done():
            self._opened.set_exception(refusal)
            self._opened.exception()  # nobody may be waiting any more; that is no error
        self._conclude(TunnelClosed(EndReason.DENIED, refusal.message, hint=refusal.hint))

    def _stream_ended(self) -> None:
        """The relay's side is over: it will not send or take anything any more."""
        if self._state is _State.OPEN:
            self._transport.send_data(self._stream_id, b"", end_stream=True)
        self._state_ended()
        self._conclude(
            TunnelClosed(
                EndReason.TARGET_FAILED,
                f"the relay closed the tunnel to {self.target}",
                hint="it was idle, over its quota, revoked, or the target failed; open a new one",
            )
        )

    def _abort(self, error_code: int) -> None:
        if self._state is not _State.ENDED:
            self._transport.reset(self._stream_id, error_code)
        self._state_ended()

    def _state_ended(self) -> None:
        self._state = _State.ENDED
        self._forget(self._stream_id)

    def _conclude(self, closed: TunnelClosed, *, cause: ClientError | None = None) -> None:
        """Tell whoever waits, once."""
        if self._closed is not None:
            return
        self._closed = closed
        if not self._opened.done():
            self._opened.set_exception(cause or closed)
            self._opened.exception()
        self._arrived.set()
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed(closed)

    def _enqueue(self, payloads: Sequence[bytes]) -> None:
        queue = self._queue
        overflow = len(queue) + len(payloads) - self._limits.receive_datagrams
        self.receive_dropped_count += max(0, overflow)
        queue.extend(payloads)
        self._arrived.set()

    def _send_capsules(self, payloads: Sequence[bytes]) -> int:
        room = self._limits.capsule_buffer_bytes - self._transport.unsent_bytes(self._stream_id)
        capsules: list[bytes] = []
        for payload in payloads:
            room -= len(payload) + _CAPSULE_HEAD_BYTES
            if room < 0:
                break
            self.sent_bytes += len(payload)
            capsules.append(encode_capsule(CapsuleType.DATAGRAM, UDP_PAYLOAD_CONTEXT + payload))
        if capsules:
            self._transport.send_data(self._stream_id, b"".join(capsules), end_stream=False)
        return len(capsules)


def _breaks_capsules(status: int | None, headers: Headers) -> bool:
    """Whether a response cannot begin the capsule protocol (RFC 9297 section 3.2)."""
    if status is None or not 200 <= status < 300:
        return False
    return status in _CONTENT_STATUSES or any(name in _CONTENT_NAMES for name, _ in headers)
