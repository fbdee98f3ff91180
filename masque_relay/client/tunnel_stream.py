"""Owns TunnelStream: one extended CONNECT with the capsule protocol, on any HTTP version.

What CONNECT-UDP, CONNECT-IP, bound UDP and Ghostwire have in common on the client: the request and
its answer, HTTP Datagrams (RFC 9297 section 2) as QUIC datagrams or capsules, capsules (section 3),
and one end with one reason.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from masque_relay.client.errors import ClientError, RelayTimeout, TunnelClosed
from masque_relay.client.http_transport import HttpTransport
from masque_relay.client.limits import ClientLimits
from masque_relay.client.refusal import Headers, next_hop_of, refusal_from, status_of
from masque_relay.contract.ghostwire import Exporter
from masque_relay.contract.verdict import EndReason
from masque_relay.http.codes import H3Error
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, CapsuleType, encode_capsule
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP, WrapUpReader

MAX_DATAGRAM_BYTES = 65_536
"""Of an HTTP Datagram payload that goes as a capsule: a UDP payload or IP packet, context ID 0."""

_CONTENT_STATUSES = frozenset({204, 205, 206})
_CONTENT_NAMES = frozenset({b"content-length", b"content-type", b"transfer-encoding"})
"""RFC 9297 section 3.2: what a response that begins capsules must not be or have."""
_CAPSULE_HEAD_BYTES = 9  # type, length of up to 2^30: what a capsule adds, with a context ID


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelRequest:
    """What to ask a relay for."""

    protocol: str
    """The upgrade token, such as ``connect-ip``."""
    path: str
    """The expanded URI template."""
    goal: object
    """What the tunnel leads to, for messages: anything with a ``str``."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Further fields, names in lower case. ``capsule-protocol`` and the credential are there."""
    capsule_types: frozenset[int] = frozenset()
    """Capsules that the user takes besides DATAGRAM; others are skipped (RFC 9297 section 3.2)."""
    max_capsule_bytes: int = MAX_DATAGRAM_BYTES
    """A known capsule that announces more ends the tunnel."""


class TunnelUser(Protocol):
    """Whom a TunnelStream tells; called in the event loop, must neither block nor raise.

    Exception: ``datagrams_received`` and ``capsule_received`` may raise WireError; it aborts the
    stream as malformed and ends the tunnel with PROTOCOL_ERROR.
    """

    def tunnel_opened(self, stream: "TunnelStream") -> None:
        """The relay said 2xx (or 101); called before all others, unless it never does."""
        ...

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """HTTP Datagram payloads, context ID included, in the order of arrival."""
        ...

    def capsule_received(self, capsule: Capsule) -> None:
        """One capsule of ``TunnelRequest.capsule_types``."""
        ...

    def tunnel_closed(self, closed: TunnelClosed) -> None:
        """The tunnel is over, or never opened; once, the last call."""
        ...


class _State(Enum):
    OPENING = "opening"
    OPEN = "open"
    ENDING = "ending"
    """We are done and wait for the relay's end of the stream."""
    ENDED = "ended"


class TunnelStream:
    """One tunnel's stream; a StreamHandler. Made by :meth:`RelayConnection.open_tunnel`.

    Attributes:
        response: the head of the 2xx, names in lower case; empty until then.
    """

    def __init__(  # noqa: PLR0913  (what its connection knows)
        self,
        transport: HttpTransport,
        stream_id: int,
        request: TunnelRequest,
        user: TunnelUser,
        *,
        limits: ClientLimits,
        credential_sent: bool,
        forget: Callable[[int], None],
        wrap_up: Callable[[], None],
    ) -> None:
        """Take over a stream whose request has been sent.

        Args:
            transport: what the stream is on.
            stream_id: of the request.
            request: as sent.
            user: told of everything.
            limits: deadlines and the buffer.
            credential_sent: decides the hint of a refusal.
            forget: called once, when the stream is over both ways.
            wrap_up: called when the relay says to begin nothing new on the connection.
        """
        self.response: Headers = []
        self._transport = transport
        self._stream_id = stream_id
        self._goal = request.goal
        self._user = user
        self._limits = limits
        self._credential_sent = credential_sent
        self._forget = forget
        self._state = _State.OPENING
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed: TunnelClosed | None = None
        self._capsules = CapsuleDecoder(
            max_capsule_bytes=request.max_capsule_bytes,
            known_types={CapsuleType.DATAGRAM, WRAP_UP, *request.capsule_types},
        )
        self._wrap_up = WrapUpReader(wrap_up)
        self._early: deque[bytes] = deque(maxlen=limits.receive_datagrams)
        """RFC 9298 section 5: datagrams may overtake the response on their way."""

    # -- for the user ----------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether datagrams and capsules can be sent."""
        return self._state is _State.OPEN

    @property
    def closed(self) -> TunnelClosed | None:
        """Why the tunnel is over; None while it lives."""
        return self._closed

    @property
    def http_version(self) -> str:
        """``"3"``, ``"2"`` or ``"1.1"``."""
        return self._transport.http_version

    @property
    def next_hop(self) -> str | None:
        """The address that the relay connected to, if it said so (RFC 9209)."""
        return next_hop_of(self.response)

    @property
    def reliable(self) -> bool:
        """Capsules on the stream carry the datagrams, because QUIC datagrams are not to be had."""
        return not self._transport.datagrams_negotiated

    @property
    def exporter(self) -> Exporter | None:
        """TLS keying material of the connection (RFC 8446 section 7.5), where there is any."""
        return self._transport.exporter

    @property
    def unsent_bytes(self) -> int:
        """Queued on the stream, and not yet gone."""
        return self._transport.unsent_bytes(self._stream_id)

    @property
    def queued_datagrams(self) -> int:
        """QUIC datagrams of the whole connection that wait for the congestion window."""
        return self._transport.queued_datagrams

    @property
    def max_datagram_bytes(self) -> int:
        """The largest HTTP Datagram payload (context ID included) that fits now; 0 once over.

        Grows while the path's MTU is being discovered and may shrink with the path: ask per batch.
        """
        if self._state is not _State.OPEN:
            return 0
        if not self._transport.datagrams_negotiated:
            return MAX_DATAGRAM_BYTES
        return self._transport.max_http_datagram_bytes(self._stream_id)

    def send_datagrams(self, prefix: bytes, payloads: Sequence[bytes]) -> int:
        """Send ``prefix + payload`` each as an HTTP Datagram; return how many were queued.

        Never blocks and never raises. Those that exceed :attr:`max_datagram_bytes`, or that a full
        queue has no room for, are dropped; counting them is for the caller.

        Args:
            prefix: of every payload, such as the encoded context ID.
            payloads: what follows it.
        """
        if self._state is not _State.OPEN:
            return 0
        if self._transport.datagrams_negotiated:
            return self._transport.send_datagrams(self._stream_id, prefix, payloads)
        room = self._room_bytes()
        capsules: list[bytes] = []
        for payload in payloads:
            room -= len(payload) + _CAPSULE_HEAD_BYTES
            if room < 0:
                break
            capsules.append(encode_capsule(CapsuleType.DATAGRAM, prefix + payload))
        if capsules:
            self._transport.send_data(self._stream_id, b"".join(capsules), end_stream=False)
        return len(capsules)

    def send_capsule(self, capsule_type: int, value: bytes) -> bool:
        """Send one capsule; return False where the tunnel is not open or its queue is full."""
        if self._state is not _State.OPEN or self._room_bytes() < len(value):
            return False
        self._transport.send_data(
            self._stream_id, encode_capsule(capsule_type, value), end_stream=False
        )
        return True

    def close(self) -> None:
        """End the tunnel; idempotent. The relay gives up what it holds for it."""
        if self._state is _State.OPEN:
            self._state = _State.ENDING
            # FIN, and not a reset: the relay's records then say that the client was done
            self._transport.send_data(self._stream_id, b"", end_stream=True)
            asyncio.get_running_loop().call_later(
                self._limits.linger_s, self._abort, H3Error.REQUEST_CANCELLED
            )
        elif self._state is _State.OPENING:
            self._abort(H3Error.REQUEST_CANCELLED)
        self._conclude(TunnelClosed(EndReason.PEER_CLOSED, "the tunnel was closed by its user"))

    def abort(self, detail: str) -> None:
        """End the tunnel because the relay broke its protocol (RFC 9297 section 3.3)."""
        self._abort(H3Error.MESSAGE_ERROR)
        self._conclude(TunnelClosed(EndReason.PROTOCOL_ERROR, f"the relay sent {detail}"))

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
                f"the relay did not answer the request for {self._goal} within "
                f"{self._limits.open_timeout_s:g} s",
                hint="the relay or its resolver may be overloaded; try again",
            ) from None
        except asyncio.CancelledError:
            self.close()
            raise

    # -- StreamHandler ---------------------------------------------------------------------------

    def headers_received(self, headers: Headers, *, end_stream: bool) -> None:
        """Take the response.

        What comes after it means nothing: RFC 9113 section 8.5 and RFC 9114 section 4.4 allow no
        trailers on a connected stream, so that no ``proxy-status`` can tell of a tunnel's end.
        """
        if self._state is _State.OPENING:
            self._answered(headers)
        if end_stream:
            self._stream_ended()

    def data_received(self, data: bytes, *, end_stream: bool) -> None:
        """Take capsules; the bytes are done with at once, because datagrams never wait."""
        self._transport.consume(self._stream_id, len(data))
        if self._state is _State.OPEN:
            try:
                self._hand_over(self._capsules.feed(data))
            except WireError as error:
                self.abort(str(error))
                return
        if end_stream:
            self._stream_ended()

    def datagrams_received(self, payloads: Sequence[bytes]) -> None:
        """Take HTTP Datagram payloads, context ID included."""
        if self._state is _State.OPENING:
            self._early.extend(payloads)
        elif self._state is _State.OPEN:
            try:
                self._user.datagrams_received(payloads)
            except WireError as error:
                self.abort(str(error))

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
        # RFC 9110 section 15.2: interim. An HTTP/1.1 transport shows its 101 as 200.
        if status is not None and 100 <= status < 200:
            return
        is_broken = breaks_capsules(status, headers)
        if status is not None and 200 <= status < 300 and not is_broken:
            self._state = _State.OPEN
            self.response = headers
            if not self._opened.done():
                self._opened.set_result(None)
            self._user.tunnel_opened(self)
            early, self._early = list(self._early), deque()
            if early:
                self.datagrams_received(early)
            return
        refusal = refusal_from(
            status or 0, headers, self._goal, credential_sent=self._credential_sent
        )
        self._abort(H3Error.MESSAGE_ERROR if is_broken else H3Error.NO_ERROR)
        if not self._opened.done():
            self._opened.set_exception(refusal)
            self._opened.exception()  # nobody may be waiting any more; that is no error
        self._conclude(TunnelClosed(EndReason.DENIED, refusal.message, hint=refusal.hint))

    def _hand_over(self, capsules: list[Capsule]) -> None:
        """Give capsules to the user in their order, runs of DATAGRAM as batches."""
        datagrams: list[bytes] = []
        for capsule in capsules:
            if capsule.type == CapsuleType.DATAGRAM:
                datagrams.append(capsule.value)
                continue
            if datagrams:
                self.datagrams_received(datagrams)
                datagrams = []
            if self._state is not _State.OPEN:
                return
            if capsule.type == WRAP_UP:
                self._wrap_up.take(len(capsule.value))
            else:
                self._user.capsule_received(capsule)
        if datagrams:
            self.datagrams_received(datagrams)

    def _stream_ended(self) -> None:
        """The relay's side is over: it will not send or take anything any more."""
        if self._state is _State.OPEN:
            self._transport.send_data(self._stream_id, b"", end_stream=True)
        self._state_ended()
        self._conclude(
            TunnelClosed(
                EndReason.TARGET_FAILED,
                f"the relay closed the tunnel to {self._goal}",
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
        self._user.tunnel_closed(closed)

    def _room_bytes(self) -> int:
        return self._limits.capsule_buffer_bytes - self._transport.unsent_bytes(self._stream_id)


def breaks_capsules(status: int | None, headers: Headers) -> bool:
    """Return whether a response cannot begin the capsule protocol (RFC 9297 section 3.2)."""
    if status is None or not 200 <= status < 300:
        return False
    return status in _CONTENT_STATUSES or any(name in _CONTENT_NAMES for name, _ in headers)
