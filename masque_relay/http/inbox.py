"""Owns what waits for one application's receive(): body bytes, datagrams, capsules, the end."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from starlette.types import Message

from masque_relay.contract.counters import HttpCounters
from masque_relay.http.datagram_queue import DatagramQueue
from masque_relay.http.limits import HttpLimits
from masque_relay.quic.application import Headers
from masque_relay.wire.capsule import Capsule, CapsuleDecoder, CapsuleType
from masque_relay.wire.errors import WireError
from masque_relay.wire.wrap_up import WRAP_UP, WrapUpReader

MAX_BODY_MESSAGE_BYTES = 65_536
"""Body bytes per ``http.request`` message: large enough to amortise the call."""


class Inbox:
    """The receiving half of one request, sans I/O: things are pushed in, messages are taken out.

    Stream bytes are bounded by flow control: credit is granted (``consume``) only when
    :meth:`take` hands the bytes out. Datagrams are bounded by their queue. A tunnel's bytes and
    datagrams are kept until :meth:`open_tunnel`.
    """

    __slots__ = (
        "_batches",
        "_capsules",
        "_chunks",
        "_consume",
        "_counters",
        "_datagrams",
        "_decoder",
        "_discarding",
        "_disconnect",
        "_end_taken",
        "_ended",
        "_is_open",
        "_is_tunnel",
        "_limits",
        "_missing_bytes",
        "_splice_done",
        "_trailers",
    )

    def __init__(
        self,
        *,
        limits: HttpLimits,
        counters: HttpCounters,
        consume: Callable[[int], None],
        content_length: int | None,
        is_tunnel: bool,
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._consume = consume
        self._missing_bytes = content_length
        self._is_tunnel = is_tunnel
        self._is_open = not is_tunnel
        self._chunks: deque[bytes] = deque()
        self._datagrams = DatagramQueue(
            max_count=limits.early_datagrams_per_stream,
            max_bytes=limits.early_datagram_bytes_per_stream,
        )
        self._decoder: CapsuleDecoder | None = None
        self._capsules: list[Capsule] = []
        """Decoded but not yet taken, the next one last."""
        self._batches = False
        self._ended = False
        self._end_taken = False
        self._trailers: Headers = []
        self._splice_done: Message | None = None
        self._disconnect: Message | None = None
        self._discarding = False

    @property
    def has_ended(self) -> bool:
        """The peer ended its side of the stream."""
        return self._ended

    @property
    def is_disconnected(self) -> bool:
        """Only ``http.disconnect`` is left to be taken."""
        return self._disconnect is not None

    def push_data(self, data: bytes) -> None:
        """Keep stream bytes.

        Raises:
            WireError: more than content-length announced (RFC 9114 section 4.1.2).
        """
        if self._missing_bytes is not None:
            self._missing_bytes -= len(data)
            if self._missing_bytes < 0:
                self._consume(len(data))
                raise WireError(
                    "more content than content-length", section="RFC 9114 section 4.1.2"
                )
        if self._discarding:
            self._consume(len(data))
        elif data:
            self._chunks.append(data)

    def push_end(self, trailers: Headers | None = None) -> None:
        """Learn that the peer ended its side.

        Raises:
            WireError: less than content-length announced.
        """
        self._ended = True
        self._trailers = trailers or []
        if self._missing_bytes:
            raise WireError("less content than content-length", section="RFC 9114 section 4.1.2")

    def push_datagrams(self, payloads: Sequence[bytes]) -> None:
        """Keep datagrams within the bounds; count what is lost."""
        if self._discarding or not self._is_tunnel:
            return
        if self._is_open:
            dropped = self._datagrams.push_and_drop_oldest(payloads)
            self._counters.unread_datagrams_dropped += dropped
        else:
            dropped = self._datagrams.push_or_drop_new(payloads)
            self._counters.early_datagrams_dropped += dropped

    def push_splice_done(self, message: Message) -> None:
        """Tell the application how its splice ended; comes before everything else."""
        self._splice_done = message

    def open_tunnel(self, *, capsule_types: Collection[int] | None, batches: bool) -> None:
        """Release what was kept: the application answered 2xx.

        Args:
            capsule_types: those the application wants; None for a raw byte stream.
            batches: hand out datagrams many at a time.
        """
        self._is_open = True
        self._batches = batches
        self._datagrams.resize(
            max_count=self._limits.datagram_queue_count,
            max_bytes=self._limits.datagram_queue_bytes,
        )
        if capsule_types is not None:
            self._decoder = CapsuleDecoder(
                max_capsule_bytes=self._limits.max_capsule_bytes,
                known_types={CapsuleType.DATAGRAM, WRAP_UP, *capsule_types},
            )

    def empty_into_splice(self) -> tuple[list[bytes], list[bytes]]:
        """Return the stream bytes and datagrams that waited; a splice takes over from here."""
        chunks, payloads = list(self._chunks), self._datagrams.pop_all()
        self._chunks.clear()
        return chunks, payloads

    def discard(self) -> None:
        """Give back the credit for what nobody will read, now and from now on."""
        self._discarding = True
        for chunk in self._chunks:
            self._consume(len(chunk))
        self._chunks.clear()
        self._capsules.clear()
        self._datagrams.pop_all()

    def disconnect(self, *, code: int | None, reason: str) -> None:
        """Leave nothing but ``http.disconnect``; the first one stays."""
        if self._disconnect is None:
            self._disconnect = {"type": "http.disconnect", "code": code, "reason": reason}
            self.discard()

    def take(self) -> Message | None:
        """Return the next message; None when the application has to wait.

        Raises:
            WireError: the capsule protocol was broken; the stream is to be aborted.
        """
        if self._splice_done is not None:
            message, self._splice_done = self._splice_done, None
            return message
        if self._disconnect is not None:
            return dict(self._disconnect)
        if not self._is_open:
            return None
        if self._datagrams:
            return self._datagram_message(
                self._datagrams.pop_all() if self._batches else [self._datagrams.pop()]
            )
        return self._take_body() if self._decoder is None else self._take_capsule(self._decoder)

    def _take_body(self) -> Message | None:
        if not self._chunks and (not self._ended or self._end_taken):
            return None
        body = self._chunks.popleft() if self._chunks else b""
        if self._chunks and len(body) + len(self._chunks[0]) <= MAX_BODY_MESSAGE_BYTES:
            parts, size = [body], len(body)
            while self._chunks and size + len(self._chunks[0]) <= MAX_BODY_MESSAGE_BYTES:
                parts.append(self._chunks.popleft())
                size += len(parts[-1])
            body = b"".join(parts)
        if body:
            self._consume(len(body))
        return self._body_message(body)

    def _body_message(self, body: bytes) -> Message:
        more_body = not self._ended or bool(self._chunks)
        message: Message = {"type": "http.request", "body": body, "more_body": more_body}
        if not more_body:
            self._end_taken = True
            if self._trailers:
                message["trailers"] = self._trailers
        return message

    def _datagram_message(self, payloads: list[bytes]) -> Message:
        if self._batches:
            return {"type": "http.datagram.receive", "batch": payloads}
        return {"type": "http.datagram.receive", "data": payloads[0]}

    def _take_capsule(self, decoder: CapsuleDecoder) -> Message | None:
        while not self._capsules and self._chunks:
            chunk = self._chunks.popleft()
            self._consume(len(chunk))
            skipped_before = decoder.skipped_count
            self._capsules = decoder.feed(chunk)[::-1]
            self._counters.capsules_skipped += decoder.skipped_count - skipped_before
        if self._capsules:
            capsule = self._capsules.pop()
            self._counters.capsules_received += 1
            if capsule.type == WRAP_UP:
                WrapUpReader().take(len(capsule.value))
            if capsule.type != CapsuleType.DATAGRAM:
                return {
                    "type": "http.capsule.receive",
                    "capsule_type": capsule.type,
                    "data": capsule.value,
                }
            return self._datagram_message([capsule.value])
        if self._ended and not self._end_taken:
            decoder.finish()
            return self._body_message(b"")
        return None
